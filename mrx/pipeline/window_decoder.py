"""Videos to windows: one decode feeds the window stackers of all methods."""

from collections.abc import Callable, Iterator

import torch

from mrx.job import Job
from mrx.pipeline.method_run import MethodRun
from mrx.pipeline.tasks import VideoTask, WindowBatch
from mrx.pipeline.timing import StageTimer
from mrx.records import Clips
from mrx.windows.stack import GATHER_BYTES, WindowStacker

# The maps of a larger batch would leave the CPU's cache before they are stored.
LIGHT_BATCH_VALUES = 2**19


class WindowDecoder:
    """Decodes each frame of a video once and cuts the windows of each of its methods.

    Args:
        job: how videos are decoded and cut into batches
        device: the device that computes the maps
        timer: collects the seconds of the stage "decode"
        on_progress: called with the number of frames decoded since the last call
    """

    def __init__(
        self,
        job: Job,
        device: torch.device,
        timer: StageTimer,
        on_progress: Callable[[int], None],
    ) -> None:
        self.timer = timer
        self._uses_segments = bool(job.windowing.segments)
        self._max_windows = job.batch
        self._on_cpu = device.type == "cpu"
        self._on_progress = on_progress

    def decode_windows(self, task: VideoTask) -> Iterator[WindowBatch]:
        """Decode a video and yield the windows of each method."""
        stackers = self._make_stackers(task)
        colors = sorted({run.module.color for run in task.method_runs})
        wanted_positions = None
        if self._uses_segments:
            wanted_positions = set[int]().union(*(s.list_wanted_positions() for s in stackers))
        chunks = task.video.read_frames(colors, wanted_positions)
        for chunk in self.timer.time_items("decode", chunks):
            for method_run, stacker in zip(task.method_runs, stackers, strict=True):
                reason = method_run.why_too_small(task.video.tally.facts)
                if reason:
                    task.small_methods[method_run.method.name] = reason
                    continue
                clips = stacker.push_frames(chunk[method_run.module.color])
                yield from self._make_batches(task, method_run, clips)
            self._on_progress(len(chunk[colors[0]]))
        for method_run, stacker in zip(task.method_runs, stackers, strict=True):
            yield from self._make_batches(task, method_run, stacker.finish_stream())

    def _make_stackers(self, task: VideoTask) -> list[WindowStacker]:
        frame_count = None
        if self._uses_segments:
            with self.timer.time_stage("decode"):
                frame_count = task.video.count_frames()
        return [
            WindowStacker(run.rule, frames=frame_count, batch_values=self._choose_batch_values(run))
            for run in task.method_runs
        ]

    def _choose_batch_values(self, method_run: MethodRun) -> int:
        # Heavy methods share work among the windows of a batch, so they get large ones.
        is_light = self._on_cpu and method_run.method.cost == "light"
        return LIGHT_BATCH_VALUES if is_light else GATHER_BYTES

    def _make_batches(
        self, task: VideoTask, method_run: MethodRun, clips: Iterator[Clips]
    ) -> Iterator[WindowBatch]:
        for windows in self.timer.time_items("decode", clips):
            yield from WindowBatch(task, method_run, windows).split_windows(self._max_windows)

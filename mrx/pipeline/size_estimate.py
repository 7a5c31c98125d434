"""The bytes that a video's maps will take: counted by its headers, compressed as in a sample.

The frames of a video tell how many maps it has, but not how well they compress. So a dry run
extracts a few windows of the first videos, stores them in memory, and takes the compression that
it found there for all videos.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from mrx.decode import Video
from mrx.decode.video import VideoExtent
from mrx.errors import InputError
from mrx.job import Job
from mrx.pipeline.compute import compute_motion
from mrx.pipeline.method_run import MethodRun
from mrx.pipeline.tasks import VideoTask
from mrx.pipeline.timing import StageTimer
from mrx.records import Clips
from mrx.shards.chunks import pack_motion
from mrx.shards.trial import measure_stored_bytes
from mrx.windows.plan import count_windows
from mrx.windows.stack import WindowStacker

SAMPLED_VIDEOS = 4
SAMPLED_WINDOWS = 4  # of each method in each of these videos
SAMPLED_FRAMES = 250  # the windows lie in the first frames: no video is decoded to its end
SAMPLING_SECONDS = 20.0  # no further video is sampled after this time


@dataclass
class SampledBytes:
    """The bytes of maps before and after compression."""

    raw: int = 0
    stored: int = 0

    @property
    def ratio(self) -> float:
        """Stored bytes for each raw byte; 1 without a sample."""
        return self.stored / self.raw if self.raw else 1.0


@dataclass
class SizeEstimator:
    """Estimates the bytes of videos, and samples the first of them.

    Args:
        job: how videos are decoded
        device: computes the sampled maps
        method_runs: the methods
        timer: collects the seconds of the stages
    """

    job: Job
    device: torch.device
    method_runs: Sequence[MethodRun]
    timer: StageTimer
    _all_samples: dict[str, SampledBytes] = field(default_factory=dict)
    _sampled_videos: int = 0
    _seconds: float = 0.0

    def estimate_bytes(self, task: VideoTask, extent: VideoExtent) -> int:
        """Estimate the bytes of a video's maps; a failed sample is a warning of the video."""
        own_samples: Mapping[str, SampledBytes] = {}
        if self._needs_sample():
            began = time.monotonic()
            try:
                own_samples = self._sample_video(task, extent)
            except InputError as error:
                task.video.tally.warn(f"its size is estimated without a sample: {error}")
            self._sampled_videos += 1
            self._seconds += time.monotonic() - began
        total = 0.0
        for run in task.method_runs:
            name = run.method.name
            sample = own_samples.get(name) or self._all_samples.get(name) or SampledBytes()
            total += _count_raw_bytes(run, extent) * sample.ratio
        return round(total)

    def _needs_sample(self) -> bool:
        # Maps that are not compressed have the bytes of their numbers.
        is_compressed = any(run.dataset_options for run in self.method_runs)
        has_room = self._sampled_videos < SAMPLED_VIDEOS and self._seconds < SAMPLING_SECONDS
        return is_compressed and has_room

    def _sample_video(self, task: VideoTask, extent: VideoExtent) -> dict[str, SampledBytes]:
        """Extract and compress some windows of a video, and add them to the samples of all."""
        frames = min(extent.frames, SAMPLED_FRAMES)
        sampled_runs = [
            (run, _make_stacker(run, frames))
            for run in task.method_runs
            if run.dataset_options and count_windows(frames, run.rule)
        ]
        positions = set[int]().union(*(s.list_wanted_positions() for _, s in sampled_runs))
        colors = sorted({run.module.color for run, _ in sampled_runs})
        samples: dict[str, SampledBytes] = {}
        # A video of its own, as the sample's warnings are no facts about the whole video.
        video = Video(task.source, self.job.decoding, self.device)
        chunks = video.read_frames(colors, positions) if positions else iter(())
        for chunk in self.timer.time_items("decode", chunks):
            for run, stacker in sampled_runs:
                if run.why_too_small(video.tally.facts):
                    continue
                sample = samples.setdefault(run.method.name, SampledBytes())
                for clips in stacker.push_frames(chunk[run.module.color]):
                    self._add_sample(sample, run, clips)
        for name, sample in samples.items():
            shared = self._all_samples.setdefault(name, SampledBytes())
            shared.raw += sample.raw
            shared.stored += sample.stored
        return samples

    def _add_sample(self, sample: SampledBytes, run: MethodRun, clips: Clips) -> None:
        with self.timer.time_stage("compute"), torch.inference_mode():
            motion = compute_motion(run, clips, self.device)
        with self.timer.time_stage("pack"):
            packed = pack_motion(motion, run.encoding, run.dataset_options)
            sample.raw += motion.data.numel() * run.encoding.itemsize
            sample.stored += measure_stored_bytes(packed, run.encoding, run.dataset_options)


def _make_stacker(run: MethodRun, frames: int) -> WindowStacker:
    """Return a stacker for windows at the centers of equal parts of these frames."""
    rule = replace(run.rule, segments=SAMPLED_WINDOWS, across_segments=False)
    return WindowStacker(rule, frames=frames)


def _count_raw_bytes(run: MethodRun, extent: VideoExtent) -> int:
    channels, rows, columns = run.module.output_shape(extent.height, extent.width)
    values = count_windows(extent.frames, run.rule) * channels * rows * columns
    return values * run.encoding.itemsize

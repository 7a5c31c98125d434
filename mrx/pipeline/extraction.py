"""decode → windows → method → shard: the work of one process on the videos that it is given.

Sets up the stages and implements `PipelineStages`; `mrx.pipeline.sequential` and
`mrx.pipeline.threaded` bring videos through them. Engines hand out sources and collect rows.
Nothing here depends on running in the parent or in a worker process.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from mrx.decode import Video, nvdec
from mrx.errors import InputError, RunCanceled, UsageError
from mrx.job import MAX_DECODE_THREADS, Job, ManifestRow, Source, WorkerTimes, count_cores
from mrx.pipeline.compute import BatchComputer
from mrx.pipeline.hardware import choose_device, read_library_versions
from mrx.pipeline.method_run import MethodRun, check_stack_option
from mrx.pipeline.outcome import commit_task, estimate_outcome, make_video_row
from mrx.pipeline.sequential import run_sequentially
from mrx.pipeline.size_estimate import SizeEstimator
from mrx.pipeline.stream_device import CudaStreams, StreamDevice
from mrx.pipeline.sync_device import SyncDevice
from mrx.pipeline.tasks import VideoTask, WindowBatch
from mrx.pipeline.threaded import ThreadedRunner
from mrx.pipeline.timing import StageTimer
from mrx.pipeline.window_decoder import WindowDecoder
from mrx.shards.chunks import PackedMaps
from mrx.shards.resume import OutputState, inspect_output, salvage_dead_workers
from mrx.shards.rotation import ShardRotation
from mrx.shards.writer import ShardWriter

DEVICE_BATCH_WINDOWS = 64  # enough at once to keep a GPU busy


class Extraction:
    """One process's work: decodes each video once and passes it through all methods.

    Args:
        job: the methods, decoding, windows and output of the run
        device: the device to compute on, instead of the job's first
        num_workers: the number of processes that share the cores
        is_canceled: asked between batches; True drops the videos in flight
        on_progress: called with the number of frames decoded since the last call
        on_sealed: called with the path of each sealed shard, and the keys in it

    Attributes:
        decode_threads: videos decoded at once beside computing; 0 runs the stages in sequence
    """

    def __init__(
        self,
        job: Job,
        *,
        device: str | None = None,
        num_workers: int = 1,
        is_canceled: Callable[[], bool] = lambda: False,
        on_progress: Callable[[int], None] = lambda frames: None,
        on_sealed: Callable[[Path, list[str]], None] = lambda path, keys: None,
    ) -> None:
        self.job = job
        _check_devices(job.devices)
        self.device = choose_device(device or job.devices[0])
        self.method_runs = [MethodRun.from_job(job, name, self.device) for name in job.methods]
        check_stack_option(job.stack, self.method_runs)
        self.settings = job.collect_settings(
            {run.method.name: run.collect_settings() for run in self.method_runs}
        )
        nvdec.require_nvdec(job.decoding, self.device)
        self.decode_threads = _choose_decode_threads(job, self.device, num_workers)
        self.timer = StageTimer()
        self._is_canceled = is_canceled
        self._decoder = WindowDecoder(job, self.device, self.timer, on_progress)
        self._shards = ShardRotation(self._open_writer, job.storage, on_sealed)
        self._size_estimator = SizeEstimator(job, self.device, self.method_runs, self.timer)
        self._has_begun = False
        self._run_number = 1

    def inspect_output(self) -> OutputState:
        """Check the folder, rescue leftovers (`overwrite`: delete all), list finished videos."""
        return inspect_output(self.job, self.settings)

    def set_run_number(self, number: int) -> None:
        """Set the number of the run, which the shards carry; before the first video."""
        self._run_number = number

    def adopt_shards(self, pids: Collection[int]) -> tuple[list[str], list[str]]:
        """Save the videos that dead workers had finished; return their keys, and notes."""
        return salvage_dead_workers(self.job, pids, self._run_number)

    def run(self, sources: Iterable[Source]) -> Iterator[ManifestRow]:
        """Extract the videos and yield a row for each. An error in a video ends as its row."""
        if self.job.dry_run:
            return (self._estimate_row(source) for source in sources)
        # A CPU computes each batch as it was decoded; a GPU gets windows of several videos at once.
        default_batch = None if self.device.type == "cpu" else DEVICE_BATCH_WINDOWS
        device = _build_device(self.device, self.timer)
        computer = BatchComputer(device, self.job.batch or default_batch)
        if self.decode_threads:
            return ThreadedRunner(self, computer, self.decode_threads).run(sources)
        return run_sequentially(self, computer, sources)

    def report_times(self, seconds: float) -> WorkerTimes:
        """Return the seconds that each stage took out of this total."""
        return WorkerTimes(str(self.device), self.decode_threads, seconds, dict(self.timer.seconds))

    def close(self) -> None:
        """Seal the open shards."""
        with self.timer.time_stage("write"):
            self._shards.close()

    def check_canceled(self) -> None:
        """Raise `RunCanceled` if the run was told to stop."""
        if self._is_canceled():
            raise RunCanceled("the run was stopped")

    def begin_video(self, source: Source) -> VideoTask:
        """Begin a video."""
        if not self._has_begun and not self.job.dry_run:
            # Opened before any video is decoded, so that a bad output costs no work.
            self._shards.get_current()
        self._has_begun = True
        wanted = source.methods or self.job.methods
        method_runs = [run for run in self.method_runs if run.method.name in wanted]
        return VideoTask(source, Video(source, self.job.decoding, self.device), method_runs)

    def decode_windows(self, task: VideoTask) -> Iterator[WindowBatch]:
        """Decode each frame of a video once and yield the windows of each of its methods."""
        return self._decoder.decode_windows(task)

    def write_maps(self, batch: WindowBatch, packed: PackedMaps) -> None:
        """Append maps to the shard; the first of a video begin its entry."""
        task, method_run = batch.task, batch.method_run
        name = method_run.method.name
        with self.timer.time_stage("write"), self._shards.abandon_on_error():
            if task.entry is None:
                task.entry = self._shards.get_current().begin_entry(task.source.key)
            if name not in task.entry:
                task.entry.create_dataset(
                    name,
                    shape=packed.shape,
                    encoding=method_run.encoding,
                    filters=method_run.dataset_options,
                )
            task.entry.append_maps(name, packed)

    def finish_video(self, task: VideoTask) -> ManifestRow:
        """Commit a video, or drop it if it failed, and return its row."""
        outcome: dict[str, Any] = {}
        with self._shards.abandon_on_error():
            try:
                if task.failure is None:
                    with self.timer.time_stage("write"):
                        has_others = len(task.method_runs) < len(self.method_runs)
                        outcome = commit_task(task, has_other_maps=has_others)
            except InputError as error:
                task.record_failure(error)
            with self.timer.time_stage("write"):
                if task.entry and not task.entry.is_ended:
                    task.entry.drop_video()
                self._shards.seal_full_shards()
        return make_video_row(task, task.failure or outcome)

    def drop_videos(self, tasks: Sequence[VideoTask]) -> None:
        """Drop the videos in flight when the run ends early."""
        for task in tasks:
            if task.entry:
                self._shards.drop_entry(task.entry)

    def _open_writer(self) -> ShardWriter:
        return ShardWriter.for_job(
            self.job, self.settings, read_library_versions(), self._run_number
        )

    def _estimate_row(self, source: Source) -> ManifestRow:
        task = self.begin_video(source)
        try:
            with self.timer.time_stage("decode"):
                extent = task.video.estimate_extent()
        except InputError as error:
            task.record_failure(error)
            return make_video_row(task, task.failure or {})
        size = self._size_estimator.estimate_bytes(task, extent)
        return make_video_row(task, estimate_outcome(task.method_runs, extent, size))


def _check_devices(names: Sequence[str]) -> None:
    """Refuse devices that are missing, or named twice in different words."""
    devices = [choose_device(name) for name in names]
    if len(set(devices)) < len(devices):
        raise UsageError(
            f"devices {', '.join(names)} are {', '.join(map(str, devices))}: name each once"
        )


def _build_device(device: torch.device, timer: StageTimer) -> SyncDevice:
    if device.type in ("cpu", "mps"):
        return SyncDevice(device, timer)
    return StreamDevice(device, timer, CudaStreams(device))


def _choose_decode_threads(job: Job, device: torch.device, num_workers: int) -> int:
    """Return the job's decode threads; by default 0 on a CPU, else this worker's cores."""
    if job.decode_threads is not None:
        return job.decode_threads
    if device.type == "cpu":
        return 0
    cores = count_cores() // max(num_workers, len(job.devices))
    return min(max(1, cores), MAX_DECODE_THREADS)

"""decode → windows → method → sink: what a worker does with the videos that it is handed.

The only file that knows all stages; `mrx.pipeline.sequential` and `mrx.pipeline.threaded` bring
videos through them. Engines hand out sources and collect rows; nothing here knows whether it runs
in the parent or in a process of its own.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import torch

from mrx import kernels
from mrx.decode import Video, nvdec
from mrx.errors import DecodeError, InputError, OutputError, RunCancelled, UsageError
from mrx.job import Job, ManifestRow, Source, WorkerTimes, count_cores
from mrx.pipeline.compute import BatchComputer
from mrx.pipeline.hardware import choose_device, read_library_versions
from mrx.pipeline.method_run import MethodRun
from mrx.pipeline.sequential import run_sequentially
from mrx.pipeline.stream_device import CudaStreams, StreamDevice
from mrx.pipeline.sync_device import SyncDevice
from mrx.pipeline.tasks import VideoTask, WindowBatch
from mrx.pipeline.threaded import ThreadedRunner
from mrx.pipeline.timing import StageTimer
from mrx.shards.chunks import PackedMaps
from mrx.shards.resume import OutputState, inspect_output, salvage_dead_workers
from mrx.shards.writer import ShardWriter, VideoEntry
from mrx.windows.plan import count_windows
from mrx.windows.stack import GATHER_BYTES, WindowStacker

LIGHT_BATCH_VALUES = 2**19  # the maps of more would leave the CPU's cache before they are stored
DEVICE_BATCH_WINDOWS = 64  # at once, where a device has to be kept busy
MAX_DECODE_THREADS = 16


class Extraction:
    """The work of one process: every video it is handed goes through all methods in one decode.

    Args:
        job: what the run was asked to do
        device: where this process computes, if not where the job says
        num_workers: how many processes share the cores
        is_cancelled: asked between batches; True drops the videos in flight
        on_progress: told how many more frames went through
        on_sealed: told the path of each finished shard, and the keys in it

    Attributes:
        decode_threads: how many videos are decoded at once beside the computing; 0 is one after another
    """

    def __init__(
        self,
        job: Job,
        *,
        device: str | None = None,
        num_workers: int = 1,
        is_cancelled: Callable[[], bool] = lambda: False,
        on_progress: Callable[[int], None] = lambda frames: None,
        on_sealed: Callable[[Path, list[str]], None] = lambda path, keys: None,
    ) -> None:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        self.job = job
        devices = [choose_device(name) for name in job.devices]  # absence is told before any work
        if len(set(devices)) < len(devices):
            names = ", ".join(job.devices)
            raise UsageError(f"devices {names} are {', '.join(map(str, devices))}: name each once")
        self.device = choose_device(device or job.devices[0])
        self.method_runs = [MethodRun.from_job(job, name, self.device) for name in job.methods]
        if job.stack is not None and not any(
            "stack" in lane.parameters for lane in self.method_runs
        ):
            names = ", ".join(job.methods)
            raise UsageError(f"stack={job.stack}: no method among these has stacks: {names}")
        self.settings = job.collect_settings(
            {
                method_run.method.name: method_run.collect_settings()
                for method_run in self.method_runs
            }
        )
        kernels.choose_backend()  # refuses a wrong choice before any work
        nvdec.require_nvdec(job.decoding, self.device)
        self.decode_threads = _choose_decode_threads(job, self.device, num_workers)
        self.timer = StageTimer()
        self._is_cancelled = is_cancelled
        self._on_progress = on_progress
        self._on_sealed = on_sealed
        self._current_shard: ShardWriter | None = None
        self._full_shards: list[ShardWriter] = []
        self._has_begun = False

    def inspect_output(self) -> OutputState:
        """What the output holds already; refuses an output that other settings made."""
        return inspect_output(self.job, self.settings)

    def adopt_shards(self, pids: Collection[int]) -> list[str]:
        """Save what workers that died had finished; the keys of it."""
        return salvage_dead_workers(self.job, pids)

    def run(self, sources: Iterable[Source]) -> Iterator[ManifestRow]:
        """Extract videos. Whatever is wrong with one ends as its row, not as an error."""
        if self.job.dry_run:
            return (self._estimate_row(source) for source in sources)
        default_batch = None if self.device.type == "cpu" else DEVICE_BATCH_WINDOWS
        computer = BatchComputer(
            _build_device(self.device, self.timer), self.job.batch or default_batch
        )
        if self.decode_threads:
            return ThreadedRunner(self, computer, self.decode_threads).run(sources)
        return run_sequentially(self, computer, sources)

    def report_times(self, seconds: float) -> WorkerTimes:
        """Where the time of so many seconds went."""
        return WorkerTimes(str(self.device), self.decode_threads, seconds, dict(self.timer.seconds))

    def close(self) -> None:
        """Seal the open shards."""
        shard, self._current_shard = self._current_shard, None
        with self.timer.time_stage("write"):
            while shards := [*self._full_shards, *([shard] if shard else [])]:
                self._full_shards, shard = shards[1:], None
                self._seal_shard(shards[0])

    def check_cancelled(self) -> None:
        """Raise `RunCancelled` where the run was told to stop."""
        if self._is_cancelled():
            raise RunCancelled("the run was stopped")

    def begin_video(self, source: Source) -> VideoTask:
        """Begin a video; the first opens a shard, so that a bad output is found before any work."""
        if not self._has_begun and not self.job.dry_run:
            self._open_shard()
        self._has_begun = True
        return VideoTask(source, Video(source, self.job.decoding, self.device))

    def decode_windows(self, task: VideoTask) -> Iterator[WindowBatch]:
        """Every frame of a video once; its windows for each method."""
        video: Video = task.video
        segmented = bool(self.job.windowing.segments)
        with self.timer.time_stage("decode"):
            frames = video.count_frames() if segmented else None
        stackers = [self._make_stacker(lane, frames) for lane in self.method_runs]
        wanted_positions = (
            {p for s in stackers for p in s.list_wanted_positions()} if segmented else None
        )
        colors = sorted({lane.module.color for lane in self.method_runs})
        for chunk in self.timer.time_items("decode", video.read_frames(colors, wanted_positions)):
            for method_run, stack in zip(self.method_runs, stackers, strict=True):
                if reason := method_run.why_too_small(video.tally.facts):
                    task.small_methods[method_run.method.name] = reason
                    continue
                for clips in self.timer.time_items(
                    "decode", stack.push_frames(chunk[method_run.module.color])
                ):
                    yield from WindowBatch(task, method_run, clips).split_windows(self.job.batch)
            self._on_progress(len(chunk[colors[0]]))
        for method_run, stack in zip(self.method_runs, stackers, strict=True):
            for clips in self.timer.time_items("decode", stack.finish_stream()):
                yield from WindowBatch(task, method_run, clips).split_windows(self.job.batch)

    def write_maps(self, batch: WindowBatch, packed: PackedMaps) -> None:
        """Put maps into the shard; the first of a video begin its place there."""
        task, method_run = batch.task, batch.method_run
        name = method_run.method.name
        with self.timer.time_stage("write"), self._abandon_on_error():
            if task.entry is None:
                task.entry = self._open_shard().begin_entry(task.source.key)
            entry: VideoEntry = task.entry
            if name not in entry:
                entry.create_dataset(
                    name,
                    shape=packed.shape,
                    encoding=method_run.encoding,
                    filters=method_run.dataset_options,
                )
            entry.append_maps(name, packed)

    def finish_video(self, task: VideoTask) -> ManifestRow:
        """Commit a video, or drop it; its row."""
        outcome: dict[str, Any] = {}
        with self._abandon_on_error():
            try:
                if task.failure is None:
                    with self.timer.time_stage("write"):
                        outcome = self._commit_video(task)
            except InputError as error:
                task.record_failure(error)
            with self.timer.time_stage("write"):
                if task.entry and not task.entry.is_ended:
                    task.entry.drop_video()
                self._seal_full_shards()
        return _make_video_row(task, task.failure or outcome)

    def drop_videos(self, tasks: Sequence[VideoTask]) -> None:
        """Drop videos in flight: the run ends."""
        for task in tasks:
            if task.entry and task.entry.shard in (self._current_shard, *self._full_shards):
                task.entry.drop_video()

    def _make_stacker(self, method_run: MethodRun, frames: int | None) -> WindowStacker:
        """The windows of a lane; heavy methods take many at once, and share work among them."""
        is_light = self.device.type == "cpu" and method_run.method.cost == "light"
        batch_values = LIGHT_BATCH_VALUES if is_light else GATHER_BYTES
        return WindowStacker(method_run.rule, frames=frames, batch_values=batch_values)

    def _commit_video(self, task: VideoTask) -> dict[str, Any]:
        """Commit what was computed, or say why there is nothing."""
        tally, entry = task.video.tally, task.entry
        if damage := tally.describe_damage():
            if tally.on_error == "fail":
                raise DecodeError(damage)
            tally.warn(damage)
        counts = entry.count_items() if entry else {}
        short = {
            method_run.method.name: f"too short ({tally.frames_selected} frames, needs {method_run.rule.min_frames})"
            for method_run in self.method_runs
            if method_run.method.name not in counts
        }
        missing = {**short, **task.small_methods}
        if not (entry and counts):
            reasons = (
                missing.values() if len(missing) == 1 else [f"{k}: {v}" for k, v in missing.items()]
            )
            return {"status": "skipped", "reason": "; ".join(reasons)}
        for name, reason in missing.items():
            tally.warn(f"no {name}: {reason}")
        attributes = {
            **tally.to_attributes(),
            "warnings": tally.warnings,
            **_source_attributes(task.source),
        }
        method_attributes = {
            n.method.name: n.collect_attributes(tally.facts) for n in self.method_runs
        }
        size = entry.commit_video(attributes, method_attributes)
        return {"status": "ok", "n_out": counts, "bytes": size}

    def _open_shard(self) -> ShardWriter:
        if self._current_shard is None:
            self._current_shard = ShardWriter(self.job, self.settings, read_library_versions())
        return self._current_shard

    @contextmanager
    def _abandon_on_error(self) -> Iterator[None]:
        """Let go of all shards where the output cannot be written to."""
        try:
            yield
        except OutputError:
            self._abandon_shards()
            raise

    def _abandon_shards(self) -> None:
        shards = [*self._full_shards, *([self._current_shard] if self._current_shard else [])]
        self._current_shard, self._full_shards = None, []
        for shard in shards:
            shard.abandon_shard()

    def _seal_full_shards(self) -> None:
        """Seal the shards that have their size, once no video in flight has its place there."""
        if self._current_shard and self._current_shard.is_full(self.job.storage):
            self._full_shards.append(self._current_shard)
            self._current_shard = None
        for shard in [shard for shard in self._full_shards if not shard.open_entries]:
            self._full_shards.remove(shard)
            self._seal_shard(shard)

    def _seal_shard(self, shard: ShardWriter) -> None:
        try:
            final = shard.seal_shard()
        except OutputError:
            shard.abandon_shard()
            raise
        if final:
            self._on_sealed(final, shard.keys)

    def _estimate_row(self, source: Source) -> ManifestRow:
        """What an extraction would give, from the headers alone."""
        task = self.begin_video(source)
        try:
            with self.timer.time_stage("decode"):
                frames, width, height = task.video.estimate_shape()
        except InputError as error:
            task.record_failure(error)
            return _make_video_row(task, task.failure or {})
        counts = {lane.method.name: count_windows(frames, lane.rule) for lane in self.method_runs}
        size = 0
        for method_run in self.method_runs:
            channels, rows, columns = method_run.module.output_shape(height, width)
            items = counts[method_run.method.name] * channels * rows * columns
            size += items * method_run.encoding.itemsize
        return _make_video_row(
            task, {"status": "planned", "frames": frames, "n_out": counts, "bytes": size}
        )


def _make_video_row(task: VideoTask, outcome: dict[str, Any]) -> ManifestRow:
    source, tally = task.source, task.video.tally
    return ManifestRow(
        key=source.key,
        path=source.public_path,
        size=source.size,
        mtime=source.mtime,
        start=source.start,
        end=source.end,
        seconds=round(time.monotonic() - task.began_at, 3),
        warnings=tuple(tally.warnings),
        **{"frames": tally.frames_selected, **outcome},
    )


def _build_device(device: torch.device, busy: StageTimer) -> SyncDevice:
    """How windows get to a device: at once with its computing where it has streams for that."""
    if device.type in ("cpu", "mps"):
        return SyncDevice(device, busy)
    return StreamDevice(device, busy, CudaStreams(device))


def _choose_decode_threads(job: Job, device: torch.device, num_workers: int) -> int:
    """Videos decoded at once: as the job says, else none beside a CPU, which has enough to do.

    Beside a device: the cores, shared among the workers.
    """
    if job.decode_threads is not None:
        return job.decode_threads
    if device.type == "cpu":
        return 0
    return min(max(1, count_cores() // max(num_workers, len(job.devices))), MAX_DECODE_THREADS)


def _source_attributes(source: Source) -> dict[str, Any]:
    known = {
        "source": source.public_path.encode("utf-8", "backslashreplace").decode(),
        "source_size": source.size,
        "source_mtime": source.mtime,
        "range_start": source.start,
        "range_end": source.end,
        "label": source.label,
    }
    return {name: value for name, value in known.items() if value is not None}

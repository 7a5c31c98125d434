"""Worker processes on this machine. The parent imports nothing heavy and survives every worker.

A video that kills or hangs its worker is tried once more, then it has failed. What a dead worker
had finished is saved from its shard by the worker that takes its place.
"""

import multiprocessing
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from mrx.engines import worker
from mrx.engines.messages import (
    DeviceBroken,
    OutputInspected,
    RunRefused,
    ShardsAdopted,
    ShardSealed,
    VideoBegan,
    VideoEnded,
    VideoUndone,
    WorkerClosed,
    WorkerMessage,
    WorkerReady,
    make_manifest_row,
)
from mrx.errors import MrxError, UsageError
from mrx.job import Job, ManifestRow, Source, count_cores

MAX_TRIES = 2
MAX_FAILED_STARTS = 3
GRACE_SECONDS = 10.0
POLL_SECONDS = 0.25


@dataclass
class WorkerHandle:
    """The parent's side of a worker process.

    Attributes:
        inspects_output: it is the one that looks into the output
        orphan_pids: process numbers of dead workers, whose shards it has to save first
        device: where it computes
        tasks: the videos that it has, and since when they are at work, if they are
        capacity: how many videos it takes at once
        unsealed_videos: sources that are done, but whose shard has no final name yet; with their rows
        sealed_keys: keys whose shard has a final name, though their rows have not come yet
        retry_sources: the videos in whose middle the worker before it died
        ready, stopping, closed: it has built its methods, was told to end, has sealed its shard
        end_reason: why it was killed, where that was our doing
    """

    process: BaseProcess
    connection: Connection
    device: str
    inspects_output: bool = False
    orphan_pids: tuple[int, ...] = ()
    tasks: dict[str, tuple[Source, float | None]] = field(default_factory=dict)
    capacity: int = 1
    unsealed_videos: dict[str, tuple[Source, ManifestRow]] = field(default_factory=dict)
    sealed_keys: set[str] = field(default_factory=set)
    retry_sources: list[Source] = field(default_factory=list)
    ready: bool = False
    stopping: bool = False
    closed: bool = False
    end_reason: str = ""

    @property
    def has_room(self) -> bool:
        """Whether it takes one more video."""
        return self.ready and not self.stopping and len(self.tasks) < self.capacity

    def send_order(self, order: Source | str) -> None:
        """Say something to a process that may just have died; its end is seen where it is heard."""
        with suppress(ConnectionError):
            self.connection.send(order)

    def describe_death(self) -> str:
        """Why the process is gone, as a reason for the video that it worked on."""
        self.process.join()
        code = self.process.exitcode or 0
        exit_text = f"signal {-code}" if code < 0 else f"exit code {code}"
        return self.end_reason or f"worker died ({exit_text})"


class RefusalError(MrxError):
    """A worker could not go on; the run ends with the exit code of the error that it met."""

    def __init__(self, refused: RunRefused) -> None:
        super().__init__(refused.text)
        self.exit_code = refused.exit_code
        self.traceback = refused.traceback


class LocalEngine:
    """An engine of local worker processes.

    Args:
        job: what the run was asked to do
        workers: how many processes; None is one for each core where methods compute on the CPU,
            and one for each device elsewhere
        num_videos: more workers than this would have nothing to do
        timeout: seconds after which a video is given up; None waits for ever
        start_all: start all workers at once, since there will be work for them
    """

    def __init__(
        self,
        job: Job,
        *,
        workers: int | None,
        num_videos: int,
        timeout: float | None,
        start_all: bool,
    ) -> None:
        devices = job.devices
        if workers is not None and workers < len(devices):
            raise UsageError(f"{workers} workers for {len(devices)} devices: give one for each")
        if workers is None and not _needs_device_probe(devices):
            workers = _count_default_workers(devices, devices[0])
        self.job = job
        self.timeout = timeout
        self.num_videos = max(num_videos, 1)
        self.num_workers = 1 if workers is None else min(workers, self.num_videos)
        self._count_decided = workers is not None
        self.start_all = start_all
        self._context = multiprocessing.get_context("spawn")
        self._try_counts: Counter[str] = Counter()
        self._waiting_sources: deque[Source] = deque()
        self._sources: Iterator[Source] = iter(())
        self._cancelled = False
        self._cancelled_at: float | None = None
        self._output_inspected = False
        self._num_failed_starts = 0
        self._refusal: RefusalError | None = None
        self._workers: list[WorkerHandle] = []

    def inspect_output(self) -> OutputInspected | None:
        """Start the first worker and wait until it has looked into the output.

        Returns:
            what it found, or None where the run was stopped before that
        """
        self._start_worker(inspects_output=True)
        while self.start_all and len(self._workers) < self.num_workers:
            self._start_worker()
        while self._workers and not self._cancelled:
            for message in self._receive_messages():
                if isinstance(message, OutputInspected):
                    if not self._count_decided:
                        self.num_workers = min(
                            _count_default_workers(self.job.devices, message.device),
                            self.num_videos,
                        )
                    return message
        if self._refusal:
            raise self._refusal
        return None

    def run(self, sources: Iterable[Source]) -> Iterator[WorkerMessage]:
        """Keep every worker at work until all videos have ended."""
        self._sources = iter(sources)
        self._waiting_sources.extend(islice(self._sources, self.num_workers))
        while len(self._workers) < min(self.num_workers, len(self._waiting_sources)):
            self._start_worker()
        while self._workers:
            self._hand_out_videos()
            yield from self._receive_messages()
            self._enforce_deadlines()
        if self._refusal:
            raise self._refusal

    def cancel(self) -> None:
        """Have every worker drop its video and seal its shard. Safe in a signal handler."""
        self._cancelled = True

    def close(self) -> None:
        """Leave no process behind."""
        for handle in self._workers:
            handle.process.kill()
            handle.process.join()
            handle.connection.close()
        self._workers = []

    def _start_worker(
        self, *, inspects_output: bool = False, predecessor: WorkerHandle | None = None
    ) -> None:
        parent_end, worker_end = self._context.Pipe()
        orphan_pids = (
            (*predecessor.orphan_pids, predecessor.process.pid or 0) if predecessor else ()
        )
        device = self._pick_device()
        process = self._context.Process(
            target=worker.run_worker,
            args=(
                worker_end,
                self.job,
                worker.WorkerPlace(device, self.num_workers),
                inspects_output,
                orphan_pids,
            ),
            daemon=True,
        )
        process.start()
        worker_end.close()
        handle = WorkerHandle(process, parent_end, device, inspects_output, orphan_pids)
        if predecessor:
            handle.unsealed_videos = predecessor.unsealed_videos
            handle.retry_sources = [
                *predecessor.retry_sources,
                *(source for source, _ in predecessor.tasks.values()),
            ]
        self._workers.append(handle)

    def _pick_device(self) -> str:
        """The device that the fewest workers compute on."""
        used = Counter(one.device for one in self._workers)
        return min(self.job.devices, key=lambda device: used[device])

    def _hand_out_videos(self) -> None:
        """A video to each worker that has room, and again, so that none has all of the last."""
        takers = self._workers
        while takers := [one for one in takers if one.has_room and self._hand_video_to(one)]:
            pass

    def _hand_video_to(self, handle: WorkerHandle) -> bool:
        """Whether there was a video for a worker; one that has nothing left to do is stopped."""
        source = None if self._cancelled else self._choose_next_source(handle)
        if source is not None:
            handle.tasks[source.key] = source, None
            handle.send_order(source)
        elif not handle.tasks:
            handle.stopping = True
            handle.send_order(worker.STOP_ORDER)
        return source is not None

    def _choose_next_source(self, handle: WorkerHandle) -> Source | None:
        """What a worker is to do next. Who may have killed a worker is tried again alone."""
        if any(self._try_counts[key] for key in handle.tasks):
            return None
        if not self._waiting_sources:
            return next(self._sources, None)
        if self._try_counts[self._waiting_sources[0].key] and handle.tasks:
            return None
        return self._waiting_sources.popleft()

    def _receive_messages(self) -> Iterator[WorkerMessage]:
        """What the workers said, and what follows where one has ended."""
        ready = wait([one.connection for one in self._workers], timeout=POLL_SECONDS)
        for handle in [one for one in self._workers if one.connection in ready]:
            try:
                message = handle.connection.recv()
            except (EOFError, OSError):
                yield from self._handle_worker_end(handle)
                continue
            yield from self._handle_message(handle, message)

    def _handle_message(
        self, handle: WorkerHandle, message: WorkerMessage
    ) -> Iterator[WorkerMessage]:
        match message:
            case VideoBegan(key):
                handle.tasks[key] = handle.tasks[key][0], time.monotonic()
            case VideoEnded(row):
                source, _ = handle.tasks.pop(row.key)
                if row.status == "ok" and row.key not in handle.sealed_keys:
                    handle.unsealed_videos[row.key] = source, row
                handle.sealed_keys.discard(row.key)
            case ShardSealed(_, keys):
                handle.sealed_keys |= set(keys) - handle.unsealed_videos.keys()
                for key in keys:
                    handle.unsealed_videos.pop(key, None)
            case ShardsAdopted(keys):
                yield from self._requeue_lost_videos(handle, set(keys))
            case _:
                self._update_handle(handle, message)
        yield message

    def _update_handle(self, handle: WorkerHandle, message: WorkerMessage) -> None:
        """What a worker says of itself."""
        match message:
            case WorkerReady(capacity):
                handle.ready, handle.capacity = True, capacity
            case OutputInspected():
                self._output_inspected = True
            case DeviceBroken(reason):
                handle.end_reason = reason
            case WorkerClosed():
                handle.closed = True
            case RunRefused():
                self._refusal = self._refusal or RefusalError(message)
                handle.closed = True
                self._cancelled = True

    def _requeue_lost_videos(
        self, handle: WorkerHandle, saved_keys: set[str]
    ) -> Iterator[WorkerMessage]:
        """Do again what was lost with a dead worker's shard; not what was saved from it."""
        for key, (source, row) in handle.unsealed_videos.items():
            if key not in saved_keys:
                self._waiting_sources.append(source)
                yield VideoUndone(row)
        retries, handle.unsealed_videos, handle.retry_sources, handle.orphan_pids = (
            handle.retry_sources,
            {},
            [],
            (),
        )
        for retry in retries:
            if retry.key in saved_keys:
                yield VideoEnded(make_manifest_row(retry, "ok"))
            else:
                self._waiting_sources.append(retry)

    def _handle_worker_end(self, handle: WorkerHandle) -> Iterator[WorkerMessage]:
        """A worker has ended: by itself, or in the middle of a video."""
        self._workers.remove(handle)
        handle.connection.close()
        reason = handle.describe_death()
        if handle.closed or self._cancelled:
            return
        if not handle.ready:
            self._num_failed_starts += 1
            if self._num_failed_starts >= MAX_FAILED_STARTS:
                refused = RunRefused(5, f"{reason} {MAX_FAILED_STARTS} times before it was ready")
                self._refusal = self._refusal or RefusalError(refused)
                self._cancelled = True
                return
        for key, (source, since) in list(handle.tasks.items()):
            self._try_counts[key] += since is not None
            if key in handle.sealed_keys:
                yield VideoEnded(make_manifest_row(source, "ok"))
            elif self._try_counts[key] >= MAX_TRIES:
                yield VideoEnded(make_manifest_row(source, "failed", reason))
            else:
                continue
            del handle.tasks[key]
        self._start_worker(
            predecessor=handle,
            inspects_output=handle.inspects_output and not self._output_inspected,
        )

    def _enforce_deadlines(self) -> None:
        """Kill what hangs: a video past its time, or a worker that does not hear a stop."""
        now = time.monotonic()
        for handle in self._workers:
            oldest_start = min((began for _, began in handle.tasks.values() if began), default=now)
            if self.timeout and now - oldest_start > self.timeout:
                handle.end_reason = f"timeout: took longer than {self.timeout:g} s"
                handle.process.kill()
        if self._cancelled and self._cancelled_at is None:
            self._cancelled_at = now
            for handle in self._workers:
                handle.stopping = True
                handle.send_order(worker.CANCEL_ORDER)
        if self._cancelled_at is not None and now - self._cancelled_at > GRACE_SECONDS:
            for handle in self._workers:
                handle.process.kill()


def _needs_device_probe(devices: Sequence[str]) -> bool:
    """Whether only a worker can tell what the device is: `auto` where there may be a GPU."""
    device_files = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
    may_have_gpu = sys.platform == "darwin" or any(Path(sign).exists() for sign in device_files)
    return "auto" in devices and may_have_gpu


def _count_default_workers(devices: Sequence[str], device_type: str) -> int:
    """So many workers: a core is a worker of its own, a device has one with many threads."""
    only_cpu = len(devices) == 1 and device_type in ("cpu", "auto")
    return count_cores() if only_cpu else len(devices)

"""An engine of worker processes on this machine, which survives the death of every worker.

The parent imports nothing heavy: no crash of a codec or a device can happen in it. The death of a
worker leads to one of these:

- It sent `WorkerClosed` or `RunRefused`, or the run is canceled: no successor starts.
- It died before it was ready: a successor starts; the third such death ends the run.
- It died at work: a successor starts, first saves the videos that the dead worker had finished but
  not sealed, and tells which are safe in shards. The parent cannot do this: reading a shard takes
  h5py. Until then no video of the dead worker is judged: it may have died between the end of a
  video and the message about it. The others are queued again, see `mrx.engines.video_queue`.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mrx.engines.base import Engine
from mrx.engines.messages import OutputInspected, RunRefused, ShardsAdopted, WorkerMessage
from mrx.engines.video_queue import VideoQueue
from mrx.engines.worker_handle import WorkerHandle
from mrx.engines.worker_pool import WorkerPool
from mrx.errors import MissingError, MrxError, NoInputError, OutputError, UsageError
from mrx.job import Job, Source, count_cores

MAX_FAILED_STARTS = 3


def make_refusal_error(refused: RunRefused) -> MrxError:
    """Make the error that a worker raised, of the same class as in this process."""
    classes = (UsageError, NoInputError, OutputError, MissingError)
    by_code: dict[int, type[MrxError]] = {one.exit_code: one for one in classes}
    error = by_code.get(refused.exit_code, MrxError)(refused.text)
    error.traceback = refused.traceback
    return error


class LocalEngine(Engine):
    """An engine of local worker processes.

    Args:
        job: the job of the run
        workers: number of processes; None starts one for each core if methods compute on the CPU,
            and otherwise one for each device
        num_videos: number of videos, which bounds the number of processes
        timeout: seconds after which a video is given up; None waits forever
        start_all: start all workers at once, because most videos are still to do
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
            raise UsageError(
                f"too few workers ({workers}): there are {len(devices)} devices. "
                "Give at least one worker for each"
            )
        if workers is None and not _needs_device_probe(devices):
            workers = _count_default_workers(devices, devices[0])
        self.job = job
        self.num_videos = max(num_videos, 1)
        self.start_all = start_all
        num_workers = 1 if workers is None else min(workers, self.num_videos)
        self._pool = WorkerPool(job, num_workers, timeout)
        self._queue = VideoQueue()
        self._count_decided = workers is not None
        self._output_inspected = False
        self._num_failed_starts = 0
        self._canceled = False
        self._refusal: MrxError | None = None

    def inspect_output(self) -> OutputInspected | None:
        """Start the first worker and return its report on the output, or None if canceled."""
        pool = self._pool
        pool.start_worker(inspects_output=True)
        # The other workers' imports take seconds, and need not wait for the report.
        while self.start_all and len(pool.handles) < pool.num_workers:
            pool.start_worker()
        while pool.handles and not self._canceled:
            for message in self._receive_messages():
                if isinstance(message, OutputInspected):
                    self._decide_worker_count(message.device)
                    return message
        if self._refusal:
            raise self._refusal
        return None

    def run(self, sources: Iterable[Source], number: int) -> Iterator[WorkerMessage]:
        """Extract all sources and yield the workers' messages as they arrive."""
        pool = self._pool
        pool.tell_run(number)
        num_waiting = self._queue.set_sources(sources, prefetch=pool.num_workers)
        while len(pool.handles) < min(pool.num_workers, num_waiting):
            pool.start_worker()
        while pool.handles:
            self._hand_out_videos()
            yield from self._receive_messages()
            pool.kill_overdue_workers()
            if self._canceled:
                pool.cancel_workers()
        if self._refusal:
            raise self._refusal

    def cancel(self) -> None:
        """Have all workers drop their videos and seal their shards, within the loop of `run`."""
        # Only a flag: a signal handler may have interrupted a half-written order.
        self._canceled = True

    def close(self) -> None:
        """Kill the workers that are still alive."""
        self._pool.close()

    def _decide_worker_count(self, device: str) -> None:
        if not self._count_decided:
            num_workers = _count_default_workers(self.job.devices, device)
            self._pool.num_workers = min(num_workers, self.num_videos)

    def _hand_out_videos(self) -> None:
        """Assign videos to all workers with room, and stop those that have nothing left to do."""
        # One video a round, so that the last videos spread over all workers:
        # 3 videos left, workers a and b with room for 2 -> a, b, a and not a, a, b.
        takers = [handle for handle in self._pool.handles if handle.has_room]
        while takers:
            served = []
            for handle in takers:
                source = None if self._canceled else self._queue.take_source(handle)
                if source is not None:
                    handle.assign_video(source)
                    served.append(handle)
                elif not handle.assigned_videos:
                    handle.order_stop()
            takers = [handle for handle in served if handle.has_room]

    def _receive_messages(self) -> Iterator[WorkerMessage]:
        for handle, message in self._pool.receive_messages():
            if message is None:
                self._handle_worker_end(handle)
                continue
            handle.record_message(message)
            match message:
                case ShardsAdopted(keys, _):
                    yield from self._queue.settle_inherited_videos(handle, set(keys))
                case OutputInspected():
                    self._output_inspected = True
                case RunRefused():
                    self._refuse_run(message)
            yield message

    def _handle_worker_end(self, handle: WorkerHandle) -> None:
        reason = handle.describe_death()
        if handle.closed or self._canceled:
            return
        if not handle.ready:
            # No video is to blame: whatever ends a worker this early awaits its successors too.
            self._num_failed_starts += 1
            if self._num_failed_starts >= MAX_FAILED_STARTS:
                text = f"{reason} {MAX_FAILED_STARTS} times before it was ready"
                self._refuse_run(RunRefused(5, text))
                return
        self._queue.count_deaths(handle)
        # The successor's first message lists the videos that are safe; the others are lost. It has
        # to start for this even if no other video is left.
        inspects_output = handle.inspects_output and not self._output_inspected
        self._pool.start_worker(predecessor=handle, inspects_output=inspects_output)

    def _refuse_run(self, refused: RunRefused) -> None:
        """Cancel the run, which then raises the first refusal."""
        self._refusal = self._refusal or make_refusal_error(refused)
        self._canceled = True


def _needs_device_probe(devices: Sequence[str]) -> bool:
    """Return True if only a worker can resolve the device: `auto` where a GPU may exist."""
    device_files = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
    may_have_gpu = sys.platform == "darwin" or any(Path(path).exists() for path in device_files)
    return "auto" in devices and may_have_gpu


def _count_default_workers(devices: Sequence[str], device_type: str) -> int:
    """Return one worker for each core on the CPU, and otherwise one for each device."""
    only_cpu = len(devices) == 1 and device_type in ("cpu", "auto")
    return count_cores() if only_cpu else len(devices)

"""The worker processes of a run: starts them, waits for their messages and ends them."""

import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import wait

from mrx.engines import worker
from mrx.engines.messages import WorkerMessage
from mrx.engines.worker_handle import WorkerHandle
from mrx.job import Job

GRACE_SECONDS = 10.0  # from a cancel order until the worker is killed
POLL_SECONDS = 0.25


class WorkerPool:
    """The living worker processes of a run.

    Args:
        job: the job of the run
        num_workers: number of processes that share the cores
        timeout: seconds after which a video's worker is killed; None sets no limit

    Attributes:
        handles: the workers whose end has not been handled yet
        run_number: the number of the run; 0 until `tell_run`
    """

    def __init__(self, job: Job, num_workers: int, timeout: float | None) -> None:
        self.job = job
        self.num_workers = num_workers
        self.timeout = timeout
        self.handles: list[WorkerHandle] = []
        self.run_number = 0
        # A spawned worker imports everything anew, with the thread limits that it sets for itself.
        # A forked one would inherit the threads, locks and CUDA state of the calling process.
        self._context = multiprocessing.get_context("spawn")
        self._canceled_at: float | None = None

    def start_worker(
        self, *, inspects_output: bool = False, predecessor: WorkerHandle | None = None
    ) -> None:
        """Start a worker, which takes over the shards and videos of a dead `predecessor`."""
        orphan_pids: tuple[int, ...] = ()
        if predecessor:
            # A predecessor that died before it had saved its own orphans leaves them too.
            orphan_pids = (*predecessor.orphan_pids, predecessor.process.pid or 0)
        device = self._choose_device()
        place = worker.WorkerPlace(device, self.num_workers, self.run_number)
        parent_end, worker_end = self._context.Pipe()
        process = self._context.Process(
            target=worker.run_worker,
            args=(worker_end, self.job, place, inspects_output, orphan_pids),
            daemon=True,
        )
        process.start()
        # The parent's copy would keep the pipe open after the worker's death, and hide it.
        worker_end.close()
        handle = WorkerHandle(process, parent_end, device, inspects_output, orphan_pids)
        if predecessor:
            handle.inherit_work(predecessor)
        self.handles.append(handle)

    def tell_run(self, number: int) -> None:
        """Tell all workers the number of the run; those that start later know it."""
        self.run_number = number
        for handle in self.handles:
            handle.tell_run(number)

    def receive_messages(self) -> Iterator[tuple[WorkerHandle, WorkerMessage | None]]:
        """Yield one message from each worker that has sent some; None if the worker has ended."""
        connections = [handle.connection for handle in self.handles]
        # The wait is short, so that the caller notices timeouts and cancel requests in between.
        readable = wait(connections, timeout=POLL_SECONDS)
        for handle in [handle for handle in self.handles if handle.connection in readable]:
            try:
                message = handle.connection.recv()
            except (EOFError, OSError):
                self.handles.remove(handle)
                handle.connection.close()
                yield handle, None
                continue
            yield handle, message

    def kill_overdue_workers(self) -> None:
        """Kill each worker that has exceeded the timeout with a video."""
        for handle in self.handles:
            if self.timeout and handle.is_overdue(self.timeout):
                handle.kill_process(f"timeout: took longer than {self.timeout:g} s")

    def cancel_workers(self) -> None:
        """Tell all workers to cancel; kill those still running `GRACE_SECONDS` later."""
        now = time.monotonic()
        if self._canceled_at is None:
            self._canceled_at = now
            for handle in self.handles:
                handle.order_cancel()
        if now - self._canceled_at > GRACE_SECONDS:
            for handle in self.handles:
                handle.kill_process()

    def close(self) -> None:
        """Kill all workers and wait for their ends."""
        # Workers ignore SIGINT and SIGTERM, and one that hangs in a video hears no order. A kill
        # loses no finished video: the next run saves them from the unsealed shards' journals.
        for handle in self.handles:
            handle.kill_process()
            handle.process.join()
            handle.connection.close()
        self.handles = []

    def _choose_device(self) -> str:
        """Return the device that has the fewest workers."""
        worker_counts = Counter(handle.device for handle in self.handles)
        return min(self.job.devices, key=lambda device: worker_counts[device])

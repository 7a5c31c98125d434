"""A worker process: builds the methods, then extracts videos until it is told to stop."""

import ctypes
import gc
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from mrx.engines.messages import (
    DeviceBroken,
    FramesAdvanced,
    OutputInspected,
    RunBegun,
    RunRefused,
    ShardsAdopted,
    ShardSealed,
    VideoBegan,
    VideoEnded,
    WorkerClosed,
    WorkerMessage,
    WorkerReady,
)
from mrx.errors import DeviceFault, MrxError, RunCanceled
from mrx.job import Job, Source

if TYPE_CHECKING:
    from mrx.pipeline.extraction import Extraction

REPORT_SECONDS = 0.5
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # constants of malloc.h
KEPT_BLOCK_BYTES, KEPT_TOTAL_BYTES = 32 * 2**20, 256 * 2**20
STOP_ORDER = "stop"
CANCEL_ORDER = "cancel"


@dataclass(frozen=True)
class WorkerPlace:
    """The place of a worker in its run.

    Attributes:
        device: the device it computes on
        num_workers: the number of workers that share the cores
        run: the number of the run; 0 if it is not known yet
    """

    device: str
    num_workers: int
    run: int = 0


class OrderInbox:
    """Receives the parent's orders in a thread of its own, so that a cancel takes effect mid-video.

    Attributes:
        tasks: the number of the run unless it was known before, sources to extract, a stop order
        canceled: the parent has ordered to drop the videos in flight
    """

    def __init__(self, connection: Connection) -> None:
        self.tasks: queue.SimpleQueue[RunBegun | Source | str] = queue.SimpleQueue()
        self.canceled = False
        self._connection = connection
        threading.Thread(target=self._receive_orders, daemon=True).start()

    def _receive_orders(self) -> None:
        while True:
            try:
                order = self._connection.recv()
            except (EOFError, OSError):
                # The parent is dead, and no one takes the rows. Exit without cleanup, because it
                # may wait for a video that hangs, and the next run must find the shard file
                # unlocked to save it.
                os._exit(1)
            if order == CANCEL_ORDER:
                self.canceled = True
            self.tasks.put(STOP_ORDER if order == CANCEL_ORDER else order)

    def take_sources(
        self, outbox: "MessageOutbox", on_run: Callable[[int], None]
    ) -> Iterator[Source]:
        """Yield the sources from the parent until it orders a stop, and report each as begun.

        Args:
            outbox: reports them
            on_run: called with the number of the run, before the first source
        """
        while True:
            task = self.tasks.get()
            if isinstance(task, RunBegun):
                on_run(task.number)
                continue
            if not isinstance(task, Source):
                return
            # The parent's timeout for the video starts now. If this worker dies, the message is
            # also what makes the video a suspect.
            outbox.send_message(VideoBegan(task.key))
            yield task


class MessageOutbox:
    """Sends messages to the parent, from any thread.

    Frame counts are summed and sent at most every `REPORT_SECONDS`.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._num_unsent = 0
        self._last_sent = time.monotonic()
        self._lock = threading.RLock()  # reentrant: count_frames -> flush_frames -> send_message

    def send_message(self, message: WorkerMessage) -> None:
        """Send a message at once."""
        with self._lock:
            self._connection.send(message)

    def count_frames(self, frames: int) -> None:
        """Add frames to the count, and send the sum if the last one was long enough ago."""
        with self._lock:
            self._num_unsent += frames
            if time.monotonic() - self._last_sent > REPORT_SECONDS:
                self.flush_frames()

    def flush_frames(self) -> None:
        """Send the frames counted so far."""
        with self._lock:
            if self._num_unsent:
                self.send_message(FramesAdvanced(self._num_unsent))
            self._num_unsent = 0
            self._last_sent = time.monotonic()


def keep_freed_memory() -> None:
    """Let malloc keep freed blocks for the next batch, which needs the same sizes (glibc only)."""
    # By default glibc returns large blocks to the system, and every batch would page-fault its
    # memory in again.
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_TOTAL_BYTES)


def run_worker(
    connection: Connection,
    job: Job,
    place: WorkerPlace,
    inspects_output: bool,
    orphan_pids: tuple[int, ...],
) -> None:
    """Extract the videos that the parent sends: the main function of a worker process.

    Args:
        connection: the worker's end of the pipe to the parent
        job: the job of the run
        place: the device of this worker, the number of workers, and that of the run
        inspects_output: inspect the output folder and report it before any video
        orphan_pids: process numbers of dead workers whose shards this worker saves first
    """
    # Ctrl-C and job schedulers signal the whole process group. Only the parent reacts, and orders a
    # cancel: a worker that died of the signal would leave its shard unsealed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    outbox = MessageOutbox(connection)
    try:
        _serve_videos(
            connection, outbox, job, place, inspects_output=inspects_output, orphan_pids=orphan_pids
        )
    except DeviceFault as error:
        # Nothing more works on the device in this process. Without a WorkerClosed message the
        # parent treats the end as a death and starts a successor.
        outbox.send_message(DeviceBroken(str(error)))
    except MrxError as error:
        outbox.send_message(RunRefused(error.exit_code, str(error), traceback.format_exc()))
    except Exception as error:  # noqa: BLE001 - the parent reports it; the process ends
        text = f"internal error in a worker: {type(error).__name__}: {error}"
        outbox.send_message(RunRefused(1, text, traceback.format_exc()))


def _serve_videos(
    connection: Connection,
    outbox: MessageOutbox,
    job: Job,
    place: WorkerPlace,
    *,
    inspects_output: bool,
    orphan_pids: tuple[int, ...],
) -> None:
    keep_freed_memory()
    # Before the imports, which take seconds: the death of the parent must not go unnoticed.
    inbox = OrderInbox(connection)
    # The libraries read these at import. The cores are for the other workers, and for the decode
    # threads of this one.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    from mrx.pipeline.extraction import Extraction
    from mrx.pipeline.hardware import configure_process

    with configure_process(job.backend):
        extraction = Extraction(
            job,
            device=place.device,
            num_workers=place.num_workers,
            is_canceled=lambda: inbox.canceled,
            on_progress=outbox.count_frames,
            on_sealed=lambda path, keys: outbox.send_message(ShardSealed(str(path), tuple(keys))),
        )
        extraction.set_run_number(place.run)
        # The imports leave a hundred thousand objects that no later collection needs to visit.
        gc.collect()
        gc.freeze()
        # Before the inspection and before any new video: the parent waits for the saved keys to
        # know which videos to queue again.
        if orphan_pids:
            keys, notes = extraction.adopt_shards(orphan_pids)
            outbox.send_message(ShardsAdopted(tuple(keys), tuple(notes)))
        if inspects_output:
            _report_output(extraction, outbox)
        _extract_videos(extraction, inbox, outbox)


def _report_output(extraction: "Extraction", outbox: MessageOutbox) -> None:
    state = extraction.inspect_output()
    outbox.send_message(
        OutputInspected(
            extraction.settings,
            done=state.done,
            salvaged=state.salvaged,
            device=extraction.device.type,
            run=state.run,
            notes=state.notes,
        )
    )


def _extract_videos(extraction: "Extraction", inbox: OrderInbox, outbox: MessageOutbox) -> None:
    # Two videos for each decode thread, so that a thread always finds its next one here.
    outbox.send_message(WorkerReady(max(1, 2 * extraction.decode_threads)))
    began = time.monotonic()
    try:
        sources = inbox.take_sources(outbox, extraction.set_run_number)
        for row in extraction.run(sources):
            outbox.flush_frames()
            outbox.send_message(VideoEnded(row))
    except RunCanceled:
        pass
    finally:
        extraction.close()
    outbox.send_message(WorkerClosed(extraction.report_times(time.monotonic() - began)))

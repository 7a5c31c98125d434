"""The life of a worker process: build, then one video after another until told to stop."""

import ctypes
import gc
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from mrx.engines.messages import (
    DeviceBroken,
    FramesAdvanced,
    OutputInspected,
    RunRefused,
    ShardsAdopted,
    ShardSealed,
    VideoBegan,
    VideoEnded,
    WorkerClosed,
    WorkerMessage,
    WorkerReady,
)
from mrx.errors import DeviceFault, MrxError, RunCancelled
from mrx.job import Job, Source

REPORT_SECONDS = 0.5
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BLOCK_BYTES, KEPT_TOTAL_BYTES = 32 * 2**20, 256 * 2**20
STOP_ORDER = "stop"
CANCEL_ORDER = "cancel"


@dataclass(frozen=True)
class WorkerPlace:
    """Where a worker computes, and how many share the cores with it."""

    device: str
    num_workers: int


class OrderInbox:
    """What the parent says, read by a thread of its own, so that a stop is heard in mid-video.

    When the parent is gone the process ends at once: nobody would take its rows, and the run
    that comes next must find its file free.
    """

    def __init__(self, connection: Connection) -> None:
        self.tasks: queue.SimpleQueue[Source | str] = queue.SimpleQueue()
        self.cancelled = False
        self._connection = connection
        threading.Thread(target=self._receive_orders, daemon=True).start()

    def _receive_orders(self) -> None:
        while True:
            try:
                order = self._connection.recv()
            except (EOFError, OSError):
                os._exit(1)
            if order == CANCEL_ORDER:
                self.cancelled = True
            self.tasks.put(STOP_ORDER if order == CANCEL_ORDER else order)

    def take_sources(self, outbox: "MessageOutbox") -> Iterator[Source]:
        """The videos to do, as they come, until the parent says stop; it is told of each."""
        while isinstance(task := self.tasks.get(), Source):
            outbox.send_message(VideoBegan(task.key))
            yield task


class MessageOutbox:
    """Tell the parent what happens, from any thread; how many frames, at most twice a second."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._num_unsent = 0
        self._last_sent = time.monotonic()
        self._lock = threading.RLock()

    def send_message(self, message: WorkerMessage) -> None:
        """Send a message."""
        with self._lock:
            self._connection.send(message)

    def count_frames(self, frames: int) -> None:
        """Count frames; send the sum now and then."""
        with self._lock:
            self._num_unsent += frames
            if time.monotonic() - self._last_sent > REPORT_SECONDS:
                self.flush_frames()

    def flush_frames(self) -> None:
        """Send what was counted."""
        with self._lock:
            if self._num_unsent:
                self.send_message(FramesAdvanced(self._num_unsent))
            self._num_unsent = 0
            self._last_sent = time.monotonic()


def keep_freed_memory() -> None:
    """Keep freed blocks for the next batch, which wants as many of the same size.

    Given back to the system, every batch would fault its pages in again. Only glibc can be told.
    """
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
    """Run in a new process.

    Args:
        connection: to the parent
        job: what the run was asked to do
        place: where this worker computes, and among how many
        inspects_output: look into the output before anything else
        orphan_pids: process numbers of dead workers whose shards are to be saved
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a group gets it; the parent tells us
    outbox = MessageOutbox(connection)
    try:
        _serve_videos(
            connection, outbox, job, place, inspects_output=inspects_output, orphan_pids=orphan_pids
        )
    except DeviceFault as error:
        outbox.send_message(DeviceBroken(str(error)))
    except MrxError as error:
        outbox.send_message(RunRefused(error.exit_code, str(error), traceback.format_exc()))
    except Exception as error:  # noqa: BLE001 - the process ends; the parent must hear why
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
    inbox = OrderInbox(connection)  # before the imports, which take seconds
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # read at import: a worker is one thread, its siblings the rest
    from mrx.pipeline.extraction import Extraction

    extraction = Extraction(
        job,
        device=place.device,
        num_workers=place.num_workers,
        is_cancelled=lambda: inbox.cancelled,
        on_progress=outbox.count_frames,
        on_sealed=lambda path, keys: outbox.send_message(ShardSealed(str(path), tuple(keys))),
    )
    gc.collect()
    gc.freeze()  # a hundred thousand objects of the imports need not be walked again
    if orphan_pids:
        outbox.send_message(ShardsAdopted(tuple(extraction.adopt_shards(orphan_pids))))
    if inspects_output:
        output_state = extraction.inspect_output()
        device_type = extraction.device.type
        outbox.send_message(
            OutputInspected(
                extraction.settings, output_state.done, output_state.salvaged, device_type
            )
        )
    outbox.send_message(
        WorkerReady(max(1, 2 * extraction.decode_threads))
    )  # so that no thread waits for its next
    began = time.monotonic()
    try:
        for row in extraction.run(inbox.take_sources(outbox)):
            outbox.flush_frames()
            outbox.send_message(VideoEnded(row))
    except RunCancelled:
        pass
    finally:
        extraction.close()
    outbox.send_message(WorkerClosed(extraction.report_times(time.monotonic() - began)))

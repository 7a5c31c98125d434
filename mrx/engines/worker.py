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
    Adopted,
    Advanced,
    Began,
    Broken,
    Closed,
    Ended,
    Looked,
    Message,
    Ready,
    Refused,
    Sealed,
)
from mrx.errors import Cancelled, DeviceFault, MrxError
from mrx.job import Job, Source

REPORT_SECONDS = 0.5
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BLOCK, KEPT_TOTAL = 32 * 2**20, 256 * 2**20
STOP = "stop"
CANCEL = "cancel"


@dataclass(frozen=True)
class Place:
    """Where a worker computes, and how many share the cores with it."""

    device: str
    workers: int


class Inbox:
    """What the parent says, read by a thread of its own, so that a stop is heard in mid-video.

    When the parent is gone the process ends at once: nobody would take its rows, and the run
    that comes next must find its file free.
    """

    def __init__(self, connection: Connection) -> None:
        self.tasks: queue.SimpleQueue[Source | str] = queue.SimpleQueue()
        self.cancelled = False
        self._connection = connection
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                word = self._connection.recv()
            except (EOFError, OSError):
                os._exit(1)
            if word == CANCEL:
                self.cancelled = True
            self.tasks.put(STOP if word == CANCEL else word)

    def sources(self, outbox: "Outbox") -> Iterator[Source]:
        """The videos to do, as they come, until the parent says stop; it is told of each."""
        while isinstance(task := self.tasks.get(), Source):
            outbox.send(Began(task.key))
            yield task


class Outbox:
    """Tell the parent what happens, from any thread; how many frames, at most twice a second."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._frames = 0
        self._last = time.monotonic()
        self._lock = threading.RLock()

    def send(self, message: Message) -> None:
        """Send a message."""
        with self._lock:
            self._connection.send(message)

    def advance(self, frames: int) -> None:
        """Count frames; send the sum now and then."""
        with self._lock:
            self._frames += frames
            if time.monotonic() - self._last > REPORT_SECONDS:
                self.flush()

    def flush(self) -> None:
        """Send what was counted."""
        with self._lock:
            if self._frames:
                self.send(Advanced(self._frames))
            self._frames = 0
            self._last = time.monotonic()


def keep_memory() -> None:
    """Keep freed blocks for the next batch, which wants as many of the same size.

    Given back to the system, every batch would fault its pages in again. Only glibc can be told.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_TOTAL)


def main(
    connection: Connection,
    job: Job,
    place: Place,
    first: bool,
    orphans: tuple[int, ...],
) -> None:
    """Run in a new process.

    Args:
        connection: to the parent
        job: what the run was asked to do
        place: where this worker computes, and among how many
        first: look into the output before anything else
        orphans: process numbers of dead workers whose shards are to be saved
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a group gets it; the parent tells us
    outbox = Outbox(connection)
    try:
        _serve(connection, outbox, job, place, first=first, orphans=orphans)
    except DeviceFault as error:
        outbox.send(Broken(str(error)))
    except MrxError as error:
        outbox.send(Refused(error.exit_code, str(error), traceback.format_exc()))
    except Exception as error:  # noqa: BLE001 - the process ends; the parent must hear why
        text = f"internal error in a worker: {type(error).__name__}: {error}"
        outbox.send(Refused(1, text, traceback.format_exc()))


def _serve(
    connection: Connection,
    outbox: Outbox,
    job: Job,
    place: Place,
    *,
    first: bool,
    orphans: tuple[int, ...],
) -> None:
    keep_memory()
    inbox = Inbox(connection)  # before the imports, which take seconds
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # read at import: a worker is one thread, its siblings the rest
    from mrx.pipeline.extraction import Extraction

    extraction = Extraction(
        job,
        device=place.device,
        workers=place.workers,
        cancelled=lambda: inbox.cancelled,
        progress=outbox.advance,
        sealed=lambda path, keys: outbox.send(Sealed(str(path), tuple(keys))),
    )
    gc.collect()
    gc.freeze()  # a hundred thousand objects of the imports need not be walked again
    if orphans:
        outbox.send(Adopted(tuple(extraction.adopt(orphans))))
    if first:
        held = extraction.look()
        kind = extraction.device.type
        outbox.send(Looked(extraction.settings, held.done, held.salvaged, kind))
    outbox.send(Ready(max(1, 2 * extraction.threads)))  # so that no thread waits for its next
    began = time.monotonic()
    try:
        for row in extraction.run(inbox.sources(outbox)):
            outbox.flush()
            outbox.send(Ended(row))
    except Cancelled:
        pass
    finally:
        extraction.close()
    outbox.send(Closed(extraction.worked(time.monotonic() - began)))

"""Decoding, computing and writing at once: the way of a worker that feeds a device.

    decode threads ──pieces──▶ buckets ─▶ device (this thread) ──results──▶ writer thread ──▶ rows

Each decode thread has a video of its own. Both ways are bounded in bytes: a slow writer stops the
device, a slow device stops the decoders, and each waits for what comes before it. Whoever meets
what ends the run closes both ways, and everyone leaves.

Memory, above what a worker takes when it has begun, is at most the sum of

- `PIECES_BYTES` and `RESULTS_BYTES`, or one piece and its maps where they alone are larger;
- for each decode thread the chunk that it decodes (at most 32 MiB, or a frame) and two windows;
- for the computing twice the floats of a batch: of windows of 32 MiB together, or of a single one.

One stage after another (`mrx.feeding.turn`) is the same without the first and with one thread.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Literal

import torch

from mrx.errors import Cancelled, InputError
from mrx.feeding.buckets import Buckets
from mrx.feeding.compute import Computer, Result
from mrx.feeding.pipes import Gone, Pipe
from mrx.feeding.tickets import Piece, Stages, Ticket
from mrx.job import Row, Source
from mrx.sinks.pack import Packed

PIECES_BYTES = 256 * 2**20
RESULTS_BYTES = 256 * 2**20
FLUSH_SECONDS = 0.05  # a batch that is not full by then goes as it is
JOIN_SECONDS = 5.0
Done = Literal["done"]


class Feeder:
    """Bring sources through the stages, several at once.

    Args:
        stages: what is done
        computer: the device's batches
        threads: how many videos are decoded at once
    """

    def __init__(self, stages: Stages, computer: Computer, threads: int) -> None:
        self.stages = stages
        self.computer = computer
        self.threads = threads
        self._pieces: Pipe[Piece | Ticket | Done] = Pipe(PIECES_BYTES)
        self._results: Pipe[tuple[Piece, Packed] | Ticket | Done] = Pipe(RESULTS_BYTES)
        self._rows: queue.SimpleQueue[Row | Done] = queue.SimpleQueue()
        self._buckets = Buckets()
        self._flight: set[Ticket] = set()
        self._sources: Iterator[Source] = iter(())
        self._taking = threading.Lock()
        self._failure: BaseException | None = None

    def run(self, sources: Iterable[Source]) -> Iterator[Row]:
        """The row of each source, in the order in which they end.

        Raises:
            MrxError: what no video is to blame for; videos in flight are dropped
        """
        self._sources = iter(sources)
        writer = self._start(self._write)
        for _ in range(self.threads):
            self._start(self._decode)
        try:
            yield from self._compute()
        except Gone:
            raise self._failure or RuntimeError("a way between two stages was closed") from None
        finally:
            self._close()
            writer.join(JOIN_SECONDS)
            self.stages.forget(list(self._flight))

    def _start(self, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._guarded, args=(work,), daemon=True)
        thread.start()
        return thread

    def _guarded(self, work: Callable[[], None]) -> None:
        """The life of a thread; what it cannot handle ends the run."""
        torch.set_num_threads(1)
        try:
            work()
        except Gone:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again where the rows are taken
            self._failure = self._failure or error
            self._close()

    def _close(self) -> None:
        self._pieces.close()
        self._results.close()
        self._rows.put("done")

    def _decode(self) -> None:
        """One video after another, until there are none left."""
        while ticket := self._next():
            try:
                for piece in self.stages.decode(ticket):
                    self.stages.check()
                    clips = self.computer.device.hold(piece.clips)
                    size = clips.data.untyped_storage().nbytes()
                    self._pieces.put(replace(piece, clips=clips, held=size), size)
                    if ticket.failure:
                        break
            except Cancelled:
                raise
            except InputError as error:
                ticket.fail(error)
            self._pieces.put(ticket)
        self._pieces.put("done")

    def _next(self) -> Ticket | None:
        with self._taking:
            source = next(self._sources, None)
            if source is None:
                return None
            ticket = self.stages.ticket(source)
            self._flight.add(ticket)
            return ticket

    def _compute(self) -> Iterator[Row]:
        """Batches to the device as they fill; rows as they end."""
        left = self.threads
        while left:
            self.stages.check()
            item = self._pieces.get(FLUSH_SECONDS)
            now = time.monotonic()
            batches = [] if item else self._buckets.rest()
            if isinstance(item, Piece):
                batches = self._add(item, now)
            elif isinstance(item, Ticket):
                item.decoded = True
                self._pass_on(item)
            elif item == "done":
                left -= 1
            self._through([*batches, *self._buckets.older(now - FLUSH_SECONDS)])
            while not self._rows.empty():
                yield from self._row()
        self._through(self._buckets.rest())
        self._through([])
        self._results.put("done")
        while rows := list(self._row()):
            yield from rows

    def _add(self, piece: Piece, now: float) -> list[list[Piece]]:
        piece.ticket.pending += len(piece)
        most = self.computer.most(piece.lane.method.name)
        if most is None:
            return [[piece]]
        return [batch for part in piece.split(most) for batch in self._buckets.add(part, most, now)]

    def _through(self, batches: list[list[Piece]]) -> None:
        """Batches through the device; with none, what it still has at work."""
        with torch.inference_mode():
            for batch in batches:
                self._take(self.computer.put(batch))
            if not batches:
                self._take(self.computer.land())

    def _take(self, results: list[Result]) -> None:
        for piece, packed in results:
            self._pieces.release(piece.held)
            ticket = piece.ticket
            ticket.pending -= len(piece)
            if packed is not None:
                self._results.put((piece, packed), packed.nbytes)
            self._pass_on(ticket)

    def _pass_on(self, ticket: Ticket) -> None:
        """Let the writer end a video that has nothing more to come."""
        if ticket.decoded and not ticket.pending:
            self._results.put(ticket)

    def _row(self) -> Iterator[Row]:
        """The next row; none after the last."""
        row = self._rows.get()
        if self._failure:
            raise Gone
        if not isinstance(row, str):
            yield row

    def _write(self) -> None:
        """What was computed into the shard, in the order in which it comes."""
        while (item := self._results.get()) != "done":
            if isinstance(item, Ticket):
                row = self.stages.conclude(item)
                self._flight.discard(item)
                self._rows.put(row)
            elif item is not None:
                self._store(*item)
        self._rows.put("done")

    def _store(self, piece: Piece, packed: Packed) -> None:
        try:
            if not piece.ticket.failure:
                self.stages.write(piece, packed)
        except InputError as error:
            piece.ticket.fail(error)
        finally:
            self._results.release(packed.nbytes)

"""Decoding, computing and writing at once: the way of a worker that feeds a device.

    decode threads ──pieces──▶ buckets ─▶ device (this thread) ──results──▶ writer thread ──▶ rows
                                                      └──▶ packing threads ──┘

Each decode thread has a video of its own; as many threads pack. Both ways are bounded in bytes: a
slow writer stops the device, a slow device stops the decoders, and each waits for what comes before
it. Whoever meets what ends the run closes both ways, and everyone leaves.

Memory, above what a worker takes when it has begun, is at most the sum of

- 64 MiB, and 600 bytes a pixel of a frame for each method (measured, on a CPU: see
  `tests/benchmarks/results/memory.md`);
- `PIECES_BYTES` and `RESULTS_BYTES`, or one piece and its maps where they alone are larger;
- for each decode thread 32 MiB, or a frame where that is larger, and three windows.

One stage after another (`mrx.pipeline.sequential`) has the first of these alone.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import torch

from mrx.errors import Cancelled, InputError
from mrx.job import Row, Source
from mrx.pipeline.batches import Buckets
from mrx.pipeline.compute import Computer, Result
from mrx.pipeline.queues import Gone, Pipe
from mrx.pipeline.tasks import Piece, Stages, Ticket
from mrx.shards.chunks import Packed

PIECES_BYTES = 256 * 2**20
RESULTS_BYTES = 256 * 2**20
FLUSH_SECONDS = 0.05  # a batch that is not full by then goes as it is
JOIN_SECONDS = 5.0
Word = Literal["done", "row"]


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
        self._pieces: Pipe[Piece | Ticket | Word] = Pipe(PIECES_BYTES)
        self._results: Pipe[_Packing | Ticket | Word] = Pipe(RESULTS_BYTES)
        self._rows: queue.SimpleQueue[Row | Word] = queue.SimpleQueue()
        self._buckets = Buckets()
        self._flight: set[Ticket] = set()
        self._decoding: set[Ticket] = set()
        self._sources: Iterator[Source] = iter(())
        self._taking = threading.Lock()
        self._packers = ThreadPoolExecutor(threads, "mrx-pack")
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
        ended: BaseException | None = None
        try:
            yield from self._compute()
        except (Gone, Cancelled) as error:
            ended = self._failure or error
        finally:
            self._close()
            writer.join(JOIN_SECONDS)
            self._packers.shutdown(wait=False, cancel_futures=True)
            self.stages.forget(list(self._flight))
        if ended is not None:
            yield from self._told()  # what is in the shard is told, however the run ends
            raise ended

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
                    size = self.computer.device.held(clips)
                    self._pieces.put(replace(piece, clips=clips, held=size), size)
                    if ticket.failure:
                        break
            except Cancelled:
                raise
            except InputError as error:
                ticket.fail(error)
            self._pieces.put(ticket)
            self._decoding.discard(ticket)
        self._pieces.put("done")

    def _next(self) -> Ticket | None:
        with self._taking:
            source = next(self._sources, None)
            if source is None:
                return None
            ticket = self.stages.ticket(source)
            self._flight.add(ticket)
            self._decoding.add(ticket)
            return ticket

    def _compute(self) -> Iterator[Row]:
        """Batches to the device as they fill; rows as they end."""
        left = self.threads
        while left:
            self.stages.check()
            item = self._pieces.get(self._patience())
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
            if item is None:
                self._land()
            yield from self._told()
        self._through(self._buckets.rest())
        self._land()
        self._results.put("done")
        while isinstance(row := self._rows.get(), Row):
            yield row
        if self._failure:
            raise Gone

    def _patience(self) -> float:
        """How long to wait for more: not at all where something is begun and nothing comes."""
        begun = self._buckets.pieces or self.computer.flying
        return 0.0 if begun and not self._decoding else FLUSH_SECONDS

    def _add(self, piece: Piece, now: float) -> list[list[Piece]]:
        piece.ticket.pending += len(piece)
        most = self.computer.most(piece.lane.method.name)
        if most is None:
            return [[piece]]
        return [batch for part in piece.split(most) for batch in self._buckets.add(part, most, now)]

    def _through(self, batches: list[list[Piece]]) -> None:
        """Batches to the device, each taken from it when the next has been given."""
        with torch.inference_mode():
            for batch in batches:
                self._take(self.computer.put(batch))

    def _land(self) -> None:
        """What the device has at work, when there is nothing to give it meanwhile."""
        with torch.inference_mode():
            self._take(self.computer.land())

    def _take(self, results: list[Result]) -> None:
        for piece, made in results:
            self._pieces.release(piece.held)
            ticket = piece.ticket
            ticket.pending -= len(piece)
            if made is not None:
                packed = self._packers.submit(made.pack)
                self._results.put(_Packing(piece, packed, made.nbytes), made.nbytes)
            self._pass_on(ticket)

    def _pass_on(self, ticket: Ticket) -> None:
        """Let the writer end a video that has nothing more to come."""
        if ticket.decoded and not ticket.pending:
            self._results.put(ticket)

    def _told(self) -> Iterator[Row]:
        """The rows that are there."""
        while not self._rows.empty():
            if isinstance(row := self._rows.get(), Row):
                yield row

    def _write(self) -> None:
        """What was computed into the shard, in the order in which it comes."""
        while (item := self._results.get()) != "done":
            if isinstance(item, Ticket):
                row = self.stages.conclude(item)
                self._flight.discard(item)
                self._rows.put(row)
                self._pieces.put("row")
            elif isinstance(item, _Packing):
                self._store(item)
        self._rows.put("done")

    def _store(self, packing: "_Packing") -> None:
        piece = packing.piece
        try:
            packed = packing.packed.result()
            if not piece.ticket.failure:
                self.stages.write(piece, packed)
        except InputError as error:
            piece.ticket.fail(error)
        finally:
            self._results.release(packing.size)


@dataclass(frozen=True)
class _Packing:
    """Maps on their way to the writer, packed by then."""

    piece: Piece
    packed: Future[Packed]
    size: int

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
from mrx.errors import Cancelled, DecodeError, InputError, OutputError, UsageError
from mrx.job import Job, Row, Source, Worked, cores
from mrx.pipeline.compute import Computer
from mrx.pipeline.hardware import choose_device, versions
from mrx.pipeline.method_run import Lane
from mrx.pipeline.sequential import in_turn
from mrx.pipeline.stream_device import CudaStreams, Overlapped
from mrx.pipeline.sync_device import Direct
from mrx.pipeline.tasks import Piece, Ticket
from mrx.pipeline.threaded import Feeder
from mrx.pipeline.timing import Busy
from mrx.shards.chunks import Packed
from mrx.shards.resume import Held, adopt, look
from mrx.shards.writer import Entry, ShardWriter
from mrx.windows.plan import count
from mrx.windows.stack import GATHER_BYTES, Stack

LIGHT_BATCH_VALUES = 2**19  # the maps of more would leave the CPU's cache before they are stored
DEVICE_WINDOWS = 64  # at once, where a device has to be kept busy
MOST_THREADS = 16


class Extraction:
    """The work of one process: every video it is handed goes through all methods in one decode.

    Args:
        job: what the run was asked to do
        device: where this process computes, if not where the job says
        workers: how many processes share the cores
        cancelled: asked between batches; True drops the videos in flight
        progress: told how many more frames went through
        sealed: told the path of each finished shard, and the keys in it

    Attributes:
        threads: how many videos are decoded at once beside the computing; 0 is one after another
    """

    def __init__(
        self,
        job: Job,
        *,
        device: str | None = None,
        workers: int = 1,
        cancelled: Callable[[], bool] = lambda: False,
        progress: Callable[[int], None] = lambda frames: None,
        sealed: Callable[[Path, list[str]], None] = lambda path, keys: None,
    ) -> None:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        self.job = job
        there = [choose_device(name) for name in job.devices]  # absence is told before any work
        if len(set(there)) < len(there):
            names = ", ".join(job.devices)
            raise UsageError(f"devices {names} are {', '.join(map(str, there))}: name each once")
        self.device = choose_device(device or job.devices[0])
        self.lanes = [Lane.build(job, name, self.device) for name in job.methods]
        if job.stack is not None and not any("stack" in lane.parameters for lane in self.lanes):
            names = ", ".join(job.methods)
            raise UsageError(f"stack={job.stack}: no method among these has stacks: {names}")
        self.settings = job.settings({lane.method.name: lane.settings() for lane in self.lanes})
        kernels.backend()  # refuses a wrong choice before any work
        nvdec.require(job.decoding, self.device)
        self.threads = _decode_threads(job, self.device, workers)
        self.busy = Busy()
        self._cancelled = cancelled
        self._progress = progress
        self._sealed = sealed
        self._shard: ShardWriter | None = None
        self._full: list[ShardWriter] = []
        self._begun = False

    def look(self) -> Held:
        """What the output holds already; refuses an output that other settings made."""
        return look(self.job, self.settings)

    def adopt(self, pids: Collection[int]) -> list[str]:
        """Save what workers that died had finished; the keys of it."""
        return adopt(self.job, pids)

    def run(self, sources: Iterable[Source]) -> Iterator[Row]:
        """Extract videos. Whatever is wrong with one ends as its row, not as an error."""
        if self.job.dry_run:
            return (self._estimate(source) for source in sources)
        usual = None if self.device.type == "cpu" else DEVICE_WINDOWS
        computer = Computer(_way_to(self.device, self.busy), self.job.batch or usual)
        if self.threads:
            return Feeder(self, computer, self.threads).run(sources)
        return in_turn(self, computer, sources)

    def worked(self, seconds: float) -> Worked:
        """Where the time of so many seconds went."""
        return Worked(str(self.device), self.threads, seconds, dict(self.busy.seconds))

    def close(self) -> None:
        """Seal the open shards."""
        shard, self._shard = self._shard, None
        with self.busy.at("write"):
            while shards := [*self._full, *([shard] if shard else [])]:
                self._full, shard = shards[1:], None
                self._seal(shards[0])

    def check(self) -> None:
        """Raise `Cancelled` where the run was told to stop."""
        if self._cancelled():
            raise Cancelled("the run was stopped")

    def ticket(self, source: Source) -> Ticket:
        """Begin a video; the first opens a shard, so that a bad output is found before any work."""
        if not self._begun and not self.job.dry_run:
            self._open_shard()
        self._begun = True
        return Ticket(source, Video(source, self.job.decoding, self.device))

    def decode(self, ticket: Ticket) -> Iterator[Piece]:
        """Every frame of a video once; its windows for each method."""
        video: Video = ticket.video
        segmented = bool(self.job.windowing.segments)
        with self.busy.at("decode"):
            frames = video.count() if segmented else None
        stacks = [self._stack(lane, frames) for lane in self.lanes]
        wanted = {p for s in stacks for p in s.wanted()} if segmented else None
        colors = sorted({lane.module.color for lane in self.lanes})
        for chunk in self.busy.each("decode", video.read(colors, wanted)):
            for lane, stack in zip(self.lanes, stacks, strict=True):
                if reason := lane.too_small(video.tally.facts):
                    ticket.small[lane.method.name] = reason
                    continue
                for clips in self.busy.each("decode", stack.push(chunk[lane.module.color])):
                    yield from Piece(ticket, lane, clips).split(self.job.batch)
            self._progress(len(chunk[colors[0]]))
        for lane, stack in zip(self.lanes, stacks, strict=True):
            for clips in self.busy.each("decode", stack.finish()):
                yield from Piece(ticket, lane, clips).split(self.job.batch)

    def write(self, piece: Piece, packed: Packed) -> None:
        """Put maps into the shard; the first of a video begin its place there."""
        ticket, lane = piece.ticket, piece.lane
        name = lane.method.name
        with self.busy.at("write"), self._letting_go():
            if ticket.entry is None:
                ticket.entry = self._open_shard().begin(ticket.source.key)
            entry: Entry = ticket.entry
            if name not in entry:
                entry.open(name, shape=packed.shape, encoding=lane.encoding, filters=lane.filters)
            entry.put(name, packed)

    def conclude(self, ticket: Ticket) -> Row:
        """Commit a video, or drop it; its row."""
        outcome: dict[str, Any] = {}
        with self._letting_go():
            try:
                if ticket.failure is None:
                    with self.busy.at("write"):
                        outcome = self._commit(ticket)
            except InputError as error:
                ticket.fail(error)
            with self.busy.at("write"):
                if ticket.entry and not ticket.entry.ended:
                    ticket.entry.drop()
                self._seal_full()
        return _row(ticket, ticket.failure or outcome)

    def forget(self, tickets: Sequence[Ticket]) -> None:
        """Drop videos in flight: the run ends."""
        for ticket in tickets:
            if ticket.entry and ticket.entry.shard in (self._shard, *self._full):
                ticket.entry.drop()

    def _stack(self, lane: Lane, frames: int | None) -> Stack:
        """The windows of a lane; heavy methods take many at once, and share work among them."""
        small = self.device.type == "cpu" and lane.method.cost == "light"
        most = LIGHT_BATCH_VALUES if small else GATHER_BYTES
        return Stack(lane.rule, frames=frames, batch_values=most)

    def _commit(self, ticket: Ticket) -> dict[str, Any]:
        """Commit what was computed, or say why there is nothing."""
        tally, entry = ticket.video.tally, ticket.entry
        if damage := tally.damage():
            if tally.on_error == "fail":
                raise DecodeError(damage)
            tally.warn(damage)
        counts = entry.counts() if entry else {}
        short = {
            lane.method.name: f"too short ({tally.selected} frames, needs {lane.rule.needs})"
            for lane in self.lanes
            if lane.method.name not in counts
        }
        missing = {**short, **ticket.small}
        if not counts:
            reasons = (
                missing.values() if len(missing) == 1 else [f"{k}: {v}" for k, v in missing.items()]
            )
            return {"status": "skipped", "reason": "; ".join(reasons)}
        for name, reason in missing.items():
            tally.warn(f"no {name}: {reason}")
        attributes = {
            **tally.attributes(),
            "warnings": tally.warnings,
            **_source_attributes(ticket.source),
        }
        described = {n.method.name: n.attributes(tally.facts) for n in self.lanes}
        size = entry.commit(attributes, described)
        return {"status": "ok", "n_out": counts, "bytes": size}

    def _open_shard(self) -> ShardWriter:
        if self._shard is None:
            self._shard = ShardWriter(self.job, self.settings, versions())
        return self._shard

    @contextmanager
    def _letting_go(self) -> Iterator[None]:
        """Let go of all shards where the output cannot be written to."""
        try:
            yield
        except OutputError:
            self._abandon()
            raise

    def _abandon(self) -> None:
        shards = [*self._full, *([self._shard] if self._shard else [])]
        self._shard, self._full = None, []
        for shard in shards:
            shard.abandon()

    def _seal_full(self) -> None:
        """Seal the shards that have their size, once no video in flight has its place there."""
        if self._shard and self._shard.is_full(self.job.storage):
            self._full.append(self._shard)
            self._shard = None
        for shard in [shard for shard in self._full if not shard.open_entries]:
            self._full.remove(shard)
            self._seal(shard)

    def _seal(self, shard: ShardWriter) -> None:
        try:
            final = shard.seal()
        except OutputError:
            shard.abandon()
            raise
        if final:
            self._sealed(final, shard.keys)

    def _estimate(self, source: Source) -> Row:
        """What an extraction would give, from the headers alone."""
        ticket = self.ticket(source)
        try:
            with self.busy.at("decode"):
                frames, width, height = ticket.video.estimate()
        except InputError as error:
            ticket.fail(error)
            return _row(ticket, ticket.failure or {})
        counts = {lane.method.name: count(frames, lane.rule) for lane in self.lanes}
        size = 0
        for lane in self.lanes:
            channels, rows, columns = lane.module.output_shape(height, width)
            items = counts[lane.method.name] * channels * rows * columns
            size += items * lane.encoding.itemsize
        return _row(ticket, {"status": "planned", "frames": frames, "n_out": counts, "bytes": size})


def _row(ticket: Ticket, outcome: dict[str, Any]) -> Row:
    source, tally = ticket.source, ticket.video.tally
    return Row(
        key=source.key,
        path=source.public_path,
        size=source.size,
        mtime=source.mtime,
        start=source.start,
        end=source.end,
        seconds=round(time.monotonic() - ticket.began, 3),
        warnings=tuple(tally.warnings),
        **{"frames": tally.selected, **outcome},
    )


def _way_to(device: torch.device, busy: Busy) -> Direct:
    """How windows get to a device: at once with its computing where it has streams for that."""
    if device.type in ("cpu", "mps"):
        return Direct(device, busy)
    return Overlapped(device, busy, CudaStreams(device))


def _decode_threads(job: Job, device: torch.device, workers: int) -> int:
    """Videos decoded at once: as the job says, else none beside a CPU, which has enough to do.

    Beside a device: the cores, shared among the workers.
    """
    if job.decode_threads is not None:
        return job.decode_threads
    if device.type == "cpu":
        return 0
    return min(max(1, cores() // max(workers, len(job.devices))), MOST_THREADS)


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

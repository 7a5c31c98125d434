"""Stages without videos: windows of a given value, maps that are twice the value, rows of sums."""

import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch

from mrx.errors import Cancelled, OutputError
from mrx.job import Row, Source
from mrx.pipeline.compute import Computer
from mrx.pipeline.sync_device import Direct
from mrx.pipeline.tasks import Piece, Ticket
from mrx.pipeline.threaded import Feeder
from mrx.pipeline.timing import Busy
from mrx.records import Clips
from mrx.shards.encoding import Encoding

CPU = torch.device("cpu")


@dataclass
class Plan:
    """A video: its windows' values in pieces, its size, and the stage that it fails in."""

    pieces: list
    size: int = 4
    fails: str = ""
    pause: float = 0.0


@dataclass
class Stages:
    """What a run did: the batches' values, the values written for each key, how much waited."""

    plans: dict
    batches: list = field(default_factory=list)
    written: dict = field(default_factory=dict)
    forgotten: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    concluded: list = field(default_factory=list)
    most_held: int = 0
    slow_write: float = 0.0
    broken: str = ""
    cancel_at: int | None = None

    def __post_init__(self):
        self.busy = Busy()
        self.lock = threading.Lock()
        module = SimpleNamespace(extract=self.extract)
        method = SimpleNamespace(name="twice")
        self.lane = SimpleNamespace(
            method=method, module=module, encoding=Encoding("f4"), filters={}
        )
        self.feeder = None

    def sources(self):
        return [Source(key, key) for key in self.plans]

    def ticket(self, source):
        tally = SimpleNamespace(warn=self.warnings.append)
        return Ticket(source, SimpleNamespace(tally=tally))

    def decode(self, ticket):
        plan = self.plans[ticket.source.key]
        for number, values in enumerate(plan.pieces):
            with self.busy.at("decode"):
                time.sleep(plan.pause)
                if plan.fails == "decode" and number == len(plan.pieces) - 1:
                    raise ValueError("injected")
                self.die("decode")
            value = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1, 1)
            data = value.expand(-1, 2, 1, plan.size, plan.size).contiguous()
            index = np.zeros((len(values), 2), np.int64)
            yield Piece(ticket, self.lane, Clips(data, index, index.astype(float)))

    def extract(self, windows):
        values = windows[:, 0, 0, 0, 0].tolist()
        self.batches.append(values)
        self.die("compute")
        for plan in self.plans.values():
            if plan.fails == "compute" and set(values) & {v for p in plan.pieces for v in p}:
                raise ValueError("injected")
        return windows[:, 0].float() * 2

    def write(self, piece, packed):
        if self.feeder:
            self.most_held = max(self.most_held, self.feeder._pieces.held)
        with self.busy.at("write"):
            time.sleep(self.slow_write)
            self.die("write")
            if self.plans[piece.ticket.source.key].fails == "write":
                raise ValueError("injected")
        if packed.chunks is None:  # where there is no numba
            values = packed.raw[:, 0, 0, 0].tolist()
        else:
            values = [float(chunk[:4].view("f4")[0]) for chunk in packed.chunks]
        self.written.setdefault(piece.ticket.source.key, []).extend(values)

    def conclude(self, ticket):
        self.concluded.append(ticket.source.key)
        failure = ticket.failure or {"status": "ok"}
        return Row(ticket.source.key, **failure)

    def forget(self, tickets):
        self.forgotten += [ticket.source.key for ticket in tickets]

    def check(self):
        if self.cancel_at is not None and len(self.batches) >= self.cancel_at:
            raise Cancelled("the run was stopped")

    def die(self, stage):
        """End the thread that this runs in, as nothing foreseen would."""
        if self.broken == stage:
            raise OutputError(f"no more {stage}")


def feed(stages, *, threads=2, most=4, device=None):
    """All rows of a run, by key."""
    computer = Computer(device or Direct(CPU, stages.busy), most)
    stages.feeder = Feeder(stages, computer, threads)
    return {row.key: row for row in stages.feeder.run(stages.sources())}


def doubled(plan):
    """What a video's maps must be."""
    return [2.0 * value for values in plan.pieces for value in values]


def counts(videos, *, windows=1, pieces=1, **plan):
    """So many videos whose windows have values of their own."""
    value = iter(range(1, 256))
    return {
        f"{i:03}": Plan([[next(value) for _ in range(windows)] for _ in range(pieces)], **plan)
        for i in range(videos)
    }


def assert_whole(stages, rows):
    """Every video is ok, with its maps in order."""
    assert {key: row.status for key, row in rows.items()} == dict.fromkeys(stages.plans, "ok")
    assert stages.written == {key: doubled(plan) for key, plan in stages.plans.items()}

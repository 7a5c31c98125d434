"""Fake stages: windows of a given value, maps of twice that value, and a row for each video."""

import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch

from mrx.errors import OutputError, RunCanceled
from mrx.job import ManifestRow, Source
from mrx.pipeline.compute import BatchComputer
from mrx.pipeline.sync_device import SyncDevice
from mrx.pipeline.tasks import VideoTask, WindowBatch
from mrx.pipeline.threaded import ThreadedRunner
from mrx.pipeline.timing import StageTimer
from mrx.records import Clips
from mrx.shards.encoding import Encoding

CPU = torch.device("cpu")


@dataclass
class VideoPlan:
    """A fake video: the values of its windows by batch, its size, and the stage that fails."""

    pieces: list
    size: int = 4
    fails: str = ""
    pause: float = 0.0


@dataclass
class FakeStages:
    """Records the values of each group, the values written for each key, and the bytes held."""

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
        self.busy = StageTimer()
        self.lock = threading.Lock()
        module = SimpleNamespace(extract=self.extract)
        method = SimpleNamespace(name="twice")
        self.method_run = SimpleNamespace(
            method=method, module=module, encoding=Encoding("f4"), dataset_options={}
        )
        self.runner = None

    def sources(self):
        return [Source(key, key) for key in self.plans]

    def begin_video(self, source):
        tally = SimpleNamespace(warn=self.warnings.append)
        return VideoTask(source, SimpleNamespace(tally=tally))

    def decode_windows(self, task):
        plan = self.plans[task.source.key]
        for number, values in enumerate(plan.pieces):
            with self.busy.time_stage("decode"):
                time.sleep(plan.pause)
                if plan.fails == "decode" and number == len(plan.pieces) - 1:
                    raise ValueError("injected")
                self.raise_if_broken("decode")
            value = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1, 1)
            data = value.expand(-1, 2, 1, plan.size, plan.size).contiguous()
            index = np.zeros((len(values), 2), np.int64)
            yield WindowBatch(task, self.method_run, Clips(data, index, index.astype(float)))

    def extract(self, windows):
        values = windows[:, 0, 0, 0, 0].tolist()
        self.batches.append(values)
        self.raise_if_broken("compute")
        for plan in self.plans.values():
            if plan.fails == "compute" and set(values) & {v for p in plan.pieces for v in p}:
                raise ValueError("injected")
        return windows[:, 0].float() * 2

    def write_maps(self, batch, packed):
        if self.runner:
            self.most_held = max(self.most_held, self.runner.links.batch_pipe.held_bytes)
        with self.busy.time_stage("write"):
            time.sleep(self.slow_write)
            self.raise_if_broken("write")
            if self.plans[batch.task.source.key].fails == "write":
                raise ValueError("injected")
        if packed.chunks is None:  # where there is no numba
            values = packed.raw[:, 0, 0, 0].tolist()
        else:
            values = [float(chunk[:4].view("f4")[0]) for chunk in packed.chunks]
        self.written.setdefault(batch.task.source.key, []).extend(values)

    def finish_video(self, task):
        self.concluded.append(task.source.key)
        failure = task.failure or {"status": "ok"}
        return ManifestRow(task.source.key, **failure)

    def drop_videos(self, tasks):
        self.forgotten += [task.source.key for task in tasks]

    def check_canceled(self):
        if self.cancel_at is not None and len(self.batches) >= self.cancel_at:
            raise RunCanceled("the run was stopped")

    def raise_if_broken(self, stage):
        """Raise an error that ends the run if this stage is broken."""
        if self.broken == stage:
            raise OutputError(f"no more {stage}")


def run_stages(stages, *, threads=2, most=4, device=None):
    """Run the stages in threads, and return the rows by key."""
    computer = BatchComputer(device or SyncDevice(CPU, stages.busy), most)
    stages.runner = ThreadedRunner(stages, computer, threads)
    return {row.key: row for row in stages.runner.run(stages.sources())}


def expected_maps(plan):
    """Return the maps that a video must have."""
    return [2.0 * value for values in plan.pieces for value in values]


def make_plans(videos, *, windows=1, pieces=1, **plan):
    """Plan videos whose windows have distinct values."""
    value = iter(range(1, 256))
    return {
        f"{i:03}": VideoPlan([[next(value) for _ in range(windows)] for _ in range(pieces)], **plan)
        for i in range(videos)
    }


def assert_whole(stages, rows):
    """Assert that every video is ok, with its maps in order."""
    assert {key: row.status for key, row in rows.items()} == dict.fromkeys(stages.plans, "ok")
    assert stages.written == {key: expected_maps(plan) for key, plan in stages.plans.items()}

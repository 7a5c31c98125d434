"""decode → windows → method → sink for one video after another: what a worker does.

The only file that knows all stages. Engines hand out sources and collect rows; nothing here knows
whether it runs in the parent or in a process of its own.
"""

import json
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch

from mrx import kernels, methods
from mrx.decode import Video
from mrx.errors import (
    Cancelled,
    DecodeError,
    InputError,
    MissingError,
    MrxError,
    OutputError,
    UsageError,
)
from mrx.job import Job, Row
from mrx.methods.spec import Method, Representation
from mrx.methods.weights import load_weights
from mrx.records import Clips, Motion
from mrx.sinks.encode import Encoding
from mrx.sinks.filters import filters
from mrx.sinks.hdf5 import Entry, ShardWriter
from mrx.sinks.resume import Held, adopt, look
from mrx.sources import Source
from mrx.windows.plan import Rule, count
from mrx.windows.stack import GATHER_BYTES, Stack

LIGHT_BATCH_VALUES = 2**19  # the maps of more would leave the CPU's cache before they are stored


@dataclass(frozen=True)
class Lane:
    """A method of the run: its module, its windows, and how its maps are stored."""

    method: Method
    module: Representation
    parameters: dict[str, Any]
    rule: Rule
    encoding: Encoding
    filters: dict[str, Any]

    @classmethod
    def build(cls, job: Job, name: str, device: torch.device) -> "Lane":
        """Make a method ready, with the parameters, weights and windows that the job asks for."""
        method = methods.find(name)
        given = job.parameters.get(name, {})
        if job.stack is not None and "stack" in method.parameters():
            if given.get("stack", str(job.stack)) != str(job.stack):
                raise UsageError(f"{name}: stack={job.stack} and stack={given['stack']}: say one")
            given = {**given, "stack": str(job.stack)}
        parameters = method.complete(given)
        module = method.build(parameters)
        if name in job.weights:
            parameters = {**parameters, "weights": load_weights(module, job.weights[name])}
        asked = job.windowing
        rule = Rule(
            length=module.length,
            step=module.step if asked.step is None else asked.step,
            dilation=module.dilation if asked.dilation is None else asked.dilation,
            segments=asked.segments,
            tail=asked.tail,
        )
        if job.storage.dtype == "uint8" and "confidence" in module.channels:
            raise UsageError(
                f"dtype uint8 has no steps for {name}'s confidence: take float16 or q16"
            )
        encoding = Encoding.choose(job.storage, units=module.units, bound=module.bound)
        stored = filters(job.storage.compression, cost=method.cost)
        return cls(method, module.to(device), parameters, rule, encoding, stored)

    def settings(self) -> dict[str, Any]:
        """What decides the numbers, beside what all methods share."""
        return {**self.parameters, "step": self.rule.step, "dilation": self.rule.dilation}

    def attributes(self) -> dict[str, Any]:
        """What a stranger needs to know about the numbers."""
        return {
            "channels": list(self.module.channels),
            "units": self.module.units,
            "color": self.module.color,
            "window": self.rule.length,
            "step": self.rule.step,
            "dilation": self.rule.dilation,
            "segments": self.rule.segments or 0,
            "tail": self.rule.tail,
            "method_version": self.method.version,
            "params_json": json.dumps(self.parameters, sort_keys=True),
            **self.module.facts(),
        }

    def too_small(self, facts: dict[str, Any]) -> str:
        """Why no frame of this size has a map, or nothing."""
        width, height, least = facts["width"], facts["height"], self.module.smallest
        fits = min(width, height) >= least
        return "" if fits else f"too small ({width}x{height}, needs {least}x{least})"

    def compute(self, clips: Clips, device: torch.device) -> Motion:
        """The method on a batch of windows."""
        data = self.module.extract(move(clips.data, device))
        return Motion(data.float().cpu().contiguous(), clips.index, clips.time)


class Extraction:
    """The work of one process: every video it is handed goes through all methods in one decode.

    Args:
        job: what the run was asked to do
        cancelled: asked between batches; True drops the video in flight
        progress: told how many more frames went through
        sealed: told the path of each finished shard, and the keys in it
    """

    def __init__(
        self,
        job: Job,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        progress: Callable[[int], None] = lambda frames: None,
        sealed: Callable[[Path, list[str]], None] = lambda path, keys: None,
    ) -> None:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        self.job = job
        self.device = choose_device(job.device)
        self.lanes = [Lane.build(job, name, self.device) for name in job.methods]
        if job.stack is not None and not any("stack" in lane.parameters for lane in self.lanes):
            names = ", ".join(job.methods)
            raise UsageError(f"stack={job.stack}: no method among these has stacks: {names}")
        self.settings = job.settings({lane.method.name: lane.settings() for lane in self.lanes})
        kernels.backend()  # refuses a wrong choice before any work
        self._cancelled = cancelled
        self._progress = progress
        self._sealed = sealed
        self._shard: ShardWriter | None = None

    def look(self) -> Held:
        """What the output holds already; refuses an output that other settings made."""
        return look(self.job, self.settings)

    def adopt(self, pids: Collection[int]) -> list[str]:
        """Save what workers that died had finished; the keys of it."""
        return adopt(self.job, pids)

    def work(self, source: Source) -> Row:
        """Extract one video. Whatever is wrong with it ends as a row, not as an error."""
        began = time.monotonic()
        video = Video(source, self.job.decoding)
        try:
            outcome = self._estimate(video) if self.job.dry_run else self._extract(source, video)
        except Cancelled:
            raise
        except InputError as error:
            outcome = {"status": "failed", "reason": str(error)}
        except MrxError:
            raise
        except Exception as error:  # noqa: BLE001 - one video's fault must not end the run
            reason = f"internal error: {type(error).__name__}: {error}"
            outcome = {"status": "failed", "reason": reason, "traceback": traceback.format_exc()}
        return Row(
            key=source.key,
            path=source.public_path,
            size=source.size,
            mtime=source.mtime,
            start=source.start,
            end=source.end,
            seconds=round(time.monotonic() - began, 3),
            warnings=tuple(video.tally.warnings),
            **{"frames": video.tally.selected, **outcome},
        )

    def close(self) -> None:
        """Seal the open shard."""
        if self._shard is None:
            return
        try:
            final = self._shard.seal()
        except OutputError:
            self._abandon()
            raise
        shard, self._shard = self._shard, None
        if final:
            self._sealed(final, shard.keys)

    def _abandon(self) -> None:
        shard, self._shard = self._shard, None
        if shard:
            shard.abandon()

    def _estimate(self, video: Video) -> dict[str, Any]:
        """What an extraction would give, from the headers alone."""
        frames, width, height = video.estimate()
        counts = {lane.method.name: count(frames, lane.rule) for lane in self.lanes}
        size = 0
        for lane in self.lanes:
            channels, rows, columns = lane.module.output_shape(height, width)
            items = counts[lane.method.name] * channels * rows * columns
            size += items * lane.encoding.itemsize
        return {"status": "planned", "frames": frames, "n_out": counts, "bytes": size}

    def _extract(self, source: Source, video: Video) -> dict[str, Any]:
        if self._shard is None:
            self._shard = ShardWriter(self.job, self.settings, versions())
        entry = self._shard.begin(source.key)
        try:
            with torch.inference_mode():
                small = self._stream(video, entry)
            outcome = self._conclude(source, video, entry, small)
        except OutputError:
            self._abandon()
            raise
        except BaseException:
            entry.drop()
            raise
        if self._shard.is_full(self.job.storage):
            self.close()
        return outcome

    def _stream(self, video: Video, entry: Entry) -> dict[str, str]:
        """Every frame once through all methods; the methods that it is too small for."""
        frames = video.count() if self.job.windowing.segments else None
        stacks = [self._stack(lane, frames) for lane in self.lanes]
        wanted = None if frames is None else {p for s in stacks for p in s.wanted()}
        colors = sorted({lane.module.color for lane in self.lanes})
        small: dict[str, str] = {}
        for chunk in video.read(colors, wanted):
            for lane, stack in zip(self.lanes, stacks, strict=True):
                if reason := lane.too_small(video.tally.facts):
                    small[lane.method.name] = reason
                    continue
                for clips in stack.push(chunk[lane.module.color]):
                    self._put(lane, clips, entry)
            self._progress(len(chunk[colors[0]]))
        for lane, stack in zip(self.lanes, stacks, strict=True):
            for clips in stack.finish():
                self._put(lane, clips, entry)
        return small

    def _stack(self, lane: Lane, frames: int | None) -> Stack:
        """The windows of a lane; heavy methods take many at once, and share work among them."""
        small = self.device.type == "cpu" and lane.method.cost == "light"
        most = LIGHT_BATCH_VALUES if small else GATHER_BYTES
        return Stack(lane.rule, frames=frames, batch_values=most)

    def _put(self, lane: Lane, clips: Clips, entry: Entry) -> None:
        if self._cancelled():
            raise Cancelled("the run was stopped")
        motion = lane.compute(clips, self.device)
        name = lane.method.name
        if name not in entry:
            shape = motion.data.shape[1:]
            entry.open(name, shape=shape, encoding=lane.encoding, filters=lane.filters)
        entry.put(name, motion)

    def _conclude(
        self, source: Source, video: Video, entry: Entry, small: dict[str, str]
    ) -> dict[str, Any]:
        """Commit what was computed, or say why there is nothing."""
        tally = video.tally
        if damage := tally.damage():
            if tally.on_error == "fail":
                raise DecodeError(damage)
            tally.warn(damage)
        counts = entry.counts()
        short = {
            lane.method.name: f"too short ({tally.selected} frames, needs {lane.rule.needs})"
            for lane in self.lanes
            if lane.method.name not in counts
        }
        missing = {**short, **small}
        if not counts:
            entry.drop()
            reasons = (
                missing.values() if len(missing) == 1 else [f"{k}: {v}" for k, v in missing.items()]
            )
            return {"status": "skipped", "reason": "; ".join(reasons)}
        for name, reason in missing.items():
            tally.warn(f"no {name}: {reason}")
        attributes = {
            **tally.attributes(),
            "warnings": tally.warnings,
            **_source_attributes(source),
        }
        size = entry.commit(attributes, {n.method.name: n.attributes() for n in self.lanes})
        return {"status": "ok", "n_out": counts, "bytes": size}


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


def move(windows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Windows on a device, sharing there the frames that they share here; each is copied once."""
    if windows.device == device or not windows.numel():
        return windows.to(device)
    shape, strides = windows.shape, windows.stride()
    extent = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    memory = windows.as_strided((extent,), (1,))
    return memory.to(device).as_strided(shape, strides)


def versions() -> dict[str, str]:
    """The libraries whose version may move a number."""
    libraries = {
        n: ".".join(map(str, av.library_versions[n])) for n in ("libavcodec", "libswscale")
    }
    packages = {"torch": torch, "av": av, "opencv": cv2, "numpy": np}
    optional = {n: kernels.version(n) or "none" for n in ("numba", "triton")}
    used = {"kernels": kernels.backend(), **optional}
    return {n: str(package.__version__) for n, package in packages.items()} | libraries | used


def choose_device(name: str) -> torch.device:
    """The device that was asked for; `auto` is the first GPU, or the CPU where there is none."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = ["cpu", *(f"cuda:{i}" for i in range(count))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    names = {"auto": "cuda:0" if count else "cpu", "cuda": "cuda:0"}
    wanted = names.get(name, name)
    if wanted not in here:
        there = ", ".join(here)
        raise MissingError(f"no device {name}: this machine has {there}. Use --device cpu")
    torch.backends.cudnn.allow_tf32 = False  # TF32 would round what the CPU does not
    return torch.device(wanted)

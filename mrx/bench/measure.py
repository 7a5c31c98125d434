"""Kernels alone, bare decoding and the whole way, warmed up and measured several times over."""

import itertools
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrx.bench import clip
from mrx.bench.bench_records import Asked, Bench, Row, spread
from mrx.bench.floor import work
from mrx.decode import Video
from mrx.engines.bottleneck import bottleneck, shares
from mrx.errors import InputError, UsageError
from mrx.job import Decoding, Job, Source, Worked
from mrx.pipeline.extraction import Extraction
from mrx.pipeline.hardware import versions
from mrx.pipeline.method_run import Lane
from mrx.sources.scan import problem
from mrx.version import __version__

SIZE = (340, 256)
CACHE_BYTES = 180e6  # inputs of so many bytes in turn: no device's cache holds the next one
LEAST_INPUTS, LEAST_SAMPLES = 3, 3
SAMPLE_SECONDS = 0.005  # shorter calls are measured many at a time
ROW_SECONDS = 30.0  # a row that takes longer has fewer samples
MAP_BYTES = 4  # of a value, as kernels leave it


@dataclass(frozen=True)
class _Way:
    """A pass of the whole way: where its time went, the frames read, the bytes written."""

    worked: Worked
    frames: int
    bytes: int


class Workbench:
    """Makes a benchmark ready, so that what is wrong with it is found before any time is spent.

    Args:
        asked: what to measure
        scratch: a folder for the clip and for the output, emptied after each measurement
        told: what is measured next, in words

    Attributes:
        settings: all that a rate depends on, but for the machine
    """

    def __init__(
        self, asked: Asked, scratch: Path, told: Callable[[str], object] = lambda text: None
    ) -> None:
        self.asked, self._scratch, self._told = asked, scratch, told
        self._job = Job(
            output=str(scratch / "out"),
            methods=asked.methods,
            parameters=asked.parameters,
            weights=asked.weights,
            stack=asked.stack,
            devices=(asked.device,),
            decode_threads=asked.decode_threads,
        )
        every = Extraction(self._job)
        self.device, self.threads, self.lanes = every.device, every.threads, every.lanes
        self.source, self.decoding, self.size, self.frames = self._clip()
        self._refuse_what_has_no_window()
        self.settings: dict[str, Any] = {
            "methods": every.settings["methods"],
            "size": list(self.size),
            "frames": self.frames,
            "batch": list(asked.batches),
            "device": self.device.type,
            "decode_threads": asked.decode_threads,
            "input": _shown(self.source) if asked.clip else "made",
        }

    def run(self) -> Bench:
        """Measure every row."""
        load = _load()
        rows = [row for lane in self.lanes for row in self._rows(lane)]
        machine = {
            "device": _name(self.device),
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "load_before": load,
            "load_after": _load(),
            "versions": {"mrx": __version__, "python": platform.python_version(), **versions()},
        }
        return Bench(self.settings, machine, rows)

    def _rows(self, lane: Lane) -> Iterator[Row]:
        for batch in self.asked.batches:
            self._told(f"{lane.method.name}: the kernel alone, {batch} windows at once")
            yield self._kernel(lane, batch)
        self._told(f"{lane.method.name}: decoding alone and the whole way, in turn")
        yield from self._way(lane)

    def _clip(self) -> tuple[Source, Decoding, tuple[int, int], int]:
        """The clip, how it is read, and the size and number of its frames."""
        asked = self.asked
        if asked.clip is None:
            size, path = asked.size or SIZE, self._scratch / "clip.mp4"
            clip.make(path, asked.frames, size)
            return _source(str(path)), Decoding(size=size), size, asked.frames
        source = _source(asked.clip)
        decoding = Decoding(size=asked.size)
        video = Video(source, decoding)
        frames = video.count()
        first = next(video.read())["rgb"].data
        return source, decoding, (first.shape[2], first.shape[1]), frames

    def _refuse_what_has_no_window(self) -> None:
        width, height = self.size
        for lane in self.lanes:
            name = lane.method.name
            if reason := lane.too_small({"width": width, "height": height}):
                raise UsageError(f"{name} cannot be measured: {reason}. Give a larger --size")
            if self.frames < lane.rule.needs:
                raise UsageError(
                    f"{name} cannot be measured on {self.frames} frames: a window has "
                    f"{lane.rule.needs}. Give a longer clip, or more --frames"
                )

    def _kernel(self, lane: Lane, batch: int) -> Row:
        """The module on windows that lie on the device, other ones at each call."""
        width, height = self.size
        endless = itertools.cycle(self._inputs(lane, batch))

        def call() -> Tensor:
            return lane.module.extract(next(endless)).float()

        with torch.inference_mode():
            call()
            once = min(self._clocked(call, 1) for _ in range(2))
            calls = max(1, min(1000, round(SAMPLE_SECONDS / once)))
            taken = list(self._samples(lambda: self._clocked(call, calls) / batch))
        times = spread(taken)
        counted = work(
            lane.method.name,
            lane.module,
            height,
            width,
            frames=lane.module.length,
            itemsize=MAP_BYTES,
        )
        more = {"batch": batch, "floor": {**asdict(counted), **counted.rates(times["p50"])}}
        name = f"{lane.method.name} kernel, batch {batch}"
        return Row(name, lane.method.name, "kernel", "maps", len(taken), **times, more=more)

    def _inputs(self, lane: Lane, batch: int) -> list[Tensor]:
        window = lane.module.length * self.size[0] * self.size[1]
        window *= 3 if lane.module.color == "rgb" else 1
        cached = 0 if self.device.type == "cpu" else CACHE_BYTES
        count = max(LEAST_INPUTS, int(cached / (window * batch)) + 1)
        windows = clip.windows(lane.module, count * batch, self.size, self.device)
        return list(torch.split(windows, batch))

    def _clocked(self, call: Callable[[], object], calls: int) -> float:
        """Seconds of a call, the device's work waited for."""
        self._wait()
        began = time.perf_counter()
        for _ in range(calls):
            call()
        self._wait()
        return (time.perf_counter() - began) / calls

    def _wait(self) -> None:
        if self.device.type == "mps":
            torch.mps.synchronize()
        elif self.device.type != "cpu":
            torch.cuda.synchronize(self.device)

    def _samples(self, measure: Callable[[], Any]) -> Iterator[Any]:
        """Measure as often as asked, or until the row's time is up."""
        ends = time.monotonic() + ROW_SECONDS
        for number in range(self.asked.repeats):
            if number >= LEAST_SAMPLES and time.monotonic() > ends:
                return
            yield measure()

    def _way(self, lane: Lane) -> list[Row]:
        """Decoding alone, then the whole way of as many clips; in turn."""
        self._bare(lane)
        self._whole(lane)
        pairs = list(self._samples(lambda: (self._bare(lane), self._whole(lane))))
        bare = [seconds for seconds, _ in pairs]
        whole = [way.worked.seconds / way.frames for _, way in pairs]
        name, count = lane.method.name, len(pairs)
        ratios = spread([alone / all_of_it for alone, all_of_it in zip(bare, whole, strict=True)])
        worked = _sum([way.worked for _, way in pairs])
        more = {
            "bytes_a_frame": pairs[0][1].bytes / pairs[0][1].frames,
            "to_decoding": {key: ratios[key] for key in ("p25", "p50", "p75")},
            "decode_threads": worked.threads,
            "busy": shares(worked),
            "bottleneck": bottleneck([worked]),
        }
        color = {"color": lane.module.color, "decode_threads": max(1, self.threads)}
        return [
            Row(f"{name} decoding", name, "decode", "frames", count, **spread(bare), more=color),
            Row(f"{name} whole way", name, "whole", "frames", count, **spread(whole), more=more),
        ]

    def _copies(self) -> list[Source]:
        """The clip as often as keeps all decode threads busy."""
        count = 2 * self.threads or 1
        return [replace(self.source, key=f"{i}") for i in range(count)]

    def _bare(self, lane: Lane) -> float:
        """Seconds a frame of decoding alone."""
        paths = [source.path for source in self._copies()]

        def decode(path: str) -> int:
            return clip.bare(path, self.size, lane.module.color)

        began = time.perf_counter()
        if self.threads:
            with ThreadPoolExecutor(self.threads) as pool:
                frames = sum(pool.map(decode, paths))
        else:
            frames = sum(map(decode, paths))
        return (time.perf_counter() - began) / frames

    def _whole(self, lane: Lane) -> "_Way":
        """The whole way of the clips, timed until the last row."""
        name = lane.method.name
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            job = replace(
                self._job,
                output=folder,
                methods=(name,),
                parameters={name: self.asked.parameters.get(name, {})},
                weights={n: path for n, path in self.asked.weights.items() if n == name},
                stack=self.asked.stack if "stack" in lane.parameters else None,
                decoding=self.decoding,
            )
            extraction = Extraction(job)
            began = time.perf_counter()
            try:
                rows = list(extraction.run(self._copies()))
                worked = extraction.worked(time.perf_counter() - began)
            finally:
                extraction.close()
        for row in rows:
            if row.status != "ok":
                raise InputError(f"{name} cannot be measured on {row.path}: {row.reason}")
        return _Way(worked, sum(row.frames for row in rows), sum(row.bytes for row in rows))


def _source(path: str) -> Source:
    if "://" in path:
        return Source(key="0", path=path, kind="url")
    why_not = "a folder has no decoding" if Path(path).is_dir() else problem(path)
    if why_not:
        raise UsageError(f"cannot measure on {path}: {why_not}. Give --input a video")
    size = Path(path).stat().st_size
    return Source(key="0", path=os.path.abspath(path), size=size)  # noqa: PTH100 - links kept


def _shown(source: Source) -> str:
    """What tells one clip from another, wherever it lies."""
    size = "" if source.size is None else f", {source.size} bytes"
    return Path(source.public_path).name + size


def _sum(every: list[Worked]) -> Worked:
    busy = {stage: sum(w.busy[stage] for w in every) for stage in every[0].busy}
    return replace(every[0], seconds=sum(w.seconds for w in every), busy=busy)


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _name(device: torch.device) -> str:
    if device.type in ("cpu", "mps"):
        return _cpu()
    return str(torch.cuda.get_device_name(device))


def _cpu() -> str:
    with suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1]
    return platform.processor() or platform.machine()

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
from mrx.bench.bench_records import BenchOptions, BenchResult, BenchRow, compute_percentiles
from mrx.bench.floor import estimate_map_cost
from mrx.decode import Video
from mrx.engines.bottleneck import compute_stage_shares, describe_bottleneck
from mrx.errors import InputError, UsageError
from mrx.job import Decoding, Job, Source, WorkerTimes
from mrx.pipeline.extraction import Extraction
from mrx.pipeline.hardware import read_library_versions
from mrx.pipeline.method_run import MethodRun
from mrx.sources.scan import why_unreadable
from mrx.version import __version__

DEFAULT_FRAME_SIZE = (340, 256)
CACHE_BYTES = 180e6  # inputs of so many bytes in turn: no device's cache holds the next one
MIN_INPUTS, MIN_SAMPLES = 3, 3
SAMPLE_SECONDS = 0.005  # shorter calls are measured many at a time
ROW_SECONDS = 30.0  # a row that takes longer has fewer samples
VALUE_BYTES = 4  # of a value, as kernels leave it


@dataclass(frozen=True)
class _PipelinePass:
    """A pass of the whole way: where its time went, the frames read, the bytes written."""

    worker_times: WorkerTimes
    frames: int
    bytes: int


class BenchRunner:
    """Makes a benchmark ready, so that what is wrong with it is found before any time is spent.

    Args:
        options: what to measure
        scratch: a folder for the clip and for the output, emptied after each measurement
        announce: what is measured next, in words

    Attributes:
        settings: all that a rate depends on, but for the machine
    """

    def __init__(
        self,
        options: BenchOptions,
        scratch: Path,
        announce: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.options, self._scratch, self._announce = options, scratch, announce
        self._job = Job(
            output=str(scratch / "out"),
            methods=options.methods,
            parameters=options.parameters,
            weights=options.weights,
            stack=options.stack,
            devices=(options.device,),
            decode_threads=options.decode_threads,
        )
        extraction = Extraction(self._job)
        self.device, self.threads, self.method_runs = (
            extraction.device,
            extraction.decode_threads,
            extraction.method_runs,
        )
        self.source, self.decoding, self.size, self.frames = self._prepare_clip()
        self._require_windows()
        self.settings: dict[str, Any] = {
            "methods": extraction.settings["methods"],
            "size": list(self.size),
            "frames": self.frames,
            "batch": list(options.batches),
            "device": self.device.type,
            "decode_threads": options.decode_threads,
            "input": _describe_clip(self.source) if options.clip else "made",
        }

    def run(self) -> BenchResult:
        """Measure every row."""
        load = _read_load_average()
        rows = [row for method_run in self.method_runs for row in self._measure_method(method_run)]
        machine = {
            "device": _find_device_name(self.device),
            "cpu": _find_cpu_name(),
            "cores": os.cpu_count(),
            "load_before": load,
            "load_after": _read_load_average(),
            "versions": {
                "mrx": __version__,
                "python": platform.python_version(),
                **read_library_versions(),
            },
        }
        return BenchResult(self.settings, machine, rows)

    def _measure_method(self, method_run: MethodRun) -> Iterator[BenchRow]:
        for batch in self.options.batches:
            self._announce(f"{method_run.method.name}: the kernel alone, {batch} windows at once")
            yield self._measure_kernel(method_run, batch)
        self._announce(f"{method_run.method.name}: decoding alone and the whole way, in turn")
        yield from self._measure_pipeline(method_run)

    def _prepare_clip(self) -> tuple[Source, Decoding, tuple[int, int], int]:
        """The clip, how it is read, and the size and number of its frames."""
        options = self.options
        if options.clip is None:
            size, path = options.size or DEFAULT_FRAME_SIZE, self._scratch / "clip.mp4"
            clip.write_texture_clip(path, options.frames, size)
            return _make_clip_source(str(path)), Decoding(size=size), size, options.frames
        source = _make_clip_source(options.clip)
        decoding = Decoding(size=options.size)
        video = Video(source, decoding)
        frames = video.count_frames()
        first = next(video.read_frames())["rgb"].data
        return source, decoding, (first.shape[2], first.shape[1]), frames

    def _require_windows(self) -> None:
        width, height = self.size
        for method_run in self.method_runs:
            name = method_run.method.name
            if reason := method_run.why_too_small({"width": width, "height": height}):
                raise UsageError(f"{name} cannot be measured: {reason}. Give a larger --size")
            if self.frames < method_run.rule.min_frames:
                raise UsageError(
                    f"{name} cannot be measured on {self.frames} frames: a window has "
                    f"{method_run.rule.min_frames}. Give a longer clip, or more --frames"
                )

    def _measure_kernel(self, method_run: MethodRun, batch: int) -> BenchRow:
        """The module on windows that lie on the device, other ones at each call."""
        width, height = self.size
        endless_inputs = itertools.cycle(self._make_inputs(method_run, batch))

        def extract_next() -> Tensor:
            return method_run.module.extract(next(endless_inputs)).float()

        with torch.inference_mode():
            extract_next()
            call_seconds = min(self._time_calls(extract_next, 1) for _ in range(2))
            calls = max(1, min(1000, round(SAMPLE_SECONDS / call_seconds)))
            samples = list(
                self._take_samples(lambda: self._time_calls(extract_next, calls) / batch)
            )
        times = compute_percentiles(samples)
        cost = estimate_map_cost(
            method_run.method.name,
            method_run.module,
            height,
            width,
            frames=method_run.module.length,
            itemsize=VALUE_BYTES,
        )
        more = {"batch": batch, "floor": {**asdict(cost), **cost.compute_rates(times["p50"])}}
        name = f"{method_run.method.name} kernel, batch {batch}"
        return BenchRow(
            name, method_run.method.name, "kernel", "maps", len(samples), **times, more=more
        )

    def _make_inputs(self, method_run: MethodRun, batch: int) -> list[Tensor]:
        window_bytes = method_run.module.length * self.size[0] * self.size[1]
        window_bytes *= 3 if method_run.module.color == "rgb" else 1
        cache_bytes = 0 if self.device.type == "cpu" else CACHE_BYTES
        count = max(MIN_INPUTS, int(cache_bytes / (window_bytes * batch)) + 1)
        windows = clip.make_texture_windows(
            method_run.module, count * batch, self.size, self.device
        )
        return list(torch.split(windows, batch))

    def _time_calls(self, call: Callable[[], object], calls: int) -> float:
        """Seconds of a call, the device's work waited for."""
        self._wait_for_device()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        self._wait_for_device()
        return (time.perf_counter() - start) / calls

    def _wait_for_device(self) -> None:
        if self.device.type == "mps":
            torch.mps.synchronize()
        elif self.device.type != "cpu":
            torch.cuda.synchronize(self.device)

    def _take_samples(self, measure: Callable[[], Any]) -> Iterator[Any]:
        """Measure as often as asked, or until the row's time is up."""
        deadline = time.monotonic() + ROW_SECONDS
        for number in range(self.options.repeats):
            if number >= MIN_SAMPLES and time.monotonic() > deadline:
                return
            yield measure()

    def _measure_pipeline(self, method_run: MethodRun) -> list[BenchRow]:
        """Decoding alone, then the whole way of as many clips; in turn."""
        self._time_decoding(method_run)
        self._run_pipeline(method_run)
        pairs = list(
            self._take_samples(
                lambda: (self._time_decoding(method_run), self._run_pipeline(method_run))
            )
        )
        decode_times = [seconds for seconds, _ in pairs]
        pipeline_times = [way.worker_times.seconds / way.frames for _, way in pairs]
        name, count = method_run.method.name, len(pairs)
        ratios = compute_percentiles(
            [
                decode_time / pipeline_time
                for decode_time, pipeline_time in zip(decode_times, pipeline_times, strict=True)
            ]
        )
        worker_times = _sum_worker_times([way.worker_times for _, way in pairs])
        more = {
            "bytes_a_frame": pairs[0][1].bytes / pairs[0][1].frames,
            "to_decoding": {key: ratios[key] for key in ("p25", "p50", "p75")},
            "decode_threads": worker_times.threads,
            "busy": compute_stage_shares(worker_times),
            "bottleneck": describe_bottleneck([worker_times]),
        }
        color = {"color": method_run.module.color, "decode_threads": max(1, self.threads)}
        return [
            BenchRow(
                f"{name} decoding",
                name,
                "decode",
                "frames",
                count,
                **compute_percentiles(decode_times),
                more=color,
            ),
            BenchRow(
                f"{name} whole way",
                name,
                "whole",
                "frames",
                count,
                **compute_percentiles(pipeline_times),
                more=more,
            ),
        ]

    def _copy_source(self) -> list[Source]:
        """The clip as often as keeps all decode threads busy."""
        count = 2 * self.threads or 1
        return [replace(self.source, key=f"{i}") for i in range(count)]

    def _time_decoding(self, method_run: MethodRun) -> float:
        """Seconds a frame of decoding alone."""
        paths = [source.path for source in self._copy_source()]

        def decode_copy(path: str) -> int:
            return clip.decode_clip(path, self.size, method_run.module.color)

        start = time.perf_counter()
        if self.threads:
            with ThreadPoolExecutor(self.threads) as pool:
                frames = sum(pool.map(decode_copy, paths))
        else:
            frames = sum(map(decode_copy, paths))
        return (time.perf_counter() - start) / frames

    def _run_pipeline(self, method_run: MethodRun) -> "_PipelinePass":
        """The whole way of the clips, timed until the last row."""
        name = method_run.method.name
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            job = replace(
                self._job,
                output=folder,
                methods=(name,),
                parameters={name: self.options.parameters.get(name, {})},
                weights={n: path for n, path in self.options.weights.items() if n == name},
                stack=self.options.stack if "stack" in method_run.parameters else None,
                decoding=self.decoding,
            )
            extraction = Extraction(job)
            start = time.perf_counter()
            try:
                rows = list(extraction.run(self._copy_source()))
                worker_times = extraction.report_times(time.perf_counter() - start)
            finally:
                extraction.close()
        for row in rows:
            if row.status != "ok":
                raise InputError(f"{name} cannot be measured on {row.path}: {row.reason}")
        return _PipelinePass(
            worker_times, sum(row.frames for row in rows), sum(row.bytes for row in rows)
        )


def _make_clip_source(path: str) -> Source:
    if "://" in path:
        return Source(key="0", path=path, kind="url")
    why_not = "a folder has no decoding" if Path(path).is_dir() else why_unreadable(path)
    if why_not:
        raise UsageError(f"cannot measure on {path}: {why_not}. Give --input a video")
    size = Path(path).stat().st_size
    return Source(key="0", path=os.path.abspath(path), size=size)  # noqa: PTH100 - links kept


def _describe_clip(source: Source) -> str:
    """What tells one clip from another, wherever it lies."""
    size = "" if source.size is None else f", {source.size} bytes"
    return Path(source.public_path).name + size


def _sum_worker_times(worker_times: list[WorkerTimes]) -> WorkerTimes:
    busy = {stage: sum(w.busy[stage] for w in worker_times) for stage in worker_times[0].busy}
    return replace(worker_times[0], seconds=sum(w.seconds for w in worker_times), busy=busy)


def _read_load_average() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _find_device_name(device: torch.device) -> str:
    if device.type in ("cpu", "mps"):
        return _find_cpu_name()
    return str(torch.cuda.get_device_name(device))


def _find_cpu_name() -> str:
    with suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1]
    return platform.processor() or platform.machine()

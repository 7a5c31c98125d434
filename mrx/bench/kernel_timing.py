"""Timing of methods alone, on windows that are on the device already."""

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor

from mrx.bench.bench_records import BenchRow, compute_percentiles
from mrx.bench.floor import estimate_map_cost
from mrx.bench.repetition import take_samples
from mrx.bench.texture_clip import make_texture_windows
from mrx.pipeline.method_run import MethodRun

CACHE_BYTES = 180e6  # inputs of that many bytes take turns: no device's cache holds the next one
MIN_INPUTS = 3
SAMPLE_SECONDS = 0.005  # shorter calls are timed several at a time
MAX_CALLS = 1000  # per sample
VALUE_BYTES = 4  # per map value, float32 as kernels return it


class KernelTimer:
    """Times the modules of methods.

    Args:
        device: the device that they compute on
        size: (width, height) of the frames
        repeats: samples per row, at most
    """

    def __init__(self, device: torch.device, size: tuple[int, int], repeats: int) -> None:
        self.device = device
        self.size = size
        self.repeats = repeats

    def measure_row(self, method_run: MethodRun, batch: int) -> BenchRow:
        """Time a method on batches of windows, a different batch at each call."""
        endless_inputs = itertools.cycle(self._make_inputs(method_run, batch))

        def extract_next() -> Tensor:
            return method_run.module.extract(next(endless_inputs)).float()

        with torch.inference_mode():
            extract_next()
            call_seconds = min(self._time_calls(extract_next, 1) for _ in range(2))
            # call_seconds = 0.0002 -> 25 calls a sample
            calls = max(1, min(MAX_CALLS, round(SAMPLE_SECONDS / call_seconds)))
            samples = list(
                take_samples(lambda: self._time_calls(extract_next, calls) / batch, self.repeats)
            )
        return self._make_row(method_run, batch, samples)

    def _make_row(self, method_run: MethodRun, batch: int, samples: list[float]) -> BenchRow:
        name, module = method_run.method.name, method_run.module
        width, height = self.size
        # The windows share no frames, so each map reads its whole window.
        cost = estimate_map_cost(
            name, module, height, width, frames=module.length, itemsize=VALUE_BYTES
        )
        times = compute_percentiles(samples)
        more = {"batch": batch, "floor": {**asdict(cost), **cost.compute_rates(times["p50"])}}
        row_name = f"{name} kernel, batch {batch}"
        return BenchRow(row_name, name, "kernel", "maps", len(samples), **times, more=more)

    def _make_inputs(self, method_run: MethodRun, batch: int) -> list[Tensor]:
        module, (width, height) = method_run.module, self.size
        window_bytes = module.length * width * height * (3 if module.color == "rgb" else 1)
        cache_bytes = 0 if self.device.type == "cpu" else CACHE_BYTES
        count = max(MIN_INPUTS, int(cache_bytes / (window_bytes * batch)) + 1)
        windows = make_texture_windows(module, count * batch, self.size, self.device)
        return list(torch.split(windows, batch))

    def _time_calls(self, call: Callable[[], object], calls: int) -> float:
        """Return the seconds per call, including the device's work."""
        # Calls return before the device is done. It is idle at the start and waited for at the
        # end, so that the time holds all of this work and nothing else.
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

"""Check every kernel and method on a GPU, then time them, in one command of under ten minutes.

It prints the machine and its limits, compares every kernel and method with float64, and then times
the variants in turn, with their ratios and the predictions that the design is based on. A wrong
variant is not timed, and the exit status is 1. It needs torch and numpy; other missing packages are
named and left out. It reads clocks and sets none. The whole extraction of a clip is measured last.

    python tests/benchmarks/gpu.py [--device cuda] [--json FILE] [--minutes 9] [--quick]
    python tests/benchmarks/gpu.py --only pipeline [--frames 300] [--disk DIR]

With ``--device cpu --quick`` it runs without a GPU, to test the script itself.
"""

import argparse
import dataclasses
import functools
import importlib
import itertools
import json
import os
import statistics
import time
from pathlib import Path

import gpu_pipeline
import numpy as np
import torch

from mrx import methods
from mrx.kernels import tvl1_cpu as tvl1_kernels
from mrx.kernels import tvl1_gpu, tvl1_launch
from mrx.methods.tvl1 import TVL1_PRESETS
from mrx.ops import flow as ops
from mrx.ops.tvl1_solver import PlainLevel

# Five scales of 0.8, five warps, thirty iterations, no median: the work of the predictions.
WORK = dataclasses.replace(TVL1_PRESETS["opencv-cuda"], inner=30, epsilon=0.0)
LIGHT = ("mbpm", "dynamic-image", "pa")
PREDICTED = {"eager": 4500, "compiled": 1000, "step": 575, "step half": 330, "tile": 320}
"""Predicted microseconds of a 256x340 pair at the best batch, from instructions and bytes."""


class Report:
    """Write rows of results to stdout and to a file at once."""

    def __init__(self, path, seconds):
        self.path, self.failed = path, False
        if path:
            path.write_text("")
        self.ends = time.monotonic() + seconds

    def write_row(self, part, name, **values):
        row = {"part": part, "name": name, **values}
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        shown = "  ".join(f"{key} {_format_value(value)}" for key, value in values.items())
        print(f"{part:<12} {name:<28} {shown}", flush=True)

    def check(self, name, holds, **values):
        self.failed |= not holds
        self.write_row("correctness", name, **values, result="ok" if holds else "FAIL")
        return holds

    def is_late(self, part):
        late = time.monotonic() > self.ends
        if late:
            self.write_row(part, "the rest", left_out="out of time")
        return late


def _format_value(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Machine:
    """Hold a device, and measure times on it."""

    def __init__(self, name, *, quick):
        self.device, self.quick = torch.device(name), quick
        self.gpu = self.device.type == "cuda"

    def synchronize(self):
        if self.gpu:
            torch.cuda.synchronize(self.device)

    def time_functions(self, *functions, least=20):
        """Measure the median seconds of each function, called in turn after a warm-up."""
        for function in functions:
            function()
            function()
        self.synchronize()
        taken = [[] for _ in functions]
        for _ in range(3 if self.quick else least):
            for one, function in zip(taken, functions, strict=True):
                one.append(self._time_call(function))
        return [statistics.median(one) for one in taken]

    def _time_call(self, function):
        """Measure the seconds of one call, on a GPU by the clock of the device."""
        if not self.gpu:
            began = time.perf_counter()
            function()
            return time.perf_counter() - began
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        marks[0].record()
        function()
        marks[1].record()
        self.synchronize()
        return marks[0].elapsed_time(marks[1]) / 1000

    def read_clocks(self):
        """Read the clock rate of a GPU in MHz; return nothing for a CPU."""
        try:
            return {"mhz": torch.cuda.clock_rate(self.device)} if self.gpu else {}
        except Exception as error:  # noqa: BLE001 - it needs a package of NVIDIA's
            return {"mhz": f"left out: {error}"}


def cycle_inputs(function, inputs):
    """Call a function with one input after another, so that no cache holds the next one."""
    endless = itertools.cycle(inputs)
    return lambda: function(next(endless))


def make_clips(batch, frames, size, *, seed=0, colors=1):
    """Make clips of smooth random pictures that move, uint8 (B, T, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    h, w = size
    noise = torch.rand(batch, colors, h // 4 + 8, w // 4 + 8, generator=generator)
    wide = torch.nn.functional.interpolate(noise, (h + 32, w + 32), mode="bicubic")
    clips = [wide[..., 16 - t : 16 - t + h, 16 - 2 * t : 16 - 2 * t + w] for t in range(frames)]
    return (torch.stack(clips, 1) * 255).clamp(0, 255).byte()


def report_environment(machine, report):
    """Report the machine, its versions and its measured limits of speed."""
    versions = {"torch": torch.__version__, "numpy": np.__version__, "cores": os.cpu_count()}
    try:
        versions["triton"] = importlib.import_module("triton").__version__
    except ImportError as error:
        report.write_row("environment", "triton", left_out=str(error))
    if machine.gpu:
        facts = torch.cuda.get_device_properties(machine.device)
        versions |= {"gpu": facts.name, "units": facts.multi_processor_count}
    report.write_row("environment", "machine", **versions, **machine.read_clocks())
    size = 2**20 if machine.quick else 2**29
    source = torch.rand(size, device=machine.device)
    target = torch.empty_like(source)
    side = 256 if machine.quick else 8192
    square = torch.rand(side, side, device=machine.device)
    tiny = torch.zeros(1, device=machine.device)
    copy, product, roots, launch = machine.time_functions(
        functools.partial(target.copy_, source),
        functools.partial(torch.mm, square, square),
        functools.partial(torch.rsqrt, source, out=target),
        functools.partial(tiny.add_, 1),
        least=10,
    )
    report.write_row("ceilings", "copy", gb_per_s=8 * size / copy / 1e9)
    report.write_row("ceilings", "float32 product", tflop_per_s=2 * side**3 / product / 1e12)
    report.write_row("ceilings", "reciprocal roots", gigaops_per_s=size / roots / 1e9)
    report.write_row("ceilings", "one launch", us=launch * 1e6)


def list_variants(machine):
    """List the implementations of the TV-L1 iterations by name."""
    found = {"eager": PlainLevel, "in place": tvl1_kernels.InPlaceLevel}
    if machine.gpu and tvl1_launch.supports_device(torch.empty(1, device=machine.device)):
        half = torch.float16
        found["step"] = functools.partial(tvl1_gpu.GpuLevel, kernel="step")
        found["step half"] = functools.partial(tvl1_gpu.GpuLevel, kernel="step", dtype=half)
        found["tile"] = functools.partial(tvl1_gpu.GpuLevel, kernel="tile")
        found["tile half"] = functools.partial(tvl1_gpu.GpuLevel, kernel="tile", dtype=half)
    return found


def measure_distance(found, expected):
    """Measure the distance of two flows: mean, 99th percentile and share above 0.1 px."""
    error = (found.double().cpu() - expected.cpu()).norm(dim=1).flatten()
    return {
        "mean": error.mean().item(),
        "p99": error.quantile(0.99).item() if error.numel() < 2**24 else float("nan"),
        "above": (error > 0.1).double().mean().item(),
    }


def check_flow(machine, report):
    """Compare each implementation with float64, and return those that agree."""
    right = {}
    one = dataclasses.replace(WORK, levels=1, warps=1)
    for name, level in list_variants(machine).items():
        holds = True
        for batch, size in ((1, (37, 53)), (3, (255, 341)), (2, (20, 20))):
            frames = make_clips(batch, 2, size).to(machine.device)
            exact = ops.estimate_flow(frames.double(), one)
            # The second call replays a recorded graph on the same memory.
            first, found = (ops.estimate_flow(frames.float(), one, level) for _ in range(2))
            error = ((found - exact).norm() / exact.norm()).item()
            close = error < (1e-2 if "half" in name else 1e-5)
            label = f"{name} {batch}x{size[0]}x{size[1]}"
            holds &= report.check(label, close and torch.equal(first, found), relative=error)
        size = (64, 80) if machine.quick else (256, 340)
        frames = make_clips(2, 2, size, seed=1).to(machine.device)
        far = measure_distance(
            ops.estimate_flow(frames.float(), WORK, level), ops.estimate_flow(frames.double(), WORK)
        )
        most = 0.02 if "half" in name else 0.01
        holds &= report.check(f"{name} whole", far["mean"] < most and far["above"] < 0.01, **far)
        if holds:
            right[name] = level
    return right


def check_methods(machine, report):
    """Compare every method on the device with float64 on the CPU."""
    for name in methods.list_method_names():
        module = methods.find_method(name).build_module({})
        frames = make_clips(2, module.length, (64, 80), colors=3 if module.color == "rgb" else 1)
        with torch.no_grad():
            exact = module.double()(module.prepare(frames).double())
        module = methods.find_method(name).build_module({}).to(machine.device)
        with torch.inference_mode():
            found = module.extract(frames.to(machine.device)).double().cpu()
        error = (found - exact).abs()
        share = (error.mean() / exact.abs().mean().clamp(min=1e-9)).item()
        report.check(
            f"{name} extract", share < (1e-2 if module.units == "px" else 1e-5), mean=share
        )


def time_flow(machine, report, right):
    """Time all implementations in turn; return the best microseconds a pair of each."""
    best = {}
    sizes = ((64, 80),) if machine.quick else ((256, 340), (224, 224))
    for size in sizes:
        for batch in (1, 2) if machine.quick else (1, 8, 32, 128):
            if report.is_late("time flow"):
                return best
            inputs = [
                make_clips(batch, 2, size, seed=s).to(machine.device).float() for s in (2, 3, 4)
            ]
            runs = [
                cycle_inputs(functools.partial(ops.estimate_flow, rules=WORK, level=way), inputs)
                for way in right.values()
            ]
            taken = machine.time_functions(*runs, least=5 if batch < 128 else 3)
            for name, seconds in zip(right, taken, strict=True):
                us = seconds / batch * 1e6
                row = {"us": us, "per_s": 1e6 / us, "to_eager": taken[0] / seconds}
                predicted = PREDICTED.get(name) if size == (256, 340) else None
                if predicted:
                    row |= {"predicted": predicted, "of_predicted": us / predicted}
                    best[name] = min(us, best.get(name, float("inf")))
                report.write_row("time flow", f"{name} {size[0]}x{size[1]} B{batch}", **row)
    return best


def time_compiled(machine, report, best):
    """Time the formulas under torch.compile, once, because compiling takes tens of seconds."""
    if report.is_late("compiled") or machine.quick:
        return
    frames = make_clips(32, 2, (256, 340), seed=2).to(machine.device).float()
    run = torch.compile(functools.partial(ops.estimate_flow, rules=WORK, level=PlainLevel))
    try:
        far = measure_distance(run(frames), ops.estimate_flow(frames, WORK).double())
        if not report.check("compiled", far["mean"] < 0.01, **far):
            return
        (seconds,) = machine.time_functions(functools.partial(run, frames), least=3)
    except Exception as error:  # noqa: BLE001 - any failure of the compiler is a result
        report.write_row(
            "compiled", "eager", left_out=f"{type(error).__name__}: {str(error)[:120]}"
        )
        return
    best["compiled"] = seconds / 32 * 1e6
    report.write_row("compiled", "256x340 B32", us=best["compiled"])


def time_recorded(machine, report, best):
    """Time the eager launches of a batch as one CUDA graph, which has no launch overhead."""
    for batch in (1, 8, 32):
        if report.is_late("eager in a graph") or not machine.gpu:
            return
        frames = make_clips(batch, 2, (256, 340), seed=2).to(machine.device).float()
        expected = ops.estimate_flow(frames, WORK, PlainLevel)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                found = ops.estimate_flow(frames, WORK, PlainLevel)
        except RuntimeError as error:
            report.write_row("eager graph", f"256x340 B{batch}", left_out=str(error)[:120])
            return
        graph.replay()
        if not report.check(f"eager graph B{batch}", torch.equal(found, expected)):
            return
        seconds, eager = machine.time_functions(
            graph.replay, functools.partial(ops.estimate_flow, frames, WORK, PlainLevel), least=3
        )
        us = seconds / batch * 1e6
        best["eager graph"] = min(us, best.get("eager graph", float("inf")))
        report.write_row("eager graph", f"256x340 B{batch}", us=us, to_eager=eager / seconds)


def time_methods(machine, report):
    """Time the extraction of each method on the device and on one core of the machine."""
    rates = {}
    size = (64, 80) if machine.quick else (256, 340)
    for name, parameters in [
        *((n, {}) for n in methods.list_method_names()),
        ("tvl1", {"preset": "fast"}),
    ]:
        if report.is_late("methods"):
            return rates
        module = methods.find_method(name).build_module(parameters)
        batch = 2 if machine.quick else 32
        frames = make_clips(batch, module.length, size, colors=3 if module.color == "rgb" else 1)
        with torch.inference_mode():
            (alone,) = Machine("cpu", quick=True).time_functions(
                lambda m=module, f=frames: m.extract(f[:1])
            )
            moved, there = module.to(machine.device), frames.to(machine.device)
            (taken,) = machine.time_functions(lambda m=moved, f=there: m.extract(f), least=8)
        told = " ".join([name, *parameters.values()])
        rates[told] = batch * module.step / taken
        ratio = alone * batch / taken
        report.write_row("methods", told, frames_per_s=rates[told], to_one_core=ratio)
    return rates


def time_raft(machine, report):
    """Time RAFT at the same size for comparison, with random weights, which cost the same."""
    try:
        from torchvision.models.optical_flow import raft_large, raft_small
    except (ImportError, RuntimeError) as error:
        report.write_row("raft", "both", left_out=str(error).splitlines()[0])
        return
    for make, batch, half in itertools.product((raft_small, raft_large), (8, 32), (False, True)):
        if report.is_late("raft"):
            return
        net = make().eval().to(machine.device, memory_format=torch.channels_last)
        frames = torch.rand(batch, 3, 256, 344, device=machine.device) * 2 - 1
        cast = torch.autocast(machine.device.type, torch.bfloat16, enabled=half)
        with torch.inference_mode(), cast:
            run = functools.partial(net, frames, frames, num_flow_updates=12)
            (taken,) = machine.time_functions(run, least=5)
        name = f"{make.__name__} B{batch} {'bfloat16' if half else 'float32'}"
        report.write_row("raft", name, us=taken / batch * 1e6)


def report_verdicts(report, best, rates, ways):
    """Report each prediction with its measured value and whether it holds."""
    whole = [us for name, us in best.items() if "half" not in name]
    lines = [
        ("step takes 550-600 us", best.get("step"), lambda us: us <= 660),
        ("a pair takes at most 400 us", min(whole, default=None), lambda us: us <= 400),
        ("eager takes 4-5 ms at batch 32", best.get("eager"), lambda us: 3500 <= us <= 5500),
        ("torch.compile takes about 1 ms", best.get("compiled"), lambda us: 700 <= us <= 1400),
    ]
    if {"step", "tile"} <= best.keys():
        ratio = best["step"] / best["tile"]
        lines.append(("tile is 1.5-2.1 times step; below 1.3 ship step", ratio, lambda r: r >= 1.3))
    slowest = min((rates[name] for name in LIGHT if name in rates), default=None)
    lines.append(("light methods above 25000 frames/s", slowest, lambda rate: rate > 25000))
    gain = ways.get("threads")
    lines.append(("16 threads decode 720p 12 times as fast", gain, lambda ratio: ratio >= 12))
    light = min((ways[name] for name in LIGHT if name in ways), default=None)
    lines.append(("light methods reach 0.9 of decoding", light, lambda ratio: ratio >= 0.9))
    for name, found, holds in lines:
        told = "not measured" if found is None else "holds" if holds(found) else "falsified"
        report.write_row("verdict", name, found=found, verdict=told)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--only", choices=["kernels", "pipeline"], help="one half of it")
    parser.add_argument("--frames", type=int, help="of the clip whose whole way is measured")
    parser.add_argument("--disk", type=Path, help="a folder on the disk to write to")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --device cpu --quick shows that this runs")
    torch.backends.cudnn.allow_tf32 = False
    machine = Machine(options.device, quick=options.quick)
    report = Report(options.json, 60 * options.minutes)
    best, rates, ways = {}, {}, {}
    with torch.inference_mode():
        report_environment(machine, report)
    if options.only != "pipeline":
        best, rates = run_kernels(machine, report)
    if options.only != "kernels":
        ways = gpu_pipeline.run_pipeline(machine, report, frames=options.frames, disk=options.disk)
    report.write_row("environment", "clocks at the end", **machine.read_clocks())
    if machine.gpu:
        report_verdicts(report, best, rates, ways)
    raise SystemExit(1 if report.failed else 0)


def run_kernels(machine, report):
    """Check and then time everything that computes; return the best times and the rates."""
    with torch.inference_mode():
        right = check_flow(machine, report)
    check_methods(machine, report)
    with torch.inference_mode():
        best = time_flow(machine, report, right)
    rates = time_methods(machine, report)
    with torch.inference_mode():
        time_recorded(machine, report, best)
        time_compiled(machine, report, best)
    time_raft(machine, report)
    return best, rates


if __name__ == "__main__":
    main()

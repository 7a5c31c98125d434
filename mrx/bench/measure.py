"""Benchmarks of methods: the kernel alone, decoding alone, and the whole pipeline."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mrx.bench.bench_clip import prepare_clip
from mrx.bench.bench_records import BenchOptions, BenchResult, BenchRow
from mrx.bench.kernel_timing import KernelTimer
from mrx.bench.machine import collect_machine_facts, read_load_average
from mrx.bench.pipeline_timing import PipelineTimer
from mrx.errors import UsageError
from mrx.job import Job
from mrx.pipeline.extraction import Extraction
from mrx.pipeline.method_run import MethodRun


class BenchRunner:
    """Runs a benchmark. Everything that can be wrong with it is checked on construction.

    Args:
        options: what to measure
        scratch: a folder for the clip and the outputs, which are removed after each measurement
        announce: called with a line of text before each measurement

    Attributes:
        settings: everything that rates depend on, except the machine
        method_runs: the methods, ready to compute
        clip: the clip, and the size and number of its frames
        threads: decode threads; 0 runs the stages in sequence
    """

    def __init__(
        self,
        options: BenchOptions,
        scratch: Path,
        announce: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.options = options
        self._announce = announce
        job = Job(
            output=str(scratch / "out"),
            methods=options.methods,
            parameters=options.parameters,
            weights=options.weights,
            stack=options.stack,
            devices=(options.device,),
            decode_threads=options.decode_threads,
        )
        extraction = Extraction(job)
        self.device = extraction.device
        self.threads = extraction.decode_threads
        self.method_runs = extraction.method_runs
        self.clip = prepare_clip(options, scratch)
        self._require_windows()
        self._kernel_timer = KernelTimer(self.device, self.clip.size, options.repeats)
        self._pipeline_timer = PipelineTimer(
            job, self.clip, scratch=scratch, threads=self.threads, repeats=options.repeats
        )
        self.settings: dict[str, Any] = {
            "methods": extraction.settings["methods"],
            "size": list(self.clip.size),
            "frames": self.clip.num_frames,
            "batch": list(options.batches),
            "device": self.device.type,
            "decode_threads": options.decode_threads,
            "input": self.clip.description if options.clip else "made",
        }

    def run(self) -> BenchResult:
        """Measure all rows, method by method."""
        load_before = read_load_average()
        rows = [row for method_run in self.method_runs for row in self._measure_method(method_run)]
        machine = collect_machine_facts(self.device, load_before)
        return BenchResult(self.settings, machine, rows)

    def _measure_method(self, method_run: MethodRun) -> Iterator[BenchRow]:
        name = method_run.method.name
        for batch in self.options.batches:
            self._announce(f"{name}: measuring the kernel, batch {batch}")
            yield self._kernel_timer.measure_row(method_run, batch)
        self._announce(f"{name}: measuring decoding alone and the pipeline")
        yield from self._pipeline_timer.measure_rows(method_run)

    def _require_windows(self) -> None:
        width, height = self.clip.size
        num_frames = self.clip.num_frames
        for method_run in self.method_runs:
            name, min_frames = method_run.method.name, method_run.rule.min_frames
            reason = method_run.why_too_small({"width": width, "height": height})
            if reason:
                raise UsageError(f"{name} cannot be measured: {reason}. Give a larger --size")
            if num_frames < min_frames:
                raise UsageError(
                    f"{name} cannot be measured on {num_frames} frames: a window has "
                    f"{min_frames}. Give a longer clip, or more --frames"
                )

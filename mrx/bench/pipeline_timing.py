"""Timing of the whole pipeline, next to decoding alone."""

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mrx.bench.bench_clip import BenchClip
from mrx.bench.bench_records import BenchRow, compute_percentiles
from mrx.bench.repetition import take_samples
from mrx.bench.texture_clip import decode_clip
from mrx.engines.bottleneck import compute_stage_shares, describe_bottleneck
from mrx.errors import InputError
from mrx.job import Job, Source, WorkerTimes
from mrx.pipeline.extraction import Extraction
from mrx.pipeline.method_run import MethodRun


@dataclass(frozen=True)
class _PipelinePass:
    """One timed extraction.

    Attributes:
        worker_times: busy seconds of its stages
        frames: frames read
        bytes: bytes written
    """

    worker_times: WorkerTimes
    frames: int
    bytes: int

    @property
    def seconds_per_frame(self) -> float:
        """Seconds until the last row, divided by the frames."""
        return self.worker_times.seconds / self.frames


class PipelineTimer:
    """Times extractions of a clip, each paired with decoding the clip alone.

    Args:
        job: the methods and their settings
        clip: the clip
        scratch: a folder for the outputs, which are removed after each pass
        threads: decode threads; 0 runs the stages in sequence
        repeats: pairs per method, at most
    """

    def __init__(
        self, job: Job, clip: BenchClip, *, scratch: Path, threads: int, repeats: int
    ) -> None:
        self.job = job
        self.clip = clip
        self.scratch = scratch
        self.threads = threads
        self.repeats = repeats

    def measure_rows(self, method_run: MethodRun) -> list[BenchRow]:
        """Measure a method; return the row of decoding alone, and that of the pipeline."""
        # Warm both up.
        self._time_decoding(method_run)
        self._run_pipeline(method_run)
        # Alternately, so that other work on the machine slows both down alike.
        pairs = list(
            take_samples(
                lambda: (self._time_decoding(method_run), self._run_pipeline(method_run)),
                self.repeats,
            )
        )
        decode_seconds = [seconds for seconds, _ in pairs]
        passes = [pipeline_pass for _, pipeline_pass in pairs]
        return [
            self._make_decoding_row(method_run, decode_seconds),
            self._make_pipeline_row(method_run, passes, decode_seconds),
        ]

    def _make_decoding_row(self, method_run: MethodRun, seconds: list[float]) -> BenchRow:
        name = method_run.method.name
        more = {"color": method_run.module.color, "decode_threads": max(1, self.threads)}
        times = compute_percentiles(seconds)
        return BenchRow(
            f"{name} decoding", name, "decode", "frames", len(seconds), **times, more=more
        )

    def _make_pipeline_row(
        self, method_run: MethodRun, passes: list[_PipelinePass], decode_seconds: list[float]
    ) -> BenchRow:
        name = method_run.method.name
        seconds = [pipeline_pass.seconds_per_frame for pipeline_pass in passes]
        # Each pass is compared with the decoding that was measured right before it.
        ratios = compute_percentiles(
            [decode / whole for decode, whole in zip(decode_seconds, seconds, strict=True)]
        )
        worker_times = _sum_worker_times([pipeline_pass.worker_times for pipeline_pass in passes])
        more: dict[str, Any] = {
            "bytes_a_frame": passes[0].bytes / passes[0].frames,
            "to_decoding": {key: ratios[key] for key in ("p25", "p50", "p75")},
            "decode_threads": worker_times.threads,
            "busy": compute_stage_shares(worker_times),
            "bottleneck": describe_bottleneck([worker_times]),
        }
        times = compute_percentiles(seconds)
        return BenchRow(
            f"{name} whole way", name, "whole", "frames", len(passes), **times, more=more
        )

    def _copy_source(self) -> list[Source]:
        # Two for each thread: enough to keep all of them busy.
        count = 2 * self.threads or 1
        return [replace(self.clip.source, key=f"{number}") for number in range(count)]

    def _time_decoding(self, method_run: MethodRun) -> float:
        """Return the seconds per frame of decoding and converting alone."""
        paths = [source.path for source in self._copy_source()]

        def decode_copy(path: str) -> int:
            return decode_clip(path, self.clip.size, method_run.module.color)

        start = time.perf_counter()
        if self.threads:
            with ThreadPoolExecutor(self.threads) as pool:
                frames = sum(pool.map(decode_copy, paths))
        else:
            frames = sum(map(decode_copy, paths))
        return (time.perf_counter() - start) / frames

    def _run_pipeline(self, method_run: MethodRun) -> _PipelinePass:
        """Extract the copies of the clip with one method."""
        name = method_run.method.name
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            extraction = Extraction(self._make_method_job(method_run, folder))
            start = time.perf_counter()
            # The clock stops at the last row: sealing the shard in `close` is not timed.
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

    def _make_method_job(self, method_run: MethodRun, output: str) -> Job:
        job, name = self.job, method_run.method.name
        return replace(
            job,
            output=output,
            methods=(name,),
            parameters={name: job.parameters.get(name, {})},
            weights={key: path for key, path in job.weights.items() if key == name},
            stack=job.stack if "stack" in method_run.parameters else None,
            decoding=self.clip.decoding,
        )


def _sum_worker_times(worker_times: Sequence[WorkerTimes]) -> WorkerTimes:
    first = worker_times[0]
    busy = {stage: sum(times.busy[stage] for times in worker_times) for stage in first.busy}
    return replace(first, seconds=sum(times.seconds for times in worker_times), busy=busy)

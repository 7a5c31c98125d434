"""Compare whole extraction with bare decoding, side by side in one run.

For copies of one clip and the same number of processes, it measures frames/s of decoding by PyAV
with conversion to RGB, then of `mrx extract` with each method and written output, in turn and
several times. The start of the processes is left out of both: the clock starts when every worker
has ended its first video.

    python tests/benchmarks/pipeline.py CLIP [--copies 32] [--repeats 5] [--workers 2]
"""

import argparse
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from mrx import kernels
from mrx.engines.run import Listener, run_job
from mrx.job import Decoding, Job
from mrx.sources import scan

METHODS = ("mbpm", "dynamic-image", "pa")


def decode_bare(files, begin, results):
    """Decode to RGB in a fast loop over PyAV, and put the frames and seconds in the queue."""
    begin.wait()
    began, frames = time.perf_counter(), 0
    for file in files:
        reformatter = VideoReformatter()
        with av.open(file) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            for packet in container.demux(stream):
                for frame in packet.decode():
                    rgb = reformatter.reformat(
                        frame, width=frame.width, height=frame.height, format="rgb24"
                    )
                    rgb.to_ndarray()
                    frames += 1
    results.put((frames, time.perf_counter() - began))


def measure_bare_rate(files, workers):
    """Measure frames/s of bare decoding by a number of processes."""
    context = multiprocessing.get_context("spawn")
    begin, results = context.Barrier(workers), context.Queue()
    shares = [files[i::workers] for i in range(workers)]
    running = [context.Process(target=decode_bare, args=(s, begin, results)) for s in shares]
    for one in running:
        one.start()
    ended = [results.get() for _ in running]
    for one in running:
        one.join()
    return sum(frames for frames, _ in ended) / max(seconds for _, seconds in ended)


class Watch(Listener):
    """Record the rows of a run and their times of arrival."""

    def __init__(self):
        self.rows = []

    def row(self, row):
        self.rows.append((time.perf_counter(), row))

    def compute_steady_rate(self, workers):
        """Compute frames/s from the time at which every worker has ended a video."""
        rest = iter(self.rows)
        ends = []  # of each worker's last video; its next one begins after that
        while len(ends) < workers:
            began, row = next(rest)
            own = [end for end in ends if end <= began - row.seconds + 0.005]
            ends = [end for end in ends if end != max(own, default=None)] + [began]
        return sum(row.frames for _, row in rest) / (self.rows[-1][0] - began)


def measure_mrx_rate(folder, output, method, workers):
    """Measure frames/s of an extraction by a number of workers."""
    shutil.rmtree(output, ignore_errors=True)
    watch = Watch()
    job = Job(str(output), methods=(method,), decoding=Decoding(short_side=None))
    summary = run_job(
        job, scan.find_sources([str(folder)]).sources, workers=workers, listener=watch
    )
    assert summary.exit_code == 0, summary
    return watch.compute_steady_rate(workers)


def measure_peak_memory(clip, times, method):
    """Measure the peak memory in MB of extracting the clip repeated `times` times."""
    program = (
        "import re, sys; from mrx import extract; from mrx.job import Decoding\n"
        "extract(sys.argv[1], sys.argv[2], method=sys.argv[3],"
        " decoding=Decoding(short_side=None), overwrite=True)\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024)"
    )
    with tempfile.TemporaryDirectory() as scratch:
        longer = Path(scratch) / "longer.mkv"
        repeat_clip(clip, longer, times)
        command = [sys.executable, "-c", program, str(longer), f"{scratch}/out", method]
        runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in "ab"]
        return min(float(ran.stdout) for ran in runs)  # the first may have compiled kernels


def repeat_clip(clip, target, times):
    """Write the clip repeated `times` times to one file, without encoding it again."""
    with av.open(str(target), "w") as out:
        stream = None
        for turn in range(times):
            with av.open(str(clip)) as container:
                source = container.streams.video[0]
                if stream is None:
                    stream = out.add_stream_from_template(source)
                length = int(source.frames / source.average_rate / source.time_base)
                for packet in container.demux(source):
                    if packet.dts is not None:
                        packet.pts += turn * length
                        packet.dts += turn * length
                        packet.stream = stream
                        out.mux(packet)


def measure_rates(clip, *, copies, repeats, workers):
    """Measure the rates of decoding and of each method, and the ratios of both."""
    ratios = {method: [] for method in METHODS}
    rates = {method: [] for method in ("bare", *METHODS)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "videos"
        folder.mkdir()
        files = [str(folder / f"{i:03}{clip.suffix}") for i in range(copies)]
        for file in files:
            shutil.copy(clip, file)
        for method in METHODS:  # compiles kernels and fills caches
            measure_mrx_rate(folder, Path(scratch) / "out", method, workers)
        for _ in range(repeats):
            for method in METHODS:
                before = measure_bare_rate(files, workers)
                rate = measure_mrx_rate(folder, Path(scratch) / "out", method, workers)
                base = (before + measure_bare_rate(files, workers)) / 2
                rates["bare"].append(base)
                rates[method].append(rate)
                ratios[method].append(rate / base)
    return rates, ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--copies", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}; torch {torch.__version__}, av {av.__version__}, "
        f"opencv {cv2.__version__}, numpy {np.__version__}; kernels {kernels.list_backends()}"
    )
    rates, ratios = measure_rates(
        options.clip, copies=options.copies, repeats=options.repeats, workers=options.workers
    )
    print(f"{options.clip.name}, {options.copies} copies, {options.workers} processes")
    print(f"bare decoding + RGB  {statistics.median(rates['bare']):8.0f} frames/s")
    for method in METHODS:
        spread = f"{min(ratios[method]):.2f}..{max(ratios[method]):.2f}"
        print(
            f"{method:<20} {statistics.median(rates[method]):8.0f} frames/s, "
            f"ratio {statistics.median(ratios[method]):.2f} ({spread})"
        )
    for method in METHODS:
        short, long = (measure_peak_memory(options.clip, n, method) for n in (1, 10))
        print(
            f"{method:<20} peak memory {short:.0f} MB, on a 10x longer clip {long:.0f} MB "
            f"(ratio {long / short:.3f})"
        )


if __name__ == "__main__":
    main()

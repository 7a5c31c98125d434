"""Measure the overhead of the pipeline on many tiny clips, and its memory on long and large ones.

    python tests/benchmarks/concurrency.py [--clips 1000] [--hours 1] [--methods mbpm tvl1 ...]

First it prints the CPU time of a tiny clip beyond its decoding and computing, without and with
decode threads. Then it prints the peak memory of one process on an hour of 340x256 with the first
method, and on a few frames of HD and 4K with each, beside the bound that `mrx.pipeline.threaded`
states.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np

from mrx import methods
from mrx.pipeline.threaded import BATCHES_BYTES, RESULTS_BYTES

PROGRAM = """
import json, re, sys, time
from mrx.engines.run import run_job
from mrx.job import Decoding, Job
from mrx.sources.scan import find_sources
folder, warm, out, method, threads = sys.argv[1:]
def extract(folder, output):
    job = Job(output, methods=(method,), decoding=Decoding(short_side=None),
              decode_threads=int(threads))
    return run_job(job, find_sources([folder]).sources, workers=0)
def memory(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
extract(warm, out + "-warm")
open("/proc/self/clear_refs", "w").write("5")  # reset the peak
before, began = memory("VmRSS"), time.process_time()
summary = extract(folder, out)
cpu = time.process_time() - began
assert summary.exit_code == 0, summary
print(json.dumps({"cpu": cpu, "busy": summary.workers[0].busy, "before": before,
                  "peak": memory("VmHWM"), "frames": summary.frames, "wall": summary.seconds}))
"""


def run_extract(folder, method, threads):
    """Extract a folder in a new process, and return its measurements."""
    with tempfile.TemporaryDirectory() as scratch:
        warm = Path(scratch) / "warm.mp4"
        write_clip(warm, 10, 96, 64)
        words = [str(folder), str(warm), f"{scratch}/out", method, threads]
        command = [sys.executable, "-c", PROGRAM, *words]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


def write_clip(path, frames, width, height, *, period=50, codec_options=None):
    """Write a clip of a moving texture, whose pictures repeat so that making it is cheap."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (height // 8, width // 8 + period, 3), np.uint8)
    ground = np.kron(small, np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as container:
        options = codec_options or {"preset": "ultrafast", "crf": "30"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            start = 2 * (number % period)
            picture = np.ascontiguousarray(ground[:height, start : start + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def measure_tiny_clips(clips, method):
    """Print the CPU time of a tiny clip, and its part beyond decoding and computing."""
    with tempfile.TemporaryDirectory() as scratch:
        first = Path(scratch) / "0000.mp4"
        write_clip(first, 10, 96, 64)
        for number in range(1, clips):
            (Path(scratch) / f"{number:04}.mp4").write_bytes(first.read_bytes())
        work = 0.0
        for threads in ("0", "2"):
            ran = run_extract(scratch, method, threads)
            # With threads a stage's time includes waiting, so the first run gives its CPU time.
            work = work or ran["busy"]["decode"] + ran["busy"]["compute"]
            print(
                f"{method:<6} {clips} clips of 10 frames, {threads} decode threads: "
                f"CPU {1000 * ran['cpu'] / clips:.2f} ms a clip, "
                f"{1000 * (ran['cpu'] - work) / clips:.2f} of it beyond decoding and computing"
            )


def memory_bound(method, width, height, threads):
    """Compute the memory bound that `mrx.pipeline.threaded` states, in MiB."""
    module = methods.find_method(method).build_module({})
    frame = width * height * (3 if module.color == "rgb" else 1)
    bound = 64 * 2**20 + 600 * width * height
    if threads:
        bound += max(BATCHES_BYTES, 2 * frame) + max(RESULTS_BYTES, 4 * frame)
        bound += threads * (max(32 * 2**20, frame) + 3 * module.length * frame)
    return bound / 2**20


def measure_memory(name, method, frames, width, height):
    """Print the peak memory of extracting one clip, beside its bound."""
    with tempfile.TemporaryDirectory() as scratch:
        write_clip(Path(scratch) / "clip.mp4", frames, width, height)
        for threads in (0, 1):
            ran = run_extract(scratch, method, str(threads))
            above, bound = ran["peak"] - ran["before"], memory_bound(method, width, height, threads)
            print(
                f"{method:<13} {name}, {frames} frames, {threads} decode threads: peak {above:.0f} "
                f"MiB above the start, at most {bound:.0f}: {'ok' if above <= bound else 'MORE'}; "
                f"{ran['frames'] / ran['wall']:.1f} frames/s",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--methods", nargs="+", default=methods.list_method_names())
    options = parser.parse_args()
    first = options.methods[0]
    measure_tiny_clips(options.clips, first)
    measure_memory("340x256", first, round(options.hours * 3600 * 25), 340, 256)
    for method in options.methods:
        measure_memory("1280x720", method, 26, 1280, 720)
        measure_memory("3840x2160", method, 8, 3840, 2160)


if __name__ == "__main__":
    main()

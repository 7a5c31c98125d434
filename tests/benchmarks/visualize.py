"""Measure the cost of drawing flow and encoding the pictures, beside computing it, and the memory.

For smooth fields with noise of 340x256, it measures the CPU time a picture of drawing by the wheel
and of encoding each kind of output, beside the CPU time of decoding a frame and computing its flow
(tvl1, preset fast), in turn and several times. Then it measures the peak memory of `mrx visualize`
on a clip and on one ten times as long, which should be equal.

    python tests/benchmarks/visualize.py [--pictures 300] [--repeats 3] [--clip CLIP]
"""

import argparse
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
from pipeline import repeat_clip

from mrx import kernels, render
from mrx.job import Decoding, Job, Source
from mrx.visualize.computed import ComputedMoments
from mrx.visualize.film import find_output_kind, open_film
from mrx.visualize.moments import MethodTrack, Moment
from mrx.visualize.page import Page
from mrx.visualize.painter import Painter
from mrx.visualize.picture_options import PictureOptions

WIDTH, HEIGHT, FULL, RATE = 340, 256, 8.0, 25
NAMES = ("a.mp4", "a.webm", "a.gif", "all", "a.html")
MOST = 4.0  # ms of CPU time a picture that drawing and a.mp4 may take together
FRAMES = 40  # of the clip whose flow is computed
PROGRAM = """
import re, sys
from mrx.cli import main
try:
    main(["visualize", *sys.argv[1:]])
except SystemExit as end:
    assert not end.code, end
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024)
"""


def make_fields(count):
    """Generate smooth flow fields (2, H, W) that change slowly, with noise."""
    random = np.random.default_rng(0)
    turns = random.normal(size=(count // 10 + 2, 2, 5, 7)).astype(np.float32) * FULL / 2
    for number in range(count):
        before, share = number // 10, number % 10 / 10
        small = turns[before] * (1 - share) + turns[before + 1] * share
        size, how = (WIDTH, HEIGHT), cv2.INTER_CUBIC
        flow = np.stack([cv2.resize(plane, size, interpolation=how) for plane in small])
        yield flow + random.normal(0, 0.1, flow.shape).astype(np.float32)


def measure_cpu(work):
    """Call a function; return its result and the CPU seconds of all threads."""
    began = time.process_time()
    found = work()
    return found, time.process_time() - began


def draw_flows(flows):
    return [render.flow_to_rgb(flow, max_flow=FULL) for flow in flows]


def encode_pictures(pictures, flows, target):
    """Write pictures in the format of the target's name; a page also stores their values."""
    if target.suffix != ".html":
        with open_film(str(target), RATE, kind=find_output_kind(str(target))) as film:
            for picture in pictures:
                film.add_picture(picture)
        return
    painter = Painter(
        [MethodTrack("tvl1", ("dx", "dy"), "px", {})], PictureOptions(max_flow=FULL, alone=True)
    )
    with Page(target, "flow", painter.make_page_panels(framed=False), RATE) as page:
        for i, flow in enumerate(flows):
            moment = Moment(i, i / RATE, None, (flow,), ((i, i + 1),), (i / RATE,), flow.shape[1:])
            page.add_moment(i, i / RATE, painter.draw_views(moment))


def compute_flow(clip):
    """Decode a clip and compute its flow; return the number of maps."""
    job = Job(
        "-",
        methods=("tvl1",),
        parameters={"tvl1": {"preset": "fast"}},
        decoding=Decoding(short_side=None),
    )
    source = Source(clip.name, str(clip), "file")
    return sum(1 for _ in ComputedMoments(job, source, (0, None)).iter_moments())


def write_clip(path, pictures):
    """Write a clip of the size of the flow, and return its path."""
    with open_film(str(path), RATE, kind=path.suffix) as film:
        for picture in pictures:
            film.add_picture(picture)
    return path


def make_texture():
    noise = np.random.default_rng(0).random((HEIGHT, WIDTH + 3 * FRAMES, 3), np.float32)
    wide = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)
    return [wide[:, 3 * i : 3 * i + WIDTH].astype(np.uint8) for i in range(FRAMES)]


def size_of(path):
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def measure_costs(folder, flows, repeats):
    """Measure the CPU seconds a picture of computing flow, drawing and encoding."""
    clip = write_clip(folder / "clip.mp4", make_texture())
    taken = {name: [] for name in ("flow", "draw", *NAMES)}
    sizes = {}
    draw_flows(flows[:2]), compute_flow(clip)  # compiles and fills caches
    for _ in range(repeats):
        count, seconds = measure_cpu(lambda: compute_flow(clip))
        taken["flow"].append(seconds / count)
        pictures, seconds = measure_cpu(lambda: draw_flows(flows))
        taken["draw"].append(seconds / len(flows))
        for name in NAMES:
            target = folder / name
            shutil.rmtree(target, ignore_errors=True)
            _, seconds = measure_cpu(lambda t=target, p=pictures: encode_pictures(p, flows, t))
            taken[name].append(seconds / len(flows))
            sizes[name] = size_of(target) / len(flows)
    return taken, sizes


def measure_peak_memory(clip, times, output):
    """Measure the peak memory in MB of `mrx visualize` on the clip repeated `times` times."""
    with tempfile.TemporaryDirectory() as scratch:
        longer = Path(scratch) / "longer.mkv"
        repeat_clip(clip, longer, times)
        words = [str(longer), "-m", "mbpm", "--step", "1", "-o", f"{scratch}/{output}"]
        words += ["--short-side", "192"]
        command = [sys.executable, "-c", PROGRAM, *words]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(ran.stdout.splitlines()[-1])


def print_table(taken, sizes):
    flow = taken["flow"]
    print(f"decoding + tvl1 fast  {1000 * statistics.median(flow):7.2f} ms of CPU time a frame")
    for name, seconds in taken.items():
        if name == "flow":
            continue
        ratios = [b / a for a, b in zip(seconds, flow, strict=True)]
        kilobytes = f"{sizes[name] / 1000:7.1f} kB" if name in sizes else ""
        print(
            f"{name:<20}  {1000 * statistics.median(seconds):7.2f} ms a picture, flow / it "
            f"{statistics.median(ratios):5.1f} ({min(ratios):.1f}..{max(ratios):.1f}){kilobytes}"
        )
    both = [1000 * (a + b) for a, b in zip(taken["draw"], taken["a.mp4"], strict=True)]
    word = "under" if statistics.median(both) < MOST else "OVER"
    print(f"draw + a.mp4          {statistics.median(both):7.2f} ms a picture: {word} {MOST} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clip", type=Path, help="of the peak memory; without it none is measured")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}; torch {torch.__version__}, av {av.__version__}, "
        f"opencv {cv2.__version__}, numpy {np.__version__}; kernels {kernels.list_backends()}"
    )
    print(f"{options.pictures} pictures of {WIDTH}x{HEIGHT}, median of {options.repeats}")
    with tempfile.TemporaryDirectory() as scratch:
        flows = list(make_fields(options.pictures))
        print_table(*measure_costs(Path(scratch), flows, options.repeats))
    for output in ("a.mp4", "a.gif") if options.clip else ():
        short, long = (measure_peak_memory(options.clip, times, output) for times in (1, 10))
        print(
            f"{output}: peak memory {short:.0f} MB, on a 10x longer clip {long:.0f} MB "
            f"(ratio {long / short:.3f})"
        )


if __name__ == "__main__":
    main()

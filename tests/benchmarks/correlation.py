"""Compare local correlation with two plain formulations, by CPU time and peak memory.

python tests/benchmarks/correlation.py [--pairs 7] [--side 28] [--patch 15] [--repeats 5]
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from mrx.ops.matching import correlate


def by_unfold(first, second, patch):
    """Correlate with a copy of all patches."""
    n, c, h, w = first.shape
    around = F.unfold(second, patch, padding=patch // 2).view(n, c, patch**2, h, w)
    return (first[:, :, None] * around).sum(1)


def by_shifts(first, second, patch):
    """Correlate one displacement after another."""
    reach, (h, w) = patch // 2, first.shape[2:]
    wide = F.pad(second, [reach] * 4)
    places = ((y, x) for y in range(patch) for x in range(patch))
    return torch.stack([(first * wide[..., y : y + h, x : x + w]).sum(1) for y, x in places], 1)


def by_blocks(first, second, patch):
    """Correlate with the function of mrx."""
    return correlate(first, second, patch=patch)


WAYS = {"unfold": by_unfold, "shifts": by_shifts, "mrx": by_blocks}


def make_features(options, channels):
    """Make two random feature maps."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, options.pairs, channels, options.side, options.side)
    return torch.rand(shape, generator=generator).unbind(0)


def measure_peak(options, channels, way):
    """Measure the peak memory of one correlation in MB, above that of making the features."""
    words = [f"--{k}={v}" for k, v in vars(options).items() if k not in ("channels", "way")]
    command = [sys.executable, __file__, *words, f"--channels={channels}"]
    peaks = [
        float(subprocess.run([*command, f"--way={name}"], capture_output=True, text=True).stdout)
        for name in ("none", way)
    ]
    return peaks[1] - peaks[0]


def run_once(options):
    """Run one way in this process, and print its peak memory in MB."""
    first, second = make_features(options, options.channels)
    with torch.inference_mode():
        if options.way != "none":
            WAYS[options.way](first, second, options.patch)
    status = Path("/proc/self/status").read_text()  # the resource module counts the parent's too
    print(int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("pairs", 7), ("side", 28), ("patch", 15), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--channels", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--way", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.way:
        run_once(options)
        return
    print(f"torch {torch.__version__}, {options.pairs} pairs, patch {options.patch}, one thread")
    for channels in (64, 128, 512):
        first, second = make_features(options, channels)
        taken = {name: [] for name in WAYS}
        with torch.inference_mode():
            for _ in range(options.repeats):
                for name, way in WAYS.items():
                    began = time.process_time()
                    way(first, second, options.patch)
                    taken[name].append(1000 * (time.process_time() - began) / options.pairs)
        for name, times in taken.items():
            ratios = [a / b for a, b in zip(times, taken["mrx"], strict=True)]
            size = f"{options.side}x{options.side}x{channels}"
            print(
                f"{size:<10} {name:<7} {statistics.median(times):8.2f} ms a pair, "
                f"{statistics.median(ratios):6.1f} times mrx; "
                f"peak {measure_peak(options, channels, name):6.0f} MB"
            )


if __name__ == "__main__":
    main()

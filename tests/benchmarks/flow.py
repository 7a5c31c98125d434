"""Compare the flow of mrx with other implementations, by end-point error and CPU time.

For every pair with true flow it runs mrx with each preset and backend, OpenCV's DualTVL1 and DIS,
and scikit-image's TV-L1, each with one thread, and takes the CPU time of the process. Then it times
the 256x340 pairs several times, as ratios to OpenCV's DualTVL1 in the same repetition. Packages
that are not installed are named and left out: opencv-contrib-python-headless has DualTVL1.

    python tests/benchmarks/flow.py [FOLDER] [--repeats 5] [--only NAME] [--clip CLIP]

FOLDER has a folder for each pair, with frame1.png, frame2.png and gt.flo.
"""

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from mrx import kernels
from mrx.methods.tvl1 import TVL1, TVL1_PRESETS
from mrx.methods.tvnet import TVNet

PAIRS = Path(__file__).resolve().parents[3] / "shared" / "data" / "flow"
SIZE = (256, 340)
BASE = "OpenCV DualTVL1"


def read_pair(folder):
    """Read two gray frames and their true flow."""
    frames = [cv2.imread(str(folder / f"frame{i}.png")) for i in (1, 2)]
    width, height = np.fromfile(folder / "gt.flo", np.int32, 2, offset=4)
    truth = np.fromfile(folder / "gt.flo", np.float32, offset=12).reshape(height, width, 2)
    return *(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames), truth


def crop_middle(image):
    """Crop the center of an image to the size at which ratios are measured."""
    top, left = ((side - wanted) // 2 for side, wanted in zip(image.shape, SIZE, strict=False))
    return np.ascontiguousarray(image[top : top + SIZE[0], left : left + SIZE[1]])


def read_clip(path, pairs=2):
    """Read adjacent frames of a clip, cropped to the size at which ratios are measured."""
    capture = cv2.VideoCapture(str(path))
    frames = [cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2GRAY) for _ in range(2 * pairs)]
    return {
        f"{path.stem} {i}": (*map(crop_middle, frames[2 * i : 2 * i + 2]), None)
        for i in range(pairs)
    }


def mrx_flow(module, backend):
    """Make a function that computes flow by a module of mrx with a backend."""

    def run(before, after):
        os.environ["MRX_BACKEND"] = backend
        frames = torch.from_numpy(np.stack([before, after]))[None, :, None]
        frames = frames.expand(-1, -1, 3 if module.color == "rgb" else 1, -1, -1)
        with torch.inference_mode():
            return module.extract(frames)[0].permute(1, 2, 0).numpy()

    return run


def opencv_flow(before, after):
    return cv2.optflow.DualTVL1OpticalFlow_create().calc(before, after, None)


def dis_flow(before, after):
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(before, after, None)


def skimage_flow(before, after):
    from skimage.registration import optical_flow_tvl1

    return np.stack(optical_flow_tvl1(before, after)[::-1], axis=-1)


def list_candidates():
    """List the functions to measure by name, the base of the ratios first."""
    found = {}
    if hasattr(cv2, "optflow"):
        found[BASE] = opencv_flow
    else:
        print("left out: OpenCV's DualTVL1 (opencv-contrib-python-headless is not installed)")
    for backend in ("numba", "opencv", "torch"):
        if not kernels.has_backend(backend):
            print(f"left out: backend {backend} ({backend} is not installed)")
            continue
        for preset in TVL1_PRESETS:
            found[f"{preset} {backend}"] = mrx_flow(TVL1(preset), backend)
    found["tvnet50"] = mrx_flow(TVNet(), "auto")
    found["DIS medium"] = dis_flow
    try:
        import skimage  # noqa: F401
    except ImportError:
        print("left out: scikit-image (not installed)")
    else:
        found["scikit-image"] = skimage_flow
    return found


def time_call(function, *frames):
    """Return the flow of two frames and the CPU seconds of computing it."""
    began = time.process_time()
    flow = function(*frames)
    return flow, time.process_time() - began


def measure_error(flow, truth):
    """Compute the mean end-point error where the true flow is known."""
    known = (np.abs(truth) < 1e9).all(-1)
    return float(np.linalg.norm(flow - truth, axis=-1)[known].mean())


def print_errors(pairs, functions):
    """Print the end-point errors and CPU seconds of each function."""
    print(f"\nend-point error of all known pixels, in pixels: {', '.join(pairs)}")
    print(f"{'':<22} {'mean':>6} {'CPU s':>7}  each")
    for name, function in functions.items():
        errors, seconds = [], 0.0
        for before, after, truth in pairs.values():
            flow, taken = time_call(function, before, after)
            errors.append(measure_error(flow, truth))
            seconds += taken
        each = " ".join(f"{e:.3f}" for e in errors)
        print(f"{name:<22} {np.mean(errors):6.3f} {seconds:7.2f}  {each}", flush=True)


def print_ratios(pairs, functions, repeats):
    """Print the CPU time of each function on each pair, and its ratio to the base."""
    base = BASE if BASE in functions else next(iter(functions))
    print(f"\nCPU time of a {SIZE[0]}x{SIZE[1]} pair, median of {repeats}; ratio: {base} / it")
    for pair, (before, after, _) in pairs.items():
        taken = {name: [] for name in functions}
        for _ in range(repeats):
            for name, function in functions.items():
                taken[name].append(time_call(function, before, after)[1])
        print(f"{pair}")
        for name, seconds in taken.items():
            ratios = [a / b for a, b in zip(taken[base], seconds, strict=True)]
            spread = f"{min(ratios):.1f}..{max(ratios):.1f}"
            print(
                f"  {name:<20} {statistics.median(seconds):8.4f} s  "
                f"ratio {statistics.median(ratios):6.1f} ({spread})",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=PAIRS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help="measure what has this in its name, and the base")
    parser.add_argument("--clip", type=Path, help="two more pairs for the ratios, of a video")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}; torch {torch.__version__}, opencv {cv2.__version__}, "
        f"numpy {np.__version__}"
    )
    pairs = {p.name: read_pair(p) for p in sorted(options.folder.iterdir()) if p.is_dir()}
    functions = list_candidates()
    if options.only:
        functions = {k: f for k, f in functions.items() if k == BASE or options.only in k}
    first = next(iter(pairs.values()))
    for function in functions.values():  # compiles and fills caches
        function(crop_middle(first[0])[:64, :64].copy(), crop_middle(first[1])[:64, :64].copy())
    print_errors(pairs, functions)
    large_enough = {k: p for k, p in pairs.items() if p[0].shape[0] >= SIZE[0]}
    chosen = ("mb_RubberWhale", "syn_rot2deg", "syn_fastobj")
    timed = {k: (*map(crop_middle, p[:2]), None) for k, p in large_enough.items() if k in chosen}
    if options.clip:
        timed |= read_clip(options.clip)
    print_ratios(timed, functions, options.repeats)


if __name__ == "__main__":
    main()

"""Compare the flow of mrx with other implementations, by end-point error and CPU time.

For every pair with true flow it runs mrx with each preset and backend, OpenCV's DualTVL1 and DIS,
and scikit-image's TV-L1, each with one thread, and takes the CPU time of the process. Then it times
the 256x340 pairs several times, as ratios to OpenCV's DualTVL1 in the same repetition. Packages
that are not installed are named and left out: opencv-contrib-python-headless has DualTVL1. With
--light it changes the light of the second frames instead, and prints the errors alone.

    python tests/benchmarks/flow.py [FOLDER] [--repeats 5] [--only NAME] [--clip CLIP] [--light]

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
from mrx.methods.ms import MS
from mrx.methods.tvl1 import TVL1, TVL1_PRESETS
from mrx.methods.tvnet import TVNet

PAIRS = Path(__file__).resolve().parents[3] / "shared" / "data" / "flow"
SIZE = (256, 340)
BASE = "OpenCV DualTVL1"
GROUPS = ("mb_", "syn_", "sintel_")
GAINS, OFFSETS = (1.0, 1.02, 1.04, 1.08, 1.15), (0, 1, 2, 5, 10)


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


def ms_flow(before, after):
    """Compute the displacements of `ms`, interpolated from its cells to pixels."""
    height, width = before.shape
    cells = mrx_flow(MS(), "auto")(before, after)[..., :2]
    enlarged = cv2.resize(cells, None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)
    rest = [(0, height - enlarged.shape[0]), (0, width - enlarged.shape[1]), (0, 0)]
    return np.pad(enlarged, rest, mode="edge")


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
    found["ms"] = ms_flow
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
    print(f"{'':<22} {'CPU s':>7} {'mean':>6} {' '.join(f'{group:>7}' for group in GROUPS)}  each")
    for name, function in functions.items():
        errors, seconds = measure_errors(pairs, function)
        groups = " ".join(f"{mean_of_group(errors, group):7.3f}" for group in GROUPS)
        each = " ".join(f"{error:.3f}" for error in errors.values())
        mean = np.mean(list(errors.values()))
        print(f"{name:<22} {seconds:7.2f} {mean:6.3f} {groups}  {each}", flush=True)


def measure_errors(pairs, function):
    """Return the end-point error of each pair, and the CPU seconds of all."""
    errors, seconds = {}, 0.0
    for name, (before, after, truth) in pairs.items():
        flow, taken = time_call(function, before, after)
        errors[name] = measure_error(flow, truth)
        seconds += taken
    return errors, seconds


def mean_of_group(errors, prefix):
    """Compute the mean error of the pairs whose names begin so; NaN if there are none."""
    found = [error for name, error in errors.items() if name.startswith(prefix)]
    return float(np.mean(found)) if found else float("nan")


def list_lights():
    """List changes of light: a gain, which may vary over the frame, and an offset."""
    across = np.linspace(0, 1, 1024)
    named = {f"gain {g} offset {o}": (np.full(1024, g), o) for g in GAINS for o in OFFSETS}
    named["ramp to 1.15"] = (1 + 0.15 * across, 0)
    named["half at 1.15"] = (np.where(across < 0.5, 1, 1.15), 0)
    return named


def change_light(frame, gain, offset):
    places = np.linspace(0, len(gain) - 1, frame.shape[1]).round().astype(int)
    return np.clip(frame * gain[places] + offset, 0, 255).round().astype(np.uint8)


def print_errors_by_light(pairs):
    """Print the errors of the groups in each light, of presets and of ways to match light."""
    functions = {
        "matched": mrx_flow(TVL1(), "auto"),
        "accurate": mrx_flow(TVL1("accurate"), "auto"),
        "fast": mrx_flow(TVL1("fast"), "auto"),
        "light=frame": mrx_flow(TVL1("accurate", light="frame"), "auto"),
        "light=none": mrx_flow(TVL1("accurate", light="none"), "auto"),
        "texture=0.95": mrx_flow(TVL1("accurate", light="none", texture=0.95), "auto"),
        "DIS medium": dis_flow,
    }
    print(f"\nend-point error by light, mean of {' / '.join(GROUPS)}")
    print(f"{'':<20} {' '.join(f'{name:>18}' for name in functions)}")
    for light, (gain, offset) in list_lights().items():
        changed = {
            name: (before, change_light(after, gain, offset), truth)
            for name, (before, after, truth) in pairs.items()
        }
        cells = []
        for function in functions.values():
            errors = measure_errors(changed, function)[0]
            cells.append(" / ".join(f"{mean_of_group(errors, group):.3f}" for group in GROUPS))
        print(f"{light:<20} {' '.join(f'{cell:>18}' for cell in cells)}", flush=True)


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
    parser.add_argument("--light", action="store_true", help="errors in changed light instead")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}; torch {torch.__version__}, opencv {cv2.__version__}, "
        f"numpy {np.__version__}"
    )
    pairs = {p.name: read_pair(p) for p in sorted(options.folder.iterdir()) if p.is_dir()}
    if options.light:
        print_errors_by_light(pairs)
        return
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

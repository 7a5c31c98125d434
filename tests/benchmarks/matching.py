"""Compare the displacements of `ms` with optical flow: error, use of the confidence, CPU time.

Photographs of scikit-image are shifted by whole and fractional pixels, turned and zoomed; one moves
in front of another; and FOLDER has pairs with true flow. The flow of every method is compared with
the truth as means over cells of 8x8 pixels, away from the border and where the target is in the
frame. The design of `ms` was chosen on all sets except the fresh ones. Other motions of the fresh
pictures had shown that noise must not count as texture and that repeated patterns need other
starting points; these were then chosen on the further pictures. Each method has one thread, and
times are CPU times of the process.

    python tests/benchmarks/matching.py [FOLDER] [--repeats 5] [--only NAME]

FOLDER has a folder for each pair, with frame1.png, frame2.png and gt.flo. Needs scikit-image.
"""

import argparse
import itertools
import os
import platform
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import torch

from mrx.methods.ms import MS
from mrx.methods.tvl1 import TVL1

PAIRS = Path(__file__).resolve().parents[3] / "shared" / "data" / "flow"
PICTURES = ("astronaut", "coffee", "chelsea", "camera")
SIDE, CROP, CELL = 400, 224, 8
BORDER = 2  # cells at the border that are left out
LARGE = {
    "shift 8,0": (0, 1, 8, 0),
    "shift 16,-8": (0, 1, 16, -8),
    "shift -24,32": (0, 1, -24, 32),
    "shift 12.5,-6.3": (0, 1, 12.5, -6.3),
    "turn 6": (6, 1, 0, 0),
    "zoom 1.1": (0, 1.1, 0, 0),
    "turn -4 zoom 0.95": (-4, 0.95, 6, 3),
}
OTHER = {
    "shift -10.3,5.7": (0, 1, -10.3, 5.7),
    "shift 21,17.5": (0, 1, 21, 17.5),
    "shift 33.4,-15.2": (0, 1, 33.4, -15.2),
    "turn 9": (9, 1, 4, -7),
    "zoom 0.88": (0, 0.88, -9, 3),
    "zoom 1.2 turn -5": (-5, 1.2, 0, 12),
}
SMALL = {
    "shift 3,-2": (0, 1, 3, -2),
    "shift 4,4": (0, 1, 4, 4),
    "shift 0.6,-1.3": (0, 1, 0.6, -1.3),
    "turn 1": (1, 1, 0, 0),
    "zoom 1.02": (0, 1.02, 0, 0),
}
OBJECTS = {
    "object 24,10": ((24, 10), (-6, 3)),
    "object -14,-20": ((-14, -20), (0, 0)),
    "object 36,-9": ((36, -9), (10, 4)),
}
"""Shifts of a disc of another picture, and of the picture behind it."""
FRESH = ("rocket", "coins", "immunohistochemistry", "brick", "gravel", "clock", "page", "retina")
FURTHER = ("moon", "hubble_deep_field", "text", "cell", "grass", "horse", "microaneurysms")
REAL = ("mb_", "sintel_")
"""Prefixes of the scenes whose confidence is evaluated."""

SIZES = (0, 1, 4, 8, 16, 40, 1000)
"""Limits of the length classes of true motion, in pixels."""


def load_photograph(name):
    image = getattr(skimage.data, name)()
    image = 255 * image.astype(np.uint8) if image.dtype == bool else image
    image = image if image.ndim == 3 else np.repeat(image[..., None], 3, -1)
    scale = SIDE / min(image.shape[:2])
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def move_picture(image, turn, zoom, dx, dy):
    """Move a picture about its center; return it and the affine map (2, 3) used."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -turn, zoom)
    matrix[:, 2] += dx, dy
    moved = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    return moved, matrix


def crop_middle(image):
    top, left = ((side - CROP) // 2 for side in image.shape[:2])
    return image[top : top + CROP, left : left + CROP]


def add_noise(image, random):
    return np.clip(image + random.normal(0, 2, image.shape), 0, 255).round().astype(np.uint8)


def affine_pair(name, motion, random):
    first = load_photograph(name)
    second, matrix = move_picture(first, *motion)
    y, x = np.mgrid[: first.shape[0], : first.shape[1]].astype(float)
    there = np.stack([x, y, np.ones_like(x)], -1) @ matrix.T
    truth = there - np.stack([x, y], -1)
    return (
        add_noise(crop_middle(first), random),
        add_noise(crop_middle(second), random),
        crop_middle(truth),
    )


def object_pair(names, motions, random):
    """Make a pair in which a disc of one picture moves in front of another moving picture."""
    behind, front = (load_photograph(name) for name in names)
    front = cv2.resize(front, behind.shape[1::-1])
    (dx, dy), (back_dx, back_dy) = motions
    y, x = np.mgrid[: behind.shape[0], : behind.shape[1]].astype(float)
    middle_x, middle_y = behind.shape[1] / 2 - dx / 2, behind.shape[0] / 2 - dy / 2
    disc = (x - middle_x) ** 2 + (y - middle_y) ** 2 < 40**2
    later = (x - middle_x - dx) ** 2 + (y - middle_y - dy) ** 2 < 40**2
    first = np.where(disc[..., None], front, behind)
    second = np.where(
        later[..., None],
        move_picture(front, 0, 1, dx, dy)[0],
        move_picture(behind, 0, 1, back_dx, back_dy)[0],
    )
    truth = np.where(disc[..., None], (dx, dy), (back_dx, back_dy)).astype(float)
    return (
        add_noise(crop_middle(first), random),
        add_noise(crop_middle(second), random),
        crop_middle(truth),
    )


def made_pairs(motions):
    random = np.random.default_rng(0)
    return {f"{p} {m}": affine_pair(p, motions[m], random) for m in motions for p in PICTURES}


def drawn_pairs(pictures, seed, count=4):
    """Make `count` pairs of each picture, with random motions."""
    random = np.random.default_rng(seed)
    found = {}
    for picture in pictures:
        for i in range(count):
            turn, zoom = random.uniform(-8, 8), random.uniform(0.9, 1.1)
            angle, length = random.uniform(0, 2 * np.pi), random.uniform(8, 40)
            motion = (0, 1) if i % 2 else (turn, zoom)
            shift = length * np.cos(angle), length * np.sin(angle)
            found[f"{picture} {i}"] = affine_pair(picture, (*motion, *shift), random)
    return found


def drawn_object_pairs(pictures, seed):
    random = np.random.default_rng(seed)
    found = {}
    for couple in zip(pictures, (*pictures[1:], pictures[0]), strict=True):
        angle, length = random.uniform(0, 2 * np.pi), random.uniform(12, 40)
        front = length * np.cos(angle), length * np.sin(angle)
        found[couple[0]] = object_pair(couple, (front, random.uniform(-8, 8, 2)), random)
    return found


def object_pairs():
    random = np.random.default_rng(1)
    couples = zip(PICTURES, (*PICTURES[1:], PICTURES[0]), strict=True)
    return {
        f"{a} {m}": object_pair((a, b), OBJECTS[m], random) for a, b in couples for m in OBJECTS
    }


def read_pair(folder):
    frames = [cv2.imread(str(folder / f"frame{i}.png"))[..., ::-1].copy() for i in (1, 2)]
    width, height = np.fromfile(folder / "gt.flo", np.int32, 2, offset=4)
    truth = np.fromfile(folder / "gt.flo", np.float32, offset=12).reshape(height, width, 2)
    return *frames, np.where((np.abs(truth) < 1e9).all(-1, keepdims=True), truth, np.nan)


def in_cells(planes, cell=CELL):
    """Compute the means over cells of planes (H, W, C), from the top left."""
    height, width = (side // cell * cell for side in planes.shape[:2])
    blocks = planes[:height, :width].reshape(height // cell, cell, width // cell, cell, -1)
    return blocks.mean((1, 3))


def in_cell(flow, truth):
    """Compute the number of flow values along each axis of a cell of the truth."""
    return CELL // round(truth.shape[0] / flow.shape[0])


def measure_errors(flow, truth):
    """Compute the end-point errors of cells, NaN for those left out; flow per cell or pixel."""
    known = in_cells(truth.astype(float))
    found = in_cells(flow, in_cell(flow, truth))[: len(known), : len(known[0])]
    y, x = np.mgrid[: known.shape[0], : known.shape[1]] * CELL + (CELL - 1) / 2
    there = np.stack([x, y], -1) + known
    inside = ((there >= 0) & (there < np.array(truth.shape[1::-1]) - 1)).all(-1)
    inside[:BORDER] = inside[-BORDER:] = inside[:, :BORDER] = inside[:, -BORDER:] = False
    return np.where(inside, np.linalg.norm(found - known, axis=-1), np.nan)


def convert_to_gray(image):
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def mrx_flow(module):
    def run(before, after):
        frames = np.stack([before, after])
        if module.color == "gray":
            frames = np.stack([convert_to_gray(before), convert_to_gray(after)])[..., None]
        clip = torch.from_numpy(frames).permute(0, 3, 1, 2)[None]
        with torch.inference_mode():
            return module.extract(clip)[0].permute(1, 2, 0).numpy().astype(float)

    return run


def dis_flow(before, after):
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return dis.calc(convert_to_gray(before), convert_to_gray(after), None).astype(float)


def no_flow(before, after):
    return np.zeros((*before.shape[:2], 2))


def list_candidates():
    return {
        "DIS medium": dis_flow,
        "no motion": no_flow,
        "tvl1": mrx_flow(TVL1()),
        "ms paper": mrx_flow(MS("paper")),
        "ms": mrx_flow(MS()),
    }


def time_call(function, *frames):
    began = time.process_time()
    flow = function(*frames)
    return flow, time.process_time() - began


def measure_methods(sets, functions):
    """Compute the maps, the errors of the cells and the seconds of each method and pair."""
    found = {}
    for name, function in functions.items():
        for group, pairs in sets.items():
            for pair, (before, after, truth) in pairs.items():
                maps, taken = time_call(function, before, after)
                found[name, group, pair] = maps, measure_errors(maps[..., :2], truth), taken
    return found


def print_errors(sets, functions, found):
    print("\nend-point error in pixels, mean over pairs, and % of cells within 1 px")
    print(f"{'':<12}" + "".join(f"{name:>19}" for name in sets) + f"{'CPU s':>8}")
    for name in functions:
        line, seconds = "", 0.0
        for group, pairs in sets.items():
            each = [found[name, group, pair][1] for pair in pairs]
            near = [(e[~np.isnan(e)] < 1).mean() for e in each]
            line += f"{np.mean([np.nanmean(e) for e in each]):12.3f} {100 * np.mean(near):6.1f}"
            seconds += sum(found[name, group, pair][2] for pair in pairs)
        print(f"{name:<12}{line}{seconds:8.1f}")


def print_sizes(sets, functions, found):
    print("\nend-point error by the length of the true motion of the cell, in pixels")
    bounds = list(itertools.pairwise(SIZES))
    print(f"{'':<24}" + "".join(f"{f'{a} to {b}':>11}" for a, b in bounds))
    for group, pairs in sets.items():
        lengths = [np.linalg.norm(in_cells(truth), axis=-1).ravel() for *_, truth in pairs.values()]
        length = np.concatenate(lengths)
        for name in functions:
            error = np.concatenate([found[name, group, pair][1].ravel() for pair in pairs])
            counted = ~np.isnan(error)
            line = ""
            for a, b in bounds:
                chosen = error[counted & (length >= a) & (length < b)]
                line += f"{chosen.mean():11.3f}" if len(chosen) > 50 else f"{'-':>11}"
            print(f"{group:<12}{name:<12}{line}")


def print_pairs(group, pairs, functions, found):
    print("\nend-point error of each pair, in pixels")
    width = max(map(len, pairs))
    print(" " * width + "".join(f"{name:>12}" for name in functions))
    for pair in pairs:
        means = [np.nanmean(found[name, group, pair][1]) for name in functions]
        print(f"{pair:<{width}}" + "".join(f"{mean:12.3f}" for mean in means))


def print_confidence(group, pairs, functions, found):
    print("\nerror of the most confident half of the cells, of the other half, and their ratio")
    for name in (name for name in functions if name.startswith("ms")):
        for pair in (pair for pair in pairs if pair.startswith(REAL)):
            maps, error, _ = found[name, group, pair]
            trust = in_cells(maps[..., 2:], in_cell(maps, pairs[pair][2]))[..., 0]
            counted = ~np.isnan(error)
            ranked = error[counted][np.argsort(-trust[counted], kind="stable")]
            best, rest = ranked[: len(ranked) // 2].mean(), ranked[len(ranked) // 2 :].mean()
            print(f"{name:<10} {pair:<22} {best:7.3f} {rest:7.3f} {best / rest:6.2f}")


def print_ratios(frames, functions, repeats):
    print(f"\nCPU time of a 256x340 pair, median of {repeats}; ratio: it / DIS medium")
    taken = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            taken[name].append(time_call(function, *frames)[1])
    for name, seconds in taken.items():
        ratios = [b / a for a, b in zip(taken["DIS medium"], seconds, strict=True)]
        print(
            f"{name:<12} {1000 * statistics.median(seconds):8.1f} ms "
            f"{statistics.median(ratios):7.1f} ({min(ratios):.1f}..{max(ratios):.1f})"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=PAIRS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help="measure what has this in its name, and DIS")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}; torch {torch.__version__}, opencv {cv2.__version__}, "
        f"numpy {np.__version__}"
    )
    functions = list_candidates()
    if options.only:
        functions = {k: f for k, f in functions.items() if k == "DIS medium" or options.only in k}
    real = {p.name: read_pair(p) for p in sorted(options.folder.iterdir()) if p.is_dir()}
    made = {"large": LARGE, "more large": OTHER, "small": SMALL}
    sets = {name: made_pairs(motions) for name, motions in made.items()}
    sets |= {"objects": object_pairs(), "folder": real}
    for name, pictures, seed in (("further", FURTHER, 77), ("fresh", FRESH, 2028)):
        sets[name] = drawn_pairs(pictures, seed)
        sets[f"{name} objects"] = drawn_object_pairs(pictures, seed + 1)
    mrx_flow(TVL1())(*next(iter(real.values()))[:2])  # compiles
    found = measure_methods(sets, functions)
    print_errors(sets, functions, found)
    print_sizes(sets, functions, found)
    print_pairs("folder", real, functions, found)
    print_confidence("folder", real, functions, found)
    print_ratios(
        [f[60:316, 100:440].copy() for f in real["mb_RubberWhale"][:2]], functions, options.repeats
    )


if __name__ == "__main__":
    main()

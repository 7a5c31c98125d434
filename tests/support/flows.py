"""Provide pairs of frames with known flow: generated ones, golden vectors and ../shared."""

import numpy as np
import pytest
import torch

from support.places import GOLDEN, SHARED

PAIRS = {
    "mb_Grove2": 0.322,
    "mb_RubberWhale": 0.229,
    "mb_Urban2": 0.653,
    "mb_Venus": 0.383,
    "sintel_clean_easy": 0.335,
    "sintel_final_medium": 1.936,
    "syn_brightness": 0.109,
    "syn_fastobj": 0.250,
    "syn_large18px": 0.431,
    "syn_rot2deg": 0.118,
    "syn_shear": 0.124,
    "syn_smallobj": 0.082,
    "syn_trans_subpix": 0.102,
}
"""The pairs in ../shared/data/flow, each with the end-point error of OpenCV's DIS (medium)."""


def load_golden_arrays(name):
    """Load a golden vector from the repository, or from ../shared if it may not be published."""
    for folder in (GOLDEN, SHARED / "golden"):
        if (folder / f"{name}.npz").is_file():
            with np.load(folder / f"{name}.npz") as file:
                return dict(file)
    pytest.skip(f"../shared/golden/{name}.npz is missing")


def load_pair(name):
    """Load two gray frames, as cv2 reads them, and their true flow (H, W, 2)."""
    import cv2

    folder = SHARED / "data" / "flow" / name
    if not folder.is_dir():
        pytest.skip(f"../shared/data/flow/{name} is missing")
    frames = [cv2.imread(str(folder / f"frame{i}.png")) for i in (1, 2)]
    frames = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames]
    width, height = np.fromfile(folder / "gt.flo", np.int32, 2, offset=4)
    return *frames, np.fromfile(folder / "gt.flo", np.float32, offset=12).reshape(height, width, 2)


def make_texture(height, width, *, dx=0.0, dy=0.0, seed=0):
    """Make a smooth picture (H, W) in 0..255, moved by exactly (dx, dy), also by subpixels."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(float)
    total = np.zeros((height, width))
    for _ in range(24):
        a, b = random.uniform(-0.6, 0.6, 2)
        total += np.cos(a * (x - dx) + b * (y - dy) + random.uniform(0, 6.3))
    return np.clip(127.5 + 18 * total, 0, 255).round().astype(np.uint8)


def change_light(frame, light):
    """Brighten a frame by its ``gain``, in a ``ramp`` from left to right, or in its right half."""
    across = np.linspace(0, 1, frame.shape[1])
    gain, offset = {
        "gain 1.15": (1.15, 0),
        "gain 1.15 offset 10": (1.15, 10),
        "ramp": (1 + 0.15 * across, 0),
        "half": (np.where(across < 0.5, 1, 1.15), 0),
    }[light]
    return np.clip(frame * gain + offset, 0, 255).round().astype(np.uint8)


def stack_window(*frames):
    """Stack gray frames (H, W) into one window (1, T, 1, H, W)."""
    return torch.from_numpy(np.stack(frames))[None, :, None]


def flow_to_planes(flow):
    """Convert a flow (1, 2, H, W) to (H, W, 2) for comparison with golden vectors."""
    return flow[0].permute(1, 2, 0).numpy()


def measure_error(flow, truth):
    """Compute the mean end-point error where the true flow is known; both are (H, W, 2)."""
    known = (np.abs(truth) < 1e9).all(-1)
    return float(np.linalg.norm(flow - truth, axis=-1)[known].mean())

"""Compute TV-L1 by its formulas in float64 with numpy, and make random fields to test it on."""

import numpy as np
import torch

from mrx.kernels.tvl1_launch import DataTerm, FlowState, StepConstants

NUMBERS = StepConstants(0.15 * 0.3, 0.3, 0.25 / 0.3)


def smooth_noise(rng, *shape):
    """Draw normal noise of a shape, and smooth it along its last two axes."""
    values = rng.normal(size=shape)
    for _ in range(2):
        for axis in (-1, -2):
            values = (values + np.roll(values, 1, axis) + np.roll(values, -1, axis)) / 3
    return values


def random_fields(b, h, w, *, seed=0):
    """Draw a state and a data term whose gradient is zero in one corner."""
    rng = np.random.default_rng(seed)
    state = FlowState(smooth_noise(rng, b, 2, h, w) * 4, smooth_noise(rng, b, 2, 2, h, w))
    gradient = smooth_noise(rng, b, 2, h, w) * 40
    gradient[..., :3, :5] = 0
    return state, DataTerm(gradient, smooth_noise(rng, b, 1, h, w) * 30)


def guard_planes(values, dtype=torch.float32, *, align=16):
    """Copy values into planes with NaN before them, after them and after each row."""
    *outer, h, w = values.shape
    pitch = -(-w // align) * align
    size = int(np.prod(outer)) * h * pitch
    whole = torch.full((size + 2048,), float("nan"), dtype=dtype)
    field = whole[1024 : 1024 + size].view(*outer, h, pitch)[..., :w]
    field.copy_(torch.as_tensor(values))
    return field


def make_poisoned(field):
    """Make guarded planes of the same shape and type, filled with NaN."""
    return guard_planes(np.full(field.shape, np.nan), field.dtype)


def assert_nothing_else_written(field):
    """Assert that every NaN between and around the planes is unchanged."""
    whole = torch.empty(0, dtype=field.dtype).set_(field.untyped_storage())
    assert int((~whole.isnan()).sum()) == field.numel()


def relative_error(found, expected):
    """Divide the norm of the error by the norm of the expected values."""
    return np.linalg.norm(found.double().numpy() - expected) / np.linalg.norm(expected)


def run_step(state, term, numbers=NUMBERS):
    """Run one iteration; return the new state and the squared change of each pair."""
    flow, dual = state
    bound, theta, rate, guard = numbers
    square = (term.gradient**2).sum(1, keepdims=True)
    residual = term.rest + (term.gradient * flow).sum(1, keepdims=True)
    flat = square <= guard
    share = np.where(flat, 0, -residual / np.where(flat, 1, square)).clip(-bound, bound)
    across, down = dual[:, :, 0], dual[:, :, 1]
    left, above = np.zeros_like(across), np.zeros_like(down)
    left[..., 1:], above[..., 1:, :] = across[..., :-1], down[..., :-1, :]
    new = flow + share * term.gradient + theta * (across - left + down - above)
    slope = np.zeros_like(dual)
    slope[:, :, 0, :, :-1] = np.diff(new, axis=-1)
    slope[:, :, 1, :-1] = np.diff(new, axis=-2)
    length = np.sqrt((slope**2).sum(2, keepdims=True))
    dual = (dual + rate * slope) / (1 + rate * length)
    return FlowState(new, dual), ((new - flow) ** 2).sum((1, 2, 3))


def run_steps(state, term, times, numbers=NUMBERS):
    """Run a number of iterations; return the last state and the change of the last one."""
    for _ in range(times):
        state, change = run_step(state, term, numbers)
    return state, change


def compute_gradient(image, kind):
    """Compute the gradient (..., 2, H, W) of images (..., H, W), with the edge repeated."""
    reach, taps = (1, [-0.5, 0.5]) if kind == "central" else (2, [1 / 12, -8 / 12, 8 / 12, -1 / 12])
    places = [i for i in range(-reach, reach + 1) if i]
    h, w = image.shape[-2:]
    x, y = np.arange(w), np.arange(h)
    pairs = list(zip(places, taps, strict=True))
    across = sum(a * image[..., (x + i).clip(0, w - 1)] for i, a in pairs)
    down = sum(a * image[..., (y + i).clip(0, h - 1), :] for i, a in pairs)
    return np.stack([across, down], axis=-3)


def cubic_weight(distance, a):
    """Compute the weights of Keys' cubic convolution at these distances."""
    d = abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def sample_plane(plane, x, y, a, border):
    """Sample a plane at the positions x and y by 16 taps; all three have the same shape."""
    h, w = plane.shape
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    total = np.zeros_like(plane)
    for j in range(-1, 3):
        for i in range(-1, 3):
            column, row = left + i, top + j
            tap = plane[row.clip(0, h - 1), column.clip(0, w - 1)]
            if border == "zero":
                tap = tap * ((column >= 0) & (column < w) & (row >= 0) & (row < h))
            total += cubic_weight(x - column, a) * cubic_weight(y - row, a) * tap
    return total


def linearize(before, after, flow, rules):
    """Compute the data term of two images (B, 1, H, W), linearized at a flow."""
    kind = rules.gradient
    b, _, h, w = before.shape
    x, y = np.arange(w) + flow[:, 0], np.arange(h)[:, None] + flow[:, 1]
    planes = np.concatenate([after, compute_gradient(after[:, 0], kind)], axis=1)
    warped = np.stack(
        [
            [sample_plane(plane, x[i], y[i], rules.cubic, rules.border) for plane in planes[i]]
            for i in range(b)
        ]
    )
    slope = warped[:, 1:]
    if kind == "mixed":
        slope = (slope + compute_gradient(before[:, 0], kind)) / 2
    if rules.masked:
        slope = slope * ((x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1))[:, None]
    return DataTerm(slope, warped[:, :1] - (slope * flow).sum(1, keepdims=True) - before)


def filter_median(field, side):
    """Filter each plane by a median of this side, with the edge repeated."""
    half = side // 2
    padded = np.pad(field, [(0, 0), (0, 0), (half, half), (half, half)], mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))
    return np.median(windows, axis=(-1, -2))


def solve_warp(before, after, state, rules):
    """Linearize one pair once and iterate; return the state and the number of iterations."""
    flow, dual = state
    if rules.median_at == "warp":
        flow = filter_median(flow, rules.median)
    term = linearize(before, after, flow, rules)
    numbers = StepConstants(rules.strength * rules.theta, rules.theta, rules.tau / rules.theta)
    limit = rules.epsilon**2 * flow[0, 0].size
    for i in range(rules.outer):
        if rules.median_at == "round":
            flow = filter_median(flow, rules.median)
        for j in range(rules.inner):
            (flow, dual), change = run_step(FlowState(flow, dual), term, numbers)
            if rules.epsilon and change <= limit:
                return FlowState(flow, dual), i * rules.inner + j + 1
    return FlowState(flow, dual), rules.outer * rules.inner

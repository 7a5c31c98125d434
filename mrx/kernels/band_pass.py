"""The motion band-pass of MBPM from the decoder's bytes, on the CPU: rows for numba, or OpenCV.

It serves weights in their untrained form, which is separable: per color
``gain * sum_ij (a_i g_j + g_i a_j) * (2 f1 - f0 - f2)``, reflected at the border. The temporal
difference is one of bytes, so it is exact, and a still scene gives exactly 0.

The rows are plain functions of flat arrays of interleaved R, G, B values. At 256x340 they take
0.22 ms a window, where the same sums over whole rows take 0.37 ms, because:

- the horizontal pass goes first: it needs shifted loads, and one set of them gives both its sums;
- the vertical pass makes two rows of a strip of `_STRIP` values at once: its ten input rows stay
  in the first-level cache, at distances that the compiler knows;
- positions are unsigned and rows are not sliced: a signed index is tested for wrapping around, a
  slice counts references, and together they cost as much as the arithmetic.
"""

import functools
import threading
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrx.errors import ShapeError
from mrx.kernels import Backend, compile_function
from mrx.kernels.array_types import Floats

RADIUS = 4
"""Radius of the 9 taps of the numba rows; a smaller kernel runs with zeros around it."""

HalfTaps = tuple[np.float32, np.float32, np.float32, np.float32, np.float32]
ScratchArrays = tuple[NDArray[np.int16], Floats, Floats, Floats]

_thread_scratch = threading.local()

_STRIP = 384
_RING_BLOCK_ROWS = 32
_STRIP_SIZE = 2 * _STRIP * (_RING_BLOCK_ROWS + 2 * RADIUS + 2)
# Distances in the ring between ten rows of both sums, as constants for the compiler: a row of
# a-sums, then the same row of g-sums, and so on.
_A1, _A2, _A3, _A4, _A5, _A6, _A7, _A8, _A9 = (np.uintp(i * 2 * _STRIP) for i in range(1, 10))
_G0, _G1, _G2, _G3, _G4, _G5, _G6, _G7, _G8, _G9 = (
    np.uintp((2 * i + 1) * _STRIP) for i in range(10)
)
_NUM_COLORS, _SUM_OFFSET = np.uintp(3), np.uintp(_STRIP)
_ONE, _TWO, _HALO = np.uintp(1), np.uintp(2), np.uintp(3 * RADIUS)


def band_pass(
    frames: Tensor, first: Tensor, second: Tensor, gain: Tensor, *, backend: Backend
) -> Tensor:
    """Filter windows of three frames by the two factors of a separable LoG.

    Args:
        frames: windows as the decoder stores them; other layouts are copied
        first: ``(k,)`` float64, the taps a of the formula
        second: ``(k,)`` float64, the taps g of the formula
        gain: ``(3,)`` float64, for the red, green and blue outputs
        backend: ``numba`` or ``opencv``

    Shape:
        - frames: ``(B, 3, 3, H, W)`` uint8, channels last in memory
        - output: ``(B, 3, H, W)`` float32
    """
    b, _, _, h, w = frames.shape
    if min(h, w) <= len(first) // 2:
        least = len(first) // 2 + 1
        raise ShapeError(
            f"frames ({w}x{h} pixels): too small to reflect for a kernel of {len(first)} taps. "
            f"Use frames of at least {least}x{least} pixels"
        )
    images = frames.permute(0, 1, 3, 4, 2).contiguous().numpy()
    out = torch.empty((b, 3, h, w))
    if backend == "numba" and len(first) <= 2 * RADIUS + 1:
        gains = tuple(np.float32(value) for value in gain.tolist())
        _run_band_pass(
            _compile_band_pass(),
            images,
            (_pad_half_taps(first), _pad_half_taps(second)),
            gains,
            out,
        )
    else:
        for window, image in zip(images, out, strict=True):
            image.copy_(_filter_window_by_opencv(window, first, second, gain))
    return out


def filter_colors_by_opencv(image: Tensor, weight: Tensor) -> Tensor:
    """Filter each color with its own kernel by OpenCV, reflected at the border.

    Shape:
        - image: ``(B, 3, H, W)`` float32
        - weight: ``(3, 1, k, k)`` float32
        - output: ``(B, 3, H, W)`` float32
    """
    import cv2

    out = torch.empty(image.shape)
    kernels = weight.detach().numpy()[:, 0]
    planes = image.detach().contiguous().numpy()
    for source, target in zip(planes, out.numpy(), strict=True):
        for plane, kernel, result in zip(source, kernels, target, strict=True):
            cv2.filter2D(plane, cv2.CV_32F, kernel, dst=result, borderType=cv2.BORDER_REFLECT_101)
    return out


def _filter_window_by_opencv(
    images: NDArray[np.uint8], first: Tensor, second: Tensor, gain: Tensor
) -> Tensor:
    """Filter one window ``(3, H, W, 3)`` by two separable filters, to ``(3, H, W)``."""
    import cv2

    # Bytes as int16: 2 * now - before - after lies in -510..510.
    before, now, after = images.astype(np.int16)
    difference = 2 * now - before - after
    a, g = first.numpy().astype(np.float32), second.numpy().astype(np.float32)
    border = cv2.BORDER_REFLECT_101
    both = cv2.sepFilter2D(difference, cv2.CV_32F, a, g, borderType=border)
    cv2.add(both, cv2.sepFilter2D(difference, cv2.CV_32F, g, a, borderType=border), dst=both)
    return (torch.from_numpy(both) * gain.float()).permute(2, 0, 1)


def _pad_half_taps(factor: Tensor) -> HalfTaps:
    """Return one half of a symmetric factor, outermost first, padded with zeros to 9 taps."""
    # 5 taps (c, d, e, d, c) -> (0, 0, c, d, e)
    half = factor[: len(factor) // 2 + 1].tolist()
    padded = [0.0] * (RADIUS + 1 - len(half)) + half
    a, b, c, d, e = (np.float32(value) for value in padded)
    return a, b, c, d, e


def _run_band_pass(
    compiled: Callable[..., None],
    images: NDArray[np.uint8],
    sums: tuple[HalfTaps, HalfTaps],
    gains: tuple[np.float32, ...],
    out: Tensor,
) -> None:
    """Call the rows with flat arrays and their scratch memory."""
    b, _, h, w, _ = images.shape
    flat = images.reshape(b, 3, 3 * h * w)
    planes = out.numpy().reshape(b, 3 * h * w)
    compiled(flat, w, *sums, gains, planes, *_prepare_scratch(w))


def _prepare_scratch(width: int) -> ScratchArrays:
    """Return a difference, a row, the ring and a pair of rows, kept per thread for later frames."""
    if getattr(_thread_scratch, "width", None) != width:
        strips = -(-3 * width // _STRIP)
        sizes = (strips * _STRIP + 128, strips * _STRIP_SIZE, 1024)
        # torch aligns its memory to cache lines.
        row, ring, pair = (torch.zeros(n).numpy() for n in sizes)
        _thread_scratch.width = width
        _thread_scratch.arrays = (np.empty(3 * width, np.int16), row, ring, pair)
    return _thread_scratch.arrays


@functools.cache
def _compile_band_pass() -> Callable[..., None]:
    parts = (
        _subtract_frames,
        _mirror_edges,
        _copy_values,
        _sum_across,
        _sum_down,
        _write_planes,
        _fill_ring,
        _drain_ring,
    )
    return compile_function(
        _filter_windows, *parts, warm_up=warm_up_band_pass, compiler_name="_compile_band_pass"
    )


def warm_up_band_pass(compiled: Callable[..., None] | None = None) -> None:
    """Compile the rows or load them from the cache, as the first call of `band_pass` does."""
    taps = _pad_half_taps(torch.ones(9))
    images = np.zeros((1, 3, 5, 5, 3), np.uint8)
    _run_band_pass(
        compiled or _compile_band_pass(), images, (taps, taps), taps[:3], torch.empty(1, 3, 5, 5)
    )


def _filter_windows(
    frames: NDArray[np.uint8],
    width: int,
    a: HalfTaps,
    g: HalfTaps,
    gains: tuple[np.float32, np.float32, np.float32],
    out: Floats,
    difference: NDArray[np.int16],
    row: Floats,
    ring: Floats,
    pair: Floats,
) -> None:
    """Filter each window, `_RING_BLOCK_ROWS` rows at a time."""
    height = frames.shape[2] // (3 * width)
    for i in range(frames.shape[0]):
        for top in range(0, height, _RING_BLOCK_ROWS):
            bottom = min(top + _RING_BLOCK_ROWS, height)
            _fill_ring(frames[i], width, height, top, bottom, a, g, difference, row, ring)
            _drain_ring(ring, width, height, top, bottom, a, g, gains, out[i], pair)


def _fill_ring(
    frames: NDArray[np.uint8],
    width: int,
    height: int,
    top: int,
    bottom: int,
    a: HalfTaps,
    g: HalfTaps,
    difference: NDArray[np.int16],
    row: Floats,
    ring: Floats,
) -> None:
    """Write the horizontal sums of the rows that a block needs to the ring."""
    values = 3 * width
    # The last 8 rows of the block above are the first 8 of this one: move them up in each strip.
    num_known = 0 if top == 0 else 2 * RADIUS
    before, now, after = frames[0], frames[1], frames[2]
    for start in range(0, len(ring), _STRIP_SIZE):
        below = np.uintp(start + 2 * _STRIP * _RING_BLOCK_ROWS)
        _copy_values(ring, below, np.uintp(start), np.uintp(2 * _STRIP * num_known))
    for j in range(num_known, bottom - top + 2 * RADIUS):
        # Reflect at the top and the bottom. Fewer than 5 rows come with a kernel of fewer taps, and
        # rows that its zeros weigh may be any.
        y = abs(top + j - RADIUS)
        if y >= height:
            y = max(2 * (height - 1) - y, 0)
        _subtract_frames(
            before, now, after, np.uintp(y * values), difference, row, np.uintp(values)
        )
        _mirror_edges(row, width)
        for s in range(len(ring) // _STRIP_SIZE):
            # Whole vectors of 16 values: the row and the ring have room for them past the end.
            n = min(_STRIP, (values - s * _STRIP + 15) // 16 * 16)
            offset = s * _STRIP_SIZE + 2 * _STRIP * j
            _sum_across(row, np.uintp(s * _STRIP), a, g, ring, np.uintp(offset), np.uintp(n))


def _drain_ring(
    ring: Floats,
    width: int,
    height: int,
    top: int,
    bottom: int,
    a: HalfTaps,
    g: HalfTaps,
    gains: tuple[np.float32, np.float32, np.float32],
    out: Floats,
    pair: Floats,
) -> None:
    """Sum a block's rows vertically, two at a time, and write their colors to planes."""
    plane = np.uintp(height * width)
    for s in range(len(ring) // _STRIP_SIZE):
        left = s * (_STRIP // 3)
        n = min(_STRIP // 3, width - left)
        for y in range(top, bottom, 2):
            offset = s * _STRIP_SIZE + 2 * _STRIP * (y - top)
            _sum_down(ring, np.uintp(offset), a, g, pair, np.uintp((3 * n + 15) // 16 * 16))
            for j in range(min(2, bottom - y)):
                target = np.uintp((y + j) * width + left)
                _write_planes(pair, np.uintp(j * _STRIP), gains, out, target, plane, np.uintp(n))


def _subtract_frames(
    before: NDArray[np.uint8],
    now: NDArray[np.uint8],
    after: NDArray[np.uint8],
    offset: np.uintp,
    difference: NDArray[np.int16],
    row: Floats,
    n: np.uintp,
) -> None:
    """Write ``2 f1 - f0 - f2`` of n values to a row."""
    # One loop over values of three widths is three times slower than these two.
    for x in range(n):
        twice = np.int16(2) * np.int16(now[offset + x])
        difference[x] = twice - np.int16(before[offset + x]) - np.int16(after[offset + x])
    for x in range(n):
        row[x + _HALO] = np.float32(difference[x])


def _mirror_edges(row: Floats, width: int) -> None:
    """Reflect four pixels at both ends of a row, the edge pixel not repeated."""
    last = 3 * (RADIUS + width - 1)
    for i in range(3, 3 * min(RADIUS, width - 1) + 1, 3):
        for c in range(3):
            row[3 * RADIUS + c - i] = row[3 * RADIUS + c + i]
            row[last + c + i] = row[last + c - i]


def _copy_values(values: Floats, source: np.uintp, target: np.uintp, n: np.uintp) -> None:
    for i in range(n):
        values[target + i] = values[source + i]


def _sum_across(
    row: Floats, i: np.uintp, a: HalfTaps, g: HalfTaps, ring: Floats, j: np.uintp, n: np.uintp
) -> None:
    """Write both horizontal sums of n values, `_STRIP` apart in the ring."""
    a0, a1, a2, a3, a4 = a
    g0, g1, g2, g3, g4 = g
    for x in range(n):
        t = i + x
        s0 = row[t] + row[t + np.uintp(24)]
        s1 = row[t + np.uintp(3)] + row[t + np.uintp(21)]
        s2 = row[t + np.uintp(6)] + row[t + np.uintp(18)]
        s3 = row[t + np.uintp(9)] + row[t + np.uintp(15)]
        s4 = row[t + np.uintp(12)]
        ring[j + x] = a0 * s0 + a1 * s1 + a2 * s2 + a3 * s3 + a4 * s4
        ring[j + x + _SUM_OFFSET] = g0 * s0 + g1 * s1 + g2 * s2 + g3 * s3 + g4 * s4


def _sum_down(
    ring: Floats, i: np.uintp, a: HalfTaps, g: HalfTaps, pair: Floats, n: np.uintp
) -> None:
    """Compute two rows of output from ten rows of horizontal sums."""
    # g weighs the a-sums (p) and a the g-sums (q); the second row is the first, one row down.
    a0, a1, a2, a3, a4 = a
    g0, g1, g2, g3, g4 = g
    for x in range(n):
        t = i + x
        p0, p1, p2, p3, p4 = ring[t], ring[t + _A1], ring[t + _A2], ring[t + _A3], ring[t + _A4]
        p5, p6, p7, p8 = ring[t + _A5], ring[t + _A6], ring[t + _A7], ring[t + _A8]
        q0, q1, q2, q3 = ring[t + _G0], ring[t + _G1], ring[t + _G2], ring[t + _G3]
        q4, q5, q6, q7 = ring[t + _G4], ring[t + _G5], ring[t + _G6], ring[t + _G7]
        p9, q8, q9 = ring[t + _A9], ring[t + _G8], ring[t + _G9]
        pair[x] = (
            g0 * (p0 + p8) + g1 * (p1 + p7) + g2 * (p2 + p6) + g3 * (p3 + p5) + g4 * p4
            + a0 * (q0 + q8) + a1 * (q1 + q7) + a2 * (q2 + q6) + a3 * (q3 + q5) + a4 * q4
        )  # fmt: skip
        pair[x + _SUM_OFFSET] = (
            g0 * (p1 + p9) + g1 * (p2 + p8) + g2 * (p3 + p7) + g3 * (p4 + p6) + g4 * p5
            + a0 * (q1 + q9) + a1 * (q2 + q8) + a2 * (q3 + q7) + a3 * (q4 + q6) + a4 * q5
        )  # fmt: skip


def _write_planes(
    pair: Floats,
    i: np.uintp,
    gains: tuple[np.float32, np.float32, np.float32],
    out: Floats,
    offset: np.uintp,
    plane: np.uintp,
    n: np.uintp,
) -> None:
    """Write the interleaved colors of n pixels to their planes, each times its gain."""
    red, green, blue = gains
    for x in range(n):
        t = i + _NUM_COLORS * x
        out[offset + x] = pair[t] * red
        out[offset + plane + x] = pair[t + _ONE] * green
        out[offset + plane + plane + x] = pair[t + _TWO] * blue

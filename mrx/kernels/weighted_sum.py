"""The weighted sum of approximate rank pooling from the decoder's bytes, by numba on the CPU.

A block of `_BLOCK_PIXELS` pixels stays in the first-level cache while frames are added to it three
at a time, and is then split into planes. Positions are unsigned: a signed index is tested for
wrapping around.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrx.kernels import compile_function
from mrx.kernels.array_types import Floats

_BLOCK_PIXELS = 1024
_ONE, _TWO, _NUM_COLORS = np.uintp(1), np.uintp(2), np.uintp(3)


def sum_frames_by_numba(frames: Tensor, weights: Tensor) -> Tensor:
    """Sum frames times weights; the twin of `mrx.ops.rank_pool.weighted_sum`.

    Shape:
        - frames: ``(B, T, 3, H, W)`` uint8, fastest with channels last in memory
        - weights: ``(T,)``
        - output: ``(B, 3, H, W)`` float32
    """
    b, t, _, h, w = frames.shape
    out = torch.empty((b, 3, h, w))
    # The loop takes three frames at a time: weights of 0 fill up the last three.
    padded_weights = np.zeros(-(-t // 3) * 3, np.float32)
    padded_weights[:t] = weights.numpy()
    scratch = np.empty(3 * _BLOCK_PIXELS, np.float32)
    for window, image in zip(frames.permute(0, 1, 3, 4, 2), out, strict=True):
        flat = window.contiguous().view(t, -1).numpy()
        _compile_weighted_sum()(flat, padded_weights, scratch, image.view(-1).numpy())
    return out


@functools.cache
def _compile_weighted_sum() -> Callable[..., None]:
    floats = np.zeros(3 * _BLOCK_PIXELS, np.float32)
    example = (np.zeros((1, 3), np.uint8), floats[:3], floats, np.zeros(3, np.float32))
    return compile_function(
        *(_sum_weighted_frames, _add_three_frames, _split_colors),
        warm_up=lambda compiled: compiled(*example),
        compiler_name="_compile_weighted_sum",
    )


def _sum_weighted_frames(
    frames: NDArray[np.uint8], weights: Floats, scratch: Floats, out: Floats
) -> None:
    last, pixels = len(frames) - 1, len(out) // 3
    for left in range(0, pixels, _BLOCK_PIXELS):
        n = min(_BLOCK_PIXELS, pixels - left)
        offset, num_values = np.uintp(3 * left), np.uintp(3 * n)
        scratch[:] = 0
        for t in range(0, len(weights), 3):
            # Past the end, the last frame stands in with weight 0.
            first, second, third = frames[t], frames[min(t + 1, last)], frames[min(t + 2, last)]
            _add_three_frames(first, second, third, offset, weights[t : t + 3], scratch, num_values)
        _split_colors(scratch, out, np.uintp(left), np.uintp(pixels), np.uintp(n))


def _add_three_frames(
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    third: NDArray[np.uint8],
    offset: np.uintp,
    weights: Floats,
    total: Floats,
    n: np.uintp,
) -> None:
    a, b, c = weights[0], weights[1], weights[2]
    for x in range(n):
        two_frames = a * np.float32(first[offset + x]) + b * np.float32(second[offset + x])
        total[x] += two_frames + c * np.float32(third[offset + x])


def _split_colors(
    values: Floats, out: Floats, offset: np.uintp, plane: np.uintp, n: np.uintp
) -> None:
    for x in range(n):
        i = _NUM_COLORS * x
        out[offset + x] = values[i]
        out[offset + plane + x] = values[i + _ONE]
        out[offset + plane + plane + x] = values[i + _TWO]

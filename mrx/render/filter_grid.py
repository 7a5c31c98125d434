"""The filters of a convolution as a grid, one scale for all of them or one for each."""

import math

import numpy as np
from numpy.typing import NDArray

from mrx.errors import ShapeError
from mrx.render.arrays import Picture, Values, to_floats
from mrx.render.diverging import diverging_to_rgb, find_max_magnitude
from mrx.render.grid import grid
from mrx.render.signed import signed_to_rgb

_EDGE_GRAY = 190  # gray, around maps that are white at 0


def filters_to_rgb(
    weights: Values,
    *,
    bound: float | None = None,
    each: bool = False,
    cell: int = 6,
    gap: int = 4,
) -> Picture:
    """Draw filters in rows, in their order: a filter of colors around gray, others as signed maps.

    A filter in time is a strip, its first moment at the left. One that takes other inputs than
    three has a map in `diverging_to_rgb`'s colors for each of them: below each other where it is
    a strip in time, and else from left to right.

    Args:
        weights: of a convolution in space, or in time and space
        bound: of the colors; without it the largest size among all
        each: every filter has its own largest size for its bound instead
        cell: pixels of a weight's side
        gap: white pixels between filters; thrice as many where they have parts, which it is between

    Shape:
        - weights: ``(O, I, H, W)`` or ``(O, I, T, H, W)``
        - output: ``(H', W', 3)`` uint8

    >>> filters_to_rgb(np.zeros((64, 3, 7, 7)), cell=1, gap=1).shape
    (65, 65, 3)
    """
    array = to_floats(weights)
    if array.ndim not in (4, 5) or 0 in array.shape:
        raise ShapeError(f"filters are (O, I, H, W) or (O, I, T, H, W), got {array.shape}")
    if array.ndim == 4:
        array = array[:, :, None]
    bounds = [
        (find_max_magnitude(one) if each else bound) or find_max_magnitude(array) or 1.0
        for one in array
    ]
    blocks = [_draw_filter(*pair, cell=cell, gap=gap) for pair in zip(array, bounds, strict=True)]
    has_parts = array.shape[1] not in (1, 3) or array.shape[2] > 1
    num_columns = choose_columns(len(blocks), *blocks[0].shape[:2])
    rows = [blocks[start : start + num_columns] for start in range(0, len(blocks), num_columns)]
    return grid(rows, margin=3 * gap if has_parts else gap)


def choose_columns(count: int, height: int, width: int) -> int:
    """Columns that make a page of so many blocks about square, without a short last row if it can.

    >>> choose_columns(64, 7, 7), choose_columns(64, 7, 49), choose_columns(24, 3, 3), choose_columns(7, 1, 1)
    (8, 4, 4, 3)
    """
    ideal_columns = math.sqrt(count * height / width)

    def log_distance(number: int) -> float:
        return abs(math.log(number / ideal_columns))

    best_divisor = min((n for n in range(1, count + 1) if count % n == 0), key=log_distance)
    return (
        best_divisor
        if log_distance(best_divisor) < math.log(1.7)
        else min(count, max(1, round(ideal_columns)))
    )


def _draw_filter(weights: NDArray[np.floating], bound: float, *, cell: int, gap: int) -> Picture:
    """One filter ``(I, T, H, W)``."""
    if len(weights) == 3:
        maps = signed_to_rgb(weights.transpose(1, 0, 2, 3), bound=bound)[None]
    else:
        maps = diverging_to_rgb(weights, bound=bound)
        maps = maps if maps.shape[1] > 1 else maps.swapaxes(0, 1)
    enlarged = maps.repeat(cell, 2).repeat(cell, 3)
    if len(weights) != 3:  # white at an edge would have no end
        enlarged = np.pad(
            enlarged, [(0, 0)] * 2 + [(1, 1)] * 2 + [(0, 0)], constant_values=_EDGE_GRAY
        )
    strip = grid([list(row) for row in enlarged], margin=gap)
    return strip[gap:-gap, gap:-gap]

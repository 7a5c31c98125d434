"""Draw the filters of a convolution as a grid, with one scale or one per filter."""

import math

import numpy as np
from numpy.typing import NDArray

from mrx.errors import ShapeError
from mrx.render.arrays import Picture, Values, to_floats
from mrx.render.diverging import diverging_to_rgb, find_max_magnitude
from mrx.render.grid import grid
from mrx.render.signed import signed_to_rgb

# Borders of maps that are white at 0: they would have no visible edge on a white page.
_EDGE_GRAY = 190


def filters_to_rgb(
    weights: Values,
    *,
    bound: float | None = None,
    each: bool = False,
    cell: int = 6,
    gap: int = 4,
) -> Picture:
    """Draw filters row by row, in order.

    A filter of 3 inputs is drawn in color around gray, see `signed_to_rgb`; any other has a map
    per input in the colors of `diverging_to_rgb`. A filter in space and time is a strip with time
    to the right, and its inputs run downward; otherwise they run to the right.

    Args:
        weights: weights of a convolution in space, or in time and space
        bound: magnitude of full color; by default the largest magnitude of all filters
        each: use each filter's own largest magnitude instead
        cell: side of a weight, in pixels
        gap: white pixels between the maps of a filter, and between filters of a single map;
            filters of several maps are ``3 * gap`` apart

    Shape:
        - weights: ``(O, I, H, W)`` or ``(O, I, T, H, W)``
        - output: ``(H', W', 3)`` uint8

    >>> filters_to_rgb(np.zeros((64, 3, 7, 7)), cell=1, gap=1).shape
    (65, 65, 3)
    """
    array = to_floats(weights)
    if array.ndim not in (4, 5) or 0 in array.shape:
        raise ShapeError(f"filters must be (O, I, H, W) or (O, I, T, H, W), got {array.shape}")
    if array.ndim == 4:
        array = array[:, :, None]
    bounds = [
        (find_max_magnitude(kernel) if each else bound) or find_max_magnitude(array) or 1.0
        for kernel in array
    ]
    blocks = [_draw_filter(*pair, cell=cell, gap=gap) for pair in zip(array, bounds, strict=True)]
    has_parts = array.shape[1] not in (1, 3) or array.shape[2] > 1
    num_columns = choose_columns(len(blocks), *blocks[0].shape[:2])
    rows = [blocks[start : start + num_columns] for start in range(0, len(blocks), num_columns)]
    return grid(rows, margin=3 * gap if has_parts else gap)


def choose_columns(count: int, height: int, width: int) -> int:
    """Return the number of columns that makes a page of `count` blocks about square.

    A divisor of `count` is preferred, since it leaves no short last row.

    >>> choose_columns(64, 7, 7), choose_columns(64, 7, 49)
    (8, 4)
    >>> choose_columns(24, 3, 3), choose_columns(7, 1, 1)
    (4, 3)
    """
    ideal_columns = math.sqrt(count * height / width)

    def log_distance(number: int) -> float:
        return abs(math.log(number / ideal_columns))

    # Within a factor of 1.7 a page without a short row looks better than a squarer one:
    # count = 24 square blocks -> ideal 4.9, best divisor 4 -> 4
    # count = 7 square blocks -> ideal 2.6, divisors 1 and 7 are too far from it -> 3
    best_divisor = min((n for n in range(1, count + 1) if count % n == 0), key=log_distance)
    return (
        best_divisor
        if log_distance(best_divisor) < math.log(1.7)
        else min(count, max(1, round(ideal_columns)))
    )


def _draw_filter(weights: NDArray[np.floating], bound: float, *, cell: int, gap: int) -> Picture:
    """Draw one filter ``(I, T, H, W)``."""
    if len(weights) == 3:
        maps = signed_to_rgb(weights.transpose(1, 0, 2, 3), bound=bound)[None]
    else:
        maps = diverging_to_rgb(weights, bound=bound)
        # A filter without time has its inputs side by side: (I, 1) maps -> (1, I)
        maps = maps if maps.shape[1] > 1 else maps.swapaxes(0, 1)
    enlarged = maps.repeat(cell, 2).repeat(cell, 3)
    if len(weights) != 3:
        enlarged = np.pad(
            enlarged, [(0, 0)] * 2 + [(1, 1)] * 2 + [(0, 0)], constant_values=_EDGE_GRAY
        )
    strip = grid([list(row) for row in enlarged], margin=gap)
    return strip[gap:-gap, gap:-gap]

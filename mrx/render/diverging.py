"""Draw signed numbers: blue below zero, white at zero, red above."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from mrx.render.arrays import (
    Picture,
    Values,
    check_positive_number,
    draw_each,
    is_known,
    paint_unknown,
    to_floats,
)
from mrx.render.heat import oklab_to_rgb


def diverging_to_rgb(values: Values, *, bound: float | None = None) -> Picture:
    """Draw signed numbers from blue through white at 0 to red.

    Opposite numbers are about equally dark. Values beyond the bound take the color of that end;
    unknown values are `mrx.render.UNKNOWN`.

    Args:
        values: one number per pixel
        bound: magnitude of the darkest colors; by default each map's largest magnitude

    Shape:
        - values: ``(..., H, W)``; output: ``(..., H, W, 3)`` uint8

    >>> diverging_to_rgb(np.array([[-2.0, 0.0, 2.0]]), bound=2)[0].tolist()
    [[27, 70, 156], [255, 255, 255], [140, 27, 33]]
    """
    if bound is not None:
        check_positive_number("bound", bound)
    return draw_each(lambda single: _draw_diverging(single, bound), to_floats(values), axes=2)


def diverging_table() -> Picture:
    """Return the 255 colors ``(255, 3)``: a curve in OKLab that is white at index 127."""
    # A copy: the cached table must not change.
    return _compute_diverging_table().copy()


@cache
def _compute_diverging_table() -> Picture:
    # An odd number of colors, so that one of them stands for exactly 0.
    t = np.linspace(-1, 1, 255)
    size = np.abs(t)
    # Lightness depends on the magnitude alone; the sign chooses the hue, 262 (blue) or 24 (red).
    lightness = 1 - 0.58 * size
    chroma = np.interp(size, [0, 0.6, 1], [0, 0.145, 0.148])
    hue = np.deg2rad(np.where(t < 0, 262, 24))
    return oklab_to_rgb(np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)]))


def _draw_diverging(values: NDArray[np.floating], bound: float | None) -> Picture:
    known_mask = is_known(values)
    values = np.where(known_mask, values, 0)
    bound = bound or find_max_magnitude(values) or 1.0
    levels = np.rint(np.clip(values * (127 / bound), -127, 127)).astype(int) + 127
    return paint_unknown(_compute_diverging_table()[levels], known_mask)


def find_max_magnitude(values: Values) -> float:
    """Return the largest known magnitude, or 0 without known values.

    >>> find_max_magnitude(np.array([[1.0, -3.0, np.nan]]))
    3.0
    """
    array = to_floats(values)
    return float(np.abs(array[is_known(array)]).max(initial=0))

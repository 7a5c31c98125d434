"""Draw motion by hue and strength, with the color wheel of Baker et al."""

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from mrx.render.arrays import (
    Picture,
    Values,
    check_positive_number,
    draw_each,
    is_known,
    paint_unknown,
    to_maps,
)
from mrx.render.color_scale import HEADROOM, robust_maximum
from mrx.render.heat import repeat_cells

STILL_PIXELS = 0.1
"""Smallest default bound, in pixels: the noise of a still scene stays pale."""

_HUE_BINS = (("R", 15), ("Y", 6), ("G", 4), ("C", 11), ("B", 13), ("M", 6))
_NUM_ANGLES, _NUM_STEPS = 4096, 255
# From the released code of Busy-Quiet
_EPSILON = 1e-5


@cache
def color_wheel() -> NDArray[np.float64]:
    """Return the 55 colors of the wheel, ``(55, 3)``.

    The wheel goes from red to yellow in 15 steps, to green in 6, to cyan in 4, to blue in 11, to
    magenta in 13, and back to red in 6 (A Database and Evaluation Methodology for Optical Flow,
    2011).
    """
    corners = {"R": "100", "Y": "110", "G": "010", "C": "011", "B": "001", "M": "101"}
    colors = []
    for (name, bins), (next_name, _) in zip(_HUE_BINS, (*_HUE_BINS[1:], _HUE_BINS[0]), strict=True):
        start, end = (np.array([int(bit) for bit in corners[n]]) for n in (name, next_name))
        ramp = np.floor(255 * np.arange(bins) / bins)[:, None]
        # Each channel rises, falls, or stays.
        colors.append(np.where(end > start, ramp, np.where(end < start, 255 - ramp, 255 * start)))
    return np.concatenate(colors).astype(np.float64)


def colors_at(turn: NDArray[np.floating]) -> NDArray[np.floating]:
    """Interpolate the wheel at shares of a turn: ``(...)`` in 0..1 to colors ``(..., 3)`` in 0..1.

    As in the code of Baker et al., a full turn ends at the 55th color, not back at the first.
    """
    position = turn * 54
    floor = np.floor(position)
    share = (position - floor)[..., None]
    colors = (color_wheel() / 255).astype(position.dtype)
    before = floor.astype(np.intp)
    next_colors = np.roll(colors, -1, 0).take(before, 0)
    return (1 - share) * colors.take(before, 0) + share * next_colors


def flow_to_rgb(flow: Values, *, max_flow: float | None = None) -> Picture:
    """Draw displacements with the wheel of Baker et al.: direction as hue, length as strength.

    Still pixels are white; right is red, down yellow, left cyan to blue, up violet. Colors are
    full at `max_flow` and darker beyond it. Unknown flow (NaN, infinity, 1e9 or more) is
    `mrx.render.UNKNOWN`, a dark gray. Colors agree with the code of Baker et al. to 2 levels of
    255.

    Args:
        flow: displacements
        max_flow: length of full color, in the units of the flow. By default each field's robust
            maximum, at least 0.1, so that the noise of a still scene stays pale. Use
            `mrx.render.Scale` for one value per clip

    Shape:
        - flow: ``(..., 2, H, W)``, x right and y down
        - output: ``(..., H, W, 3)`` uint8
    """
    if max_flow is not None:
        check_positive_number("max_flow", max_flow)
    maps = to_maps(flow, channels=(2,), what="flow_to_rgb")
    return draw_each(lambda field: _draw_flow(field, _wheel_table(), max_flow), maps, axes=3)


def flow_to_hsv(flow: Values, *, max_flow: float | None = None) -> Picture:
    """Draw displacements on black: direction as evenly spaced hue, length as brightness.

    Right is red, down yellow-green, left cyan, up violet. `max_flow` is that of `flow_to_rgb`;
    larger lengths have the same brightness.

    Shape:
        - flow: ``(..., 2, H, W)``; output: ``(..., H, W, 3)`` uint8
    """
    if max_flow is not None:
        check_positive_number("max_flow", max_flow)
    maps = to_maps(flow, channels=(2,), what="flow_to_hsv")
    return draw_each(lambda field: _draw_flow(field, _hsv_table(), max_flow), maps, axes=3)


def hue_to_rgb(maps: Values, *, bound: float | None = None, clip: float | None = None) -> Picture:
    """Draw three signed channels by the mean angle of their pairs, as Busy-Quiet does.

    ``(atan2(v, u) + atan2(u, w) + atan2(v, w)) / 3π`` gives the hue and the norm of (u, v, w) the
    strength; 0 is white. For float64 the result equals the released ``flow_vis.py`` bit for bit.
    The hue has no physical meaning and jumps where an angle does, but equal vectors have equal
    colors. Unknown values are `mrx.render.UNKNOWN`.

    Args:
        maps: three signed channels
        bound: norm of full color; larger norms are darker. By default each map's maximum, as in
            the released code: one outlier whitens the rest, and clips flicker
        clip: clip values to 0..`clip` first, which drops negative values, as in the released code

    Shape:
        - maps: ``(..., 3, H, W)``
        - output: ``(..., H, W, 3)`` uint8
    """
    if bound is not None:
        check_positive_number("bound", bound)
    signed_maps = to_maps(maps, channels=(3,), what="hue_to_rgb")
    if clip is not None:
        signed_maps = np.clip(signed_maps, 0, clip)
    return draw_each(lambda single: _draw_hue(single, bound), signed_maps, axes=3)


def _draw_flow(flow: NDArray[np.floating], table: Picture, max_flow: float | None) -> Picture:
    x, y = (np.ascontiguousarray(plane, np.float32) for plane in flow)
    length, angle = cv2.cartToPolar(x, y)
    # Not is_known(length): some versions of OpenCV compute only an approximate length.
    known_mask = is_known(x) & is_known(y)
    if not known_mask.all():
        length, angle = np.where(known_mask, (length, angle), 0)
    bound = max_flow or robust_maximum(length[known_mask], least=STILL_PIXELS, headroom=HEADROOM)
    # Rows of the table are strengths and columns directions. All strengths beyond the bound share
    # the last row.
    row = np.minimum(length * np.float32(_NUM_STEPS / bound), _NUM_STEPS + 1)
    angle *= _NUM_ANGLES / (2 * np.pi)
    picture = cv2.remap(table, angle, row, cv2.INTER_NEAREST)
    return paint_unknown(np.asarray(picture, np.uint8), known_mask)


@cache
def _wheel_table() -> Picture:
    """Return colors by strength and direction: 256 rows for 0..1, and one row beyond."""
    # The angle of Baker et al. is a = atan2(-y, -x); their (a / pi + 1) / 2 is the turn from the
    # right, as cv2 counts it. One extra column, since the nearest angle may be the full turn.
    hues = colors_at(np.arange(_NUM_ANGLES + 1) / _NUM_ANGLES)
    strength = np.arange(_NUM_STEPS + 1)[:, None, None] / _NUM_STEPS
    colors = np.concatenate([1 - strength * (1 - hues), 0.75 * hues[None]])
    # 1e-9 keeps rounding errors from lowering a whole level: 126.9999999999 -> 127
    return np.floor(255 * colors + 1e-9).astype(np.uint8)


@cache
def _hsv_table() -> Picture:
    turn = 6 * np.arange(_NUM_ANGLES + 1) / _NUM_ANGLES
    distance = np.abs((turn[:, None] - [0, 2, 4] + 3) % 6 - 3)
    hues = np.clip(2 - distance, 0, 1)
    strength = np.minimum(np.arange(_NUM_STEPS + 2) / _NUM_STEPS, 1)[:, None, None]
    return np.rint(255 * strength * hues).astype(np.uint8)


def _draw_hue(maps: NDArray[np.floating], bound: float | None) -> Picture:
    known_mask = np.all(is_known(maps), axis=0)
    if not known_mask.all():
        maps = np.where(known_mask, maps, 0)
    u, v, w = maps
    full_norm = np.sqrt(u * u + v * v + w * w).max() + _EPSILON if bound is None else bound
    u, v, w = u / full_norm, v / full_norm, w / full_norm
    strength = np.sqrt(u * u + v * v + w * w)
    angle = (np.arctan2(v, u) + np.arctan2(u, w) + np.arctan2(v, w)) / (3 * np.pi)
    hues = colors_at((angle + 1) / 2)
    colors = 1 - strength[..., None] * (1 - hues)
    # The released code darkens the largest norm where it rounds to more than 1. A norm equal to a
    # given bound is to have full color, even if it rounds so in float32.
    beyond = strength > (1 if bound is None else 1 + 1e-6)
    colors[beyond] = 0.75 * hues[beyond]
    picture = np.floor(255 * np.maximum(colors, 0)).astype(np.uint8)
    return paint_unknown(picture, known_mask)


def displacement_to_rgb(
    displacement: Values, *, stride: int, max_flow: float | None = None
) -> Picture:
    """Draw displacements of cells with `flow_to_rgb`, each cell as a square of side `stride`.

    Args:
        displacement: displacements of cells, in pixels (`stride` times those in cells)
        stride: distance between cells, in pixels
        max_flow: length of full color, see `flow_to_rgb`

    Shape:
        - displacement: ``(..., 2, H, W)``
        - output: ``(..., stride * H, stride * W, 3)`` uint8
    """
    return repeat_cells(flow_to_rgb(displacement, max_flow=max_flow), stride)

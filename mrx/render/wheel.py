"""Motion by hue and strength: the color wheel of Baker et al., for two channels and for three."""

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
"""Pixels: a field that moves less than this is not stretched to full color."""

_HUE_BINS = (("R", 15), ("Y", 6), ("G", 4), ("C", 11), ("B", 13), ("M", 6))
_NUM_ANGLES, _NUM_STEPS = 4096, 255
_EPSILON = 1e-5  # of the released code


@cache
def color_wheel() -> NDArray[np.float64]:
    """The 55 colors (A Database and Evaluation Methodology for Optical Flow, 2011), ``(55, 3)``.

    From red to yellow in 15 steps, to green in 6, to cyan in 4, to blue in 11, to magenta in 13,
    and back in 6.
    """
    corners = {"R": "100", "Y": "110", "G": "010", "C": "011", "B": "001", "M": "101"}
    colors = []
    for (name, bins), (next_name, _) in zip(_HUE_BINS, (*_HUE_BINS[1:], _HUE_BINS[0]), strict=True):
        start, end = (np.array([int(bit) for bit in corners[n]]) for n in (name, next_name))
        ramp = np.floor(255 * np.arange(bins) / bins)[:, None]
        colors.append(np.where(end > start, ramp, np.where(end < start, 255 - ramp, 255 * start)))
    return np.concatenate(colors).astype(np.float64)


def colors_at(turn: NDArray[np.floating]) -> NDArray[np.floating]:
    """The wheel at a share of a turn, in 0..1, as colors in 0..1: ``(...)`` to ``(..., 3)``.

    As in the code of Baker et al. a turn ends at the 55th color and not at the first again.
    """
    position = turn * 54
    floor = np.floor(position)
    share = (position - floor)[..., None]
    colors = (color_wheel() / 255).astype(position.dtype)
    before = floor.astype(np.intp)
    next_colors = np.roll(colors, -1, 0).take(before, 0)
    return (1 - share) * colors.take(before, 0) + share * next_colors


def flow_to_rgb(flow: Values, *, max_flow: float | None = None) -> Picture:
    """Draw displacements: direction as hue, length as strength, by the wheel of Baker et al.

    What is still is white; right is red, down yellow, left cyan to blue, up violet. Colors are
    full at `max_flow` and darker beyond it. Unknown flow (NaN, infinity, 1e9 and more) is
    `mrx.render.UNKNOWN`, a dark gray. It agrees with their code to 2 levels of 255.

    Args:
        flow: displacements
        max_flow: length of full color, in the units of the flow. Without it each field has its
            own: see `mrx.render.Scale`, which is also the way to one for a whole clip; at
            least 0.1, so that the noise of a still scene stays pale

    Shape:
        - flow: ``(..., 2, H, W)``, x right and y down
        - output: ``(..., H, W, 3)`` uint8
    """
    if max_flow is not None:
        check_positive_number("max_flow", max_flow)
    maps = to_maps(flow, channels=(2,), what="flow_to_rgb")
    return draw_each(lambda one: _draw_flow(one, _wheel_table(), max_flow), maps, axes=3)


def flow_to_hsv(flow: Values, *, max_flow: float | None = None) -> Picture:
    """Draw displacements on black: direction as hue of equal steps, length as brightness.

    Right is red, down yellow-green, left cyan, up violet. Lengths beyond `max_flow`, given as in
    `flow_to_rgb`, are as bright as that.

    Shape:
        - flow: ``(..., 2, H, W)``; output: ``(..., H, W, 3)`` uint8
    """
    if max_flow is not None:
        check_positive_number("max_flow", max_flow)
    maps = to_maps(flow, channels=(2,), what="flow_to_hsv")
    return draw_each(lambda one: _draw_flow(one, _hsv_table(), max_flow), maps, axes=3)


def hue_to_rgb(maps: Values, *, bound: float | None = None, clip: float | None = None) -> Picture:
    """Draw three signed channels by the mean of the angles of their pairs, as Busy-Quiet does.

    ``(atan2(v, u) + atan2(u, w) + atan2(v, w)) / 3π`` picks the hue, the norm of (u, v, w) the
    strength; 0 is white. It is the released ``flow_vis.py`` bit by bit for float64: the hue has
    no physical meaning and jumps where an angle does, but equal vectors have equal colors.
    Unknown values are drawn as `mrx.render.UNKNOWN`.

    Args:
        maps: three signed channels
        bound: norm of full color; beyond it colors are darker. Without it each map's own
            maximum, as released: one outlier whitens the rest, and clips flicker
        clip: values are first clipped to 0..`clip`, which drops what is negative, as released

    Shape:
        - maps: ``(..., 3, H, W)``
        - output: ``(..., H, W, 3)`` uint8
    """
    if bound is not None:
        check_positive_number("bound", bound)
    signed_maps = to_maps(maps, channels=(3,), what="hue_to_rgb")
    if clip is not None:
        signed_maps = np.clip(signed_maps, 0, clip)
    return draw_each(lambda one: _draw_hue(one, bound), signed_maps, axes=3)


def _draw_flow(flow: NDArray[np.floating], table: Picture, max_flow: float | None) -> Picture:
    x, y = (np.ascontiguousarray(plane, np.float32) for plane in flow)
    length, angle = cv2.cartToPolar(x, y)
    known_mask = is_known(x) & is_known(y)  # their length is only near to it in some OpenCV
    if not known_mask.all():
        length, angle = np.where(known_mask, (length, angle), 0)
    bound = max_flow or robust_maximum(length[known_mask], least=STILL_PIXELS, headroom=HEADROOM)
    row = np.minimum(length * np.float32(_NUM_STEPS / bound), _NUM_STEPS + 1)
    angle *= _NUM_ANGLES / (2 * np.pi)
    picture = cv2.remap(table, angle, row, cv2.INTER_NEAREST)
    return paint_unknown(np.asarray(picture, np.uint8), known_mask)


@cache
def _wheel_table() -> Picture:
    """Colors by strength and direction: 0..1 in 255 steps, and one row for all beyond."""
    hues = colors_at(np.arange(_NUM_ANGLES + 1) / _NUM_ANGLES)
    strength = np.arange(_NUM_STEPS + 1)[:, None, None] / _NUM_STEPS
    colors = np.concatenate([1 - strength * (1 - hues), 0.75 * hues[None]])
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
    beyond = strength > 1 + 1e-6  # float32 rounds
    colors[beyond] = 0.75 * hues[beyond]
    picture = np.floor(255 * np.maximum(colors, 0)).astype(np.uint8)
    return paint_unknown(picture, known_mask)


def displacement_to_rgb(
    displacement: Values, *, stride: int, max_flow: float | None = None
) -> Picture:
    """Draw displacements of cells by `flow_to_rgb`, each cell as a square of `stride` pixels.

    Args:
        displacement: of cells
        stride: pixels from one cell to the next
        max_flow: as for `flow_to_rgb`, in the displacement's units

    Shape:
        - displacement: ``(..., 2, H, W)``, in pixels, which is `stride` times that in cells
        - output: ``(..., stride * H, stride * W, 3)`` uint8
    """
    return repeat_cells(flow_to_rgb(displacement, max_flow=max_flow), stride)

"""Draw legends: the wheel with its radius, a bar with its two ends, an arrow with its length."""

from typing import Literal

import cv2
import numpy as np

from mrx.errors import UsageError
from mrx.render.arrays import Picture
from mrx.render.heat import heat_table
from mrx.render.text import TEXT_HEIGHT, draw_text, format_number, measure_text
from mrx.render.wheel import colors_at, flow_to_hsv, flow_to_rgb

Corner = Literal["top left", "top right", "bottom left", "bottom right"]
LegendKind = Literal["heat", "signed", "gray", "hue"]

_MARGIN = 4


def wheel_legend(
    max_flow: float, *, units: str = "px", size: int = 72, black: bool = False
) -> Picture:
    """Draw the color wheel of `flow_to_rgb` on white, with its radius as text below.

    Args:
        max_flow: flow at the edge of the wheel
        units: units of `max_flow`, for the text
        size: diameter of the wheel, in pixels
        black: draw the wheel of `flow_to_hsv` instead

    Shape:
        - output: ``(H, W, 3)`` uint8, a little larger than the wheel
    """
    # Draw at four times the size and average, for smooth edges.
    fine_size = 4 * size
    axis = (np.arange(fine_size) + 0.5) * 2 / fine_size - 1
    flow = np.stack(np.meshgrid(axis, axis))
    draw = flow_to_hsv if black else flow_to_rgb
    disc = draw(flow, max_flow=1)
    disc[np.hypot(*flow) > 1] = 255
    center, radius = fine_size // 2, fine_size // 2 - 4
    ink = (255, 255, 255) if black else (0, 0, 0)
    cv2.line(disc, (center, center), (center + radius, center), ink, 4)
    cv2.circle(disc, (center, center), 8, ink, -1)
    small = cv2.resize(disc, (size, size), interpolation=cv2.INTER_AREA)
    return _write_below(np.asarray(small, np.uint8), f"radius {format_number(max_flow, units)}")


def bar_legend(
    low: float, high: float, *, kind: LegendKind = "heat", units: str = "", length: int = 128
) -> Picture:
    """Draw a color bar on white, with the values of its two ends below.

    Args:
        low: value at the left end
        high: value at the right end
        kind: ``heat`` for the colors of `heat_to_rgb`, ``signed`` for `signed_to_rgb`, ``gray``
            for `confidence_to_rgb`, ``hue`` for `hue_to_rgb`, where the norm of the vector grows
            to the right and the hue changes downward
        units: units of the values, for the text
        length: length of the bar, in pixels

    Shape:
        - output: ``(H, W, 3)`` uint8
    """
    if kind not in ("heat", "signed", "gray", "hue"):
        raise UsageError(f"kind={kind}: choose from heat, signed, gray, hue")
    steps = np.linspace(0, 1, length)
    levels = np.rint(255 * steps).astype(int)
    if kind == "heat":
        row = heat_table()[levels][None]
    elif kind == "hue":
        hues = colors_at(np.linspace(0, 1, 24))[:, None]
        row = np.floor(255 * (1 - steps[:, None] * (1 - hues)))
    else:
        # `signed_to_rgb` uses the levels 1..255, so that 0 is exactly 128.
        row = np.maximum(levels, 1 if kind == "signed" else 0)[None, :, None]
    bar = np.empty((24 if kind == "hue" else 12, length, 3), np.uint8)
    bar[:] = row
    bar[[0, -1]] = bar[:, [0, -1]] = 128
    return _write_below(bar, format_number(low), right=format_number(high, units))


def arrow_legend(max_flow: float, *, units: str = "px", spacing: int = 20) -> Picture:
    """Draw the arrow that stands for `max_flow` in `quiver`, with its value as text.

    Shape:
        - output: ``(H, W, 3)`` uint8
    """
    picture = np.full((9, spacing + 4, 3), 255, np.uint8)
    cv2.arrowedLine(picture, (2, 4), (2 + spacing, 4), (0, 0, 0), 1, cv2.LINE_AA, tipLength=0.3)
    return _write_below(picture, format_number(max_flow, units))


def inset(picture: Picture, *, legend: Picture, corner: Corner = "bottom right") -> Picture:
    """Copy a picture and put a legend into a corner; a larger legend is cropped.

    Shape:
        - picture: ``(H, W, 3)`` uint8; output: the same
    """
    if corner not in ("top left", "top right", "bottom left", "bottom right"):
        raise UsageError(
            f"corner={corner}: choose from top left, top right, bottom left, bottom right"
        )
    whole = picture.copy()
    height, width = (min(a, b) for a, b in zip(legend.shape, picture.shape[:2], strict=False))
    rows = slice(height) if corner.startswith("top") else slice(len(whole) - height, None)
    columns = slice(width) if corner.endswith("left") else slice(whole.shape[1] - width, None)
    whole[rows, columns] = legend[:height, :width]
    return whole


def _write_below(drawing: Picture, left: str, *, right: str = "") -> Picture:
    """Write one centered text below a drawing, or one at each end, and add a margin."""
    height, width = drawing.shape[:2]
    words = [word for word in (left, right) if word]
    widths = [measure_text(word)[1] for word in words]
    inner_width = max(width, sum(widths) + 8 * (len(words) - 1))
    size = (height + TEXT_HEIGHT + 3 * _MARGIN, inner_width + 2 * _MARGIN, 3)
    picture = np.full(size, 255, np.uint8)
    start = _MARGIN + (inner_width - width) // 2
    picture[_MARGIN : _MARGIN + height, start : start + width] = drawing
    y = height + 2 * _MARGIN
    if not right:
        draw_text(picture, left, (y, _MARGIN + (inner_width - widths[0]) // 2))
    else:
        draw_text(picture, left, (y, _MARGIN))
        draw_text(picture, right, (y, _MARGIN + inner_width - widths[1]))
    return picture

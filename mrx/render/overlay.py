"""Draw motion over its frame, as arrows or as a translucent picture."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mrx.errors import ShapeError, UsageError
from mrx.render.arrays import (
    Picture,
    Values,
    check_positive_number,
    enlarge_cells,
    frame_to_rgb,
    is_known,
    to_maps,
)
from mrx.render.color_scale import HEADROOM, robust_maximum
from mrx.render.heat import magnitude
from mrx.render.wheel import STILL_PIXELS, colors_at

# cv2 draws at positions of 1/8 pixel, given as integers with this many fraction bits.
_FRACTION_BITS = 3
# Longest arrow, in spacings
_MAX_SPACINGS = 2.0
# Shorter arrows become dots.
_MIN_PIXELS = 1.0


def quiver(
    frame: Values | None, flow: Values, *, max_flow: float | None = None, spacing: int = 20
) -> Picture:
    """Draw the flow as arrows on a frame, in the hues of the wheel.

    Each arrow starts at the center of its cell and shows the flow at that pixel. An arrow of
    `max_flow` is as long as the `spacing`, so that neighbors do not cross; larger flow gives longer
    arrows, up to twice that. Arrows shorter than a pixel of the picture are dots, and unknown flow
    is not drawn.

    Args:
        frame: background; None is white
        flow: flow in pixels, x right and y down
        max_flow: flow of an arrow of length `spacing`; by default the robust maximum of this
            field, at least 0.1
        spacing: pixels between arrows, at least 4

    Shape:
        - frame: any shape that `frame_to_rgb` takes, of the flow's height and width
        - flow: ``(2, H, W)``
        - output: ``(H, W, 3)`` uint8
    """
    field = to_maps(flow, channels=(2,), what="quiver")
    if field.ndim != 3:
        raise ShapeError(f"quiver takes one flow (2, H, W), got {field.shape}")
    if spacing < 4:
        raise UsageError(f"spacing={spacing}: must be at least 4")
    size = field.shape[1:]
    picture = np.full((*size, 3), 255, np.uint8) if frame is None else frame_to_rgb(frame)
    if picture.shape[:2] != size:
        raise ShapeError(
            f"frame {picture.shape[:2]} and flow {size}: heights and widths must be equal"
        )
    if max_flow is None:
        max_flow = robust_maximum(magnitude(field), least=STILL_PIXELS, headroom=HEADROOM)
    stretch = spacing / check_positive_number("max_flow", max_flow)
    rows, columns = (_compute_cell_centers(length, spacing=spacing) for length in size)
    ends = field[:, rows[:, None], columns] * stretch
    y, x = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
    _draw_arrows(picture, x, y, ends.reshape(2, -1), _MAX_SPACINGS * spacing)
    return picture


def overlay(frame: Values, picture: Picture, share: float | NDArray[Any] = 0.5) -> Picture:
    """Blend a picture over a frame.

    Args:
        frame: background
        picture: foreground
        share: weight of the picture, 0 (frame only) to 1 (picture only), for all pixels or for
            each

    Shape:
        - frame: any shape that `frame_to_rgb` takes
        - picture: ``(H, W, 3)`` uint8; a smaller one is enlarged by nearest neighbor
        - share: one number, or ``(H, W)``
        - output: ``(H, W, 3)`` uint8
    """
    frame_picture = frame_to_rgb(frame)
    height, width = frame_picture.shape[:2]
    share_map = np.asarray(share, np.float32)
    if not ((share_map >= 0) & (share_map <= 1)).all():
        low, high = share_map.min(), share_map.max()
        raise UsageError(f"share={low:g}..{high:g}: must be in 0..1")
    if share_map.ndim:
        share_map = enlarge_cells(share_map, height, width)[..., None]
    upper = np.moveaxis(enlarge_cells(np.moveaxis(picture, -1, 0), height, width), 0, -1)
    return np.rint(frame_picture + (upper - frame_picture.astype(np.float32)) * share_map).astype(
        np.uint8
    )


def _compute_cell_centers(length: int, *, spacing: int) -> NDArray[np.intp]:
    """Return the centers of the cells that fit, at least one, with equal margins."""
    # length = 70, spacing = 20 -> [15, 35, 55]
    count = max(1, length // spacing)
    return (length - (count - 1) * spacing) // 2 + spacing * np.arange(count)


def _draw_arrows(
    picture: Picture,
    x: NDArray[np.intp],
    y: NDArray[np.intp],
    moves: NDArray[np.floating],
    max_length: float,
) -> None:
    """Draw an arrow at each (x, y), with a black outline."""
    length = np.hypot(*moves)
    known_mask = is_known(length)
    x, y, moves, length = x[known_mask], y[known_mask], moves[:, known_mask], length[known_mask]
    moves = moves * np.minimum(1, max_length / np.maximum(length, _MIN_PIXELS))
    subpixels = 1 << _FRACTION_BITS
    starts = np.stack([x, y], 1) * subpixels
    ends = np.rint((np.stack([x, y]) + moves).T * subpixels).astype(int)
    # Directions as shares of a turn, in 0..1
    turn = np.arctan2(moves[1], moves[0]) / (2 * np.pi) % 1
    colors = np.rint(255 * colors_at(turn)).astype(int)
    # All outlines come before all colors, so that no outline covers the color of another arrow.
    for thickness, outline in ((3, True), (1, False)):
        for start, end, size, color in zip(starts, ends, length, colors, strict=True):
            ink = (0, 0, 0) if outline else tuple(map(int, color))
            if size < _MIN_PIXELS:
                ink = ink if outline else (255, 255, 255)
                cv2.circle(
                    picture, start, subpixels * thickness // 4, ink, -1, cv2.LINE_AA, _FRACTION_BITS
                )
                continue
            # A share of the arrow's length: 5 pixels, or 35 % of a short arrow
            tip = min(0.35, 5 / min(size, max_length))
            cv2.arrowedLine(
                picture, start, end, ink, thickness, cv2.LINE_AA, _FRACTION_BITS, tipLength=tip
            )

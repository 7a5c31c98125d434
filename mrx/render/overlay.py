"""Motion over the frame that it belongs to: arrows, and pictures let through."""

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

_FRACTION_BITS = 3  # bits of a pixel that cv2 draws arrows to
_MAX_SPACINGS = 2.0  # spacings that an arrow beyond the bound may take
_MIN_PIXELS = 1.0  # pixels; what is shorter becomes a dot


def quiver(
    frame: Values | None, flow: Values, *, max_flow: float | None = None, spacing: int = 20
) -> Picture:
    """Draw arrows where the frame's points go, in the wheel's hues.

    An arrow of `max_flow` is as long as the `spacing`, so that neighbours do not cross; longer
    ones grow with the flow to twice that. Each starts in the middle of its cell and shows the flow
    there. What moves by less than a pixel of the picture is a dot, unknown flow is not drawn.

    Args:
        frame: under the arrows; None is white
        flow: in pixels, x right and y down
        max_flow: without it this field's own robust maximum, at least 0.1
        spacing: pixels from one arrow to the next, at least 4

    Shape:
        - frame: as `frame_to_rgb` takes it, of the flow's size
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
        raise ShapeError(f"the frame is {picture.shape[:2]}, the flow {size}: they must be equal")
    if max_flow is None:
        max_flow = robust_maximum(magnitude(field), least=STILL_PIXELS, headroom=HEADROOM)
    stretch = spacing / check_positive_number("max_flow", max_flow)
    rows, columns = (_compute_cell_centers(length, spacing=spacing) for length in size)
    ends = field[:, rows[:, None], columns] * stretch
    y, x = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
    _draw_arrows(picture, x, y, ends.reshape(2, -1), _MAX_SPACINGS * spacing)
    return picture


def overlay(frame: Values, picture: Picture, share: float | NDArray[Any] = 0.5) -> Picture:
    """Lay a picture over a frame.

    Args:
        frame: below
        picture: above
        share: of the picture, 0..1; the rest is the frame. A map leaves the frame visible where
            it is 0

    Shape:
        - frame: as `frame_to_rgb` takes it
        - picture: ``(H, W, 3)`` uint8; smaller ones are enlarged by nearest neighbours
        - share: one number, or ``(H, W)``
        - output: ``(H, W, 3)`` uint8
    """
    frame_picture = frame_to_rgb(frame)
    height, width = frame_picture.shape[:2]
    share_map = np.asarray(share, np.float32)
    if not ((share_map >= 0) & (share_map <= 1)).all():
        raise UsageError("share: must lie in 0..1")
    if share_map.ndim:
        share_map = enlarge_cells(share_map, height, width)[..., None]
    upper = np.moveaxis(enlarge_cells(np.moveaxis(picture, -1, 0), height, width), 0, -1)
    return np.rint(frame_picture + (upper - frame_picture.astype(np.float32)) * share_map).astype(
        np.uint8
    )


def _compute_cell_centers(length: int, *, spacing: int) -> NDArray[np.intp]:
    """Middles of cells, as many as fit, but one at least, with equal margins."""
    count = max(1, length // spacing)
    return (length - (count - 1) * spacing) // 2 + spacing * np.arange(count)


def _draw_arrows(
    picture: Picture,
    x: NDArray[np.intp],
    y: NDArray[np.intp],
    moves: NDArray[np.floating],
    max_length: float,
) -> None:
    """Draw arrows from (x, y): first all outlines, then all colors."""
    length = np.hypot(*moves)
    known_mask = is_known(length)
    x, y, moves, length = x[known_mask], y[known_mask], moves[:, known_mask], length[known_mask]
    moves = moves * np.minimum(1, max_length / np.maximum(length, _MIN_PIXELS))
    subpixels = 1 << _FRACTION_BITS
    starts = np.stack([x, y], 1) * subpixels
    ends = np.rint((np.stack([x, y]) + moves).T * subpixels).astype(int)
    turn = np.arctan2(moves[1], moves[0]) / (2 * np.pi) % 1
    colors = np.rint(255 * colors_at(turn)).astype(int)
    for thickness, outline in ((3, True), (1, False)):
        for start, end, size, color in zip(starts, ends, length, colors, strict=True):
            ink = (0, 0, 0) if outline else tuple(map(int, color))
            if size < _MIN_PIXELS:
                ink = ink if outline else (255, 255, 255)
                cv2.circle(
                    picture, start, subpixels * thickness // 4, ink, -1, cv2.LINE_AA, _FRACTION_BITS
                )
                continue
            tip = min(0.35, 5 / min(size, max_length))
            cv2.arrowedLine(
                picture, start, end, ink, thickness, cv2.LINE_AA, _FRACTION_BITS, tipLength=tip
            )

"""Draw a map as a shaded surface in a box with axes, seen from above a corner."""

import math
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mrx.errors import ShapeError, UsageError
from mrx.render.arrays import Picture, Values, is_known, to_floats
from mrx.render.axes import choose_tap_offsets, choose_ticks, to_single_map
from mrx.render.diverging import diverging_to_rgb, find_max_magnitude
from mrx.render.text import TEXT_HEIGHT, draw_text, format_number, measure_text

_TURN_ANGLE = math.radians(32)
_TILT_ANGLE = math.radians(27)
# Half the height of the box; half its width is 1.
_HALF_HEIGHT = 0.72
# Draw larger, then average, for smooth edges.
_OVERSAMPLING = 4
# Upper limit of faces per side of the surface; a cell between values always gets at least one.
_MAX_FACES = 64
_WALL_COLOR, _RULE_COLOR, _FRAME_COLOR, _WIRE_COLOR = (247,) * 3, (222,) * 3, (120,) * 3, (70,) * 3
_LIGHT_DIRECTION = np.array([-0.25, 0.55, 0.8]) / math.sqrt(0.25**2 + 0.55**2 + 0.8**2)

Points = NDArray[np.floating]


def surface(
    values: Values,
    *,
    limits: tuple[float, float] | None = None,
    bound: float | None = None,
    size: int = 360,
    text: int = TEXT_HEIGHT,
) -> Picture:
    """Draw a map as a lightly shaded surface in the colors of `diverging_to_rgb`.

    The first row is at the back and the first column at the left. The view has no perspective, so
    equal heights look equal. Grid lines cross at the values, and the faces between are bilinear.
    Nearer parts hide the parts behind them. Ticks count from the middle.

    Args:
        values: heights
        limits: values at the bottom and the top of the box; by default `natural_limits`
        bound: magnitude of full color; by default the largest magnitude
        size: width of the picture, in pixels
        text: height of a line, in pixels

    Shape:
        - values: ``(H, W)``, both at least 2
        - output: ``(about 0.95 * size, size, 3)`` uint8

    >>> surface(np.eye(3), size=200).shape[1:]
    (200, 3)
    """
    heights = to_single_map(values)
    if min(heights.shape) < 2 or not is_known(heights).all():
        raise ShapeError(f"a surface needs at least 2x2 known values, got {heights.shape}")
    low, high = limits or natural_limits(heights)
    if not low < high:
        raise UsageError(f"limits={limits}: the first value must be below the second")
    view = _fit_view(low, high, size=size, text=text)
    canvas = np.full((view.height * _OVERSAMPLING, size * _OVERSAMPLING, 3), 255, np.uint8)
    _draw_walls(canvas, view, heights.shape)
    _draw_sheet(canvas, view, heights, bound or find_max_magnitude(heights) or 1.0)
    small = cv2.resize(canvas, (size, view.height), interpolation=cv2.INTER_AREA)
    picture = np.asarray(small, np.uint8)
    _draw_axis_numbers(picture, view, heights.shape, text)
    return picture


def natural_limits(*maps: Values) -> tuple[float, float]:
    """Return the minimum and maximum over several maps and 0, or (-1, 1) if all values are 0.

    >>> natural_limits(np.array([[1.0, 2.0]]), np.array([[-1.0, 0.5]])), natural_limits(np.zeros(3))
    ((-1.0, 2.0), (-1.0, 1.0))
    """
    low = min([0.0, *(float(to_floats(values).min()) for values in maps)])
    high = max([0.0, *(float(to_floats(values).max()) for values in maps)])
    return (low, high) if low < high else (-1.0, 1.0)


class BoxView(NamedTuple):
    """The projection of the box onto the picture.

    Attributes:
        low, high: values at the bottom and the top of the box
        unit_pixels: half the width of the box, in pixels
        center_x, center_y: pixel at the center of the box
        height: height of the picture, in pixels
        line_width: width of the box's lines, in pixels of the oversampled canvas
    """

    low: float
    high: float
    unit_pixels: float
    center_x: float
    center_y: float
    height: int
    line_width: int

    def scale_to_box(self, values: Points) -> Points:
        """Scale values to heights in the box."""
        return _HALF_HEIGHT * (2 * (values - self.low) / (self.high - self.low) - 1)

    def project_points(self, points: Points) -> Points:
        """Project points ``(..., 3)``, x right, y to the front and z up, to pixels x and y."""
        # Turn around the vertical axis, then tilt toward the viewer. No perspective.
        x, y, z = np.moveaxis(np.asarray(points, float), -1, 0)
        across = x * math.cos(_TURN_ANGLE) - y * math.sin(_TURN_ANGLE)
        near = x * math.sin(_TURN_ANGLE) + y * math.cos(_TURN_ANGLE)
        down = near * math.sin(_TILT_ANGLE) - z * math.cos(_TILT_ANGLE)
        return np.stack(
            [self.center_x + self.unit_pixels * across, self.center_y + self.unit_pixels * down], -1
        )


def _fit_view(low: float, high: float, *, size: int, text: int) -> BoxView:
    """Fit the box and its numbers to the width of the picture."""
    number_width = max(
        measure_text(format_number(tick), text)[1] for tick in choose_ticks(low, high)
    )
    left, right = number_width + text, round(2.5 * text)
    # Distance across from the center of the turned box to its outermost corner
    reach = math.cos(_TURN_ANGLE) + math.sin(_TURN_ANGLE)
    unit = (size - left - right) / (2 * reach)
    if unit < 2 * text:
        raise UsageError(f"size={size}: too small for text of {text} pixels. Use a larger size")
    half_height = _HALF_HEIGHT * math.cos(_TILT_ANGLE) + reach * math.sin(_TILT_ANGLE)
    top = text + unit * half_height
    line_width = max(2, round(_OVERSAMPLING * text / TEXT_HEIGHT))
    return BoxView(
        low,
        high,
        unit,
        left + unit * reach,
        top,
        round(top + unit * half_height + 2 * text),
        line_width,
    )


def _draw_walls(canvas: Picture, view: BoxView, shape: tuple[int, ...]) -> None:
    """Draw the floor and the two back walls, with a line at each tick."""
    box = np.array([-1, 1])
    # The floor, the left wall and the back wall: two axes span the box and one is fixed.
    faces = [
        (box, box, -_HALF_HEIGHT),
        (-1, box, _HALF_HEIGHT * box),
        (box, -1, _HALF_HEIGHT * box),
    ]
    for x, y, z in faces:
        _fill_polygon(canvas, view, _list_face_corners(x, y, z), _WALL_COLOR)
    for tick in choose_ticks(view.low, view.high):
        z = float(view.scale_to_box(np.array(tick)))
        ink = _FRAME_COLOR if tick == 0 else _RULE_COLOR
        _draw_polyline(canvas, view, [(-1, 1, z), (-1, -1, z), (1, -1, z)], ink)
    for x in _compute_tap_positions(shape[1]).values():
        _draw_polyline(
            canvas,
            view,
            [(x, 1, -_HALF_HEIGHT), (x, -1, -_HALF_HEIGHT), (x, -1, _HALF_HEIGHT)],
            _RULE_COLOR,
        )
    for y in _compute_tap_positions(shape[0]).values():
        _draw_polyline(
            canvas,
            view,
            [(1, y, -_HALF_HEIGHT), (-1, y, -_HALF_HEIGHT), (-1, y, _HALF_HEIGHT)],
            _RULE_COLOR,
        )
    for x, y, z in faces:
        outline = _list_face_corners(x, y, z)
        _draw_polyline(canvas, view, [*outline, outline[0]], _FRAME_COLOR)


def _list_face_corners(*axes: object) -> list[tuple[float, ...]]:
    """Return the corners of a face of the box, in order.

    Two of the axes are (low, high) pairs and one is a number:
    ``[-1, 1], [-1, 1], 0`` -> ``(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)``
    """
    spans = [np.atleast_1d(np.asarray(axis, float)) for axis in axes]
    first, second = (i for i, span in enumerate(spans) if len(span) == 2)
    corners = []
    for a, b in ((0, 0), (1, 0), (1, 1), (0, 1)):
        corner = [float(span[0]) for span in spans]
        corner[first], corner[second] = float(spans[first][a]), float(spans[second][b])
        corners.append(tuple(corner))
    return corners


def _compute_tap_positions(taps: int) -> dict[int, float]:
    """Map each labeled tap offset to its position in -1..1."""
    return {
        place: 2 * (place + taps // 2) / (taps - 1) - 1
        for place in choose_tap_offsets(taps, max_offsets=5)
    }


def _draw_sheet(canvas: Picture, view: BoxView, heights: Points, bound: float) -> None:
    """Draw the surface cell by cell, each with its border."""
    rows, columns = heights.shape
    num_steps = max(1, _MAX_FACES // max(rows, columns))
    fine_heights = _interpolate_heights(heights, num_steps)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in fine_heights.shape), indexing="ij")
    points = np.stack([x, y, view.scale_to_box(fine_heights)], -1)
    pixels = np.rint(_OVERSAMPLING * view.project_points(points)).astype(np.int32)
    middles = (
        fine_heights[:-1, :-1]
        + fine_heights[1:, 1:]
        + fine_heights[1:, :-1]
        + fine_heights[:-1, 1:]
    ) / 4
    colors = _shade_faces(points, values=middles, bound=bound)
    # From the back to the front, so that nearer cells cover those behind them.
    for row in range(0, len(fine_heights) - 1, num_steps):
        for column in range(0, fine_heights.shape[1] - 1, num_steps):
            patch = pixels[row : row + num_steps + 1, column : column + num_steps + 1]
            inks = colors[row : row + num_steps, column : column + num_steps]
            _draw_cell(canvas, patch, inks, view.line_width // 2)


def _draw_cell(
    canvas: Picture, patch: NDArray[np.int32], inks: NDArray[np.floating], line_width: int
) -> None:
    """Draw the faces of a cell, then its border."""
    for i in range(len(inks)):
        for j in range(inks.shape[1]):
            face = patch[[i, i, i + 1, i + 1], [j, j + 1, j + 1, j]]
            cv2.fillConvexPoly(canvas, face, inks[i, j].tolist())
    border = [patch[0], patch[:, -1], patch[-1, ::-1], patch[::-1, 0]]
    cv2.polylines(canvas, [np.concatenate(border)], True, _WIRE_COLOR, line_width)


def _interpolate_heights(heights: Points, num_steps: int) -> Points:
    """Interpolate heights bilinearly, `num_steps` from each value to the next."""
    for axis in (0, 1):
        count = heights.shape[axis]
        places = np.arange((count - 1) * num_steps + 1) / num_steps
        # The last place has no value after it: it is the value before with a share of 1.
        # count = 3, num_steps = 2 -> places [0, .5, 1, 1.5, 2], before [0, 0, 1, 1, 1]
        before = np.minimum(places.astype(int), count - 2)
        share = np.expand_dims(places - before, 1 - axis)
        heights = heights.take(before, axis) * (1 - share) + heights.take(before + 1, axis) * share
    return heights


def _shade_faces(points: Points, *, values: Points, bound: float) -> Points:
    """Color each face by its value, and darken faces that are turned away from the light."""
    across = points[:-1, 1:] - points[1:, :-1]
    along = points[1:, 1:] - points[:-1, :-1]
    normal = np.cross(across, along)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    light = 0.74 + 0.26 * np.clip(normal @ _LIGHT_DIRECTION, 0, 1)
    return diverging_to_rgb(values, bound=bound) * light[..., None]


def _draw_axis_numbers(picture: Picture, view: BoxView, shape: tuple[int, ...], text: int) -> None:
    """Write the numbers along the three edges that the surface cannot hide."""
    for tick in choose_ticks(view.low, view.high):
        x, y = view.project_points(np.array([-1, 1, float(view.scale_to_box(np.array(tick)))]))
        number = format_number(tick)
        at = (round(y - text / 2), round(x - text / 2 - measure_text(number, text)[1]))
        draw_text(picture, number, at, height=text)
    draw_floor_word = partial(_draw_word, picture, view, text=text)
    for place, position in _compute_tap_positions(shape[1]).items():
        draw_floor_word(str(place), at=(position, 1), aside=(-0.3, 1))
    for place, position in _compute_tap_positions(shape[0]).items():
        draw_floor_word(str(place), at=(1, position), aside=(1, 0.35))
    draw_floor_word("x", at=(0.25, 1), aside=(-1, 2.1))
    draw_floor_word("y", at=(1, 0.25), aside=(1.8, 1.1))


def _draw_word(
    picture: Picture,
    view: BoxView,
    word: str,
    *,
    at: tuple[float, float],
    aside: tuple[float, float],
    text: int,
) -> None:
    """Write a word next to a point of the floor; `aside` is its offset in line heights."""
    x, y = view.project_points(np.array([*at, -_HALF_HEIGHT])) + text * np.array(aside)
    start = x - measure_text(word, text)[1] / 2
    draw_text(picture, word, (round(y - text / 2), round(start)), height=text)


def _fill_polygon(
    canvas: Picture, view: BoxView, points: list[tuple[float, ...]], ink: tuple[int, ...]
) -> None:
    pixels = np.rint(_OVERSAMPLING * view.project_points(np.array(points))).astype(np.int32)
    cv2.fillConvexPoly(canvas, pixels, ink)


def _draw_polyline(
    canvas: Picture, view: BoxView, points: list[tuple[float, ...]], ink: tuple[int, ...]
) -> None:
    pixels = np.rint(_OVERSAMPLING * view.project_points(np.array(points))).astype(np.int32)
    cv2.polylines(canvas, [pixels], False, ink, view.line_width)

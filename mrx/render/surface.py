"""A map of numbers as a shaded surface in a box with axes, seen from above at a corner."""

import math
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mrx.errors import ShapeError, UsageError
from mrx.render.arrays import Picture, Values, known, to_floats
from mrx.render.axes import offsets, one_map, ticks
from mrx.render.diverging import diverging_to_rgb, largest
from mrx.render.text import HEIGHT, draw_text, text_size, to_text

_TURN = math.radians(32)
_TILT = math.radians(27)
_TALL = 0.72  # half the box's height, where half its width is 1
_FINER = 4  # drawn larger, then averaged: edges are smooth
_FACES = 64  # at most so many for each side of the surface, and at least one for each cell
_WALL, _RULE, _FRAME, _WIRE = (247,) * 3, (222,) * 3, (120,) * 3, (70,) * 3
_LIGHT = np.array([-0.25, 0.55, 0.8]) / math.sqrt(0.25**2 + 0.55**2 + 0.8**2)

Points = NDArray[np.floating]


def surface(
    values: Values,
    *,
    limits: tuple[float, float] | None = None,
    bound: float | None = None,
    size: int = 360,
    text: int = HEIGHT,
) -> Picture:
    """Draw a map as heights over its plane, in the colors of `diverging_to_rgb`, a little shaded.

    The map's first row is at the back and its first column at the left; the view is without
    perspective, so equal heights look equal. Lines cross at the values, and faces between them are
    bilinear. What lies in front hides what lies behind. Ticks count from the middle.

    Args:
        values: heights
        limits: values at the bottom and at the top of the box; without them the extremes, and 0
        bound: of the colors; without it the largest size
        size: pixels of the picture's width
        text: height of a line, in pixels

    Shape:
        - values: ``(H, W)``, at least 2 each way
        - output: ``(about 0.95 * size, size, 3)`` uint8

    >>> surface(np.eye(3), size=200).shape[1:]
    (200, 3)
    """
    heights = one_map(values)
    if min(heights.shape) < 2 or not known(heights).all():
        raise ShapeError(f"a surface needs 2x2 known values or more, got {heights.shape}")
    low, high = limits or natural_limits(heights)
    if not low < high:
        raise UsageError(f"limits={limits}: the first must be below the second")
    view = _fit(low, high, size=size, text=text)
    canvas = np.full((view.height * _FINER, size * _FINER, 3), 255, np.uint8)
    _walls(canvas, view, heights.shape)
    _sheet(canvas, view, heights, bound or largest(heights) or 1.0)
    small = cv2.resize(canvas, (size, view.height), interpolation=cv2.INTER_AREA)
    picture = np.asarray(small, np.uint8)
    _numbers(picture, view, heights.shape, text)
    return picture


def natural_limits(*maps: Values) -> tuple[float, float]:
    """The extremes of several maps together, and 0.

    >>> natural_limits(np.array([[1.0, 2.0]]), np.array([[-1.0, 0.5]])), natural_limits(np.zeros(3))
    ((-1.0, 2.0), (-1.0, 1.0))
    """
    low = min([0.0, *(float(to_floats(one).min()) for one in maps)])
    high = max([0.0, *(float(to_floats(one).max()) for one in maps)])
    return (low, high) if low < high else (-1.0, 1.0)


class View(NamedTuple):
    """How points of the box become pixels.

    Attributes:
        low, high: values at the bottom and the top
        unit: pixels of half the box's width
        left, top: the pixel of the box's middle
        height: of the picture
        line: width of the box's lines, on the large canvas
    """

    low: float
    high: float
    unit: float
    left: float
    top: float
    height: int
    line: int

    def level(self, values: Points) -> Points:
        """Values as heights in the box."""
        return _TALL * (2 * (values - self.low) / (self.high - self.low) - 1)

    def place(self, points: Points) -> Points:
        """Points ``(..., 3)`` of x to the right, y to the front and height, as pixels x and y."""
        x, y, z = np.moveaxis(np.asarray(points, float), -1, 0)
        across = x * math.cos(_TURN) - y * math.sin(_TURN)
        near = x * math.sin(_TURN) + y * math.cos(_TURN)
        down = near * math.sin(_TILT) - z * math.cos(_TILT)
        return np.stack([self.left + self.unit * across, self.top + self.unit * down], -1)


def _fit(low: float, high: float, *, size: int, text: int) -> View:
    """The view in which box and numbers fill a picture's width."""
    words = max(text_size(to_text(tick), text)[1] for tick in ticks(low, high))
    left, right = words + text, round(2.5 * text)
    reach = math.cos(_TURN) + math.sin(_TURN)
    unit = (size - left - right) / (2 * reach)
    if unit < 2 * text:
        raise UsageError(f"size={size}: too small for a surface with text of {text} pixels")
    half = _TALL * math.cos(_TILT) + reach * math.sin(_TILT)
    top = text + unit * half
    line = max(2, round(_FINER * text / HEIGHT))
    return View(
        low, high, unit, left + unit * reach, top, round(top + unit * half + 2 * text), line
    )


def _walls(canvas: Picture, view: View, shape: tuple[int, ...]) -> None:
    """The floor and the two walls behind, with a rule at each tick."""
    box = np.array([-1, 1])
    faces = [(box, box, -_TALL), (-1, box, _TALL * box), (box, -1, _TALL * box)]
    for x, y, z in faces:
        _fill(canvas, view, _corners(x, y, z), _WALL)
    for tick in ticks(view.low, view.high):
        z = float(view.level(np.array(tick)))
        ink = _FRAME if tick == 0 else _RULE
        _line(canvas, view, [(-1, 1, z), (-1, -1, z), (1, -1, z)], ink)
    for x in _along(shape[1]).values():
        _line(canvas, view, [(x, 1, -_TALL), (x, -1, -_TALL), (x, -1, _TALL)], _RULE)
    for y in _along(shape[0]).values():
        _line(canvas, view, [(1, y, -_TALL), (-1, y, -_TALL), (-1, y, _TALL)], _RULE)
    for x, y, z in faces:
        outline = _corners(x, y, z)
        _line(canvas, view, [*outline, outline[0]], _FRAME)


def _corners(*axes: object) -> list[tuple[float, ...]]:
    """The corners, in order around it, of a side of the box: two axes that reach, one that not."""
    spans = [np.atleast_1d(np.asarray(axis, float)) for axis in axes]
    first, second = (i for i, span in enumerate(spans) if len(span) == 2)
    corners = []
    for a, b in ((0, 0), (1, 0), (1, 1), (0, 1)):
        corner = [float(span[0]) for span in spans]
        corner[first], corner[second] = float(spans[first][a]), float(spans[second][b])
        corners.append(tuple(corner))
    return corners


def _along(taps: int) -> dict[int, float]:
    """Where in the box the taps with a number are."""
    return {place: 2 * (place + taps // 2) / (taps - 1) - 1 for place in offsets(taps, most=5)}


def _sheet(canvas: Picture, view: View, heights: Points, bound: float) -> None:
    """The surface, cell by cell from the back to the front, each with its border."""
    rows, columns = heights.shape
    parts = max(1, _FACES // max(rows, columns))
    fine = _between(heights, parts)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in fine.shape), indexing="ij")
    points = np.stack([x, y, view.level(fine)], -1)
    pixels = np.rint(_FINER * view.place(points)).astype(np.int32)
    middles = (fine[:-1, :-1] + fine[1:, 1:] + fine[1:, :-1] + fine[:-1, 1:]) / 4
    colors = _shade(points, values=middles, bound=bound)
    for row in range(0, len(fine) - 1, parts):
        for column in range(0, fine.shape[1] - 1, parts):
            patch = pixels[row : row + parts + 1, column : column + parts + 1]
            inks = colors[row : row + parts, column : column + parts]
            _patch(canvas, patch, inks, view.line // 2)


def _patch(
    canvas: Picture, patch: NDArray[np.int32], inks: NDArray[np.floating], line: int
) -> None:
    """One cell: its faces, then the four lines around it."""
    for i in range(len(inks)):
        for j in range(inks.shape[1]):
            face = patch[[i, i, i + 1, i + 1], [j, j + 1, j + 1, j]]
            cv2.fillConvexPoly(canvas, face, inks[i, j].tolist())
    around = [patch[0], patch[:, -1], patch[-1, ::-1], patch[::-1, 0]]
    cv2.polylines(canvas, [np.concatenate(around)], True, _WIRE, line)


def _between(heights: Points, parts: int) -> Points:
    """Bilinear heights, so many steps from each value to the next."""
    for axis in (0, 1):
        count = heights.shape[axis]
        places = np.arange((count - 1) * parts + 1) / parts
        before = np.minimum(places.astype(int), count - 2)
        share = np.expand_dims(places - before, 1 - axis)
        heights = heights.take(before, axis) * (1 - share) + heights.take(before + 1, axis) * share
    return heights


def _shade(points: Points, *, values: Points, bound: float) -> Points:
    """The color of each face: of its value, darker where it looks away from the light."""
    across = points[:-1, 1:] - points[1:, :-1]
    along = points[1:, 1:] - points[:-1, :-1]
    normal = np.cross(across, along)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    light = 0.74 + 0.26 * np.clip(normal @ _LIGHT, 0, 1)
    return diverging_to_rgb(values, bound=bound) * light[..., None]


def _numbers(picture: Picture, view: View, shape: tuple[int, ...], text: int) -> None:
    """The numbers along the three edges that nothing hides."""
    for tick in ticks(view.low, view.high):
        x, y = view.place(np.array([-1, 1, float(view.level(np.array(tick)))]))
        number = to_text(tick)
        at = (round(y - text / 2), round(x - text / 2 - text_size(number, text)[1]))
        draw_text(picture, number, at, height=text)
    word = partial(_word, picture, view, text=text)
    for place, where in _along(shape[1]).items():
        word(str(place), at=(where, 1), aside=(-0.3, 1))
    for place, where in _along(shape[0]).items():
        word(str(place), at=(1, where), aside=(1, 0.35))
    word("x", at=(0.25, 1), aside=(-1, 2.1))
    word("y", at=(1, 0.25), aside=(1.8, 1.1))


def _word(
    picture: Picture,
    view: View,
    word: str,
    *,
    at: tuple[float, float],
    aside: tuple[float, float],
    text: int,
) -> None:
    """A word so many lines' heights right of a point of the floor, and below it."""
    x, y = view.place(np.array([*at, -_TALL])) + text * np.array(aside)
    start = x - text_size(word, text)[1] / 2
    draw_text(picture, word, (round(y - text / 2), round(start)), height=text)


def _fill(
    canvas: Picture, view: View, points: list[tuple[float, ...]], ink: tuple[int, ...]
) -> None:
    pixels = np.rint(_FINER * view.place(np.array(points))).astype(np.int32)
    cv2.fillConvexPoly(canvas, pixels, ink)


def _line(
    canvas: Picture, view: View, points: list[tuple[float, ...]], ink: tuple[int, ...]
) -> None:
    pixels = np.rint(_FINER * view.place(np.array(points))).astype(np.int32)
    cv2.polylines(canvas, [pixels], False, ink, view.line)

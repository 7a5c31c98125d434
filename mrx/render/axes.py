"""Numbers beside pictures: ticks, a bar of signed colors, and a map of cells with its axes."""

import math
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mrx.errors import ShapeError, UsageError
from mrx.render.arrays import Picture, Values, check_positive, to_floats
from mrx.render.diverging import diverging_table, diverging_to_rgb, largest
from mrx.render.text import BLACK, HEIGHT, WHITE, draw_text, text_size, to_text

Kind = Literal["diverging", "signed"]
EDGE = (90, 90, 90)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers in low..high at equal distances of 1, 2 or 5 times a power of ten.

    >>> ticks(-37.2, 278.4)
    [0.0, 50.0, 100.0, 150.0, 200.0, 250.0]
    >>> ticks(-0.3, 0.31)
    [-0.2, 0.0, 0.2]
    """
    if not low < high or most < 2:
        raise UsageError(f"low={low}, high={high}, most={most}: nothing to place ticks on")
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [float(f"{place * step:.12g}") + 0.0 for place in range(first, last + 1)]


def offsets(taps: int, *, most: int = 7) -> list[int]:
    """The taps of a kernel that get a number, counted from its middle one.

    >>> offsets(9), offsets(3)
    ([-4, -2, 0, 2, 4], [-1, 0, 1])
    """
    half = taps // 2
    step = next(s for n in range(64) for s in (10**n, 2 * 10**n, 5 * 10**n) if taps <= s * most)
    return [place for place in range(-half, taps - half) if place % step == 0]


def color_bar(
    bound: float,
    *,
    kind: Kind = "diverging",
    length: int = 256,
    below: int = 0,
    text: int = HEIGHT,
) -> Picture:
    """An upright bar of colors on white, with round numbers and its ends' at the right.

    Args:
        bound: the value at the top; at the bottom is its negative
        kind: of `diverging_to_rgb`, or the grays of `signed_to_rgb`
        length: of the bar in pixels
        below: white pixels under it, as under the axis of the map beside it
        text: height of a line, in pixels

    Shape:
        - output: ``(H, W, 3)`` uint8
    """
    check_positive("bound", bound)
    if kind not in ("diverging", "signed"):
        raise UsageError(f"kind={kind}: choose from diverging, signed")
    apart = 3 * bound * text / length  # of a line and a half
    inner = ticks(-bound, bound, max(3, length // (2 * text)))
    values = [-bound, *(value for value in inner if bound - abs(value) > apart), bound]
    words = {value: to_text(value) for value in values}
    wide, mark, pad, line = text, max(3, text // 3), text // 2, max(1, text // HEIGHT)
    right = max(text_size(word, text)[1] for word in words.values())
    picture = np.full((length + 2 * pad + below, wide + 2 * mark + right + 1, 3), 255, np.uint8)
    levels = np.rint(np.linspace(254, 0, length)).astype(int)
    colors = diverging_table() if kind == "diverging" else np.arange(1, 256)[:, None]
    picture[pad : pad + length, :wide] = colors[levels][:, None]
    cv2.rectangle(picture, (0, pad), (wide - 1, pad + length - 1), EDGE, line)
    for value, word in words.items():
        y = pad + round((length - 1) * (bound - value) / (2 * bound))
        cv2.line(picture, (wide, y), (wide + mark - 1, y), EDGE, line)
        draw_text(picture, word, (y - text // 2, wide + 2 * mark), height=text)
    return picture


def kernel_map(
    values: Values, *, bound: float | None = None, cell: int = 32, text: int = HEIGHT
) -> Picture:
    """A kernel as a map of square cells in `diverging_to_rgb`'s colors, between its axes.

    The axes count from the middle tap, x to the right and y down.

    Args:
        values: of the taps
        bound: of the colors; without it the largest size
        cell: pixels of a cell's side
        text: height of a line, in pixels

    Shape:
        - values: ``(H, W)``
        - output: ``(H * cell + axis, W * cell + axis, 3)`` uint8, see `axis_below`
    """
    array = one_map(values)
    drawn = diverging_to_rgb(array, bound=bound).repeat(cell, 0).repeat(cell, 1)
    (height, width), pad = drawn.shape[:2], text // 2
    down, across = (_middles(n, cell=cell, text=text) for n in array.shape)
    left = text // 3 + max(text_size(word, text)[1] for word in down)
    picture = np.full((height + 2 * pad + axis_below(text), left + width + pad, 3), 255, np.uint8)
    picture[pad : pad + height, left : left + width] = drawn
    cv2.rectangle(
        picture, (left - 1, pad - 1), (left + width, pad + height), EDGE, max(1, text // HEIGHT)
    )
    for word, y in down.items():
        wide = text_size(word, text)[1]
        draw_text(picture, word, (pad + y - text // 2, left - text // 3 - wide), height=text)
    for word, x in across.items():
        wide = text_size(word, text)[1]
        draw_text(picture, word, (pad + height + text // 3, left + x - wide // 2), height=text)
    return picture


def _middles(taps: int, *, cell: int, text: int) -> dict[str, int]:
    """Numbers of an axis, and the pixels of their cells' middles."""
    most = max(2, taps * cell // (2 * text))
    return {str(n): round((n + taps // 2 + 0.5) * cell) for n in offsets(taps, most=most)}


def axis_below(text: int = HEIGHT) -> int:
    """Pixels under the cells of a map that its axis takes."""
    return text // 3 + text


def weights_row(
    values: Values, *, bound: float | None = None, cell: int = 32, text: int = HEIGHT
) -> Picture:
    """A few weights in a row, each a cell in `diverging_to_rgb`'s colors with its number in it.

    Shape:
        - values: ``(W,)``
        - output: ``(H, W', 3)`` uint8
    """
    array = to_floats(values)
    if array.ndim != 1 or not array.size:
        raise ShapeError(f"weights_row takes weights (W,), got {array.shape}")
    words = [to_text(float(value)) for value in array]
    wide = max(cell, *(text_size(word, text)[1] + text for word in words))
    tall = max(cell, 2 * text)
    colors = diverging_to_rgb(array[None], bound=bound or largest(array) or 1.0)
    picture = colors.repeat(tall, 0).repeat(wide, 1)
    for i, word in enumerate(words):
        ink = BLACK if colors[0, i] @ np.array([0.2, 0.7, 0.1]) > 110 else WHITE
        start = (i * wide) + (wide - text_size(word, text)[1]) // 2
        draw_text(picture, word, ((tall - text) // 2, start), height=text, color=ink)
        cv2.rectangle(
            picture, (i * wide, 0), ((i + 1) * wide - 1, tall - 1), EDGE, max(1, text // HEIGHT)
        )
    return picture


def one_map(values: Values) -> NDArray[np.floating]:
    """One map ``(H, W)`` of known numbers."""
    array = to_floats(values)
    if array.ndim != 2 or 0 in array.shape:
        raise ShapeError(f"a kernel is one map (H, W), got {array.shape}")
    return array

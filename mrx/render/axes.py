"""Draw numbered axes: ticks, color bars, kernel maps and rows of weights."""

import math
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mrx.errors import ShapeError, UsageError
from mrx.render.arrays import Picture, Values, check_positive_number, to_floats
from mrx.render.diverging import diverging_table, diverging_to_rgb, find_max_magnitude
from mrx.render.text import BLACK, TEXT_HEIGHT, WHITE, draw_text, format_number, measure_text

BarKind = Literal["diverging", "signed"]
EDGE_COLOR = (90, 90, 90)


def choose_ticks(low: float, high: float, max_ticks: int = 6) -> list[float]:
    """Return evenly spaced round numbers in low..high; the step is 1, 2 or 5 times a power of 10.

    >>> choose_ticks(-37.2, 278.4)
    [0.0, 50.0, 100.0, 150.0, 200.0, 250.0]
    >>> choose_ticks(-0.3, 0.31)
    [-0.2, 0.0, 0.2]
    """
    if not low < high or max_ticks < 2:
        raise UsageError(
            f"low={low}, high={high}, max_ticks={max_ticks}: low must be below high, "
            "and max_ticks at least 2"
        )
    power = 10.0 ** math.floor(math.log10((high - low) / max_ticks))
    for factor in (1, 2, 5, 10):
        step = factor * power
        # 1e-9 of a step keeps a tick at an end that rounding moved just outside.
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < max_ticks:
            break
    # 12 digits turn 0.30000000000000004 into 0.3, and adding 0.0 turns -0.0 into 0.0.
    return [float(f"{place * step:.12g}") + 0.0 for place in range(first, last + 1)]


def choose_tap_offsets(taps: int, *, max_offsets: int = 7) -> list[int]:
    """Return the tap offsets to label, counted from the middle tap.

    >>> choose_tap_offsets(9), choose_tap_offsets(3)
    ([-4, -2, 0, 2, 4], [-1, 0, 1])
    """
    half = taps // 2
    steps = (factor * 10**power for power in range(64) for factor in (1, 2, 5))
    step = next(step for step in steps if taps <= step * max_offsets)
    return [place for place in range(-half, taps - half) if place % step == 0]


def color_bar(
    bound: float,
    *,
    kind: BarKind = "diverging",
    length: int = 256,
    below: int = 0,
    text: int = TEXT_HEIGHT,
) -> Picture:
    """Draw a vertical color bar on white, labeled on the right with round numbers and its ends.

    Args:
        bound: value at the top; the bottom is its negative
        kind: ``diverging`` for the colors of `diverging_to_rgb`, ``signed`` for the grays of
            `signed_to_rgb`
        length: height of the bar, in pixels
        below: white pixels to add under the bar, to align it with a map that has an axis
        text: height of a line, in pixels

    Shape:
        - output: ``(H, W, 3)`` uint8
    """
    check_positive_number("bound", bound)
    if kind not in ("diverging", "signed"):
        raise UsageError(f"kind={kind}: choose from diverging, signed")
    # The bar spans 2 * bound in `length` pixels, so this distance is 1.5 lines of text.
    min_distance = 3 * bound * text / length
    inner_ticks = choose_ticks(-bound, bound, max(3, length // (2 * text)))
    values = [-bound, *(value for value in inner_ticks if bound - abs(value) > min_distance), bound]
    labels = {value: format_number(value) for value in values}
    bar_width, tick_length, pad = text, max(3, text // 3), text // 2
    line_width = max(1, text // TEXT_HEIGHT)
    label_width = max(measure_text(word, text)[1] for word in labels.values())
    picture = np.full(
        (length + 2 * pad + below, bar_width + 2 * tick_length + label_width + 1, 3), 255, np.uint8
    )
    levels = np.rint(np.linspace(254, 0, length)).astype(int)
    colors = diverging_table() if kind == "diverging" else np.arange(1, 256)[:, None]
    picture[pad : pad + length, :bar_width] = colors[levels][:, None]
    cv2.rectangle(picture, (0, pad), (bar_width - 1, pad + length - 1), EDGE_COLOR, line_width)
    for value, word in labels.items():
        y = pad + round((length - 1) * (bound - value) / (2 * bound))
        cv2.line(picture, (bar_width, y), (bar_width + tick_length - 1, y), EDGE_COLOR, line_width)
        draw_text(picture, word, (y - text // 2, bar_width + 2 * tick_length), height=text)
    return picture


def kernel_map(
    values: Values, *, bound: float | None = None, cell: int = 32, text: int = TEXT_HEIGHT
) -> Picture:
    """Draw a kernel as a map of square cells in the colors of `diverging_to_rgb`, with axes.

    The axes count from the middle tap, x to the right and y down.

    Args:
        values: the kernel's taps
        bound: magnitude of full color; by default the largest magnitude
        cell: side of a cell, in pixels
        text: height of a line, in pixels

    Shape:
        - values: ``(H, W)``
        - output: ``(H * cell + axis, W * cell + axis, 3)`` uint8, see `axis_height`
    """
    array = to_single_map(values)
    cells_picture = diverging_to_rgb(array, bound=bound).repeat(cell, 0).repeat(cell, 1)
    (height, width), pad = cells_picture.shape[:2], text // 2
    row_numbers, column_numbers = (
        _compute_tap_pixels(n, cell=cell, text=text) for n in array.shape
    )
    left = text // 3 + max(measure_text(word, text)[1] for word in row_numbers)
    picture = np.full((height + 2 * pad + axis_height(text), left + width + pad, 3), 255, np.uint8)
    picture[pad : pad + height, left : left + width] = cells_picture
    cv2.rectangle(
        picture,
        (left - 1, pad - 1),
        (left + width, pad + height),
        EDGE_COLOR,
        max(1, text // TEXT_HEIGHT),
    )
    for word, y in row_numbers.items():
        word_width = measure_text(word, text)[1]
        draw_text(picture, word, (pad + y - text // 2, left - text // 3 - word_width), height=text)
    for word, x in column_numbers.items():
        word_width = measure_text(word, text)[1]
        draw_text(
            picture, word, (pad + height + text // 3, left + x - word_width // 2), height=text
        )
    return picture


def _compute_tap_pixels(taps: int, *, cell: int, text: int) -> dict[str, int]:
    """Map each axis label to the pixel at the center of its cell."""
    # One label per two lines of text, so that labels do not touch.
    max_offsets = max(2, taps * cell // (2 * text))
    return {
        str(n): round((n + taps // 2 + 0.5) * cell)
        for n in choose_tap_offsets(taps, max_offsets=max_offsets)
    }


def axis_height(text: int = TEXT_HEIGHT) -> int:
    """Return the height of the axis below a kernel map, in pixels."""
    return text // 3 + text


def weights_row(
    values: Values, *, bound: float | None = None, cell: int = 32, text: int = TEXT_HEIGHT
) -> Picture:
    """Draw a row of weights: cells in the colors of `diverging_to_rgb`, each with its number.

    Shape:
        - values: ``(W,)``
        - output: ``(H, W', 3)`` uint8
    """
    array = to_floats(values)
    if array.ndim != 1 or not array.size:
        raise ShapeError(f"weights_row takes weights (W,), got {array.shape}")
    words = [format_number(float(value)) for value in array]
    cell_width = max(cell, *(measure_text(word, text)[1] + text for word in words))
    cell_height = max(cell, 2 * text)
    colors = diverging_to_rgb(array[None], bound=bound or find_max_magnitude(array) or 1.0)
    picture = colors.repeat(cell_height, 0).repeat(cell_width, 1)
    for i, word in enumerate(words):
        # Dark cells get white text; the weights approximate the luminance of RGB.
        ink = BLACK if colors[0, i] @ np.array([0.2, 0.7, 0.1]) > 110 else WHITE
        start = (i * cell_width) + (cell_width - measure_text(word, text)[1]) // 2
        draw_text(picture, word, ((cell_height - text) // 2, start), height=text, color=ink)
        cv2.rectangle(
            picture,
            (i * cell_width, 0),
            ((i + 1) * cell_width - 1, cell_height - 1),
            EDGE_COLOR,
            max(1, text // TEXT_HEIGHT),
        )
    return picture


def to_single_map(values: Values) -> NDArray[np.floating]:
    """Return one map ``(H, W)`` as floats, or raise ShapeError."""
    array = to_floats(values)
    if array.ndim != 2 or 0 in array.shape:
        raise ShapeError(f"a kernel must be one map (H, W), got {array.shape}")
    return array

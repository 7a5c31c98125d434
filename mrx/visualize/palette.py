"""The 256 colors of a GIF: made of the pictures so far, and kept for as long as they fit."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

COLOR_COUNT = 256
_BITS = 6  # of each channel, by which colors are told apart
_SHIFT = 8 - _BITS
_BLOCK_SIZE = 4096  # colors whose distances to the palette are worked out at once
_GOOD_ERROR = (
    12.0  # mean squared distance, over three channels of 255, that needs no better palette
)
_REBUILD_FACTOR = 2.0  # times the distance when it was made, from which on a palette is made anew

Colors = NDArray[np.float32]


class Palette:
    """One palette for a clip: what stands still keeps its colors, and nothing flickers.

    The first picture makes it. A later one that it fits much worse makes it anew, of all pictures
    so far, so that it comes to rest. One for each picture would be nearer to it, but what stands
    still would change its colors, and the file grow. Memory does not grow with the clip.

    Attributes:
        colors: red, green and blue, ``(256, 3)`` uint8
    """

    def __init__(self) -> None:
        size = 1 << 3 * _BITS
        self.colors = np.zeros((COLOR_COUNT, 3), np.uint8)
        self._counts = np.zeros(size, np.int64)
        self._indices = np.zeros(size, np.uint8)
        self._errors = np.full(size, -1, np.float32)  # of bins; below 0 where not known yet
        self._error_limit = -1.0

    def index_picture(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The nearest color of each pixel: ``(H, W, 3)`` to ``(H, W)``."""
        fine = (picture >> _SHIFT).astype(np.int32)
        bins = (fine[..., 0] << 2 * _BITS) + (fine[..., 1] << _BITS) + fine[..., 2]
        counts = np.bincount(bins.ravel(), minlength=self._counts.size)
        self._counts += counts
        if self._error_limit < 0 or self._measure_error(counts) > self._error_limit:
            self._rebuild_colors()
            error = max(map(self._measure_error, (counts, self._counts)))
            self._error_limit = _REBUILD_FACTOR * max(_GOOD_ERROR, error)
        return self._indices[bins]

    def _measure_error(self, counts: NDArray[np.int64]) -> float:
        """The mean squared distance from the palette of so many of each color."""
        used = np.flatnonzero(counts)
        new = used[self._errors[used] < 0]
        if len(new):
            self._indices[new], self._errors[new] = find_nearest_colors(
                _decode_bins(new), table=self._make_table()
            )
        return float(np.average(self._errors[used], weights=counts[used]))

    def _rebuild_colors(self) -> None:
        used = np.flatnonzero(self._counts)
        table = choose_colors(_decode_bins(used), self._counts[used].astype(np.float32))
        self.colors[:] = np.rint(table)
        self._errors.fill(-1)

    def _make_table(self) -> Colors:
        return self.colors.astype(np.float32)


def choose_colors(colors: Colors, weights: NDArray[np.float32]) -> Colors:
    """`COLOR_COUNT` colors for these: the box that costs most is cut at its mean, and so on.

    Then each moves to the mean of what is nearest to it.

    Shape:
        - colors: ``(N, 3)``; weights: ``(N,)``
        - output: ``(256, 3)``
    """
    weights = np.sqrt(weights)  # small things that move count beside a still ground
    boxes = [np.arange(len(colors))]
    costs = [_measure_box_cost(colors, weights, boxes[0])]
    while len(boxes) < COLOR_COUNT and max(costs)[0] > 0:
        place = max(range(len(boxes)), key=costs.__getitem__)
        box, (_, axis) = boxes[place], costs[place]
        levels = colors[box, axis]
        low = levels <= np.average(levels, weights=weights[box])
        halves = [box[low], box[~low]]
        boxes[place : place + 1] = halves
        costs[place : place + 1] = map(partial(_measure_box_cost, colors, weights), halves)
    table = np.zeros((COLOR_COUNT, 3), np.float32)
    for place, box in enumerate(boxes):
        table[place] = np.average(colors[box], axis=0, weights=weights[box])
    return _settle_colors(table, colors=colors, weights=weights)


def find_nearest_colors(
    colors: Colors, *, table: Colors
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The nearest of a table's colors to each, and the squared distance: ``(N,)`` both."""
    indices = np.empty(len(colors), np.uint8)
    errors = np.empty(len(colors), np.float32)
    for start in range(0, len(colors), _BLOCK_SIZE):
        block = colors[start : start + _BLOCK_SIZE]
        gain = (table**2).sum(1) - 2 * block @ table.T
        indices[start : start + _BLOCK_SIZE] = gain.argmin(1)
        errors[start : start + _BLOCK_SIZE] = np.maximum(gain.min(1) + (block**2).sum(1), 0)
    return indices, errors


def _measure_box_cost(
    colors: Colors, weights: NDArray[np.float32], box: NDArray[np.intp]
) -> tuple[float, int]:
    """The summed squared distance from the mean on the axis where it is largest, and that axis."""
    box_colors, box_weights = colors[box], weights[box]
    deviations = box_colors - np.average(box_colors, axis=0, weights=box_weights)
    spread = box_weights @ deviations**2
    axis = int(spread.argmax())
    return float(spread[axis]), axis


def _settle_colors(table: Colors, *, colors: Colors, weights: NDArray[np.float32]) -> Colors:
    indices, _ = find_nearest_colors(colors, table=table)
    total = np.bincount(indices, weights, COLOR_COUNT)
    sums = [np.bincount(indices, weights * channel, COLOR_COUNT) for channel in colors.T]
    means = np.stack(sums, 1) / np.maximum(total, 1e-9)[:, None]
    return np.where(total[:, None] > 0, means, table).astype(np.float32)


def _decode_bins(bins: NDArray[np.intp]) -> Colors:
    """The colors in the middle of bins, black and white as they are: ``(N, 3)``."""
    max_level = (1 << _BITS) - 1
    channels = np.stack([bins >> 2 * _BITS, bins >> _BITS & max_level, bins & max_level], 1)
    return channels.astype(np.float32) * np.float32(255 / max_level)

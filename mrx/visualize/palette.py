"""The 256 colors of a GIF, chosen from the pictures so far and kept while they fit."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

COLOR_COUNT = 256
_BITS = 6  # per channel; colors that differ only in the lower bits share a bin
_SHIFT = 8 - _BITS
_BLOCK_SIZE = 4096  # colors whose distances to the palette are computed at once
# Squared distances sum over three channels of 0..255. A palette is rebuilt when the mean distance
# exceeds _REBUILD_FACTOR times its value at the last build, or times _GOOD_ERROR if that is larger.
_GOOD_ERROR = 12.0
_REBUILD_FACTOR = 2.0

Colors = NDArray[np.float32]


class Palette:
    """One palette for a clip, so that still regions keep their colors and do not flicker.

    It is built from the first picture, and rebuilt from all pictures so far if a later one fits it
    much worse. A palette per picture would be more exact, but still regions would change their
    colors and the file would grow. Memory does not grow with the clip.

    Attributes:
        colors: red, green and blue, ``(256, 3)`` uint8
    """

    def __init__(self) -> None:
        size = 1 << 3 * _BITS
        self.colors = np.zeros((COLOR_COUNT, 3), np.uint8)
        self._counts = np.zeros(size, np.int64)
        self._indices = np.zeros(size, np.uint8)
        self._errors = np.full(size, -1, np.float32)  # per bin; negative if not computed yet
        self._error_limit = -1.0

    def index_picture(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the index of each pixel's nearest color: ``(H, W, 3)`` to ``(H, W)``."""
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
        """Return the mean squared distance to the palette of `counts` pixels per bin."""
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
    """Choose `COLOR_COUNT` colors that are near to the given ones.

    The box of the largest cost is split at its mean until there are enough boxes; then each chosen
    color moves to the mean of the colors nearest to it.

    Args:
        colors: the colors of the pictures
        weights: the number of pixels of each

    Shape:
        - colors: ``(N, 3)``; weights: ``(N,)``
        - output: ``(256, 3)``
    """
    # Roots, or a large still background would leave no colors to small moving things.
    weights = np.sqrt(weights)
    boxes = [np.arange(len(colors))]
    costs = [_measure_box_cost(colors, weights, boxes[0])]
    while len(boxes) < COLOR_COUNT and max(costs)[0] > 0:
        index = max(range(len(boxes)), key=costs.__getitem__)
        box, (_, axis) = boxes[index], costs[index]
        levels = colors[box, axis]
        low = levels <= np.average(levels, weights=weights[box])
        halves = [box[low], box[~low]]
        boxes[index : index + 1] = halves
        costs[index : index + 1] = map(partial(_measure_box_cost, colors, weights), halves)
    table = np.zeros((COLOR_COUNT, 3), np.float32)
    for index, box in enumerate(boxes):
        table[index] = np.average(colors[box], axis=0, weights=weights[box])
    return _settle_colors(table, colors=colors, weights=weights)


def find_nearest_colors(
    colors: Colors, *, table: Colors
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the index of the nearest color in `table`, and its squared distance: ``(N,)`` each."""
    indices = np.empty(len(colors), np.uint8)
    errors = np.empty(len(colors), np.float32)
    for start in range(0, len(colors), _BLOCK_SIZE):
        block = colors[start : start + _BLOCK_SIZE]
        # |c - t|^2 = |c|^2 + (|t|^2 - 2 c t); the first term does not change which t is nearest.
        gain = (table**2).sum(1) - 2 * block @ table.T
        indices[start : start + _BLOCK_SIZE] = gain.argmin(1)
        errors[start : start + _BLOCK_SIZE] = np.maximum(gain.min(1) + (block**2).sum(1), 0)
    return indices, errors


def _measure_box_cost(
    colors: Colors, weights: NDArray[np.float32], box: NDArray[np.intp]
) -> tuple[float, int]:
    """Return the largest weighted squared deviation of any axis, and that axis."""
    box_colors, box_weights = colors[box], weights[box]
    deviations = box_colors - np.average(box_colors, axis=0, weights=box_weights)
    spread = box_weights @ deviations**2
    axis = int(spread.argmax())
    return float(spread[axis]), axis


def _settle_colors(table: Colors, *, colors: Colors, weights: NDArray[np.float32]) -> Colors:
    """Move each color of the table to the mean of the colors nearest to it (one k-means step)."""
    indices, _ = find_nearest_colors(colors, table=table)
    total = np.bincount(indices, weights, COLOR_COUNT)
    sums = [np.bincount(indices, weights * channel, COLOR_COUNT) for channel in colors.T]
    means = np.stack(sums, 1) / np.maximum(total, 1e-9)[:, None]
    return np.where(total[:, None] > 0, means, table).astype(np.float32)


def _decode_bins(bins: NDArray[np.intp]) -> Colors:
    """Return the color of each bin ``(N, 3)``; black and white stay exact."""
    max_level = (1 << _BITS) - 1
    channels = np.stack([bins >> 2 * _BITS, bins >> _BITS & max_level, bins & max_level], 1)
    return channels.astype(np.float32) * np.float32(255 / max_level)

"""Convert tensors and arrays to numpy arrays of checked shape, and frames to RGB."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mrx.errors import ShapeError, UsageError

Values = Tensor | NDArray[Any]
Picture = NDArray[np.uint8]
"""An RGB picture ``(H, W, 3)``, or a batch of them ``(..., H, W, 3)``."""

UNKNOWN = (80, 80, 80)
"""The gray of unknown values: NaN, infinity, and magnitudes of 1e9 or more."""

# Middlebury marks unknown flow by values of 1e9 or more.
UNKNOWN_LIMIT = 1e9


def to_floats(values: Values) -> NDArray[Any]:
    """Return values on the CPU as numpy: float64 stays float64, all else becomes float32."""
    if isinstance(values, Tensor):
        tensor = values.detach().cpu()
        # numpy has no bfloat16, so torch widens the small types.
        values = tensor.numpy() if tensor.element_size() > 4 else tensor.float().numpy()
    array = np.asarray(values)
    return array if array.dtype == np.float64 else array.astype(np.float32, copy=False)


def to_maps(values: Values, *, channels: tuple[int, ...], what: str) -> NDArray[Any]:
    """Return maps ``(..., C, H, W)`` as floats, or raise ShapeError if C is not in `channels`."""
    array = to_floats(values)
    if array.ndim < 3 or array.shape[-3] not in channels or 0 in array.shape[-2:]:
        wanted = " or ".join(map(str, channels))
        raise ShapeError(f"{what} takes maps (..., {wanted}, H, W), got {array.shape}")
    return array


def draw_each(
    draw: Callable[[NDArray[Any]], Picture], maps: NDArray[Any], *, axes: int
) -> NDArray[np.uint8]:
    """Draw each map, made of the last `axes` axes, and keep the leading axes."""
    if maps.ndim < axes or 0 in maps.shape[-2:]:
        raise ShapeError(f"a picture needs maps of at least {axes} axes, got {maps.shape}")
    leading, shape = maps.shape[:-axes], maps.shape[-axes:]
    pictures = [draw(single_map) for single_map in maps.reshape(-1, *shape)]
    return np.asarray(pictures, np.uint8).reshape(*leading, *shape[-2:], 3)


def is_known(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the mask of values that are finite and of magnitude below 1e9."""
    # Comparisons with NaN are False, so NaN needs no test of its own.
    return np.abs(values) < UNKNOWN_LIMIT


def paint_unknown(picture: Picture, known_mask: NDArray[np.bool_]) -> Picture:
    """Paint unknown pixels gray, in place, and return the picture."""
    if not known_mask.all():
        picture[~known_mask] = UNKNOWN
    return picture


def check_positive_number(name: str, value: float) -> float:
    """Return `value` as a float, or raise UsageError unless it is above 0 and finite."""
    if not 0 < value < np.inf:
        raise UsageError(f"{name}={value}: must be above 0 and finite")
    return float(value)


def frame_to_rgb(frame: Values) -> Picture:
    """Copy a decoded frame into an RGB picture.

    Shape:
        - frame: ``(H, W, 3)``, ``(H, W, 1)``, ``(3, H, W)``, ``(1, H, W)`` or ``(H, W)``, uint8
        - output: ``(H, W, 3)``, a copy
    """
    array = frame.detach().cpu().numpy() if isinstance(frame, Tensor) else np.asarray(frame)
    if array.ndim == 3 and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 2:
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in (1, 3):
        raise ShapeError(
            f"a frame must be uint8 (H, W, 3), (3, H, W) or (H, W), got {array.dtype} "
            f"{tuple(frame.shape)}"
        )
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3))).copy()


def enlarge_cells(values: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Enlarge maps ``(..., H, W)`` by repeating each cell over its pixels.

    Cells start at the top left and span whole pixels; the last row and column extend to the edge.
    """
    if values.shape[-2:] == (height, width):
        return values
    sizes = zip((height, width), values.shape[-2:], strict=True)
    rows, columns = (_map_pixels_to_cells(pixels, cells) for pixels, cells in sizes)
    return values[..., rows[:, None], columns]


def _map_pixels_to_cells(pixels: int, cells: int) -> NDArray[np.intp]:
    """Return the index of the cell that contains each pixel."""
    stride = pixels // cells
    # Less than a cell remains: it belongs to the last cell.
    # pixels = 10, cells = 3 -> [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    if pixels < (cells + 1) * stride:
        return np.minimum(np.arange(pixels) // stride, cells - 1)
    # The remainder would hold another cell, so no whole stride fits: spread the cells evenly.
    # pixels = 5, cells = 3 -> [0, 0, 1, 1, 2]
    return np.arange(pixels) * cells // pixels

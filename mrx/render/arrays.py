"""Tensors and arrays as numpy arrays of known shape, and what all pictures share."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mrx.errors import ShapeError, UsageError

Values = Tensor | NDArray[Any]
Picture = NDArray[np.uint8]
"""RGB, ``(H, W, 3)``; or many of them, ``(..., H, W, 3)``."""

UNKNOWN = (80, 80, 80)
"""What NaN, infinity, and 1e9 or more, as Middlebury marks unknown flow, are drawn as."""
UNKNOWN_LIMIT = 1e9


def to_floats(values: Values) -> NDArray[Any]:
    """Values on the CPU, as float64 where they were that, and as float32 otherwise."""
    if isinstance(values, Tensor):
        tensor = values.detach().cpu()
        values = tensor.numpy() if tensor.element_size() > 4 else tensor.float().numpy()
    array = np.asarray(values)
    return array if array.dtype == np.float64 else array.astype(np.float32, copy=False)


def to_maps(values: Values, *, channels: tuple[int, ...], what: str) -> NDArray[Any]:
    """Maps ``(..., C, H, W)`` with one of these numbers of channels."""
    array = to_floats(values)
    if array.ndim < 3 or array.shape[-3] not in channels or 0 in array.shape[-2:]:
        wanted = " or ".join(map(str, channels))
        raise ShapeError(f"{what} takes maps (..., {wanted}, H, W), got {array.shape}")
    return array


def draw_each(
    draw: Callable[[NDArray[Any]], Picture], maps: NDArray[Any], *, axes: int
) -> NDArray[np.uint8]:
    """Draw maps one by one, whose last axes they are, and keep the axes before them."""
    if maps.ndim < axes or 0 in maps.shape[-2:]:
        raise ShapeError(f"a picture needs maps of at least {axes} axes, got {maps.shape}")
    leading, shape = maps.shape[:-axes], maps.shape[-axes:]
    pictures = [draw(single_map) for single_map in maps.reshape(-1, *shape)]
    return np.asarray(pictures, np.uint8).reshape(*leading, *shape[-2:], 3)


def is_known(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where values are finite, and below 1e9."""
    return np.abs(values) < UNKNOWN_LIMIT


def paint_unknown(picture: Picture, known_mask: NDArray[np.bool_]) -> Picture:
    """Paint over, in place, what is not known."""
    if not known_mask.all():
        picture[~known_mask] = UNKNOWN
    return picture


def check_positive_number(name: str, value: float) -> float:
    """A number that must be above 0, and finite."""
    if not 0 < value < np.inf:
        raise UsageError(f"{name}={value}: must be above 0, and finite")
    return float(value)


def frame_to_rgb(frame: Values) -> Picture:
    """A decoded frame as a picture of its own.

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
            f"a frame is uint8 (H, W, 3), (3, H, W) or (H, W), got {array.dtype} "
            f"{tuple(frame.shape)}"
        )
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3))).copy()


def enlarge_cells(values: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """The value of the cell that each pixel of a larger map ``(..., H, W)`` lies in.

    Cells of whole pixels start at the top left, and the last ones reach to the frame's end.
    """
    if values.shape[-2:] == (height, width):
        return values
    sizes = zip((height, width), values.shape[-2:], strict=True)
    rows, columns = (_map_pixels_to_cells(pixels, cells) for pixels, cells in sizes)
    return values[..., rows[:, None], columns]


def _map_pixels_to_cells(pixels: int, cells: int) -> NDArray[np.intp]:
    """The cell that each pixel lies in."""
    stride = pixels // cells
    if pixels < (cells + 1) * stride:
        return np.minimum(np.arange(pixels) // stride, cells - 1)
    return np.arange(pixels) * cells // pixels

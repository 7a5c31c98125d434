"""Draw one number per pixel, as heat or gray."""

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from mrx.errors import UsageError
from mrx.render.arrays import (
    Picture,
    Values,
    draw_each,
    is_known,
    paint_unknown,
    to_floats,
    to_maps,
)
from mrx.render.color_scale import robust_maximum


def magnitude(maps: Values) -> NDArray[np.float32]:
    """Return the norm over the channels: ``(..., C, H, W)`` to ``(..., H, W)`` float32.

    The norm is NaN if a channel is NaN or infinite, or if the norm is 1e9 or more.
    """
    # Any number of channels is allowed; too few axes give an empty range, which `to_maps` refuses.
    channels = range(1, 1 + (np.shape(maps)[-3] if np.ndim(maps) > 2 else 0))
    array = to_maps(maps, channels=tuple(channels), what="magnitude").astype(np.float32)
    if array.shape[-3] == 1:
        norm = np.abs(array[..., 0, :, :])
    else:
        # Squares of huge values overflow to infinity, which becomes NaN below.
        with np.errstate(over="ignore"):
            norm = np.sqrt(np.einsum("...chw,...chw->...hw", array, array))
    return np.where(is_known(norm), norm, np.float32(np.nan))


def heat_to_rgb(values: Values, *, low: float = 0.0, high: float | None = None) -> Picture:
    """Draw numbers from dark violet through red to pale yellow, in even steps of lightness.

    The order survives printing in black and white. Values outside `low`..`high` take the color of
    that end; unknown values are `mrx.render.UNKNOWN`, a gray that is not in the table.

    Args:
        values: one number per pixel
        low: value of the darkest color
        high: value of the brightest color; by default each map's robust maximum, see
            `mrx.render.Scale`

    Shape:
        - values: ``(..., H, W)``; output: ``(..., H, W, 3)`` uint8
    """
    if high is not None and not (np.isfinite([low, high]).all() and low < high):
        raise UsageError(f"low={low}, high={high}: both must be finite, and low below high")
    return draw_each(lambda single: _draw_heat(single, low, high), to_floats(values), axes=2)


def confidence_to_rgb(confidence: Values, *, stride: int = 1) -> Picture:
    """Draw confidence as gray, always from 0 (black) to 1 (white).

    Shape:
        - confidence: ``(..., H, W)``, in 0..1
        - output: ``(..., stride * H, stride * W, 3)`` uint8
    """
    gray = draw_each(_draw_gray, to_floats(confidence), axes=2)
    return repeat_cells(gray, stride)


def repeat_cells(pictures: Picture, stride: int) -> Picture:
    """Enlarge pictures ``(..., H, W, 3)``: each pixel becomes a square of side `stride`."""
    if stride < 1:
        raise UsageError(f"stride={stride}: must be at least 1")
    return pictures.repeat(stride, -3).repeat(stride, -2) if stride > 1 else pictures


def heat_table() -> Picture:
    """Return the 256 heat colors ``(256, 3)``: a curve in OKLab of evenly growing lightness."""
    # A copy: the cached table must not change.
    return _compute_heat_table().copy()


@cache
def _compute_heat_table() -> Picture:
    t = np.linspace(0, 1, 256)
    lightness = 0.20 + 0.77 * t
    hue = np.deg2rad(-65 + 172 * t**0.9)
    chroma = np.interp(t, [0, 0.15, 0.45, 0.7, 0.85, 1], [0.075, 0.145, 0.2, 0.17, 0.15, 0.075])
    return oklab_to_rgb(np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)]))


def oklab_to_rgb(lab: NDArray[np.floating]) -> Picture:
    """Convert OKLab colors ``(3, N)`` to sRGB ``(N, 3)``; clip colors outside sRGB."""
    # OKLab to linear sRGB (Björn Ottosson, 2020)
    to_cones = [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728]]
    cones = (np.array([*to_cones, [1, -0.0894841775, -1.2914855480]]) @ lab) ** 3
    to_rgb = [[4.0767416621, -3.3077115913, 0.2309699292]]
    to_rgb += [[-1.2684380046, 2.6097574011, -0.3413193965]]
    to_rgb += [[-0.0041960863, -0.7034186147, 1.7076147010]]
    linear = np.clip(np.array(to_rgb) @ cones, 0, 1)
    # The transfer curve of sRGB, from linear light to coded values
    coded = np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * coded.T).astype(np.uint8)


def _draw_heat(values: NDArray[np.floating], low: float, high: float | None) -> Picture:
    known_mask = is_known(values)
    if high is None:
        # In a map without values above `low`, the next float avoids a division by zero.
        high = max(robust_maximum(values), np.nextafter(low, np.inf))
    picture = cv2.applyColorMap(
        _scale_to_levels(values, known_mask, low, high), _compute_heat_table()[:, None]
    )
    return paint_unknown(np.asarray(picture, np.uint8), known_mask)


def _draw_gray(values: NDArray[np.floating]) -> Picture:
    known_mask = is_known(values)
    levels = _scale_to_levels(values, known_mask, 0, 1)
    return paint_unknown(np.stack([levels] * 3, -1), known_mask)


def _scale_to_levels(
    values: NDArray[np.floating], known_mask: NDArray[np.bool_], low: float, high: float
) -> Picture:
    """Scale values to levels 0..255; unknown values become 0."""
    if not known_mask.all():
        values = np.where(known_mask, values, low)
    # `dtype.type` keeps float32 maps in float32. The subtraction makes a new array, so the steps
    # below may work in place.
    levels = (values - values.dtype.type(low)) * values.dtype.type(255 / (high - low))
    return np.rint(np.clip(levels, 0, 255, out=levels), out=levels).astype(np.uint8)

"""One number for each pixel: as heat, or as gray."""

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
    """The norm over the channels: ``(..., C, H, W)`` to ``(..., H, W)`` float32.

    NaN where a channel is NaN, infinite, or 1e9 and more.
    """
    channels = range(1, 1 + (np.shape(maps)[-3] if np.ndim(maps) > 2 else 0))
    array = to_maps(maps, channels=tuple(channels), what="magnitude").astype(np.float32)
    if array.shape[-3] == 1:
        norm = np.abs(array[..., 0, :, :])
    else:
        with np.errstate(over="ignore"):
            norm = np.sqrt(np.einsum("...chw,...chw->...hw", array, array))
    return np.where(is_known(norm), norm, np.float32(np.nan))


def heat_to_rgb(values: Values, *, low: float = 0.0, high: float | None = None) -> Picture:
    """Draw numbers from dark violet over red to pale yellow, in even steps of lightness.

    It prints in black and white as what it is. Values outside `low`..`high` have the color of
    the end; unknown ones are `mrx.render.UNKNOWN`, a gray that is no heat.

    Args:
        values: one number for each pixel
        low: what is darkest
        high: what is brightest; without it each map's own robust maximum, see `mrx.render.Scale`

    Shape:
        - values: ``(..., H, W)``; output: ``(..., H, W, 3)`` uint8
    """
    if high is not None and not (np.isfinite([low, high]).all() and low < high):
        raise UsageError(f"low={low}, high={high}: must be finite, and low below high")
    return draw_each(lambda one: _draw_heat(one, low, high), to_floats(values), axes=2)


def confidence_to_rgb(confidence: Values, *, stride: int = 1) -> Picture:
    """Draw confidence as gray, not stretched: 0 is black and 1 white, in every picture.

    Shape:
        - confidence: ``(..., H, W)``, in 0..1
        - output: ``(..., stride * H, stride * W, 3)`` uint8
    """
    gray = draw_each(_draw_gray, to_floats(confidence), axes=2)
    return repeat_cells(gray, stride)


def repeat_cells(pictures: Picture, stride: int) -> Picture:
    """Each pixel of pictures ``(..., H, W, 3)`` as a square of ``stride`` pixels."""
    if stride < 1:
        raise UsageError(f"stride={stride}: must be at least 1")
    return pictures.repeat(stride, -3).repeat(stride, -2) if stride > 1 else pictures


def heat_table() -> Picture:
    """The 256 colors of heat, ``(256, 3)``: a curve in OKLab whose lightness grows evenly."""
    return _compute_heat_table().copy()


@cache
def _compute_heat_table() -> Picture:
    t = np.linspace(0, 1, 256)
    lightness = 0.20 + 0.77 * t
    hue = np.deg2rad(-65 + 172 * t**0.9)
    chroma = np.interp(t, [0, 0.15, 0.45, 0.7, 0.85, 1], [0.075, 0.145, 0.2, 0.17, 0.15, 0.075])
    return oklab_to_rgb(np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)]))


def oklab_to_rgb(lab: NDArray[np.floating]) -> Picture:
    """Colors of OKLab, ``(3, N)``, as sRGB ``(N, 3)``; what sRGB lacks is cut to its edge."""
    # OKLab to linear sRGB (Björn Ottosson, 2020)
    to_cones = [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728]]
    cones = (np.array([*to_cones, [1, -0.0894841775, -1.2914855480]]) @ lab) ** 3
    to_rgb = [[4.0767416621, -3.3077115913, 0.2309699292]]
    to_rgb += [[-1.2684380046, 2.6097574011, -0.3413193965]]
    to_rgb += [[-0.0041960863, -0.7034186147, 1.7076147010]]
    linear = np.clip(np.array(to_rgb) @ cones, 0, 1)
    coded = np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * coded.T).astype(np.uint8)


def _draw_heat(values: NDArray[np.floating], low: float, high: float | None) -> Picture:
    known_mask = is_known(values)
    if high is None:
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
    """Values in 0..255, with 0 for what is not known."""
    if not known_mask.all():
        values = np.where(known_mask, values, low)
    levels = (values - values.dtype.type(low)) * values.dtype.type(255 / (high - low))
    return np.rint(np.clip(levels, 0, 255, out=levels), out=levels).astype(np.uint8)

"""Signed maps around middle gray."""

import cv2
import numpy as np
from numpy.typing import NDArray

from mrx.render.arrays import (
    Picture,
    Values,
    check_positive_number,
    draw_each,
    is_known,
    paint_unknown,
    to_maps,
)
from mrx.render.color_scale import robust_maximum


def signed_to_rgb(maps: Values, *, bound: float | None = None) -> Picture:
    """Draw signed values around middle gray: 0 is 128, the bound 255 and its negative 1.

    Three channels stay red, green and blue, one is gray. Values beyond the bound are as bright or
    dark as that. Unknown values are drawn as `mrx.render.UNKNOWN`, a darker gray.

    Args:
        maps: signed values
        bound: without it each map's own robust maximum, see `mrx.render.Scale`

    Shape:
        - maps: ``(..., 3, H, W)`` or ``(..., 1, H, W)``
        - output: ``(..., H, W, 3)`` uint8
    """
    if bound is not None:
        check_positive_number("bound", bound)
    signed = to_maps(maps, channels=(1, 3), what="signed_to_rgb")
    return draw_each(lambda one: _draw_signed(one, bound), signed, axes=3)


def _draw_signed(maps: NDArray[np.floating], bound: float | None) -> Picture:
    known_mask = np.all(is_known(maps), axis=0)
    if not known_mask.all():
        maps = np.where(known_mask, maps, 0)
    levels = maps * maps.dtype.type(127 / (bound or robust_maximum(maps)))
    levels = np.rint(np.clip(levels, -127, 127, out=levels), out=levels)
    planes = (levels + 128).astype(np.uint8)
    picture = cv2.merge(list(np.broadcast_to(planes, (3, *planes.shape[1:]))))
    return paint_unknown(np.asarray(picture, np.uint8), known_mask)

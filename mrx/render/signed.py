"""Draw signed maps around middle gray."""

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

    Three channels become red, green and blue; one channel becomes gray. Values beyond the bound
    are clipped to it. Unknown values are `mrx.render.UNKNOWN`, a darker gray.

    Args:
        maps: signed values
        bound: value of level 255; by default each map's robust maximum, see `mrx.render.Scale`

    Shape:
        - maps: ``(..., 3, H, W)`` or ``(..., 1, H, W)``
        - output: ``(..., H, W, 3)`` uint8
    """
    if bound is not None:
        check_positive_number("bound", bound)
    signed = to_maps(maps, channels=(1, 3), what="signed_to_rgb")
    return draw_each(lambda single: _draw_signed(single, bound), signed, axes=3)


def _draw_signed(maps: NDArray[np.floating], bound: float | None) -> Picture:
    known_mask = np.all(is_known(maps), axis=0)
    if not known_mask.all():
        maps = np.where(known_mask, maps, 0)
    # `dtype.type` keeps float32 maps in float32; `levels` is a new array, so it may be changed.
    levels = maps * maps.dtype.type(127 / (bound or robust_maximum(maps)))
    levels = np.rint(np.clip(levels, -127, 127, out=levels), out=levels)
    # -127..127 -> 1..255: level 0 is not used, so that 0 is exactly 128.
    planes = (levels + 128).astype(np.uint8)
    picture = cv2.merge(list(np.broadcast_to(planes, (3, *planes.shape[1:]))))
    return paint_unknown(np.asarray(picture, np.uint8), known_mask)

"""Arithmetic of frame sizes and display matrices."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrx.errors import DecodeError
from mrx.job import Decoding


@dataclass(frozen=True)
class DisplayOrientation:
    """The steps that turn a coded ``(H, W, C)`` array into the displayed one.

    Attributes:
        swap_axes: exchange rows and columns, before any flip
        flip_rows, flip_columns: reverse their order
    """

    swap_axes: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def orient_array(self, array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a view of the array as displayed."""
        turned = array.swapaxes(0, 1) if self.swap_axes else array
        return turned[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def parse_display_matrix(matrix: bytes) -> DisplayOrientation | None:
    """Read FFmpeg's display matrix (9 int32, row by row); return None for odd angles.

    A pixel at (x, y) is shown at ``x' = a x + c y``, ``y' = b x + d y``.
    """
    a, b, _, c, d = (int(v) for v in np.frombuffer(matrix, np.int32)[:5])
    if a == d == 0 and b and c:
        return DisplayOrientation(swap_axes=True, flip_rows=b < 0, flip_columns=c < 0)
    if b == c == 0 and a and d:
        return DisplayOrientation(flip_rows=d < 0, flip_columns=a < 0)
    return None


def check_pixel_limit(width: int, height: int, max_pixels: int) -> None:
    """Raise `DecodeError` for a frame of more than `max_pixels` pixels."""
    if width * height > max_pixels:
        raise DecodeError(
            f"too large: {width}x{height}, the limit is {max_pixels} pixels (--max-pixels)"
        )


def target_size(width: int, height: int, options: Decoding) -> tuple[int, int]:
    """Return the (width, height) to scale a frame of this displayed size to.

    Sides computed from `short_side` are even; the video's own size and `size` are kept as given.

    >>> target_size(1296, 720, Decoding(short_side=256))
    (460, 256)
    >>> target_size(320, 240, Decoding(short_side=256))
    (320, 240)
    """
    target = options.size or (width, height)
    shorter = min(width, height)
    side = options.short_side
    if not options.size and side and (side < shorter or (side > shorter and options.upscale)):
        target = (_divide_to_even(width * side, shorter), _divide_to_even(height * side, shorter))
    check_pixel_limit(*target, options.max_pixels)
    return target


def _divide_to_even(numerator: int, denominator: int) -> int:
    # An odd width takes another path of swscale, whose pixels are a level or two brighter.
    # 1296 * 256 / 720 = 460.8 -> 460
    return max(2, 2 * ((numerator + denominator) // (2 * denominator)))

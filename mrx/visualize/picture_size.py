"""The size of pictures: frames and drawings scaled to it, and its limit."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mrx import render
from mrx.errors import UsageError
from mrx.visualize.film import MAX_SIDE
from mrx.visualize.moments import Moment


@dataclass(frozen=True)
class PictureSizer:
    """Scales pictures from the size of a frame by `factor`."""

    factor: float

    def check_size(self, moment: Moment, *, rows: int, columns: int) -> None:
        """Refuse a picture of `rows` x `columns` panels that exceeds the limit of codecs.

        Raises:
            UsageError: a side is longer than `MAX_SIDE`
        """
        panel_height, panel_width = map(self._scale_side, moment.size)
        height, width = rows * panel_height, columns * panel_width
        if max(height, width) > MAX_SIDE:
            raise UsageError(
                f"--scale {self.factor:g}: a picture of {width}x{height} is too large: sides have "
                f"at most {MAX_SIDE} pixels. Give a smaller --scale"
            )

    def resize_picture(self, picture: Any, *, is_photo: bool) -> render.Picture:
        """Scale a picture ``(H, W, 3)``; `is_photo` interpolates between colors."""
        if self.factor == 1:
            return np.asarray(picture)
        height, width = map(self._scale_side, picture.shape[:2])
        # A color between two colors of a legend would stand for a value that is not in the map.
        enlarging = cv2.INTER_CUBIC if is_photo else cv2.INTER_NEAREST
        interpolation = cv2.INTER_AREA if self.factor < 1 else enlarging
        return np.asarray(
            cv2.resize(picture, (width, height), interpolation=interpolation), np.uint8
        )

    def draw_frame(self, moment: Moment) -> render.Picture:
        """Draw a moment's frame at the final size, white if the frame is missing."""
        return self.resize_picture(render.frame_to_rgb(make_background(moment)), is_photo=True)

    def _scale_side(self, side: int) -> int:
        return max(1, round(side * self.factor))


def make_background(moment: Moment) -> NDArray[np.uint8]:
    """Return a moment's frame, or white of its size."""
    if moment.frame is not None:
        return moment.frame
    return np.full((*moment.size, 3), 255, np.uint8)

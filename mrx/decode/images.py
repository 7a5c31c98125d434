"""A folder of numbered images, read as a video."""

from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np

from mrx.decode.tally import Tally
from mrx.errors import DecodeError
from mrx.sources import numbered_images

JPEG_END = b"\xff\xd9"
MOST_NAMED = 5


def pictures(folder: str, tally: Tally) -> Iterator[av.VideoFrame]:
    """Yield the images in natural order; a bad one is counted and left out.

    Images are read by OpenCV, as the loaders of these datasets do, and handed on as frames, so
    that everything behind treats them like a video.
    """
    found = numbered_images(folder)
    if found.missing:
        some = ", ".join(str(number) for number in found.missing[:MOST_NAMED])
        more = found.n_missing - MOST_NAMED
        tally.warn(f"missing from the numbers: {some}" + (f" and {more} more" if more > 0 else ""))
    for path in found.paths:
        try:
            yield _read(path)
        except DecodeError as error:
            tally.fail(error)


def shape(path: str) -> tuple[int, int]:
    """Height and width of an image."""
    picture = _read(path)
    return picture.height, picture.width


def _read(path: str) -> av.VideoFrame:
    data = Path(path).read_bytes()
    name = Path(path).name
    if not data:
        raise DecodeError(f"{name} is empty")
    if data[:2] == b"\xff\xd8" and JPEG_END not in data[-64:]:
        raise DecodeError(f"{name} is cut off: no end of image")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise DecodeError(f"{name} is not an image")
    rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    return av.VideoFrame.from_ndarray(rgb, format="rgb24")

"""A folder of numbered images, read as a video."""

import struct
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np

from mrx.decode.scale import check_pixels
from mrx.decode.tally import Tally
from mrx.errors import DecodeError
from mrx.job import Decoding
from mrx.sources.numbered import numbered_images
from mrx.sources.scan import problem

JPEG_BEGIN = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
JPEG_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the markers of segments with the size
PNG_BEGIN = b"\x89PNG\r\n\x1a\n"
MOST_NAMED = 5


class _UnreadableError(DecodeError):
    """One image of a folder cannot be read; the others can."""


def pictures(folder: str, tally: Tally, options: Decoding) -> Iterator[av.VideoFrame]:
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
            yield _read(path, options.max_pixels)
        except _UnreadableError as error:
            tally.fail(error)
            if tally.stopped:
                return


def shape(folder: str, options: Decoding) -> tuple[int, int]:
    """Height and width of the first image that can be read."""
    tally = Tally()
    picture = next(pictures(folder, tally, options), None)
    if picture is None:
        raise DecodeError(nothing(tally))
    return picture.height, picture.width


def nothing(tally: Tally) -> str:
    """What to say of a folder without a picture."""
    return f"no readable image in this folder ({tally.first_error or 'it holds none'})"


def _read(path: str, limit: int) -> av.VideoFrame:
    name = Path(path).name.encode("utf-8", "backslashreplace").decode()
    try:
        if why_not := problem(path):
            raise _UnreadableError(f"{name}: {why_not}")
        data = Path(path).read_bytes()
        if data.startswith(JPEG_BEGIN) and JPEG_END not in data[-64:]:
            raise _UnreadableError(f"{name} is cut off: no end of image")
        check_pixels(*_promised(data), limit)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except OSError as error:
        raise _UnreadableError(f"{name}: {str(error.strerror or error).lower()}") from error
    except cv2.error as error:
        raise _UnreadableError(f"{name}: OpenCV refuses it ({error.err})") from error
    if image is None:
        raise _UnreadableError(f"{name} is not an image")
    check_pixels(image.shape[1], image.shape[0], limit)
    rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    return av.VideoFrame.from_ndarray(rgb, format="rgb24")


def _promised(data: bytes) -> tuple[int, int]:
    """Width and height as the header of a PNG or JPEG tells them; (0, 0) where it does not."""
    if data.startswith(PNG_BEGIN) and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    place = len(JPEG_BEGIN) if data.startswith(JPEG_BEGIN) else len(data)
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        if marker in JPEG_SIZES:
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return width, height
        place += 1 if marker == 0xFF else 2 + length  # markers may be padded with 0xFF
    return 0, 0

"""A folder of numbered images, read as a video."""

import struct
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np

from mrx.decode.scale import check_pixel_limit
from mrx.decode.tally import DecodeTally
from mrx.errors import DecodeError
from mrx.job import Decoding
from mrx.sources.numbered import list_numbered_images
from mrx.sources.scan import why_unreadable

JPEG_BEGIN = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
JPEG_SIZE_MARKERS = {*range(0xC0, 0xD0)} - {
    0xC4,
    0xC8,
    0xCC,
}  # the markers of segments with the size
PNG_BEGIN = b"\x89PNG\r\n\x1a\n"
MAX_LISTED_NUMBERS = 5


class _UnreadableImageError(DecodeError):
    """One image of a folder cannot be read; the others can."""


def read_images(folder: str, tally: DecodeTally, options: Decoding) -> Iterator[av.VideoFrame]:
    """Yield the images in natural order; a bad one is counted and left out.

    Images are read by OpenCV, as the loaders of these datasets do, and handed on as frames, so
    that everything behind treats them like a video.
    """
    numbered = list_numbered_images(folder)
    if numbered.missing_numbers:
        listed = ", ".join(str(number) for number in numbered.missing_numbers[:MAX_LISTED_NUMBERS])
        more = numbered.num_missing - MAX_LISTED_NUMBERS
        tally.warn(
            f"missing from the numbers: {listed}" + (f" and {more} more" if more > 0 else "")
        )
    for path in numbered.paths:
        try:
            yield _read_image(path, options.max_pixels)
        except _UnreadableImageError as error:
            tally.record_error(error)
            if tally.stopped:
                return


def read_image_shape(folder: str, options: Decoding) -> tuple[int, int]:
    """Height and width of the first image that can be read."""
    tally = DecodeTally()
    picture = next(read_images(folder, tally, options), None)
    if picture is None:
        raise DecodeError(describe_empty_folder(tally))
    return picture.height, picture.width


def describe_empty_folder(tally: DecodeTally) -> str:
    """What to say of a folder without a picture."""
    return f"no readable image in this folder ({tally.first_error or 'it holds none'})"


def _read_image(path: str, limit: int) -> av.VideoFrame:
    name = Path(path).name.encode("utf-8", "backslashreplace").decode()
    try:
        if why_not := why_unreadable(path):
            raise _UnreadableImageError(f"{name}: {why_not}")
        data = Path(path).read_bytes()
        if data.startswith(JPEG_BEGIN) and JPEG_END not in data[-64:]:
            raise _UnreadableImageError(f"{name} is cut off: no end of image")
        check_pixel_limit(*_read_header_size(data), limit)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except OSError as error:
        raise _UnreadableImageError(f"{name}: {str(error.strerror or error).lower()}") from error
    except cv2.error as error:
        raise _UnreadableImageError(f"{name}: OpenCV refuses it ({error.err})") from error
    if image is None:
        raise _UnreadableImageError(f"{name} is not an image")
    check_pixel_limit(image.shape[1], image.shape[0], limit)
    rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    return av.VideoFrame.from_ndarray(rgb, format="rgb24")


def _read_header_size(data: bytes) -> tuple[int, int]:
    """Width and height as the header of a PNG or JPEG tells them; (0, 0) where it does not."""
    if data.startswith(PNG_BEGIN) and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    offset = len(JPEG_BEGIN) if data.startswith(JPEG_BEGIN) else len(data)
    while offset + 9 <= len(data) and data[offset] == 0xFF:
        marker, length = data[offset + 1], int.from_bytes(data[offset + 2 : offset + 4])
        if marker in JPEG_SIZE_MARKERS:
            height, width = struct.unpack(">HH", data[offset + 5 : offset + 9])
            return width, height
        offset += 1 if marker == 0xFF else 2 + length  # markers may be padded with 0xFF
    return 0, 0

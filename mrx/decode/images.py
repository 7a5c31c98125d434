"""Folders of numbered images, read as videos."""

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
# Start-of-frame segments carry the size. C4, C8 and CC lie in the same range but are others.
JPEG_SIZE_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
PNG_BEGIN = b"\x89PNG\r\n\x1a\n"
MAX_LISTED_NUMBERS = 5


class _UnreadableImageError(DecodeError):
    """One image of a folder cannot be read; the others may still be."""


def read_images(folder: str, tally: DecodeTally, options: Decoding) -> Iterator[av.VideoFrame]:
    """Yield the images in the order of their numbers; count an unreadable one and go on.

    OpenCV reads them, as the loaders of these data sets do.
    """
    numbered = list_numbered_images(folder)
    if numbered.missing_numbers:
        listed = ", ".join(map(str, numbered.missing_numbers[:MAX_LISTED_NUMBERS]))
        num_unlisted = numbered.num_missing - MAX_LISTED_NUMBERS
        ending = f" and {num_unlisted} more" if num_unlisted > 0 else ""
        tally.warn(f"missing image numbers: {listed}{ending}")
    for path in numbered.paths:
        try:
            yield _read_image(path, options.max_pixels)
        except _UnreadableImageError as error:
            tally.record_error(error)
            if tally.stopped:
                return


def read_image_shape(folder: str, options: Decoding) -> tuple[int, int]:
    """Return the height and width of the first readable image.

    Raises:
        DecodeError: None is readable.
    """
    tally = DecodeTally()
    picture = next(read_images(folder, tally, options), None)
    if picture is None:
        raise DecodeError(describe_empty_folder(tally))
    return picture.height, picture.width


def describe_empty_folder(tally: DecodeTally) -> str:
    """Return the error text for a folder in which no image was readable."""
    return f"no readable image in this folder ({tally.first_error or 'it contains none'})"


def _read_image(path: str, limit: int) -> av.VideoFrame:
    name = Path(path).name.encode("utf-8", "backslashreplace").decode()
    try:
        # Before the file is opened: reading a FIFO would block.
        problem = why_unreadable(path)
        if problem:
            raise _UnreadableImageError(f"{name}: {problem}")
        data = Path(path).read_bytes()
        # OpenCV fills the rest of a truncated JPEG with gray and reports nothing. The
        # end marker may be followed by padding.
        if data.startswith(JPEG_BEGIN) and JPEG_END not in data[-64:]:
            raise _UnreadableImageError(f"{name} is cut off: no end of image")
        # The header is checked first because decoding would already take the memory.
        check_pixel_limit(*_read_header_size(data), limit)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except OSError as error:
        raise _UnreadableImageError(f"{name}: {str(error.strerror or error).lower()}") from error
    except cv2.error as error:
        raise _UnreadableImageError(f"{name}: OpenCV cannot decode it ({error.err})") from error
    if image is None:
        raise _UnreadableImageError(f"{name} is not an image")
    check_pixel_limit(image.shape[1], image.shape[0], limit)
    # As a decoder's frame, so that all later stages treat it like a video's.
    rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    return av.VideoFrame.from_ndarray(rgb, format="rgb24")


def _read_header_size(data: bytes) -> tuple[int, int]:
    """Return the width and height in a PNG or JPEG header, or (0, 0) if there is none."""
    if data.startswith(PNG_BEGIN) and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    offset = len(JPEG_BEGIN) if data.startswith(JPEG_BEGIN) else len(data)
    # A JPEG segment: 0xFF, marker, length (2 bytes), and in a start of frame also precision
    # (1 byte), height and width (2 bytes each).
    while offset + 9 <= len(data) and data[offset] == 0xFF:
        marker, length = data[offset + 1], int.from_bytes(data[offset + 2 : offset + 4])
        if marker in JPEG_SIZE_MARKERS:
            height, width = struct.unpack(">HH", data[offset + 5 : offset + 9])
            return width, height
        offset += 1 if marker == 0xFF else 2 + length  # markers may be padded with 0xFF
    return 0, 0

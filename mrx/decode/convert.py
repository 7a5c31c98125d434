"""Decoder pictures to bytes: size, orientation, colour; one kept reformatter for a stream."""

from typing import Literal

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from mrx.decode.scale import DisplayOrientation, parse_display_matrix, target_size
from mrx.decode.tally import DecodeTally
from mrx.job import Decoding

Color = Literal["rgb", "gray"]
COLOR_CHANNELS: dict[Color, int] = {"rgb": 3, "gray": 1}
PIXEL_FORMATS: dict[Color, str] = {"rgb": "rgb24", "gray": "gray"}
SCALING_MODE = int(Interpolation.BILINEAR)  # names cost a lookup for each frame
FULL_RANGE = 2
LUMA_SPACES = {2, 5, 6}  # unspecified, BT.470BG and SMPTE 170M: luma is the gray that OpenCV means
LUMA_FORMATS = {
    *("yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p"),
    *("yuvj420p", "yuvj422p", "yuvj444p", "yuvj440p", "nv12", "nv21"),
}
# Limited-range luma 16..235 to 0..255, as swscale rounds it.
LIMITED_TO_FULL = np.clip((np.arange(256) - 16) * 255 / 219 + 0.5, 0, 255).astype(np.uint8)


class FrameConverter:
    """Turn pictures of one stream into arrays of one size, as displayed.

    The size is fixed by the first picture; a later one of another size is scaled to it.

    Args:
        first: the first picture
        options: size and orientation asked for
        tally: takes the facts and warnings
    """

    def __init__(self, first: av.VideoFrame, options: Decoding, tally: DecodeTally) -> None:
        self.orientation = _read_orientation(first, options, tally)
        self.coded_size = (first.width, first.height)
        displayed_size = self.coded_size[::-1] if self.orientation.swap_axes else self.coded_size
        self.width, self.height = target_size(*displayed_size, options)
        self._tally = tally
        self._reformatters = {color: VideoReformatter() for color in PIXEL_FORMATS}
        tally.facts.update(
            orig_w=displayed_size[0],
            orig_h=displayed_size[1],
            width=self.width,
            height=self.height,
            pix_fmt=first.format.name,
            color_range=int(first.color_range),
            color_space=int(first.colorspace),
            interlaced=bool(first.interlaced_frame),
            scaling="none" if (self.width, self.height) == displayed_size else "bilinear",
        )

    def write_frame(self, picture: av.VideoFrame, color: Color, out: NDArray[np.uint8]) -> None:
        """Convert a picture into `out`, (H, W, C)."""
        if (picture.width, picture.height) != self.coded_size:
            self._tally.warn(
                f"the size changes from {self.coded_size[0]}x{self.coded_size[1]} to "
                f"{picture.width}x{picture.height}: all frames are scaled to one size"
            )
        if color == "gray" and self._luma_is_gray(picture):
            luma = _view_plane(picture, picture.width, picture.height, 1)
            if not _is_full_range(picture):
                luma = LIMITED_TO_FULL[luma]
            np.copyto(out, self.orientation.orient_array(luma))
            return
        width, height = (
            (self.height, self.width) if self.orientation.swap_axes else (self.width, self.height)
        )
        # A picture is too little work to share: waking the threads costs more than they save.
        converted = self._reformatters[color].reformat(
            picture, width, height, PIXEL_FORMATS[color], interpolation=SCALING_MODE, threads=1
        )
        np.copyto(
            out,
            self.orientation.orient_array(
                _view_plane(converted, width, height, COLOR_CHANNELS[color])
            ),
        )

    def _luma_is_gray(self, picture: av.VideoFrame) -> bool:
        size = (
            (self.height, self.width) if self.orientation.swap_axes else (self.width, self.height)
        )
        return (
            (picture.width, picture.height) == size
            and picture.format.name in LUMA_FORMATS
            and int(picture.colorspace) in LUMA_SPACES
        )


def _is_full_range(picture: av.VideoFrame) -> bool:
    return int(picture.color_range) == FULL_RANGE or picture.format.name.startswith("yuvj")


def _view_plane(
    picture: av.VideoFrame, width: int, height: int, channels: int
) -> NDArray[np.uint8]:
    """A view of a packed picture's first plane, (H, W, C); its rows may be padded."""
    plane = picture.planes[0]
    shape, strides = (height, width, channels), (plane.line_size, channels, 1)
    return np.ndarray(shape, np.uint8, buffer=memoryview(plane), strides=strides)


def _read_orientation(
    first: av.VideoFrame, options: Decoding, tally: DecodeTally
) -> DisplayOrientation:
    data = first.side_data.get("DISPLAYMATRIX")
    if data is None:
        return DisplayOrientation()
    matrix = np.asarray(data).tobytes()
    tally.facts["display_matrix"] = np.frombuffer(matrix, np.int32).tolist()
    tally.facts["rotation"] = int(first.rotation)
    turn = parse_display_matrix(matrix)
    if turn is None:
        tally.warn(f"rotated by {first.rotation} degrees, no right angle: frames stay as coded")
    return turn if turn and options.rotate else DisplayOrientation()

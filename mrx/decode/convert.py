"""Decoder pictures to arrays: size, orientation and color."""

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
SCALING_MODE = int(Interpolation.BILINEAR)  # a name costs a lookup for each frame
FULL_RANGE = 2
# Unspecified, BT.470BG and SMPTE 170M: luma has the weights of OpenCV's gray.
LUMA_SPACES = {2, 5, 6}
LUMA_FORMATS = {
    *("yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p"),
    *("yuvj420p", "yuvj422p", "yuvj444p", "yuvj440p", "nv12", "nv21"),
}
# Limited-range luma to full range, rounded as in swscale: 16 -> 0, 126 -> 128, 235 -> 255.
LIMITED_TO_FULL = np.clip((np.arange(256) - 16) * 255 / 219 + 0.5, 0, 255).astype(np.uint8)


class FrameConverter:
    """Converts the pictures of one stream to arrays of one size, oriented as displayed.

    The first picture fixes the size; a later one of another size is scaled to it.

    Args:
        first: the first picture
        options: the size and orientation to deliver
        tally: receives facts and warnings
    """

    def __init__(self, first: av.VideoFrame, options: Decoding, tally: DecodeTally) -> None:
        self.orientation = _read_orientation(first, options, tally)
        self.coded_size = (first.width, first.height)
        displayed_size = self.coded_size[::-1] if self.orientation.swap_axes else self.coded_size
        self.width, self.height = target_size(*displayed_size, options)
        # Pictures are scaled first and then turned, so this is the size before axes are swapped.
        target = (self.width, self.height)
        self._coded_target = target[::-1] if self.orientation.swap_axes else target
        self._tally = tally
        # One per color for the whole stream: a reformatter keeps its scaler between pictures of
        # one format, and would build a new one at each change of the target format.
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
        """Convert a picture and write it to `out`, ``(H, W, C)``."""
        if (picture.width, picture.height) != self.coded_size:
            self._tally.warn(
                f"the size changes from {self.coded_size[0]}x{self.coded_size[1]} to "
                f"{picture.width}x{picture.height}: all frames are scaled to one size"
            )
        if color == "gray" and self._has_gray_luma(picture):
            # The luma plane is already the gray picture: no conversion, at most a change of range.
            luma = _view_plane(picture, picture.width, picture.height, 1)
            if not _is_full_range(picture):
                luma = LIMITED_TO_FULL[luma]
            np.copyto(out, self.orientation.orient_array(luma))
            return
        width, height = self._coded_target
        # One thread: a picture is so little work that waking others costs more than they save.
        converted = self._reformatters[color].reformat(
            picture, width, height, PIXEL_FORMATS[color], interpolation=SCALING_MODE, threads=1
        )
        pixels = _view_plane(converted, width, height, COLOR_CHANNELS[color])
        np.copyto(out, self.orientation.orient_array(pixels))

    def _has_gray_luma(self, picture: av.VideoFrame) -> bool:
        return (
            (picture.width, picture.height) == self._coded_target
            and picture.format.name in LUMA_FORMATS
            and int(picture.colorspace) in LUMA_SPACES
        )


def _is_full_range(picture: av.VideoFrame) -> bool:
    return int(picture.color_range) == FULL_RANGE or picture.format.name.startswith("yuvj")


def _view_plane(
    picture: av.VideoFrame, width: int, height: int, channels: int
) -> NDArray[np.uint8]:
    """View the first plane of a packed picture as ``(H, W, C)``."""
    # Rows may be padded: line_size is the step from one to the next.
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
    orientation = parse_display_matrix(matrix)
    if orientation is None:
        tally.warn(f"rotated by {first.rotation} degrees, no right angle: frames stay as coded")
    return orientation if orientation and options.rotate else DisplayOrientation()

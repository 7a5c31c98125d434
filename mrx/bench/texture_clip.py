"""Moving textures to measure with, as windows on a device or as a file, and bare decoding."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import torch
import torch.nn.functional as F
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from torch import Tensor

from mrx.decode.convert import LUMA_FORMATS
from mrx.errors import DecodeError, MissingError
from mrx.methods.spec import Representation

ENCODER = "libx264"
MOTION_MARGIN = 32  # pixels of canvas around a picture, for it to move in
GRAIN_PIXELS = 4  # distance of the random values


def make_texture(height: int, width: int, *, seed: int) -> Tensor:
    """Make a picture of smooth random colors.

    Shape:
        - output: ``(H, W, 3)`` uint8
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(
        1, 3, height // GRAIN_PIXELS + 2, width // GRAIN_PIXELS + 2, generator=generator
    )
    fine = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0]
    return (fine * 255).clamp(0, 255).byte().permute(1, 2, 0).contiguous()


def make_texture_windows(
    module: Representation, count: int, size: tuple[int, int], device: torch.device
) -> Tensor:
    """Make windows that share no frames, with the memory layout of decoded frames.

    Args:
        module: the method, for its window length and color
        count: number of windows
        size: (width, height)
        device: the device to make them on

    Shape:
        - output: ``(count, T, C, H, W)`` uint8
    """
    width, height = size
    colors = 3 if module.color == "rgb" else 1
    # Each window is a crop of one canvas that moves by (1, 2) pixels a frame; the margin holds its
    # largest start and all its steps.
    margin = MOTION_MARGIN + 2 * module.length
    canvas = make_texture(height + margin, width + margin, seed=1)[..., :colors].to(device)
    shape = (count, module.length, height, width, colors)
    data = torch.empty(shape, dtype=torch.uint8, device=device)
    starts = torch.randint(MOTION_MARGIN, (count, 2), generator=torch.Generator().manual_seed(2))
    for window, (down, right) in zip(data, starts.tolist(), strict=True):
        for t, frame in enumerate(window):
            top, left = down + t, right + 2 * t
            frame.copy_(canvas[top : top + height, left : left + width])
    # A view with channels first: the memory keeps them last, as the decoder's.
    return data.permute(0, 1, 4, 2, 3)


def write_texture_clip(path: Path, frames: int, size: tuple[int, int]) -> None:
    """Write an H.264 video of a texture that moves to and fro; odd sides are rounded up."""
    if ENCODER not in av.codecs_available:
        raise MissingError(
            f"cannot generate a clip: this PyAV has no encoder {ENCODER}. Give one with --input"
        )
    # yuv420p has one chroma sample for 2x2 pixels.
    width, height = (side + side % 2 for side in size)
    canvas = make_texture(height + MOTION_MARGIN, width + MOTION_MARGIN, seed=3)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(ENCODER, rate=25, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for t in range(frames):
            # MOTION_MARGIN = 32: 32, 30, ..., 2, 0, 2, ..., 30, 32, 30, ...
            offset = abs(2 * t % (2 * MOTION_MARGIN) - MOTION_MARGIN)
            picture = canvas[offset // 2 : offset // 2 + height, offset : offset + width]
            frame = av.VideoFrame.from_ndarray(picture.contiguous().numpy(), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def decode_clip(path: str, size: tuple[int, int], color: str) -> int:
    """Decode and convert a clip in a minimal loop over PyAV; return the number of frames.

    Args:
        path: the clip
        size: (width, height) to scale the frames to
        color: ``rgb`` or ``gray``
    """
    pictures = _decode_clip_pictures(path)
    first = next(pictures)
    convert = _choose_clip_converter(first, size, color)
    convert(first)
    frames = 1
    for picture in pictures:
        convert(picture)
        frames += 1
    return frames


def _decode_clip_pictures(path: str) -> Iterator[av.VideoFrame]:
    try:
        with av.open(path) as container:
            stream = container.streams.video[0]
            # As `mrx.decode.pyav` decodes, so that the two can be compared.
            stream.thread_type = "NONE"
            yield from container.decode(stream)
    except FFmpegError as error:
        raise DecodeError(f"cannot decode {path}: {error}. Give another clip") from error


def _choose_clip_converter(
    first: av.VideoFrame, size: tuple[int, int], color: str
) -> Callable[[av.VideoFrame], object]:
    """Return a function from pictures to arrays."""
    # Luma of the right size is the gray picture already, as in `mrx.decode.convert`.
    same_size = (first.width, first.height) == size
    if color == "gray" and same_size and first.format.name in LUMA_FORMATS:
        return lambda picture: bytes(picture.planes[0])
    reformatter, pixel_format = VideoReformatter(), "rgb24" if color == "rgb" else "gray"
    return lambda picture: reformatter.reformat(
        picture, *size, pixel_format, threads=1
    ).to_ndarray()

"""Pictures to measure with: a texture that moves, as windows on a device and as a film."""

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
MOTION_MARGIN = 32  # pixels around a picture, for it to move in
GRAIN_PIXELS = 4  # pixels


def make_texture(height: int, width: int, *, seed: int) -> Tensor:
    """Smooth random colors.

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
    """Windows of frames of their own on a device, laid out as the decoder's frames are.

    Args:
        module: the method, for its length and colors
        count: how many
        size: (width, height)
        device: where they are made

    Shape:
        - output: ``(count, T, C, H, W)`` uint8
    """
    width, height = size
    colors = 3 if module.color == "rgb" else 1
    margin = MOTION_MARGIN + 2 * module.length
    canvas = make_texture(height + margin, width + margin, seed=1)[..., :colors].to(device)
    shape = (count, module.length, height, width, colors)
    data = torch.empty(shape, dtype=torch.uint8, device=device)
    starts = torch.randint(MOTION_MARGIN, (count, 2), generator=torch.Generator().manual_seed(2))
    for window, (down, right) in zip(data, starts.tolist(), strict=True):
        for t, frame in enumerate(window):
            top, left = down + t, right + 2 * t
            frame.copy_(canvas[top : top + height, left : left + width])
    return data.permute(0, 1, 4, 2, 3)


def write_texture_clip(path: Path, frames: int, size: tuple[int, int]) -> None:
    """A film of a texture that goes to and fro; H.264, its sides made even."""
    if ENCODER not in av.codecs_available:
        raise MissingError(f"this PyAV has no encoder {ENCODER}: give a clip with --input")
    width, height = (side + side % 2 for side in size)
    canvas = make_texture(height + MOTION_MARGIN, width + MOTION_MARGIN, seed=3)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(ENCODER, rate=25, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for t in range(frames):
            offset = abs(2 * t % (2 * MOTION_MARGIN) - MOTION_MARGIN)
            picture = canvas[offset // 2 : offset // 2 + height, offset : offset + width]
            frame = av.VideoFrame.from_ndarray(picture.contiguous().numpy(), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def decode_clip(path: str, size: tuple[int, int], color: str) -> int:
    """Decode and convert as the shortest loop over PyAV does; the number of frames.

    Args:
        path: of the clip
        size: (width, height) that the frames get
        color: what they are converted to, ``rgb`` or ``gray``
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
            stream.thread_type = "NONE"
            yield from container.decode(stream)
    except FFmpegError as error:
        raise DecodeError(f"{path} cannot be decoded alone: {error}. Give another clip") from error


def _choose_clip_converter(
    first: av.VideoFrame, size: tuple[int, int], color: str
) -> Callable[[av.VideoFrame], object]:
    """Pictures to arrays; gray is the plane itself where it has the size."""
    same_size = (first.width, first.height) == size
    if color == "gray" and same_size and first.format.name in LUMA_FORMATS:
        return lambda picture: bytes(picture.planes[0])
    reformatter, pixel_format = VideoReformatter(), "rgb24" if color == "rgb" else "gray"
    return lambda picture: reformatter.reformat(
        picture, *size, pixel_format, threads=1
    ).to_ndarray()

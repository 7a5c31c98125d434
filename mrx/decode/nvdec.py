"""Video files decoded on an NVIDIA GPU by torchcodec, instead of by PyAV.

torchcodec delivers RGB as displayed, at the video's own size. Its frames are copied to the CPU and
treated like PyAV's, so range, rate, resizing and windows are the same for both. Rounding differs
from the CPU decoder's, and gray is computed from RGB instead of luma: the numbers differ a little,
so the decoder is a setting and is recorded in the attributes.

Nothing falls back to the CPU silently. A video fails, with the reason, if torchcodec refuses it or
decodes it on the CPU, if its first frame differs from PyAV's, and at damage that PyAV would skip.
The comparison of first frames catches mirrored videos, rotations of 45 degrees and rotations that
are to be ignored. A distant start is reached by decoding from the first frame.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from mrx.decode import pyav
from mrx.decode.convert import FrameConverter
from mrx.decode.tally import DecodeTally
from mrx.errors import DecodeError, MissingError
from mrx.job import Decoding

FALLBACK_HINT = "Use --decoder pyav"
INSTALL_COMMAND = "pip install 'mrx[nvdec]'"
MAX_LEVEL_DIFFERENCE = 2.0  # of 255, in the mean: swscale alone is up to 1.4 off exact rounding
BATCH_FRAMES = 24
BATCH_BYTES = 32 * 2**20
TORCHCODEC_ERRORS = (RuntimeError, ValueError, IndexError, OSError)  # what torchcodec raises
SOURCE_LOCATION = re.compile(r"^\w+, \S+:\d+, ")
PROBE_SIDE = 256  # pixels; hardware refuses far smaller videos


def require_nvdec(options: Decoding, device: torch.device) -> None:
    """Raise `MissingError` if the options ask for this decoder and it is not usable."""
    reason = why_nvdec_unusable(device) if options.decoder == "nvdec" else ""
    if reason:
        raise MissingError(f"decoder nvdec is not usable: {reason}. {FALLBACK_HINT}")


def why_nvdec_unusable(device: torch.device) -> str:
    """Return the reason why videos cannot be decoded on this device; empty if they can."""
    try:
        decoder_class = _import_torchcodec().decoders.VideoDecoder
    except MissingError as error:
        return str(error)
    if device.type in ("cpu", "mps"):
        return f"it needs an NVIDIA GPU, and methods compute on {device}"
    # Loading is not enough: only a decoded frame shows that this GPU and its driver can.
    try:
        decoder = decoder_class(_make_probe_video(), device=device)
        decoder.get_frames_in_range(0, 1)
    except TORCHCODEC_ERRORS as error:
        return f"torchcodec cannot decode on {device} ({_shorten_torchcodec_error(error)})"
    return f"{device} cannot decode H.264 ({decoder.cpu_fallback})" if decoder.cpu_fallback else ""


def name_torchcodec(device: torch.device) -> str:
    """Return the decoder's name for the attributes: torchcodec, its version, the device type."""
    return f"torchcodec {_import_torchcodec().__version__} {device.type}"


def _import_torchcodec() -> Any:
    try:
        import torchcodec.decoders
    except ImportError as error:
        raise MissingError(f"torchcodec is not installed: {INSTALL_COMMAND}") from error
    except (RuntimeError, OSError) as error:
        raise MissingError(
            f"torchcodec does not load ({_shorten_torchcodec_error(error)}): it needs FFmpeg's "
            "shared libraries and a PyTorch for NVIDIA GPUs"
        ) from error
    return torchcodec


def decode_on_gpu(
    container: InputContainer,
    stream: VideoStream,
    tally: DecodeTally,
    options: Decoding,
    device: torch.device,
) -> Iterator[av.VideoFrame]:
    """Yield every frame of a file, as `mrx.decode.pyav.decode_frames` does.

    Args:
        container: the file, opened by PyAV, to compare the first frames
        stream: the video stream of it to decode
        tally: receives counts and facts
        options: how to treat orientation and damage
        device: the GPU
    """
    if tally.facts["clock"] == "index":
        raise DecodeError(
            f"nvdec finds frames by their times, and those in {container.format.name} are "
            f"unreliable. {FALLBACK_HINT}"
        )
    first = next(pyav.decode_frames(container, stream, DecodeTally(), options))
    decoder = _open_gpu_decoder(container.name, stream.index, device)
    base = stream.time_base or Fraction(1)
    for rgb, seconds in _decode_in_batches(decoder, tally, options):
        picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        picture.pts = round(seconds / base)
        if not tally.frames:
            # Whether torchcodec fell back to the CPU is known only after a frame is decoded.
            _refuse_cpu_fallback(decoder)
            _compare_first_pixels(rgb, first, tally, options)
            _compare_first_times(picture, first, base, tally)
        tally.frames += 1
        yield picture
    if not tally.frames:
        raise DecodeError(f"torchcodec finds no frame. {FALLBACK_HINT}")


def _open_gpu_decoder(path: str, stream: int, device: torch.device) -> Any:
    decoder_class = _import_torchcodec().decoders.VideoDecoder
    try:
        return decoder_class(path, stream_index=stream, dimension_order="NHWC", device=device)
    except TORCHCODEC_ERRORS as error:
        raise DecodeError(
            f"torchcodec cannot open it ({_shorten_torchcodec_error(error)}). {FALLBACK_HINT}"
        ) from error


def _decode_in_batches(
    decoder: Any, tally: DecodeTally, options: Decoding
) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """Yield every frame as ``(H, W, 3)`` RGB with its time in seconds."""
    # The first frame comes alone: its bytes decide the size of the batches.
    num_done, count, size = 0, len(decoder), 1
    while num_done < count:
        try:
            batch = decoder.get_frames_in_range(num_done, min(num_done + size, count))
        except TORCHCODEC_ERRORS as error:
            # One bad frame fails its whole batch: go on one by one, to keep those before it.
            if size > 1:
                size = 1
                continue
            cause = _shorten_torchcodec_error(error)
            message = f"torchcodec stops at frame {num_done} of {count} ({cause})"
            if options.on_error != "stop" or not num_done:
                raise DecodeError(f"{message}. {FALLBACK_HINT}") from error
            tally.truncated, tally.first_error = True, message
            return
        data = batch.data.cpu().numpy()
        yield from zip(data, batch.pts_seconds.tolist(), strict=True)
        if not num_done:
            size = max(1, min(BATCH_FRAMES, BATCH_BYTES // data.nbytes))
        num_done += len(data)


def _refuse_cpu_fallback(decoder: Any) -> None:
    if decoder.cpu_fallback:
        reason = decoder.cpu_fallback
        raise DecodeError(
            f"the GPU cannot decode it, torchcodec used the CPU ({reason}). {FALLBACK_HINT}"
        )


def _compare_first_pixels(
    rgb: NDArray[np.uint8], first: av.VideoFrame, tally: DecodeTally, options: Decoding
) -> None:
    """Compare with PyAV's first frame, at the video's own size, oriented as `options` say."""
    pyav_tally = DecodeTally()
    converter = FrameConverter(first, replace(options, short_side=None, size=None), pyav_tally)
    tally.facts.update(pyav_tally.facts)
    height, width = rgb.shape[:2]
    if (width, height) != (converter.width, converter.height):
        raise DecodeError(
            f"torchcodec's first frame is {width}x{height}, the CPU decoder's "
            f"{converter.width}x{converter.height}. {FALLBACK_HINT}"
        )
    expected = np.empty_like(rgb)
    converter.write_frame(first, "rgb", expected)
    # int16, because the difference of two uint8 arrays would wrap around.
    levels = float(np.abs(expected.astype(np.int16) - rgb).mean())
    if levels > MAX_LEVEL_DIFFERENCE:
        raise DecodeError(
            f"torchcodec's first frame differs from the CPU decoder's by {levels:.1f} levels of "
            f"255 in the mean, the limit is {MAX_LEVEL_DIFFERENCE:g}. {FALLBACK_HINT}"
        )


def _compare_first_times(
    picture: av.VideoFrame, first: av.VideoFrame, base: Fraction, tally: DecodeTally
) -> None:
    if first.pts is None or picture.pts is None:
        return
    gpu_seconds, cpu_seconds = float(picture.pts * base), float(first.pts * base)
    if abs(gpu_seconds - cpu_seconds) > 0.5 / tally.facts["avg_fps"]:
        raise DecodeError(
            f"torchcodec's first frame is at {gpu_seconds:.3f} s, the CPU decoder's at "
            f"{cpu_seconds:.3f} s. {FALLBACK_HINT}"
        )


def _shorten_torchcodec_error(error: Exception) -> str:
    # "decode, src/Decoder.cpp:7, Could not push packet" -> "Could not push packet"
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return SOURCE_LOCATION.sub("", first_line).removesuffix(" Likely causes:")


def _make_probe_video() -> bytes:
    """Encode one gray frame as H.264 in MP4, the most common kind of video."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = PROBE_SIDE
        stream.pix_fmt = "yuv420p"
        gray = np.full((PROBE_SIDE, PROBE_SIDE), 128, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="gray")))
        container.mux(stream.encode(None))
    return file.getvalue()

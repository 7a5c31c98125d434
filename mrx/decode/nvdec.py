"""Video files through torchcodec, which decodes them on an NVIDIA GPU, in place of PyAV.

torchcodec gives RGB as displayed, at the video's own size. It comes to the CPU and goes on as a
picture, so that the range, the rate, the resizing and the windows are those of every video. Its
rounding is not the CPU decoder's, and gray is made from RGB instead of luma: the numbers differ a
little, so the decoder is a setting and stands in the attributes.

Nothing falls back to the CPU in silence. A video fails, with the reason, where torchcodec refuses
it or hands it to the CPU, where its first frame is not PyAV's (which is how a mirrored video, an
angle of 45 degrees and a rotation that is to be left alone are met), and at damage, where PyAV
would go on. A start that is far is reached by decoding from the first frame.
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
from mrx.decode.convert import Converter
from mrx.decode.tally import Tally
from mrx.errors import DecodeError, MissingError
from mrx.job import Decoding

INSTEAD = "use --decoder pyav"
INSTALL = "pip install 'mrx[nvdec]'"
MOST_LEVELS = 2.0  # of 255, in the mean: swscale alone is up to 1.4 from exact rounding
BATCH_FRAMES = 24
BATCH_BYTES = 32 * 2**20
REFUSALS = (RuntimeError, ValueError, IndexError, OSError)  # what torchcodec raises
PLACE_IN_ITS_SOURCE = re.compile(r"^\w+, \S+:\d+, ")
PROBE_SIDE = 256  # pixels; hardware refuses far smaller ones


def require(options: Decoding, device: torch.device) -> None:
    """Refuse a run that asks for this decoder where it cannot work."""
    if options.decoder == "nvdec" and (why := trouble(device)):
        raise MissingError(f"no decoder nvdec: {why}; or {INSTEAD}")


def trouble(device: torch.device) -> str:
    """Why videos cannot be decoded on this device, with what to do; or nothing."""
    try:
        opener = _torchcodec().decoders.VideoDecoder
    except MissingError as error:
        return str(error)
    if device.type in ("cpu", "mps"):
        return f"it needs an NVIDIA GPU to compute on, and this is {device}"
    try:
        decoder = opener(_probe(), device=device)
        decoder.get_frames_in_range(0, 1)
    except REFUSALS as error:
        return f"torchcodec cannot decode on {device} ({_reason(error)})"
    return f"{device} cannot decode H.264 ({decoder.cpu_fallback})" if decoder.cpu_fallback else ""


def name(device: torch.device) -> str:
    """What the attributes call it: torchcodec with its version, and the kind of device."""
    return f"torchcodec {_torchcodec().__version__} {device.type}"


def _torchcodec() -> Any:
    try:
        import torchcodec.decoders
    except ImportError as error:
        raise MissingError(f"torchcodec is not installed: {INSTALL}") from error
    except (RuntimeError, OSError) as error:
        raise MissingError(
            f"torchcodec does not load ({_reason(error)}): it needs FFmpeg's shared libraries and "
            "a PyTorch for NVIDIA GPUs"
        ) from error
    return torchcodec


def pictures(
    container: InputContainer,
    stream: VideoStream,
    tally: Tally,
    options: Decoding,
    device: torch.device,
) -> Iterator[av.VideoFrame]:
    """Yield every frame of a file, as `mrx.decode.pyav.pictures` does.

    The container, open for PyAV, gives the first frame to compare with.
    """
    if tally.facts["clock"] == "index":
        raise DecodeError(
            f"nvdec finds frames by their times, and those of {container.format.name} are not "
            f"to be relied on: {INSTEAD}"
        )
    first = next(pyav.pictures(container, stream, Tally(), options))
    decoder = _decoder(container.name, stream.index, device)
    base = stream.time_base or Fraction(1)
    for rgb, seconds in _frames(decoder, tally, options):
        picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        picture.pts = round(seconds / base)
        if not tally.frames:
            _check_device(decoder)
            _check_pixels(rgb, first, tally, options)
            _check_time(picture, first, base, tally)
        tally.frames += 1
        yield picture
    if not tally.frames:
        raise DecodeError(f"torchcodec finds no frame in it: {INSTEAD}")


def _decoder(path: str, stream: int, device: torch.device) -> Any:
    opener = _torchcodec().decoders.VideoDecoder
    try:
        return opener(path, stream_index=stream, dimension_order="NHWC", device=device)
    except REFUSALS as error:
        raise DecodeError(f"torchcodec refuses it ({_reason(error)}): {INSTEAD}") from error


def _frames(
    decoder: Any, tally: Tally, options: Decoding
) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """Every frame as (H, W, 3) RGB with its time, some at a time; at damage one by one."""
    done, count, size = 0, len(decoder), 1
    while done < count:
        try:
            batch = decoder.get_frames_in_range(done, min(done + size, count))
        except REFUSALS as error:
            if size > 1:
                size = 1
                continue
            what = f"torchcodec stops at frame {done} of {count} ({_reason(error)})"
            if options.on_error != "stop" or not done:
                raise DecodeError(f"{what}: {INSTEAD}") from error
            tally.truncated, tally.first_error = True, what
            return
        data = batch.data.cpu().numpy()
        yield from zip(data, batch.pts_seconds.tolist(), strict=True)
        if not done:
            size = max(1, min(BATCH_FRAMES, BATCH_BYTES // data.nbytes))
        done += len(data)


def _check_device(decoder: Any) -> None:
    if decoder.cpu_fallback:
        why = decoder.cpu_fallback
        raise DecodeError(f"the GPU cannot decode it, torchcodec took the CPU ({why}): {INSTEAD}")


def _check_pixels(
    rgb: NDArray[np.uint8], first: av.VideoFrame, tally: Tally, options: Decoding
) -> None:
    """Compare with the first frame of PyAV, at its own size, turned as the options say."""
    seen = Tally()
    converter = Converter(first, replace(options, short_side=None, size=None), seen)
    tally.facts.update(seen.facts)
    height, width = rgb.shape[:2]
    if (width, height) != (converter.width, converter.height):
        raise DecodeError(
            f"torchcodec's first frame is {width}x{height}, the CPU decoder's "
            f"{converter.width}x{converter.height}: {INSTEAD}"
        )
    expected = np.empty_like(rgb)
    converter.write(first, "rgb", expected)
    levels = float(np.abs(expected.astype(np.int16) - rgb).mean())
    if levels > MOST_LEVELS:
        raise DecodeError(
            f"torchcodec's first frame is not the CPU decoder's: {levels:.1f} levels of 255 apart "
            f"in the mean, {MOST_LEVELS:g} are allowed: {INSTEAD}"
        )


def _check_time(given: av.VideoFrame, first: av.VideoFrame, base: Fraction, tally: Tally) -> None:
    if first.pts is None or given.pts is None:
        return
    ours, theirs = float(given.pts * base), float(first.pts * base)
    if abs(ours - theirs) > 0.5 / tally.facts["avg_fps"]:
        raise DecodeError(
            f"torchcodec's first frame is at {ours:.3f} s, the CPU decoder's at {theirs:.3f} s: "
            f"{INSTEAD}"
        )


def _reason(error: Exception) -> str:
    """An error of torchcodec in a phrase, without the place in its source."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return PLACE_IN_ITS_SOURCE.sub("", first).removesuffix(" Likely causes:")


def _probe() -> bytes:
    """A video of one gray frame, of the most common kind."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = PROBE_SIDE
        stream.pix_fmt = "yuv420p"
        gray = np.full((PROBE_SIDE, PROBE_SIDE), 128, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="gray")))
        container.mux(stream.encode(None))
    return file.getvalue()

"""Video files through PyAV: every frame up to the true end of the stream, past any damage."""

import logging
import re
from collections.abc import Iterator
from typing import NamedTuple

import av
import av.logging
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from mrx.decode.scale import check_pixel_limit
from mrx.decode.tally import DecodeTally, describe_decode_error
from mrx.errors import DecodeError
from mrx.job import Decoding

MAX_LEADING_ERRORS = 200  # packets; a stream without a frame until then is given up
MIN_FRAME_BYTES = 16  # per frame at least, to see through headers that promise too many
# A video is cut off if more of what its headers promise is missing: rounding, a last frame that is
# shown long, and dropped frames leave less.
MISSING_SHARE, MISSING_FRAMES = 0.02, 5
URL_TIMEOUT = (30.0, 60.0)  # seconds to open, and to read
DEFAULT_FPS = 25.0
# Containers whose own times decrease or are missing: time is index / rate instead.
INDEX_CLOCKS = {"avi", "h264", "hevc", "m4v", "mjpeg", "mpegvideo", "obu", "ivf", "h263"}
# Containers in which not every packet has a time: FFmpeg guesses the others, and guesses
# differently after a seek.
GUESSED_CLOCKS = {"mpeg"}


class LogSettings(NamedTuple):
    """This process's settings for FFmpeg's log: PyAV's level, and those of the logger ``libav``."""

    level: int | None
    handlers: tuple[logging.Handler, ...]
    propagate: bool


def read_log_settings() -> LogSettings:
    """Return the present log settings, for `restore_log_settings`."""
    logger = logging.getLogger("libav")
    return LogSettings(av.logging.get_level(), tuple(logger.handlers), logger.propagate)


def restore_log_settings(settings: LogSettings) -> None:
    """Undo the changes that `open_container` has made since the settings were read."""
    logger = logging.getLogger("libav")
    av.logging.set_level(settings.level)
    logger.handlers[:], logger.propagate = settings.handlers, settings.propagate


def open_container(path: str, *, url: bool) -> InputContainer:
    """Open a file by its absolute path, or a URL.

    Leaves FFmpeg's log on and silent in this process: see `read_log_settings`.

    Raises:
        DecodeError: FFmpeg refuses it; the text is the cause that its log names.
    """
    # PyAV attaches log lines to its exceptions only if logging is on. The null handler keeps the
    # same lines off stderr.
    av.logging.set_level(av.logging.ERROR)
    logger = logging.getLogger("libav")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    try:
        # Titles in old files are in any encoding, and none is read here.
        timeout = URL_TIMEOUT if url else None
        return av.open(path, timeout=timeout, metadata_errors="replace")
    except (FFmpegError, OSError) as error:
        raise DecodeError(describe_decode_error(error)) from error


def choose_stream(container: InputContainer) -> VideoStream:
    """Choose the stream a player would show: FFmpeg's best, but never an attached picture."""
    videos = container.streams.video
    if not videos:
        kinds = sorted({stream.type for stream in container.streams})
        raise DecodeError(f"no video stream; it holds {', '.join(kinds) or 'nothing'}")
    moving = [stream for stream in videos if not stream.disposition & Disposition.attached_pic]
    if not moving:
        raise DecodeError("only an attached picture (cover art), no video")
    # Where FFmpeg has no decoder, PyAV has no codec context, though its type says that it has.
    decodable = [s for s in moving if s.codec_context is not None]  # type: ignore[redundant-expr]
    if not decodable:
        raise DecodeError(f"no decoder for codec {_name_codec(container, moving[0])}")
    best = container.streams.best("video")
    chosen = best if best in decodable else max(decodable, key=lambda s: s.width * s.height)
    # Threads inside a decoder lose frames at damage.
    chosen.thread_type = "NONE"
    return chosen


def _name_codec(container: InputContainer, stream: VideoStream) -> str:
    """Return the four characters that a container has for a codec without a decoder, if any."""
    # Only FFmpeg's log has them, and only as a warning when the file is opened.
    level = av.logging.get_level()
    av.logging.set_level(av.logging.WARNING)
    try:
        with (
            av.logging.Capture() as lines,
            av.open(container.name, timeout=URL_TIMEOUT, metadata_errors="replace"),
        ):
            text = "\n".join(line[2] for line in lines)
    except (FFmpegError, OSError):
        text = ""
    finally:
        av.logging.set_level(level)
    match = re.search(rf"stream {stream.index} \(Video: none \((\S+) /", text)
    return match[1] if match else "unknown to FFmpeg"


def read_stream_rate(stream: VideoStream) -> float:
    """Return the frames per second that the headers give, or `DEFAULT_FPS`."""
    return float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)


def seek_key_frame(container: InputContainer, stream: VideoStream, seconds: float) -> bool:
    """Seek to a key frame before a time of the stream; return False if the container cannot.

    The demuxer may land elsewhere without an error: check the first frame that follows.
    """
    if not stream.time_base or GUESSED_CLOCKS & set(container.format.name.split(",")):
        return False
    try:
        container.seek(int(seconds / stream.time_base), stream=stream)
    except FFmpegError:
        return False
    return True


def decode_frames(
    container: InputContainer, stream: VideoStream, tally: DecodeTally, options: Decoding
) -> Iterator[av.VideoFrame]:
    """Yield every decodable frame; count damage and go on.

    Raises:
        DecodeError: Nothing is decodable, a frame is too large, or damage is to `fail`.
    """
    check_pixel_limit(stream.width, stream.height, options.max_pixels)
    for packet in _read_packets(container, stream, tally):
        # The last packet is empty, or None where the container breaks off. It is decoded too: it
        # flushes the frames that the decoder held back for reordering.
        try:
            frames = packet.decode() if packet else stream.decode(None)
        except FFmpegError as error:
            tally.record_error(error)
            _give_up_if_hopeless(tally)
            frames = []
        for frame in frames:
            check_pixel_limit(frame.width, frame.height, options.max_pixels)
            tally.frames += 1
            tally.frames_corrupt += bool(frame.is_corrupt)
            yield frame
        if tally.stopped:
            return
    if not tally.frames:
        raise DecodeError(_describe_no_frames(tally))


def _read_packets(
    container: InputContainer, stream: VideoStream, tally: DecodeTally
) -> Iterator["Packet[VideoStream] | None"]:
    """Yield all packets; if the container breaks off, the last one is None."""
    demuxer = container.demux(stream)
    while True:
        try:
            packet = next(demuxer)
        except StopIteration:
            return
        except (FFmpegError, IndexError) as error:
            # PyAV has no place for a stream that appears after the headers: an IndexError.
            is_new_stream = isinstance(error, IndexError)
            reason = "a stream without a header" if is_new_stream else describe_decode_error(error)
            tally.truncated = True
            tally.first_error = tally.first_error or reason
            yield None
            return
        if packet.size:
            tally.packets += 1
            tally.packets_discarded += bool(packet.is_discard)
            tally.packets_corrupt += bool(packet.is_corrupt)
            if not tally.frames:
                tally.encrypted = tally.encrypted or _is_encrypted(packet)
        yield packet


def _is_encrypted(packet: "Packet[VideoStream]") -> bool:
    return any(side.data_type == "encryption_info" for side in packet.iter_sidedata())


def _give_up_if_hopeless(tally: DecodeTally) -> None:
    if not tally.frames and tally.errors >= MAX_LEADING_ERRORS:
        raise DecodeError(_describe_no_frames(tally))


def _describe_no_frames(tally: DecodeTally) -> str:
    counts = f"{tally.packets} packets, {tally.errors} errors"
    if tally.encrypted:
        return f"encrypted: nothing decodable ({counts})"
    if not tally.packets:
        return "no frames: the video stream is empty"
    too_large = re.search(r"Picture size (\d+x\d+) is invalid", tally.first_error)
    if too_large:
        return f"too large: {too_large[1]}, more than the decoder supports ({counts})"
    first = tally.first_error or "no error was reported"
    return f"nothing decodable: no key frame, or all damaged ({counts}, first: {first})"


def read_promised_frames(stream: VideoStream) -> int:
    """Return the number of frames that the headers of a stream just opened give, or 0."""
    # The header counts what an edit list hides, and empty chunks. An index does not; one that
    # came before the first packet is whole, or has a single entry where it was cut off.
    indexed = len(stream.index_entries)
    return min(stream.frames, indexed) if indexed > 1 else stream.frames


def describe_shortfall(
    container: InputContainer,
    stream: VideoStream,
    *,
    frames: int,
    packets: int,
    seconds: float,
    errors: int,
) -> tuple[int, str]:
    """Compare a stream read to its end with what its headers promise.

    A file that is cut off between two packets ends without an error.

    Args:
        container: the file
        stream: its video stream
        frames: the number that the headers promise, from `read_promised_frames`
        packets: packets that came, or 0 if they are not all of the stream's
        seconds: the end of the last frame, or 0 if the times are not the file's
        errors: packets that came and could not be decoded

    Returns:
        The number of frames that did not come, and the reason in words: 0 and empty if all did.
    """
    if container.size > 0 and frames > container.size // MIN_FRAME_BYTES:
        frames = 0
    if frames and packets:
        missing = frames - packets
        is_cut = missing > max(MISSING_FRAMES, MISSING_SHARE * frames)
        return (missing, f"{packets} of {frames} frames came") if is_cut else (0, "")
    promised = _read_promised_seconds(container, stream)
    rate = read_stream_rate(stream)
    lost = promised - seconds - errors / rate if seconds else 0.0
    if lost > max(MISSING_FRAMES / rate, MISSING_SHARE * promised):
        return round(lost * rate), f"{seconds:.1f} of {promised:.1f} s came"
    return 0, ""


def _read_promised_seconds(container: InputContainer, stream: VideoStream) -> float:
    """Return the duration of a stream that the headers give, or 0."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    # Matroska: 00:00:10.333000000
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)\0*", stream.metadata.get("DURATION", ""))
    if match:
        hours, minutes, rest = match.groups()
        return 3600 * int(hours) + 60 * int(minutes) + float(rest)
    # That of the container is the longest stream's.
    alone = len(container.streams) == 1
    return container.duration / av.time_base if alone and container.duration else 0.0


def estimate_frame_count(container: InputContainer, stream: VideoStream, rate: float) -> int:
    """Estimate the number of frames from the headers, capped by what the file's size can hold."""
    frames = stream.frames
    if not frames and container.duration:
        frames = round(container.duration / av.time_base * rate)
    return min(frames, container.size // MIN_FRAME_BYTES) if container.size > 0 else frames

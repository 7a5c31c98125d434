"""One pass over a video: opened, decoded, timed, and cut to the selected range and rate."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from typing import Any

import av
import cv2
import torch
from av.container import InputContainer
from av.video.stream import VideoStream

from mrx.decode import images, nvdec, pyav
from mrx.decode.clock import FrameClock, TimedFrame, resample_frames, select_range
from mrx.decode.tally import DecodeTally
from mrx.errors import DecodeError
from mrx.job import Decoding, Source
from mrx.sources.scan import why_unreadable

SEEK_SECONDS = 10.0  # a start nearer than this is reached by decoding


class FrameReader:
    """Reads the frames of a video once.

    Args:
        source: the video to read
        options: the decoder, range and rate, and what to do at damage; the range of the source
            is not looked at
        device: the device that `nvdec` decodes on
        tally: receives counts, facts and warnings
    """

    def __init__(
        self, source: Source, options: Decoding, device: torch.device, tally: DecodeTally
    ) -> None:
        self.source = source
        self.options = options
        self.device = device
        self.tally = tally

    @contextmanager
    def open_frames(self) -> Iterator[Iterator[TimedFrame]]:
        """Open the video and yield its selected frames; leaving the context closes it."""
        # A path is looked at first: opening a FIFO would block.
        problem = None if self.source.kind == "url" else why_unreadable(self.source.path)
        if problem:
            raise DecodeError(problem)
        tally = self.tally
        if self.source.kind == "frames":
            tally.facts.update(
                codec="images",
                avg_fps=self.options.image_fps,
                clock="index",
                decoder=f"opencv {cv2.__version__}",
            )
            yield self._select_frames(self._time_images(), origin=0.0)
            return
        with self._open_container() as container:
            stream = pyav.choose_stream(container)
            tally.facts.update(_read_stream_facts(container, stream))
            tally.facts["decoder"] = self._describe_decoder()
            origin = 0.0
            if tally.facts["clock"] == "pts" and stream.start_time is not None and stream.time_base:
                origin = float(stream.start_time * stream.time_base)
            frames = self._decode_near_start(container, stream, origin)
            if frames is not None:
                yield self._select_frames(frames, origin)
                return
        # The seek missed the start. Seeking back to the first frame misses it as well in some
        # containers, so the file is opened again and decoded from its beginning.
        tally.reset_counts()
        with self._open_container() as container:
            frames = self._time_pictures(container, pyav.choose_stream(container))
            yield self._select_frames(frames, origin)

    def _open_container(self) -> InputContainer:
        return pyav.open_container(self.source.path, url=self.source.kind == "url")

    def _describe_decoder(self) -> str:
        uses_pyav = self.options.decoder == "pyav"
        return f"pyav {av.__version__}" if uses_pyav else nvdec.name_torchcodec(self.device)

    def _select_frames(self, frames: Iterable[TimedFrame], origin: float) -> Iterator[TimedFrame]:
        start, end, fps = self.options.start, self.options.end, self.options.fps
        if start is not None or end is not None:
            begin = None if start is None else origin + start
            frames = select_range(frames, begin, None if end is None else origin + end)
        if fps:
            frames = resample_frames(frames, fps, self.tally)
        for frame in frames:
            if not self.tally.frames_selected:
                self.tally.first_time = frame.time
            self.tally.frames_selected += 1
            self.tally.last_time = frame.time
            yield frame

    def _time_images(self) -> Iterator[TimedFrame]:
        rate, tally = self.options.image_fps, self.tally
        pictures = images.read_images(self.source.path, tally, self.options)
        for index, picture in enumerate(pictures):
            tally.frames += 1
            yield TimedFrame(picture, index, index / rate)
        if not tally.frames:
            raise DecodeError(images.describe_empty_folder(tally))

    def _decode_near_start(
        self, container: InputContainer, stream: VideoStream, origin: float
    ) -> Iterator[TimedFrame] | None:
        """Decode from a key frame before a distant start; return None if the seek missed it."""
        start = self.options.start or 0.0
        can_seek = self.tally.facts["clock"] == "pts" and self.options.decoder == "pyav"
        if not can_seek or start <= SEEK_SECONDS:
            return self._time_pictures(container, stream)
        if not pyav.seek_key_frame(container, stream, origin + start):
            return None
        frames = self._time_pictures(container, stream, after_seek=True)
        try:
            first = next(frames, None)
        except DecodeError:  # there is no key frame from here to the end
            return None
        if first is not None and _is_entry_point(first, origin + start):
            return chain([first], frames)
        frames.close()
        return None

    def _time_pictures(
        self, container: InputContainer, stream: VideoStream, *, after_seek: bool = False
    ) -> Generator[TimedFrame]:
        tally = self.tally
        clock = FrameClock(tally.facts["avg_fps"], by_index=tally.facts["clock"] == "index")
        # A pass that its consumer ends early stays partial: its packets and frames do not compare.
        tally.partial = True
        # The stream's time base, once: asking each frame for its own costs more than the rest.
        time_base = stream.time_base or Fraction(1)
        numerator, denominator = time_base.numerator, time_base.denominator
        picture, time = None, 0.0
        promised_frames = pyav.read_promised_frames(stream)
        try:
            for index, picture in enumerate(self._decode_pictures(container, stream)):
                pts = picture.pts
                stamp = None if pts is None else pts * numerator / denominator
                time = clock.read_time(stamp, index)
                yield TimedFrame(picture, index, time)
            tally.partial = after_seek
            if picture is not None:
                _note_shortfall(tally, container, stream, promised_frames, (picture, time))
        finally:
            tally.facts.update(times_repaired=clock.num_repaired, vfr=clock.is_variable)

    def _decode_pictures(
        self, container: InputContainer, stream: VideoStream
    ) -> Iterator[av.VideoFrame]:
        if self.options.decoder == "pyav":
            return pyav.decode_frames(container, stream, self.tally, self.options)
        if self.source.kind == "url":
            raise DecodeError(f"nvdec cannot read a URL. {nvdec.FALLBACK_HINT}")
        return nvdec.decode_on_gpu(container, stream, self.tally, self.options, self.device)


def _note_shortfall(
    tally: DecodeTally,
    container: InputContainer,
    stream: VideoStream,
    promised_frames: int,
    last: tuple[av.VideoFrame, float],
) -> None:
    """Count frames as missing that the headers promise, after a pass to the end.

    Args:
        tally: the counts of the pass, which it completes
        container: the file
        stream: its video stream
        promised_frames: frames that its headers gave when it was opened
        last: the last picture and its time
    """
    if tally.stopped or tally.truncated:
        return
    picture, time = last
    # Pictures of torchcodec do not tell how long they are shown.
    duration = getattr(picture, "duration", None)
    seconds = 0.0
    if tally.facts["clock"] == "pts" and stream.time_base and duration is not None:
        shown = max(float(duration * stream.time_base), 1 / tally.facts["avg_fps"])
        # Durations count from the first frame, or from 0 as in Matroska.
        seconds = time + shown - min(float((stream.start_time or 0) * stream.time_base), 0.0)
    missing, reason = pyav.describe_shortfall(
        container,
        stream,
        frames=promised_frames,
        packets=0 if tally.partial else tally.packets,
        seconds=seconds,
        errors=tally.errors,
    )
    if missing:
        tally.frames_missing, tally.truncated = missing, True
        tally.first_error = tally.first_error or reason


def _is_entry_point(first: TimedFrame, start: float) -> bool:
    # Between key frames some decoders invent the reference pictures, without any error.
    picture = first.picture
    return bool(picture.key_frame) and picture.pts is not None and first.time <= start


def _read_stream_facts(container: InputContainer, stream: VideoStream) -> dict[str, Any]:
    """Read the headers; counts and durations in them lie, so they are only recorded."""
    formats = set(container.format.name.split(","))
    aspect = stream.sample_aspect_ratio
    return {
        "container": container.format.name,
        "codec": stream.codec_context.name,
        "clock": "index" if formats & pyav.INDEX_CLOCKS else "pts",
        "avg_fps": pyav.read_stream_rate(stream),
        "n_frames_reported": stream.frames,
        "sample_aspect_ratio": float(aspect) if aspect else 1.0,
        "rotation": 0,
    }

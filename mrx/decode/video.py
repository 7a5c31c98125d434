"""One video as a stream of `Frames`: decoded to its end, timed, selected, resized."""

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import chain, islice
from typing import Any

import av
import cv2
import numpy as np
import torch
from av.container import InputContainer
from av.video.stream import VideoStream

from mrx.decode import images, nvdec, pyav
from mrx.decode.clock import FrameClock, TimedFrame, resample_frames, select_range
from mrx.decode.convert import COLOR_CHANNELS, Color, FrameConverter
from mrx.decode.scale import target_size
from mrx.decode.tally import DecodeTally
from mrx.errors import DecodeError
from mrx.job import Decoding, Source
from mrx.records import Frames
from mrx.sources.numbered import list_numbered_images
from mrx.sources.scan import why_unreadable

CHUNK_FRAMES = 24  # a multiple of the usual window lengths: fewer cost Python, more cost memory
CHUNK_BYTES = 32 * 2**20
SEEK_SECONDS = 10.0  # a start nearer than this is reached by decoding
DEFAULT_FPS = 25.0
CPU = torch.device("cpu")


def open_video(
    path: str | os.PathLike[str],
    options: Decoding = Decoding(),  # noqa: B008
    device: torch.device = CPU,
) -> "Video":
    """A video by its path: a file, a folder of numbered images, or a URL."""
    text = os.fsdecode(path)
    if "://" in text:
        return Video(Source(key=text, path=text, kind="url"), options, device)
    text = os.path.abspath(text)  # noqa: PTH100 - a Path would drop what FFmpeg must see
    folder = os.path.isdir(text)  # noqa: PTH112
    return Video(Source(key=text, path=text, kind="frames" if folder else "file"), options, device)


class Video:
    """A video that can be read more than once, each time from its beginning.

    Args:
        source: what to read; its own start and end go before those of the options
        options: size, range, rate, orientation, decoder and what to do at damage
        device: where `nvdec` decodes; PyAV decodes on the CPU

    Attributes:
        tally: counts, facts and warnings of the last whole pass
    """

    def __init__(self, source: Source, options: Decoding, device: torch.device = CPU) -> None:
        start = options.start if source.start is None else source.start
        end = options.end if source.end is None else source.end
        self.source = source
        self.options = replace(options, start=start, end=end)
        self.device = device
        self.tally = DecodeTally(options.on_error)

    def count_frames(self) -> int:
        """How many frames the selected stream has: decodes all of it, converts nothing."""
        self.tally = DecodeTally(self.options.on_error)
        with self._open_frames(self.tally) as frames:
            for _ in frames:
                pass
        return self.tally.frames_selected

    def estimate_shape(self) -> tuple[int, int, int]:
        """Frames, width and height as the headers tell them, which may be wrong."""
        path, options = self.source.path, self.options
        if self.source.kind == "frames":
            height, width = images.read_image_shape(path, options)
            frames, rate = len(list_numbered_images(path).paths), options.image_fps
        else:
            with self._open_container() as container:
                stream = pyav.choose_stream(container)
                width, height = stream.width, stream.height
                rate = float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
                frames = pyav.estimate_frame_count(container, stream, rate)
        seconds = frames / rate
        selected_seconds = max(min(options.end or seconds, seconds) - (options.start or 0.0), 0.0)
        return (
            round(selected_seconds * (options.fps or rate)),
            *target_size(width, height, options),
        )

    def read_frames(
        self, colors: Sequence[Color] = ("rgb",), positions: set[int] | None = None
    ) -> Iterator[dict[Color, Frames]]:
        """Yield runs of frames, in each colour asked for.

        Args:
            colors: ``rgb`` and/or ``gray`` (full-range luma)
            positions: only these positions of the selected stream, after a `count_frames`; None means all
        """
        tally = DecodeTally(self.options.on_error)
        if positions is None:
            self.tally = tally
        with self._open_frames(tally) as frames:
            numbered_frames: Iterator[tuple[int, TimedFrame]] = enumerate(frames)
            if positions is not None:
                last = max(positions, default=-1)
                numbered_frames = (
                    (p, f) for p, f in islice(numbered_frames, last + 1) if p in positions
                )
            yield from self._read_chunks(numbered_frames, colors)

    def _read_chunks(
        self, numbered_frames: Iterator[tuple[int, TimedFrame]], colors: Sequence[Color]
    ) -> Iterator[dict[Color, Frames]]:
        first = next(numbered_frames, None)
        if first is None:
            return
        converter = FrameConverter(first[1].picture, self.options, self.tally)
        size = (converter.height, converter.width)
        frame_bytes = size[0] * size[1] * sum(COLOR_CHANNELS[c] for c in colors)
        max_frames = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // frame_bytes))
        numbered_frames = chain([first], numbered_frames)
        while batch := _convert_chunk(
            islice(numbered_frames, max_frames), converter, colors, max_frames
        ):
            yield batch

    @contextmanager
    def _open_frames(self, tally: DecodeTally) -> Iterator[Iterator[TimedFrame]]:
        """The selected stream, and whatever it needs open while it is read."""
        options, source = self.options, self.source
        why_not = None if source.kind == "url" else why_unreadable(source.path)
        if why_not:
            raise DecodeError(why_not)
        if source.kind == "frames":
            tally.facts.update(
                codec="images",
                avg_fps=options.image_fps,
                clock="index",
                decoder=f"opencv {cv2.__version__}",
            )
            yield self._select_frames(self._time_images(tally), 0.0, tally)
            return
        with self._open_container() as container:
            stream = pyav.choose_stream(container)
            tally.facts.update(_stream_facts(container, stream), decoder=self._describe_decoder())
            origin = 0.0
            if tally.facts["clock"] == "pts" and stream.start_time is not None and stream.time_base:
                origin = float(stream.start_time * stream.time_base)
            frames = self._decode_from_start(container, stream, origin, tally)
            if frames is not None:
                yield self._select_frames(frames, origin, tally)
                return
        # Opened again: seeking back to the first frame misses it as well in some containers.
        tally.reset_counts()
        with self._open_container() as container:
            frames = self._time_pictures(container, pyav.choose_stream(container), tally)
            yield self._select_frames(frames, origin, tally)

    def _describe_decoder(self) -> str:
        uses_pyav = self.options.decoder == "pyav"
        return f"pyav {av.__version__}" if uses_pyav else nvdec.name_torchcodec(self.device)

    def _open_container(self) -> InputContainer:
        return pyav.open_container(self.source.path, url=self.source.kind == "url")

    def _select_frames(
        self, frames: Iterable[TimedFrame], origin: float, tally: DecodeTally
    ) -> Iterator[TimedFrame]:
        start, end, fps = self.options.start, self.options.end, self.options.fps
        if start is not None or end is not None:
            begin = None if start is None else origin + start
            frames = select_range(frames, begin, None if end is None else origin + end)
        if fps:
            frames = resample_frames(frames, fps, tally)
        for frame in frames:
            if not tally.frames_selected:
                tally.first_time = frame.time
            tally.frames_selected += 1
            tally.last_time = frame.time
            yield frame

    def _time_images(self, tally: DecodeTally) -> Iterator[TimedFrame]:
        rate = self.options.image_fps
        pictures = images.read_images(self.source.path, tally, self.options)
        for index, picture in enumerate(pictures):
            tally.frames += 1
            yield TimedFrame(picture, index, index / rate)
        if not tally.frames:
            raise DecodeError(images.describe_empty_folder(tally))

    def _decode_from_start(
        self, container: InputContainer, stream: VideoStream, origin: float, tally: DecodeTally
    ) -> Iterator[TimedFrame] | None:
        """The frames, from a key frame before a start that is far; None where a seek missed it."""
        start = self.options.start or 0.0
        can_seek = tally.facts["clock"] == "pts" and self.options.decoder == "pyav"
        if not can_seek or start <= SEEK_SECONDS:
            return self._time_pictures(container, stream, tally)
        if not pyav.seek_key_frame(container, stream, origin + start):
            return None
        frames = self._time_pictures(container, stream, tally, after_seek=True)
        try:
            first = next(frames, None)
        except DecodeError:  # there is no key frame from here to the end
            return None
        if first is not None and _is_entry(first, origin + start):
            return chain([first], frames)
        frames.close()
        return None

    def _time_pictures(
        self,
        container: InputContainer,
        stream: VideoStream,
        tally: DecodeTally,
        *,
        after_seek: bool = False,
    ) -> Generator[TimedFrame]:
        clock = FrameClock(tally.facts["avg_fps"], by_index=tally.facts["clock"] == "index")
        tally.partial = True
        time_base = stream.time_base or Fraction(
            1
        )  # asking a frame for it costs more than the rest
        numerator, denominator = time_base.numerator, time_base.denominator
        try:
            pictures = self._decode_pictures(container, stream, tally)
            for index, picture in enumerate(pictures):
                pts = picture.pts
                stamp = None if pts is None else pts * numerator / denominator
                yield TimedFrame(picture, index, clock.read_time(stamp, index))
            tally.partial = after_seek
        finally:
            tally.facts.update(times_repaired=clock.num_repaired, vfr=clock.is_variable)

    def _decode_pictures(
        self, container: InputContainer, stream: VideoStream, tally: DecodeTally
    ) -> Iterator[av.VideoFrame]:
        """The frames as the chosen decoder gives them."""
        if self.options.decoder == "pyav":
            return pyav.decode_frames(container, stream, tally, self.options)
        if self.source.kind == "url":
            raise DecodeError(f"nvdec reads files, no URLs: {nvdec.FALLBACK_HINT}")
        return nvdec.decode_on_gpu(container, stream, tally, self.options, self.device)


def _is_entry(first: TimedFrame, start: float) -> bool:
    """Whether decoding may begin here: some decoders invent what a frame between keys refers to."""
    picture = first.picture
    return bool(picture.key_frame) and picture.pts is not None and first.time <= start


def _stream_facts(container: InputContainer, stream: VideoStream) -> dict[str, Any]:
    """What the headers say; counts and durations in them lie, so they are only recorded."""
    formats = set(container.format.name.split(","))
    aspect = stream.sample_aspect_ratio
    return {
        "container": container.format.name,
        "codec": stream.codec_context.name,
        "clock": "index" if formats & pyav.INDEX_CLOCKS else "pts",
        "avg_fps": float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS),
        "n_frames_reported": stream.frames,
        "sample_aspect_ratio": float(aspect) if aspect else 1.0,
        "rotation": 0,
    }


def _convert_chunk(
    numbered_frames: Iterator[tuple[int, TimedFrame]],
    converter: FrameConverter,
    colors: Sequence[Color],
    max_frames: int,
) -> dict[Color, Frames]:
    """The next frames as bytes; nothing where there are none left."""
    size = (converter.height, converter.width)
    data = {c: np.empty((max_frames, *size, COLOR_CHANNELS[c]), np.uint8) for c in colors}
    positions: list[tuple[int, int]] = []
    times: list[float] = []
    for position, frame in numbered_frames:
        for color in colors:
            converter.write_frame(frame.picture, color, data[color][len(positions)])
        positions.append((position, frame.frame_number))
        times.append(frame.time)
    if not positions:
        return {}
    count, (position_of, index_of) = len(positions), np.array(positions).T
    return {
        c: Frames(torch.from_numpy(data[c][:count]), position_of, index_of, np.array(times))
        for c in colors
    }

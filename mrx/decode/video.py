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
from mrx.decode.clock import Clock, Timed, at_rate, within
from mrx.decode.convert import CHANNELS, Color, Converter
from mrx.decode.scale import target_size
from mrx.decode.tally import Tally
from mrx.errors import DecodeError
from mrx.job import Decoding, Source
from mrx.records import Frames
from mrx.sources.numbered import numbered_images
from mrx.sources.scan import problem

CHUNK_FRAMES = 24  # a multiple of the usual window lengths: fewer cost Python, more cost memory
CHUNK_BYTES = 32 * 2**20
SEEK_SECONDS = 10.0  # a start nearer than this is reached by decoding
DEFAULT_RATE = 25.0
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
        self.tally = Tally(options.on_error)

    def count(self) -> int:
        """How many frames the selected stream has: decodes all of it, converts nothing."""
        self.tally = Tally(self.options.on_error)
        with self._open(self.tally) as frames:
            for _ in frames:
                pass
        return self.tally.selected

    def estimate(self) -> tuple[int, int, int]:
        """Frames, width and height as the headers tell them, which may be wrong."""
        path, options = self.source.path, self.options
        if self.source.kind == "frames":
            height, width = images.shape(path, options)
            frames, rate = len(numbered_images(path).paths), options.image_fps
        else:
            with self._container() as container:
                stream = pyav.best_stream(container)
                width, height = stream.width, stream.height
                rate = float(stream.average_rate or stream.guessed_rate or DEFAULT_RATE)
                frames = pyav.header_frames(container, stream, rate)
        seconds = frames / rate
        ranged = max(min(options.end or seconds, seconds) - (options.start or 0.0), 0.0)
        return (round(ranged * (options.fps or rate)), *target_size(width, height, options))

    def read(
        self, colors: Sequence[Color] = ("rgb",), wanted: set[int] | None = None
    ) -> Iterator[dict[Color, Frames]]:
        """Yield runs of frames, in each colour asked for.

        Args:
            colors: ``rgb`` and/or ``gray`` (full-range luma)
            wanted: only these positions of the selected stream, after a `count`; None means all
        """
        tally = Tally(self.options.on_error)
        if wanted is None:
            self.tally = tally
        with self._open(tally) as frames:
            placed: Iterator[tuple[int, Timed]] = enumerate(frames)
            if wanted is not None:
                last = max(wanted, default=-1)
                placed = ((p, f) for p, f in islice(placed, last + 1) if p in wanted)
            yield from self._chunks(placed, colors)

    def _chunks(
        self, placed: Iterator[tuple[int, Timed]], colors: Sequence[Color]
    ) -> Iterator[dict[Color, Frames]]:
        first = next(placed, None)
        if first is None:
            return
        converter = Converter(first[1].picture, self.options, self.tally)
        size = (converter.height, converter.width)
        frame_bytes = size[0] * size[1] * sum(CHANNELS[c] for c in colors)
        most = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // frame_bytes))
        placed = chain([first], placed)
        while batch := _convert(islice(placed, most), converter, colors, most):
            yield batch

    @contextmanager
    def _open(self, tally: Tally) -> Iterator[Iterator[Timed]]:
        """The selected stream, and whatever it needs open while it is read."""
        options, source = self.options, self.source
        why_not = None if source.kind == "url" else problem(source.path)
        if why_not:
            raise DecodeError(why_not)
        if source.kind == "frames":
            tally.facts.update(
                codec="images",
                avg_fps=options.image_fps,
                clock="index",
                decoder=f"opencv {cv2.__version__}",
            )
            yield self._select(self._images(tally), 0.0, tally)
            return
        with self._container() as container:
            stream = pyav.best_stream(container)
            tally.facts.update(_stream_facts(container, stream), decoder=self._decoder())
            origin = 0.0
            if tally.facts["clock"] == "pts" and stream.start_time is not None and stream.time_base:
                origin = float(stream.start_time * stream.time_base)
            frames = self._decoded(container, stream, origin, tally)
            if frames is not None:
                yield self._select(frames, origin, tally)
                return
        # Opened again: seeking back to the first frame misses it as well in some containers.
        tally.restart()
        with self._container() as container:
            frames = self._timed(container, pyav.best_stream(container), tally)
            yield self._select(frames, origin, tally)

    def _decoder(self) -> str:
        plain = self.options.decoder == "pyav"
        return f"pyav {av.__version__}" if plain else nvdec.name(self.device)

    def _container(self) -> InputContainer:
        return pyav.open_container(self.source.path, url=self.source.kind == "url")

    def _select(self, frames: Iterable[Timed], origin: float, tally: Tally) -> Iterator[Timed]:
        start, end, fps = self.options.start, self.options.end, self.options.fps
        if start is not None or end is not None:
            begin = None if start is None else origin + start
            frames = within(frames, begin, None if end is None else origin + end)
        if fps:
            frames = at_rate(frames, fps, tally)
        for frame in frames:
            if not tally.selected:
                tally.first_time = frame.time
            tally.selected += 1
            tally.last_time = frame.time
            yield frame

    def _images(self, tally: Tally) -> Iterator[Timed]:
        rate = self.options.image_fps
        pictures = images.pictures(self.source.path, tally, self.options)
        for index, picture in enumerate(pictures):
            tally.frames += 1
            yield Timed(picture, index, index / rate)
        if not tally.frames:
            raise DecodeError(images.nothing(tally))

    def _decoded(
        self, container: InputContainer, stream: VideoStream, origin: float, tally: Tally
    ) -> Iterator[Timed] | None:
        """The frames, from a key frame before a start that is far; None where a seek missed it."""
        start = self.options.start or 0.0
        seeks = tally.facts["clock"] == "pts" and self.options.decoder == "pyav"
        if not seeks or start <= SEEK_SECONDS:
            return self._timed(container, stream, tally)
        if not pyav.seek(container, stream, origin + start):
            return None
        sought = self._timed(container, stream, tally, sought=True)
        try:
            first = next(sought, None)
        except DecodeError:  # there is no key frame from here to the end
            return None
        if first is not None and _is_entry(first, origin + start):
            return chain([first], sought)
        sought.close()
        return None

    def _timed(
        self,
        container: InputContainer,
        stream: VideoStream,
        tally: Tally,
        *,
        sought: bool = False,
    ) -> Generator[Timed]:
        clock = Clock(tally.facts["avg_fps"], by_index=tally.facts["clock"] == "index")
        tally.partial = True
        base = stream.time_base or Fraction(1)  # asking a frame for it costs more than the rest
        ticks, per_second = base.numerator, base.denominator
        try:
            pictures = self._pictures(container, stream, tally)
            for index, picture in enumerate(pictures):
                pts = picture.pts
                stamp = None if pts is None else pts * ticks / per_second
                yield Timed(picture, index, clock.read(stamp, index))
            tally.partial = sought
        finally:
            tally.facts.update(times_repaired=clock.repaired, vfr=clock.variable)

    def _pictures(
        self, container: InputContainer, stream: VideoStream, tally: Tally
    ) -> Iterator[av.VideoFrame]:
        """The frames as the chosen decoder gives them."""
        if self.options.decoder == "pyav":
            return pyav.pictures(container, stream, tally, self.options)
        if self.source.kind == "url":
            raise DecodeError(f"nvdec reads files, no URLs: {nvdec.INSTEAD}")
        return nvdec.pictures(container, stream, tally, self.options, self.device)


def _is_entry(first: Timed, start: float) -> bool:
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
        "avg_fps": float(stream.average_rate or stream.guessed_rate or DEFAULT_RATE),
        "n_frames_reported": stream.frames,
        "sample_aspect_ratio": float(aspect) if aspect else 1.0,
        "rotation": 0,
    }


def _convert(
    placed: Iterator[tuple[int, Timed]],
    converter: Converter,
    colors: Sequence[Color],
    most: int,
) -> dict[Color, Frames]:
    """The next frames as bytes; nothing where there are none left."""
    size = (converter.height, converter.width)
    data = {c: np.empty((most, *size, CHANNELS[c]), np.uint8) for c in colors}
    places: list[tuple[int, int]] = []
    times: list[float] = []
    for position, frame in placed:
        for color in colors:
            converter.write(frame.picture, color, data[color][len(places)])
        places.append((position, frame.number))
        times.append(frame.time)
    if not places:
        return {}
    count, (position_of, index_of) = len(places), np.array(places).T
    return {
        c: Frames(torch.from_numpy(data[c][:count]), position_of, index_of, np.array(times))
        for c in colors
    }

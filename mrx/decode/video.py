"""Videos as streams of `Frames`: selected, resized, and read in runs of bounded size."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import torch

from mrx.decode import images, pyav
from mrx.decode.clock import TimedFrame
from mrx.decode.convert import COLOR_CHANNELS, Color, FrameConverter
from mrx.decode.frame_reader import FrameReader
from mrx.decode.scale import target_size
from mrx.decode.tally import DecodeTally
from mrx.job import Decoding, Source
from mrx.records import Frames
from mrx.sources.numbered import list_numbered_images
from mrx.sources.scan import make_path_source

CHUNK_FRAMES = 24  # a multiple of the usual window lengths: fewer cost Python, more cost memory
CHUNK_BYTES = 32 * 2**20
CPU = torch.device("cpu")


def open_video(
    path: str | os.PathLike[str],
    options: Decoding = Decoding(),  # noqa: B008
    device: torch.device = CPU,
) -> "Video":
    """Open a video file, a folder of numbered images, or a URL.

    Nothing is read yet: a path that cannot be read raises `DecodeError` with the first frame.
    """
    return Video(make_path_source(path), options, device)


class VideoExtent(NamedTuple):
    """The number of selected frames, the size to which they are scaled, and their duration."""

    frames: int
    width: int
    height: int
    seconds: float


class Video:
    """A video that can be read more than once, each time from its beginning.

    Args:
        source: the video to read; its own start and end override those of the options
        options: size, range, rate, orientation, decoder, and what to do at damage
        device: the device that `nvdec` decodes on; PyAV decodes on the CPU

    Attributes:
        tally: counts, facts and warnings of the last pass over all frames
    """

    def __init__(self, source: Source, options: Decoding, device: torch.device = CPU) -> None:
        start, end = options.combine_range(source.start, source.end)
        self.source = source
        self.options = replace(options, start=start, end=end)
        self.device = device
        self.tally = DecodeTally(options.on_error)

    def count_frames(self) -> int:
        """Count the frames of the selected stream, decoding all of it and converting nothing."""
        self.tally = DecodeTally(self.options.on_error)
        with self._make_reader(self.tally).open_frames() as frames:
            for _ in frames:
                pass
        return self.tally.frames_selected

    def estimate_extent(self) -> VideoExtent:
        """Estimate the length of the video and the size of its frames from the headers alone.

        Headers may be wrong. A folder of images has its files counted and one of them read.
        """
        path, options = self.source.path, self.options
        if self.source.kind == "frames":
            height, width = images.read_image_shape(path, options)
            frames, rate = len(list_numbered_images(path).paths), options.image_fps
        else:
            with pyav.open_container(path, url=self.source.kind == "url") as container:
                stream = pyav.choose_stream(container)
                width, height = stream.width, stream.height
                rate = pyav.read_stream_rate(stream)
                frames = pyav.estimate_frame_count(container, stream, rate)
        seconds = frames / rate
        selected_seconds = max(min(options.end or seconds, seconds) - (options.start or 0.0), 0.0)
        num_selected = round(selected_seconds * (options.fps or rate))
        return VideoExtent(num_selected, *target_size(width, height, options), selected_seconds)

    def read_frames(
        self, colors: Sequence[Color] = ("rgb",), positions: set[int] | None = None
    ) -> Iterator[dict[Color, Frames]]:
        """Yield runs of consecutive frames, in each color asked for.

        Args:
            colors: ``rgb`` and/or ``gray`` (full-range luma)
            positions: yield only these positions of the selected stream, and keep the counts of an
                earlier `count_frames`; facts and warnings are still added. None yields all frames
        """
        tally = DecodeTally(self.options.on_error)
        if positions is None:
            self.tally = tally
        with self._make_reader(tally).open_frames() as frames:
            numbered_frames: Iterator[tuple[int, TimedFrame]] = enumerate(frames)
            if positions is not None:
                # Nothing behind the last position is decoded.
                last = max(positions, default=-1)
                numbered_frames = (
                    (position, frame)
                    for position, frame in islice(numbered_frames, last + 1)
                    if position in positions
                )
            yield from self._read_chunks(numbered_frames, colors)

    def _make_reader(self, tally: DecodeTally) -> FrameReader:
        return FrameReader(self.source, self.options, self.device, tally)

    def _read_chunks(
        self, numbered_frames: Iterator[tuple[int, TimedFrame]], colors: Sequence[Color]
    ) -> Iterator[dict[Color, Frames]]:
        first = next(numbered_frames, None)
        if first is None:
            return
        # Conversion reports to self.tally even if only some positions are read, because its facts
        # are what the attributes are written from.
        converter = FrameConverter(first[1].picture, self.options, self.tally)
        frame_bytes = converter.height * converter.width * sum(COLOR_CHANNELS[c] for c in colors)
        max_frames = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // frame_bytes))
        numbered_frames = chain([first], numbered_frames)
        while True:
            chunk = _convert_chunk(
                islice(numbered_frames, max_frames), converter, colors, max_frames
            )
            if not chunk:
                return
            yield chunk


def _convert_chunk(
    numbered_frames: Iterator[tuple[int, TimedFrame]],
    converter: FrameConverter,
    colors: Sequence[Color],
    max_frames: int,
) -> dict[Color, Frames]:
    """Convert the next frames, or return an empty dict if none are left."""
    size = (converter.height, converter.width)
    # The stream's end is not known ahead, so the arrays have room for a full chunk.
    data = {c: np.empty((max_frames, *size, COLOR_CHANNELS[c]), np.uint8) for c in colors}
    positions: list[int] = []
    frame_numbers: list[int] = []
    times: list[float] = []
    # Each picture is converted as it is decoded, so that only one of them is held.
    for place, frame in numbered_frames:
        for color in colors:
            converter.write_frame(frame.picture, color, data[color][len(positions)])
        positions.append(place)
        frame_numbers.append(frame.frame_number)
        times.append(frame.time)
    count = len(positions)
    if not count:
        return {}
    position, index, time = np.array(positions), np.array(frame_numbers), np.array(times)
    return {c: Frames(torch.from_numpy(data[c][:count]), position, index, time) for c in colors}

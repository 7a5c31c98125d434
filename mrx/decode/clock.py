"""Selection of frames by time: repaired times, a range in seconds, a rate."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mrx.decode.tally import DecodeTally

MAX_REPEAT_SECONDS = 1.0
TIME_SLACK = 1e-4  # seconds: less than any interval between frames, more than rounding
TICK_SLACK = 0.1  # of a tick: times are rounded to the time base of the container
VARIABLE_RATIO = 1.5  # of intervals: the longest over the shortest, above what rounding explains


class TimedFrame(NamedTuple):
    """A decoded picture with its number in the source and its time in seconds."""

    picture: Any
    frame_number: int
    time: float


class FrameClock:
    """Gives every frame of a stream a time, strictly increasing.

    Args:
        rate: frames per second of the container, for frames without a usable time
        by_index: use index / rate instead of the container's times, for containers whose times
            are unreliable

    Attributes:
        num_repaired: frames whose time was missing or not after the one before
        shortest_gap, longest_gap: intervals between consecutive frames, in seconds
    """

    def __init__(self, rate: float, *, by_index: bool) -> None:
        self.rate = rate
        self.by_index = by_index
        self.num_repaired = 0
        self.shortest_gap = float("inf")
        self.longest_gap = 0.0
        self._last_time: float | None = None

    def read_time(self, stamp: float | None, index: int) -> float:
        """Return the time of frame `index`, given the container's `stamp` in seconds."""
        if self.by_index:
            return index / self.rate
        last_time = self._last_time
        time = stamp
        # rate = 10, stamps = [0.0, 0.1, 0.1, None, 0.5] -> [0.0, 0.1, 0.2, 0.3, 0.5]
        if time is None or (last_time is not None and time <= last_time):
            time = 0.0 if last_time is None else last_time + 1 / self.rate
            self.num_repaired += 1
        if last_time is not None:
            self.shortest_gap = min(self.shortest_gap, time - last_time)
            self.longest_gap = max(self.longest_gap, time - last_time)
        self._last_time = time
        return time

    @property
    def is_variable(self) -> bool:
        """True if the intervals between frames differ by more than rounding explains."""
        return self.longest_gap > VARIABLE_RATIO * self.shortest_gap


def select_range(
    frames: Iterable[TimedFrame], start: float | None, end: float | None
) -> Iterator[TimedFrame]:
    """Yield the frames with start <= time < end, numbered from 0."""
    position = 0
    for frame in frames:
        if end is not None and frame.time >= end - TIME_SLACK:
            return
        if start is None or frame.time >= start - TIME_SLACK:
            yield TimedFrame(frame.picture, position, frame.time)
            position += 1


def resample_frames(
    frames: Iterable[TimedFrame], fps: float, tally: DecodeTally
) -> Iterator[TimedFrame]:
    """Yield the frame on screen at each tick of a clock with `fps` ticks a second.

    A frame stays on screen until the next one and is repeated for each tick in between, but for
    `MAX_REPEAT_SECONDS` at most: a longer gap is skipped with a warning. The last frame stays as
    long as the one before. Times stay those of the frames.
    """
    max_repeats = max(1, round(fps * MAX_REPEAT_SECONDS))
    current: TimedFrame | None = None
    origin, tick, duration = 0.0, 0, 1 / fps
    # times = [0.0, 0.1, 0.2], fps = 20 -> frames [0, 0, 1, 1, 2, 2]
    # times = [0.0, 0.1, 0.2, 0.3], fps = 5 -> frames [0, 2]
    for frame in frames:
        if current is None:
            origin = frame.time
        else:
            duration = frame.time - current.time
            next_tick = max(1, math.ceil((frame.time - origin) * fps - TICK_SLACK))
            if next_tick - tick > max_repeats:
                tally.warn(f"a gap of {duration:.1f} s is not filled with repeats")
            # A frame that no tick falls on is yielded zero times.
            yield from [current] * min(next_tick - tick, max_repeats)
            # After a gap the ticks go on with the next frame, wherever the repeats ended.
            tick = max(tick, next_tick)
        current = frame
    if current is not None:
        next_tick = max(1, math.ceil((current.time + duration - origin) * fps - TICK_SLACK))
        yield from [current] * min(next_tick - tick, max_repeats)

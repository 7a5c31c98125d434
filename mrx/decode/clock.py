"""Which frames of a stream are taken: times, a range in seconds, a rate."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mrx.decode.tally import DecodeTally

MAX_REPEAT_SECONDS = 1.0
TIME_SLACK = 1e-4  # seconds: less than any distance between frames, more than rounding
TICK_SLACK = 0.1  # of a tick: times are rounded to the time base of the container


class TimedFrame(NamedTuple):
    """A decoded picture with its place in the source and its time in seconds."""

    picture: Any
    frame_number: int
    time: float


class FrameClock:
    """Give every frame a time that increases.

    Args:
        rate: frames per second as the container says, for frames without a usable time
        by_index: time is index / rate, because the container's own times are not to be trusted
    """

    def __init__(self, rate: float, *, by_index: bool) -> None:
        self.rate = rate
        self.by_index = by_index
        self.num_repaired = 0
        self.shortest_gap = float("inf")
        self.longest_gap = 0.0
        self._last_time: float | None = None

    def read_time(self, stamp: float | None, index: int) -> float:
        """The time of frame `index`, whose container says `stamp`."""
        if self.by_index:
            return index / self.rate
        last_time = self._last_time
        time = stamp
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
        """Whether the distances between frames differ by more than rounding explains."""
        return self.longest_gap > 1.5 * self.shortest_gap


def select_range(
    frames: Iterable[TimedFrame], start: float | None, end: float | None
) -> Iterator[TimedFrame]:
    """The frames with start <= time < end, counted again from 0 at the first of them."""
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
    """The frame that is shown at each tick of a clock with `fps` ticks a second.

    A frame is repeated for as long as it is shown, but for a second at most: after a longer gap
    the ticks go on with the next frame. The last frame is shown for as long as the one before.
    Times stay those of the frames.
    """
    max_repeats = max(1, round(fps * MAX_REPEAT_SECONDS))
    current: TimedFrame | None = None
    origin, tick, duration = 0.0, 0, 1 / fps
    for frame in frames:
        if current is None:
            origin = frame.time
        else:
            duration = frame.time - current.time
            next_tick = max(1, math.ceil((frame.time - origin) * fps - TICK_SLACK))
            if next_tick - tick > max_repeats:
                tally.warn(f"a gap of {duration:.1f} s is not filled with repeats")
            yield from [current] * min(next_tick - tick, max_repeats)
            tick = max(tick, next_tick)
        current = frame
    if current is not None:
        next_tick = max(1, math.ceil((current.time + duration - origin) * fps - TICK_SLACK))
        yield from [current] * min(next_tick - tick, max_repeats)

"""Which frames of a stream are taken: times, a range in seconds, a rate."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mrx.decode.tally import Tally

MAX_REPEAT_SECONDS = 1.0
TIME_SLACK = 1e-4  # seconds: less than any distance between frames, more than rounding
TICK_SLACK = 0.1  # of a tick: times are rounded to the time base of the container


class Timed(NamedTuple):
    """A decoded picture with its place in the source and its time in seconds."""

    picture: Any
    number: int
    time: float


class Clock:
    """Give every frame a time that increases.

    Args:
        rate: frames per second as the container says, for frames without a usable time
        by_index: time is index / rate, because the container's own times are not to be trusted
    """

    def __init__(self, rate: float, *, by_index: bool) -> None:
        self.rate = rate
        self.by_index = by_index
        self.repaired = 0
        self.shortest = float("inf")
        self.longest = 0.0
        self._last: float | None = None

    def read(self, stamp: float | None, index: int) -> float:
        """The time of frame `index`, whose container says `stamp`."""
        if self.by_index:
            return index / self.rate
        last = self._last
        time = stamp
        if time is None or (last is not None and time <= last):
            time = 0.0 if last is None else last + 1 / self.rate
            self.repaired += 1
        if last is not None:
            self.shortest = min(self.shortest, time - last)
            self.longest = max(self.longest, time - last)
        self._last = time
        return time

    @property
    def variable(self) -> bool:
        """Whether the distances between frames differ by more than rounding explains."""
        return self.longest > 1.5 * self.shortest


def within(frames: Iterable[Timed], start: float | None, end: float | None) -> Iterator[Timed]:
    """The frames with start <= time < end, counted again from 0 at the first of them."""
    taken = 0
    for frame in frames:
        if end is not None and frame.time >= end - TIME_SLACK:
            return
        if start is None or frame.time >= start - TIME_SLACK:
            yield Timed(frame.picture, taken, frame.time)
            taken += 1


def at_rate(frames: Iterable[Timed], fps: float, tally: Tally) -> Iterator[Timed]:
    """The frame that is shown at each tick of a clock with `fps` ticks a second.

    A frame is repeated for as long as it is shown, but for a second at most: after a longer gap
    the ticks go on with the next frame. The last frame is shown for as long as the one before.
    Times stay those of the frames.
    """
    most = max(1, round(fps * MAX_REPEAT_SECONDS))
    shown: Timed | None = None
    origin, tick, lasted = 0.0, 0, 1 / fps
    for frame in frames:
        if shown is None:
            origin = frame.time
        else:
            lasted = frame.time - shown.time
            until = max(1, math.ceil((frame.time - origin) * fps - TICK_SLACK))
            if until - tick > most:
                tally.warn(f"a gap of {lasted:.1f} s is not filled with repeats")
            yield from [shown] * min(until - tick, most)
            tick = max(tick, until)
        shown = frame
    if shown is not None:
        until = max(1, math.ceil((shown.time + lasted - origin) * fps - TICK_SLACK))
        yield from [shown] * min(until - tick, most)

"""Which frames make which window. Integers only: no tensors, no rounding."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mrx.errors import UsageError


@dataclass(frozen=True)
class Rule:
    """How a stream of frames is cut into windows.

    Attributes:
        length: frames in a window
        step: frames from one window's start to the next
        dilation: frames from one frame of a window to the next
        segments: None for every window; N for one at the centre of each of N equal parts
        tail: drop a last window that runs past the end, or repeat the last frame
    """

    length: int
    step: int
    dilation: int = 1
    segments: int | None = None
    tail: Literal["drop", "repeat"] = "drop"

    def __post_init__(self) -> None:
        for name in ("length", "step", "dilation", "segments"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}={value}: a window's {name} is at least 1")

    @property
    def span(self) -> int:
        """Frames from the first of a window to its last, both counted."""
        return (self.length - 1) * self.dilation + 1

    @property
    def needs(self) -> int:
        """The shortest video that gives a window."""
        return 1 if self.tail == "repeat" else self.span


def starts(frames: int, rule: Rule, *, first: int = 0) -> Iterable[int]:
    """Where the windows of a video with so many frames start.

    Segments follow the papers' test rule: the centre of each of N equal parts of the possible
    starts, ``floor((2 s + 1) (frames - span + 1) / (2 N))``. Where the video is shorter than a
    window, a repeated tail leaves the one start 0.
    """
    if rule.segments is None:
        return _every_start(frames, rule, first)
    places = max(frames - rule.span + 1, 1)
    parts = range(count(frames, rule))
    return ((2 * s + 1) * places // (2 * rule.segments) for s in parts)


def count(frames: int, rule: Rule, *, first: int = 0) -> int:
    """How many windows a video with so many frames has, without making them.

    >>> count(7, Rule(length=3, step=3)), count(7, Rule(length=3, step=3, tail="repeat"))
    (2, 3)
    """
    if rule.segments is None:
        return len(_every_start(frames, rule, first))
    return rule.segments if frames >= rule.needs else 0


def _every_start(frames: int, rule: Rule, first: int) -> range:
    last = frames - 1 if rule.tail == "repeat" else frames - rule.span
    return range(first, last + 1, rule.step)


def window(start: int, rule: Rule, *, frames: int) -> list[int]:
    """The frames of the window at `start`; past the end the last frame stands in."""
    return [min(start + i * rule.dilation, frames - 1) for i in range(rule.length)]


def plan(frames: int, rule: Rule, *, first: int = 0) -> list[list[int]]:
    """All windows of a video with so many frames.

    >>> plan(7, Rule(length=3, step=3))
    [[0, 1, 2], [3, 4, 5]]
    >>> plan(7, Rule(length=3, step=3, tail="repeat"))
    [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    >>> plan(100, Rule(length=2, step=1, dilation=4, segments=3))
    [[16, 20], [48, 52], [80, 84]]
    """
    return [window(start, rule, frames=frames) for start in starts(frames, rule, first=first)]

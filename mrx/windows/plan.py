"""Which frames make which window. Integers only: no tensors, no rounding."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mrx.errors import UsageError


@dataclass(frozen=True)
class WindowRule:
    """How a stream of frames is cut into windows.

    Attributes:
        length: frames in a window
        step: frames from one window's start to the next
        dilation: frames from one frame of a window to the next
        segments: None for every window; N for one at the centre of each of N equal parts
        across_segments: a window has one frame of each of `length` neighbouring parts, its centre, instead
            of frames `dilation` apart; N - length + 1 windows
        tail: drop a last window that runs past the end, or repeat the last frame
    """

    length: int
    step: int
    dilation: int = 1
    segments: int | None = None
    across_segments: bool = False
    tail: Literal["drop", "repeat"] = "drop"

    def __post_init__(self) -> None:
        for name in ("length", "step", "dilation", "segments"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}={value}: a window's {name} is at least 1")
        if self.across_segments and (self.segments or 0) < self.length:
            raise UsageError(
                f"segments={self.segments}: windows of {self.length} frames, each of another "
                f"segment, need at least {self.length}; give a dilation for windows inside of one"
            )

    @property
    def span(self) -> int:
        """Frames from the first of a window to its last, both counted."""
        return (self.length - 1) * self.dilation + 1

    @property
    def recorded_dilation(self) -> int:
        """What is recorded as dilation: 0 across segments, where it follows the video's length."""
        return 0 if self.across_segments else self.dilation

    @property
    def min_frames(self) -> int:
        """The shortest video that gives a window; across segments, one of a frame for each."""
        if self.tail == "repeat":
            return 1
        return self.segments if self.across_segments and self.segments else self.span


def plan_starts(frames: int, rule: WindowRule, *, first: int = 0) -> Iterable[int]:
    """Where the windows of a video with so many frames start.

    Segments follow the papers' test rule: the centre of each of N equal parts of the possible
    starts, ``floor((2 s + 1) (frames - span + 1) / (2 N))``. Where the video is shorter than a
    window, a repeated tail leaves the one start 0. Windows across segments start at the centres of
    parts of all frames.
    """
    if rule.segments is None:
        return _plan_all_starts(frames, rule, first)
    num_places = frames if rule.across_segments else max(frames - rule.span + 1, 1)
    return [
        _center_of_part(s, rule.segments, num_places) for s in range(count_windows(frames, rule))
    ]


def count_windows(frames: int, rule: WindowRule, *, first: int = 0) -> int:
    """How many windows a video with so many frames has, without making them.

    >>> count_windows(7, WindowRule(length=3, step=3)), count_windows(7, WindowRule(length=3, step=3, tail="repeat"))
    (2, 3)
    """
    if rule.segments is None:
        return len(_plan_all_starts(frames, rule, first))
    windows = rule.segments - rule.length + 1 if rule.across_segments else rule.segments
    return windows if frames >= rule.min_frames else 0


def _plan_all_starts(frames: int, rule: WindowRule, first: int) -> range:
    last = frames - 1 if rule.tail == "repeat" else frames - rule.span
    return range(first, last + 1, rule.step)


def list_window_frames(start: int, rule: WindowRule, *, frames: int) -> list[int]:
    """The frames of the window at `start`; past the end the last frame stands in."""
    return [min(start + i * rule.dilation, frames - 1) for i in range(rule.length)]


def plan_windows(frames: int, rule: WindowRule, *, first: int = 0) -> list[list[int]]:
    """All windows of a video with so many frames.

    >>> plan_windows(7, WindowRule(length=3, step=3))
    [[0, 1, 2], [3, 4, 5]]
    >>> plan_windows(7, WindowRule(length=3, step=3, tail="repeat"))
    [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    >>> plan_windows(100, WindowRule(length=2, step=1, dilation=4, segments=3))
    [[16, 20], [48, 52], [80, 84]]
    >>> plan_windows(100, WindowRule(length=2, step=1, segments=4, across_segments=True))
    [[12, 37], [37, 62], [62, 87]]
    """
    begins = plan_starts(frames, rule, first=first)
    if not rule.across_segments or rule.segments is None:
        return [list_window_frames(start, rule, frames=frames) for start in begins]
    centers = [_center_of_part(s, rule.segments, frames) for s in range(rule.segments)]
    return [centers[s : s + rule.length] for s, _ in enumerate(begins)]


def _center_of_part(part: int, num_parts: int, num_places: int) -> int:
    return (2 * part + 1) * num_places // (2 * num_parts)

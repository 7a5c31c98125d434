"""The frames of each window, in integers: no tensors, no rounding."""

from collections.abc import Iterable
from dataclasses import dataclass

from mrx.errors import UsageError
from mrx.job import TailPolicy


@dataclass(frozen=True)
class WindowRule:
    """A rule that cuts a stream of frames into windows.

    Attributes:
        length: frames in a window
        step: frames from one window's start to the next
        dilation: frames from one frame of a window to the next
        segments: None for every window; N for one at the center of each of N equal parts
        across_segments: take the center frames of `length` adjacent parts as a window, instead of
            frames `dilation` apart; N - length + 1 windows
        tail: drop a last window that runs past the end, or fill it with the last frame
    """

    length: int
    step: int
    dilation: int = 1
    segments: int | None = None
    across_segments: bool = False
    tail: TailPolicy = "drop"

    def __post_init__(self) -> None:
        for name in ("length", "step", "dilation", "segments"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}={value}: must be at least 1")
        if self.across_segments and (self.segments or 0) < self.length:
            raise UsageError(
                f"segments={self.segments}: windows of {self.length} frames, one of each segment, "
                f"need at least {self.length}. Give a dilation to take windows inside segments"
            )

    @property
    def span(self) -> int:
        """The number of frames from the first of a window to its last, both included."""
        return (self.length - 1) * self.dilation + 1

    @property
    def recorded_dilation(self) -> int:
        """The dilation that is stored with the maps; 0 across segments."""
        # Across segments the distance between frames depends on the length of each video.
        return 0 if self.across_segments else self.dilation

    @property
    def min_frames(self) -> int:
        """The length of the shortest video that has a window."""
        if self.tail == "repeat":
            return 1
        return self.segments if self.across_segments and self.segments else self.span


def plan_starts(frames: int, rule: WindowRule, *, first: int = 0) -> Iterable[int]:
    """List the start of each window of a video with `frames` frames.

    Segments follow the papers' test rule: the center of each of N equal parts of the possible
    starts, ``floor((2 s + 1) (frames - span + 1) / (2 N))``. A video shorter than a window has the
    single start 0 if the tail is repeated. Windows across segments start at the centers of equal
    parts of all frames.
    """
    if rule.segments is None:
        return _plan_all_starts(frames, rule, first)
    num_places = frames if rule.across_segments else max(frames - rule.span + 1, 1)
    return [
        _center_of_part(s, rule.segments, num_places) for s in range(count_windows(frames, rule))
    ]


def count_windows(frames: int, rule: WindowRule, *, first: int = 0) -> int:
    """Return the number of windows of a video with `frames` frames, without listing them.

    >>> count_windows(7, WindowRule(length=3, step=3))
    2
    >>> count_windows(7, WindowRule(length=3, step=3, tail="repeat"))
    3
    """
    if rule.segments is None:
        return len(_plan_all_starts(frames, rule, first))
    windows = rule.segments - rule.length + 1 if rule.across_segments else rule.segments
    return windows if frames >= rule.min_frames else 0


def _plan_all_starts(frames: int, rule: WindowRule, first: int) -> range:
    last = frames - 1 if rule.tail == "repeat" else frames - rule.span
    return range(first, last + 1, rule.step)


def list_window_frames(start: int, rule: WindowRule, *, frames: int) -> list[int]:
    """List the frames of the window at `start`; the last frame fills a window past the end."""
    return [min(start + i * rule.dilation, frames - 1) for i in range(rule.length)]


def plan_windows(frames: int, rule: WindowRule, *, first: int = 0) -> list[list[int]]:
    """List the frames of each window of a video with `frames` frames.

    >>> plan_windows(7, WindowRule(length=3, step=3))
    [[0, 1, 2], [3, 4, 5]]
    >>> plan_windows(7, WindowRule(length=3, step=3, tail="repeat"))
    [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    >>> plan_windows(100, WindowRule(length=2, step=1, dilation=4, segments=3))
    [[16, 20], [48, 52], [80, 84]]
    >>> plan_windows(100, WindowRule(length=2, step=1, segments=4, across_segments=True))
    [[12, 37], [37, 62], [62, 87]]
    """
    starts = plan_starts(frames, rule, first=first)
    if not rule.across_segments or rule.segments is None:
        return [list_window_frames(start, rule, frames=frames) for start in starts]
    centers = [_center_of_part(s, rule.segments, frames) for s in range(rule.segments)]
    return [centers[s : s + rule.length] for s, _ in enumerate(starts)]


def _center_of_part(part: int, num_parts: int, num_places: int) -> int:
    # num_places = 100, num_parts = 4 -> 12, 37, 62, 87
    return (2 * part + 1) * num_places // (2 * num_parts)

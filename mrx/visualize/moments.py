"""Moments of a clip: the frames of a video beside the maps of methods, window by window.

`ComputedMoments` decodes a video and computes the maps; `StoredMoments` reads the maps from a
shard, and the frames from the video if it still exists. Both hold only the windows in flight.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mrx import methods
from mrx.decode import Video
from mrx.errors import UsageError
from mrx.records import Frames

FrameRange = tuple[int, int | None]
"""Frame numbers ``begin, end``, end exclusive; an end of None is the end of the video."""


@dataclass(frozen=True)
class MethodTrack:
    """A method's name, channels, units and non-default parameters."""

    name: str
    channels: tuple[str, ...]
    units: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Moment:
    """The contents of one picture: a window's first frame and the map of each method.

    Attributes:
        number: the frame's number
        time: the frame's time in seconds
        windows: the first and last frame number of the window behind each map
        starts: the time of each window's first frame in seconds
        size: height and width of the frame, even if the frame is missing

    Shape:
        - frame: ``(H, W, 3)`` uint8; gray if the decoder lost it, None if the video is missing
        - maps: ``(C, H', W')`` each
    """

    number: int
    time: float
    frame: NDArray[np.uint8] | None
    maps: tuple[NDArray[np.float32], ...]
    windows: tuple[tuple[int, int], ...]
    starts: tuple[float, ...]
    size: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """The memory of its own arrays, in bytes."""
        return sum(a.nbytes for a in (*self.maps, self.frame) if a is not None)

    def copy(self) -> "Moment":
        """Copy the arrays, so that the copy keeps no decoded chunk or batch alive."""
        # A frame is a view into its chunk, and a map a view into its batch.
        frame = None if self.frame is None else self.frame.copy()
        return replace(self, frame=frame, maps=tuple(maps.copy() for maps in self.maps))


class MomentSource(Protocol):
    """A clip whose moments can be iterated more than once."""

    @property
    def tracks(self) -> Sequence[MethodTrack]:
        """The methods that have maps here."""
        ...

    def iter_moments(self) -> Generator[Moment]:
        """Yield all moments in order."""
        ...

    def estimate_rate(self) -> float:
        """Return the moments per second; valid after the first moment was read."""
        ...

    def list_warnings(self) -> list[str]:
        """List the problems that the last pass met."""
        ...


@dataclass(frozen=True)
class TimedArray:
    """A frame, or a map with the first and last frame of its window, at a time in seconds."""

    number: int
    last: int
    time: float
    data: NDArray[Any]


def iter_timed_frames(frames: Frames) -> Iterator[TimedArray]:
    """Yield the frames of a chunk one by one."""
    for data, number, time in zip(frames.data.numpy(), frames.index, frames.time, strict=True):
        yield TimedArray(int(number), int(number), float(time), data)


def list_video_warnings(video: Video) -> list[str]:
    """List the problems that the last pass over a video met."""
    return [*video.tally.warnings, *filter(None, [video.tally.describe_damage()])]


def select_nondefault(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that differ from the defaults of the method `name`."""
    try:
        defaults = methods.find_method(name).complete_parameters({})
    except UsageError:
        # A shard may come from an installation that has more methods than this one.
        defaults = {}
    return {key: value for key, value in parameters.items() if defaults.get(key, ...) != value}

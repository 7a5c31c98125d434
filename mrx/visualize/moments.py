"""What there is to look at: the frames of a video beside the maps of methods, window by window.

`Computed` decodes a video and computes the maps; `Stored` reads them from a shard, and the frames
from the video where it still is. Both hold no more than the windows in flight need.
"""

import json
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mrx import methods
from mrx.decode import Video, nvdec
from mrx.errors import DecodeError, InputError, ShapeError, UsageError
from mrx.job import Decoding, Job, Source
from mrx.pipeline.hardware import choose_device
from mrx.pipeline.method_run import Lane
from mrx.records import Frames
from mrx.shards.layout import broken
from mrx.shards.reader import Maps, Recording
from mrx.sources.scan import problem
from mrx.windows.stack import Stack

Part = tuple[int, int | None]
"""From which frame to before which; None is the end."""
LOST = 80  # of 255: the gray of a frame that is not there, as of a map's unknown values


@dataclass(frozen=True)
class Track:
    """A method, as far as pictures name it; parameters are those that are not the default."""

    name: str
    channels: tuple[str, ...]
    units: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Moment:
    """What one picture shows: a window's first frame, and the map of each method.

    Attributes:
        number: of the frame
        time: of the frame, in seconds
        windows: the first and the last frame that each map was made from
        starts: the time of each window's first frame, in seconds
        size: height and width of the frame, even where there is none

    Shape:
        - frame: ``(H, W, 3)`` uint8, or None where the video is gone; gray where it lost the frame
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
        """The memory that it holds, once copied."""
        return sum(a.nbytes for a in (*self.maps, self.frame) if a is not None)

    def copy(self) -> "Moment":
        """One that does not keep the memory of its neighbors alive."""
        frame = None if self.frame is None else self.frame.copy()
        return replace(self, frame=frame, maps=tuple(maps.copy() for maps in self.maps))


class Clip(Protocol):
    """Moments that can be gone through more than once."""

    @property
    def tracks(self) -> Sequence[Track]:
        """The methods shown."""
        ...

    def moments(self) -> Generator[Moment]:
        """All of them, in order."""
        ...

    def rate(self) -> float:
        """Moments a second; known once the first is."""
        ...

    def warnings(self) -> list[str]:
        """What the last pass found wrong."""
        ...


@dataclass(frozen=True)
class _Item:
    number: int
    last: int
    time: float
    data: NDArray[Any]


@dataclass
class _Timeline:
    """Brings the maps of methods together: each of the leader's is a moment.

    The others' are held until their next window begins.
    """

    leader: int
    queues: list[deque[_Item]]
    frames: deque[_Item] = field(default_factory=deque)

    def moments(self, *, ended: bool = False) -> Iterator[Moment]:
        """Those whose maps are all there."""
        lead = self.queues[self.leader]
        while lead and all(self._current(queue, lead[0].number, ended) for queue in self.queues):
            while len(self.frames) > 1 and self.frames[0].number < lead[0].number:
                self.frames.popleft()
            shown = [queue[0] for queue in self.queues]
            first, frame = lead.popleft(), self.frames[0].data
            yield Moment(
                first.number,
                first.time,
                frame,
                maps=tuple(item.data for item in shown),
                windows=tuple((item.number, item.last) for item in shown),
                starts=tuple(item.time for item in shown),
                size=frame.shape[:2],
            )

    def _current(self, queue: deque[_Item], number: int, ended: bool) -> bool:
        """Whether the front of a queue is the map that stands at this frame."""
        if queue is self.queues[self.leader]:
            return True
        while len(queue) > 1 and queue[1].number <= number:
            queue.popleft()
        return len(queue) > 1 or (ended and bool(queue))


class Computed:
    """A video, and methods to compute from it in one decode.

    Args:
        job: methods, parameters, windows, decoding and device
        source: the video
        part: the frames in which windows begin
    """

    def __init__(self, job: Job, source: Source, part: Part) -> None:
        self.device = choose_device(job.devices[0])
        nvdec.require(job.decoding, self.device)
        self.lanes = [Lane.build(job, name, self.device) for name in job.methods]
        if job.stack is not None and not any("stack" in lane.parameters for lane in self.lanes):
            names = ", ".join(job.methods)
            raise UsageError(f"stack={job.stack}: no method among these has stacks: {names}")
        self.tracks: Sequence[Track] = [
            Track(
                lane.method.name,
                tuple(lane.module.channels),
                lane.module.units,
                _unusual(lane.method.name, lane.parameters),
            )
            for lane in self.lanes
        ]
        self.video = Video(source, job.decoding, self.device)
        self.part = part
        steps = [lane.rule.step for lane in self.lanes]
        self.leader = steps.index(min(steps))

    def rate(self) -> float:
        """Moments a second."""
        return float(self.video.tally.facts["avg_fps"]) / self.lanes[self.leader].rule.step

    def warnings(self) -> list[str]:
        """What the last pass found wrong."""
        return _wrong(self.video)

    def moments(self) -> Generator[Moment]:
        """Decode, compute, and bring together."""
        where = self.video.source.public_path
        try:
            yield from self._moments()
        except InputError as error:
            raise type(error)(f"{where}: {error}") from error
        damage = self.video.tally.damage()
        if damage and self.video.tally.on_error == "fail":
            raise DecodeError(f"{where}: {damage}")

    def _moments(self) -> Generator[Moment]:
        begin, end = self.part
        line = _Timeline(self.leader, [deque() for _ in self.lanes])
        stacks = [Stack(lane.rule) for lane in self.lanes]
        last = None if end is None else end - begin
        colors = sorted({"rgb", *(lane.module.color for lane in self.lanes)})
        origin, seen = None, 0
        for chunk in self.video.read(colors):
            self._check_size()
            seen = int(chunk["rgb"].position[-1]) + 1
            late = {color: _from(frames, begin) for color, frames in chunk.items()}
            if not len(late["rgb"]):
                continue
            origin = int(late["rgb"].index[0]) if origin is None else origin
            line.frames.extend(_items(late["rgb"]))
            for place, stack in enumerate(stacks):
                self._compute(place, stack.push(late[self.lanes[place].module.color]), line)
            for moment in line.moments():
                if last is not None and moment.number - origin >= last:
                    return
                yield moment
        for place, stack in enumerate(stacks):
            self._compute(place, stack.finish(), line)
        self._check_length(line, seen)
        for moment in line.moments(ended=True):
            if last is not None and moment.number - (origin or 0) >= last:
                return
            yield moment

    def _compute(self, place: int, clips: Any, line: _Timeline) -> None:
        lane, queue = self.lanes[place], line.queues[place]
        for some in clips:
            with torch.inference_mode():
                motion = lane.compute(some, self.device)
            for data, index, time in zip(motion.data, motion.index, motion.time, strict=True):
                queue.append(_Item(int(index[0]), int(index[1]), float(time[0]), data.numpy()))

    def _check_size(self) -> None:
        for lane in self.lanes:
            if reason := lane.too_small(self.video.tally.facts):
                raise ShapeError(f"no {lane.method.name}: {reason}")

    def _check_length(self, line: _Timeline, frames: int) -> None:
        """Refuse a video in which a method had no window at all."""
        begin, _ = self.part
        if frames <= begin and frames:
            raise UsageError(f"--frames {begin}: the video has only {frames} frames")
        for lane, queue in zip(self.lanes, line.queues, strict=True):
            if not queue and frames - begin < lane.rule.needs:
                counted = f"{frames - begin} frames, needs {lane.rule.needs}"
                raise ShapeError(f"no {lane.method.name}: too short ({counted})")


class Stored:
    """A video in a shard: maps are read, not computed.

    Args:
        recording: the video
        names: the methods to show
        part: the frames in which windows begin
    """

    def __init__(self, recording: Recording, names: Sequence[str], part: Part) -> None:
        self.maps = [recording[name] for name in names]
        self.tracks: Sequence[Track] = [_track(maps) for maps in self.maps]
        self.items = [maps.items for maps in self.maps]
        counts = [len(items) for items in self.items]
        self.leader = counts.index(max(counts))
        firsts = self.items[self.leader]["first"]
        begin, end = part
        inside = (firsts >= begin) & (firsts < (np.inf if end is None else end))
        self.places = np.flatnonzero(inside)
        if not len(self.places):
            span = f"{firsts[0]} to {firsts[-1]}"
            raise UsageError(
                f"--frames: no window of {recording.key} begins there; they do at {span}"
            )
        self.path, self.attributes = recording.path, recording.attrs
        self.video, self._missing = _video(recording)
        tall, wide = max(maps.shape[2:] for maps in self.maps)
        known = self.attributes
        self.size = int(known.get("height", tall)), int(known.get("width", wide))

    def rate(self) -> float:
        """Moments a second."""
        starts = self.items[self.leader]["start"]
        gap = float(np.median(np.diff(starts))) if len(starts) > 1 else 0.0
        return 1 / gap if gap > 0 else float(self.attributes.get("avg_fps", 25.0))

    def warnings(self) -> list[str]:
        """Why frames are missing, or what else is wrong with their video."""
        if self._missing or self.video is None:
            return [self._missing]
        return [f"{self.video.source.public_path}: {text}" for text in _wrong(self.video)]

    def moments(self) -> Generator[Moment]:
        """Read map by map, with the frames beside them."""
        with closing(self._frames()) as frames:
            yield from self._moments(frames)

    def _moments(self, frames: Iterator[_Item]) -> Iterator[Moment]:
        shown: _Item | None = None
        lead = self.items[self.leader]
        for place in self.places:
            number, time = int(lead["first"][place]), float(lead["start"][place])
            places = [_current(items["first"], number) for items in self.items]
            places[self.leader] = int(place)  # windows may share their first frame
            rows = [items[i] for items, i in zip(self.items, places, strict=True)]
            if shown is None or shown.number < number:
                shown = next((frame for frame in frames if frame.number >= number), shown)
            frame = None if shown is None else shown.data
            if shown is not None and shown.number != number:
                frame = np.full_like(shown.data, LOST)
            yield Moment(
                number,
                time,
                frame,
                maps=self._read(places),
                windows=tuple((int(row["first"]), int(row["last"])) for row in rows),
                starts=tuple(float(row["start"]) for row in rows),
                size=self.size if frame is None else frame.shape[:2],
            )

    def _read(self, places: list[int]) -> tuple[NDArray[np.float32], ...]:
        """The maps of all methods at these places."""
        try:
            return tuple(held[i] for held, i in zip(self.maps, places, strict=True))
        except OSError as error:
            raise broken(self.path, error) from error

    def _frames(self) -> Generator[_Item]:
        if self.video is None:
            return
        try:
            for chunk in self.video.read(("rgb",)):
                yield from _items(chunk["rgb"])
        except InputError as error:
            self._missing = f"frames are left out: {self.video.source.public_path}: {error}"


def _wrong(video: Video) -> list[str]:
    """What the last pass over a video found wrong with it."""
    return [*video.tally.warnings, *filter(None, [video.tally.damage()])]


def _current(firsts: NDArray[np.int32], number: int) -> int:
    return max(int(np.searchsorted(firsts, number, side="right")) - 1, 0)


def _items(frames: Frames) -> Iterator[_Item]:
    for data, number, time in zip(frames.data.numpy(), frames.index, frames.time, strict=True):
        yield _Item(int(number), int(number), float(time), data)


def _from(frames: Frames, begin: int) -> Frames:
    """The frames from a position on, which becomes 0: windows begin there."""
    late = frames[int(np.searchsorted(frames.position, begin)) :]
    return replace(late, position=late.position - begin)


def _unusual(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters that are not the method's default."""
    try:
        usual = methods.find(name).complete({})
    except UsageError:  # a shard may come from where other methods are installed
        usual = {}
    return {key: value for key, value in parameters.items() if usual.get(key, ...) != value}


def _track(maps: Maps) -> Track:
    attributes = maps.attrs
    channels = tuple(str(channel) for channel in attributes["channels"])
    parameters = json.loads(attributes["params_json"])
    return Track(maps.method, channels, str(attributes["units"]), _unusual(maps.method, parameters))


def _video(recording: Recording) -> tuple[Video | None, str]:
    """The video that a recording was made from, read as it was then, or why there is none."""
    known = recording.attrs
    path = str(known.get("source", ""))
    gone = "" if "://" in path else problem(path)
    if not path or gone:
        return None, f"frames are left out: {path}: {gone or 'its name is not known'}"
    state = Path(path).stat() if "://" not in path else None
    size = known.get("source_size")
    if state is not None and size is not None and state.st_size != size:
        return None, f"frames are left out: {path} is not the video that was extracted"
    made = json.loads(recording.group.file.attrs["settings_json"])
    names = Decoding.__dataclass_fields__.keys() - {"decoder"}  # any is good enough to look at
    settings = {name: value for name, value in made.items() if name in names}
    if settings.get("size"):
        settings["size"] = tuple(settings["size"])
    kind: Any = "url" if state is None else "frames" if Path(path).is_dir() else "file"
    start, end = (None if known.get(n) is None else float(known[n]) for n in _RANGE)
    return Video(Source(recording.key, path, kind, start, end), Decoding(**settings)), ""


_RANGE = ("range_start", "range_end")

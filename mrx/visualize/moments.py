"""What there is to look at: the frames of a video beside the maps of methods, window by window.

`ComputedMoments` decodes a video and computes the maps; `StoredMoments` reads them from a shard, and the frames
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
from mrx.pipeline.method_run import MethodRun
from mrx.records import Frames
from mrx.shards.layout import make_damage_error
from mrx.shards.reader import Maps, Recording
from mrx.sources.scan import why_unreadable
from mrx.windows.stack import WindowStacker

FrameRange = tuple[int, int | None]
"""From which frame to before which; None is the end."""
LOST_GRAY = 80  # of 255: the gray of a frame that is not there, as of a map's unknown values


@dataclass(frozen=True)
class MethodTrack:
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


class MomentSource(Protocol):
    """Moments that can be gone through more than once."""

    @property
    def tracks(self) -> Sequence[MethodTrack]:
        """The methods shown."""
        ...

    def iter_moments(self) -> Generator[Moment]:
        """All of them, in order."""
        ...

    def estimate_rate(self) -> float:
        """Moments a second; known once the first is."""
        ...

    def list_warnings(self) -> list[str]:
        """What the last pass found wrong."""
        ...


@dataclass(frozen=True)
class _TimedArray:
    number: int
    last: int
    time: float
    data: NDArray[Any]


@dataclass
class _MapTimeline:
    """Brings the maps of methods together: each of the leader's is a moment.

    The others' are held until their next window begins.
    """

    leader: int
    queues: list[deque[_TimedArray]]
    frames: deque[_TimedArray] = field(default_factory=deque)

    def pop_moments(self, *, ended: bool = False) -> Iterator[Moment]:
        """Those whose maps are all there."""
        lead = self.queues[self.leader]
        while lead and all(
            self._advance_queue(queue, lead[0].number, ended) for queue in self.queues
        ):
            while len(self.frames) > 1 and self.frames[0].number < lead[0].number:
                self.frames.popleft()
            current = [queue[0] for queue in self.queues]
            first, frame = lead.popleft(), self.frames[0].data
            yield Moment(
                first.number,
                first.time,
                frame,
                maps=tuple(item.data for item in current),
                windows=tuple((item.number, item.last) for item in current),
                starts=tuple(item.time for item in current),
                size=frame.shape[:2],
            )

    def _advance_queue(self, queue: deque[_TimedArray], number: int, ended: bool) -> bool:
        """Whether the front of a queue is the map that stands at this frame."""
        if queue is self.queues[self.leader]:
            return True
        while len(queue) > 1 and queue[1].number <= number:
            queue.popleft()
        return len(queue) > 1 or (ended and bool(queue))


class ComputedMoments:
    """A video, and methods to compute from it in one decode.

    Args:
        job: methods, parameters, windows, decoding and device
        source: the video
        frame_range: the frames in which windows begin
    """

    def __init__(self, job: Job, source: Source, frame_range: FrameRange) -> None:
        self.device = choose_device(job.devices[0])
        nvdec.require_nvdec(job.decoding, self.device)
        self.method_runs = [MethodRun.from_job(job, name, self.device) for name in job.methods]
        if job.stack is not None and not any(
            "stack" in lane.parameters for lane in self.method_runs
        ):
            names = ", ".join(job.methods)
            raise UsageError(f"stack={job.stack}: no method among these has stacks: {names}")
        self.tracks: Sequence[MethodTrack] = [
            MethodTrack(
                lane.method.name,
                tuple(lane.module.channels),
                lane.module.units,
                _select_nondefault(lane.method.name, lane.parameters),
            )
            for lane in self.method_runs
        ]
        self.video = Video(source, job.decoding, self.device)
        self.frame_range = frame_range
        steps = [lane.rule.step for lane in self.method_runs]
        self.leader = steps.index(min(steps))

    def estimate_rate(self) -> float:
        """Moments a second."""
        return float(self.video.tally.facts["avg_fps"]) / self.method_runs[self.leader].rule.step

    def list_warnings(self) -> list[str]:
        """What the last pass found wrong."""
        return _list_video_warnings(self.video)

    def iter_moments(self) -> Generator[Moment]:
        """Decode, compute, and bring together."""
        where = self.video.source.public_path
        try:
            yield from self._compute_moments()
        except InputError as error:
            raise type(error)(f"{where}: {error}") from error
        damage = self.video.tally.describe_damage()
        if damage and self.video.tally.on_error == "fail":
            raise DecodeError(f"{where}: {damage}")

    def _compute_moments(self) -> Generator[Moment]:
        begin, end = self.frame_range
        timeline = _MapTimeline(self.leader, [deque() for _ in self.method_runs])
        stacks = [WindowStacker(lane.rule) for lane in self.method_runs]
        frame_count = None if end is None else end - begin
        colors = sorted({"rgb", *(lane.module.color for lane in self.method_runs)})
        first_index, frames_read = None, 0
        for chunk in self.video.read_frames(colors):
            self._check_frame_size()
            frames_read = int(chunk["rgb"].position[-1]) + 1
            in_range = {
                color: _drop_frames_before(frames, begin) for color, frames in chunk.items()
            }
            if not len(in_range["rgb"]):
                continue
            first_index = int(in_range["rgb"].index[0]) if first_index is None else first_index
            timeline.frames.extend(_iter_timed_frames(in_range["rgb"]))
            for method_index, stack in enumerate(stacks):
                self._compute_maps(
                    method_index,
                    stack.push_frames(in_range[self.method_runs[method_index].module.color]),
                    timeline,
                )
            for moment in timeline.pop_moments():
                if frame_count is not None and moment.number - first_index >= frame_count:
                    return
                yield moment
        for method_index, stack in enumerate(stacks):
            self._compute_maps(method_index, stack.finish_stream(), timeline)
        self._check_video_length(timeline, frames_read)
        for moment in timeline.pop_moments(ended=True):
            if frame_count is not None and moment.number - (first_index or 0) >= frame_count:
                return
            yield moment

    def _compute_maps(self, method_index: int, clips: Any, timeline: _MapTimeline) -> None:
        method_run, queue = self.method_runs[method_index], timeline.queues[method_index]
        for batch in clips:
            with torch.inference_mode():
                motion = method_run.compute_motion(batch, self.device)
            for data, index, time in zip(motion.data, motion.index, motion.time, strict=True):
                queue.append(
                    _TimedArray(int(index[0]), int(index[1]), float(time[0]), data.numpy())
                )

    def _check_frame_size(self) -> None:
        for method_run in self.method_runs:
            if reason := method_run.why_too_small(self.video.tally.facts):
                raise ShapeError(f"no {method_run.method.name}: {reason}")

    def _check_video_length(self, timeline: _MapTimeline, frames: int) -> None:
        """Refuse a video in which a method had no window at all."""
        begin, _ = self.frame_range
        if frames <= begin and frames:
            raise UsageError(f"--frames {begin}: the video has only {frames} frames")
        for method_run, queue in zip(self.method_runs, timeline.queues, strict=True):
            if not queue and frames - begin < method_run.rule.min_frames:
                counted = f"{frames - begin} frames, needs {method_run.rule.min_frames}"
                raise ShapeError(f"no {method_run.method.name}: too short ({counted})")


class StoredMoments:
    """A video in a shard: maps are read, not computed.

    Args:
        recording: the video
        names: the methods to show
        frame_range: the frames in which windows begin
    """

    def __init__(self, recording: Recording, names: Sequence[str], frame_range: FrameRange) -> None:
        self.maps = [recording[name] for name in names]
        self.tracks: Sequence[MethodTrack] = [_make_stored_track(maps) for maps in self.maps]
        self.window_rows = [maps.items for maps in self.maps]
        counts = [len(items) for items in self.window_rows]
        self.leader = counts.index(max(counts))
        firsts = self.window_rows[self.leader]["first"]
        begin, end = frame_range
        inside = (firsts >= begin) & (firsts < (np.inf if end is None else end))
        self.window_indices = np.flatnonzero(inside)
        if not len(self.window_indices):
            span = f"{firsts[0]} to {firsts[-1]}"
            raise UsageError(
                f"--frames: no window of {recording.key} begins there; they do at {span}"
            )
        self.path, self.attributes = recording.path, recording.attrs
        self.video, self._missing = _open_source_video(recording)
        tall, wide = max(maps.shape[2:] for maps in self.maps)
        known = self.attributes
        self.size = int(known.get("height", tall)), int(known.get("width", wide))

    def estimate_rate(self) -> float:
        """Moments a second."""
        starts = self.window_rows[self.leader]["start"]
        gap = float(np.median(np.diff(starts))) if len(starts) > 1 else 0.0
        return 1 / gap if gap > 0 else float(self.attributes.get("avg_fps", 25.0))

    def list_warnings(self) -> list[str]:
        """Why frames are missing, or what else is wrong with their video."""
        if self._missing or self.video is None:
            return [self._missing]
        return [
            f"{self.video.source.public_path}: {text}" for text in _list_video_warnings(self.video)
        ]

    def iter_moments(self) -> Generator[Moment]:
        """Read map by map, with the frames beside them."""
        with closing(self._read_frames()) as frames:
            yield from self._read_moments(frames)

    def _read_moments(self, frames: Iterator[_TimedArray]) -> Iterator[Moment]:
        latest: _TimedArray | None = None
        lead = self.window_rows[self.leader]
        for lead_index in self.window_indices:
            number, time = int(lead["first"][lead_index]), float(lead["start"][lead_index])
            indices = [_find_current_window(items["first"], number) for items in self.window_rows]
            indices[self.leader] = int(lead_index)  # windows may share their first frame
            rows = [items[i] for items, i in zip(self.window_rows, indices, strict=True)]
            if latest is None or latest.number < number:
                latest = next((frame for frame in frames if frame.number >= number), latest)
            frame = None if latest is None else latest.data
            if latest is not None and latest.number != number:
                frame = np.full_like(latest.data, LOST_GRAY)
            yield Moment(
                number,
                time,
                frame,
                maps=self._read_maps(indices),
                windows=tuple((int(row["first"]), int(row["last"])) for row in rows),
                starts=tuple(float(row["start"]) for row in rows),
                size=self.size if frame is None else frame.shape[:2],
            )

    def _read_maps(self, indices: list[int]) -> tuple[NDArray[np.float32], ...]:
        """The maps of all methods at these places."""
        try:
            return tuple(held[i] for held, i in zip(self.maps, indices, strict=True))
        except OSError as error:
            raise make_damage_error(self.path, error) from error

    def _read_frames(self) -> Generator[_TimedArray]:
        if self.video is None:
            return
        try:
            for chunk in self.video.read_frames(("rgb",)):
                yield from _iter_timed_frames(chunk["rgb"])
        except InputError as error:
            self._missing = f"frames are left out: {self.video.source.public_path}: {error}"


def _list_video_warnings(video: Video) -> list[str]:
    """What the last pass over a video found wrong with it."""
    return [*video.tally.warnings, *filter(None, [video.tally.describe_damage()])]


def _find_current_window(firsts: NDArray[np.int32], number: int) -> int:
    return max(int(np.searchsorted(firsts, number, side="right")) - 1, 0)


def _iter_timed_frames(frames: Frames) -> Iterator[_TimedArray]:
    for data, number, time in zip(frames.data.numpy(), frames.index, frames.time, strict=True):
        yield _TimedArray(int(number), int(number), float(time), data)


def _drop_frames_before(frames: Frames, begin: int) -> Frames:
    """The frames from a position on, which becomes 0: windows begin there."""
    remaining = frames[int(np.searchsorted(frames.position, begin)) :]
    return replace(remaining, position=remaining.position - begin)


def _select_nondefault(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters that are not the method's default."""
    try:
        defaults = methods.find_method(name).complete_parameters({})
    except UsageError:  # a shard may come from where other methods are installed
        defaults = {}
    return {key: value for key, value in parameters.items() if defaults.get(key, ...) != value}


def _make_stored_track(maps: Maps) -> MethodTrack:
    attributes = maps.attrs
    channels = tuple(str(channel) for channel in attributes["channels"])
    parameters = json.loads(attributes["params_json"])
    return MethodTrack(
        maps.method, channels, str(attributes["units"]), _select_nondefault(maps.method, parameters)
    )


def _open_source_video(recording: Recording) -> tuple[Video | None, str]:
    """The video that a recording was made from, read as it was then, or why there is none."""
    attributes = recording.attrs
    path = str(attributes.get("source", ""))
    reason = "" if "://" in path else why_unreadable(path)
    if not path or reason:
        return None, f"frames are left out: {path}: {reason or 'its name is not known'}"
    state = Path(path).stat() if "://" not in path else None
    size = attributes.get("source_size")
    if state is not None and size is not None and state.st_size != size:
        return None, f"frames are left out: {path} is not the video that was extracted"
    stored_settings = json.loads(recording.group.file.attrs["settings_json"])
    names = Decoding.__dataclass_fields__.keys() - {"decoder"}  # any is good enough to look at
    settings = {name: value for name, value in stored_settings.items() if name in names}
    if settings.get("size"):
        settings["size"] = tuple(settings["size"])
    kind: Any = "url" if state is None else "frames" if Path(path).is_dir() else "file"
    start, end = (
        None if attributes.get(n) is None else float(attributes[n]) for n in _RANGE_ATTRIBUTES
    )
    return Video(Source(recording.key, path, kind, start, end), Decoding(**settings)), ""


_RANGE_ATTRIBUTES = ("range_start", "range_end")

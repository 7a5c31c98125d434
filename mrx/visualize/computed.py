"""Moments computed from a video: decode → windows → methods, in one pass."""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from mrx.decode import Video, nvdec
from mrx.errors import DecodeError, InputError, ShapeError, UsageError
from mrx.job import Job, Source
from mrx.pipeline.compute import compute_motion
from mrx.pipeline.hardware import choose_device
from mrx.pipeline.method_run import MethodRun, check_stack_option
from mrx.records import Frames
from mrx.visualize.moments import (
    FrameRange,
    MethodTrack,
    Moment,
    TimedArray,
    iter_timed_frames,
    list_video_warnings,
    select_nondefault,
)
from mrx.windows.stack import WindowStacker


@dataclass
class _MapTimeline:
    """Aligns the maps of several methods: every map of the leader makes one moment.

    The leader is the method with the smallest step. Maps of the others are repeated until their
    next window begins.

    Attributes:
        leader: index of the leading method
        queues: for each method, its computed maps that are still needed
        frames: the decoded frames that are still needed
    """

    leader: int
    queues: list[deque[TimedArray]]
    frames: deque[TimedArray] = field(default_factory=deque)

    def pop_moments(self, *, ended: bool = False) -> Iterator[Moment]:
        """Yield the moments whose maps are complete; `ended` says that no map will follow."""
        leading = self.queues[self.leader]
        while leading and self._advance_queues(leading[0].number, ended=ended):
            while len(self.frames) > 1 and self.frames[0].number < leading[0].number:
                self.frames.popleft()
            current = [queue[0] for queue in self.queues]
            first, frame = leading.popleft(), self.frames[0].data
            yield Moment(
                first.number,
                first.time,
                frame,
                maps=tuple(item.data for item in current),
                windows=tuple((item.number, item.last) for item in current),
                starts=tuple(item.time for item in current),
                size=frame.shape[:2],
            )

    def _advance_queues(self, number: int, *, ended: bool) -> bool:
        """Bring every queue to its map at frame `number`; False if one is not computed yet."""
        return all(
            _advance_queue(queue, number, ended=ended)
            for index, queue in enumerate(self.queues)
            if index != self.leader
        )


def _advance_queue(queue: deque[TimedArray], number: int, *, ended: bool) -> bool:
    # number = 5, windows begin at [0, 3, 6] -> [3, 6]: the map from 3 holds until 6
    while len(queue) > 1 and queue[1].number <= number:
        queue.popleft()
    # With one map left, the next one could still begin at or before `number`.
    return len(queue) > 1 or (ended and bool(queue))


class ComputedMoments:
    """A video, and methods whose maps are computed in one decoding pass.

    Args:
        job: methods, parameters, windows, decoding and device
        source: the video
        frame_range: the frames in which windows may begin

    Raises:
        UsageError: the job's `stack` fits none of its methods
    """

    def __init__(self, job: Job, source: Source, frame_range: FrameRange) -> None:
        self.device = choose_device(job.devices[0])
        nvdec.require_nvdec(job.decoding, self.device)
        self.method_runs = [MethodRun.from_job(job, name, self.device) for name in job.methods]
        check_stack_option(job.stack, self.method_runs)
        self.tracks: Sequence[MethodTrack] = [
            MethodTrack(
                method_run.method.name,
                tuple(method_run.module.channels),
                method_run.module.units,
                select_nondefault(method_run.method.name, method_run.parameters),
            )
            for method_run in self.method_runs
        ]
        self.video = Video(source, job.decoding, self.device)
        self.frame_range = frame_range
        steps = [method_run.rule.step for method_run in self.method_runs]
        self.leader = steps.index(min(steps))

    def estimate_rate(self) -> float:
        """Return the moments per second; valid after the first moment was read."""
        return float(self.video.tally.facts["avg_fps"]) / self.method_runs[self.leader].rule.step

    def list_warnings(self) -> list[str]:
        """List the problems that the last pass met."""
        problems = [run.describe_window_problem() for run in self.method_runs]
        return [*filter(None, problems), *list_video_warnings(self.video)]

    def iter_moments(self) -> Generator[Moment]:
        """Decode the video, compute the maps, and yield the moments in order."""
        path = self.video.source.public_path
        try:
            yield from self._compute_moments()
        except InputError as error:
            raise type(error)(f"{path}: {error}") from error
        damage = self.video.tally.describe_damage()
        if damage and self.video.tally.on_error == "fail":
            raise DecodeError(f"{path}: {damage}")

    def _compute_moments(self) -> Generator[Moment]:
        begin, end = self.frame_range
        timeline = _MapTimeline(self.leader, [deque() for _ in self.method_runs])
        stackers = [WindowStacker(method_run.rule) for method_run in self.method_runs]
        frame_count = None if end is None else end - begin
        # rgb is for the pictures, and is decoded even if no method reads it.
        colors = sorted({"rgb", *(method_run.module.color for method_run in self.method_runs)})
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
            timeline.frames.extend(iter_timed_frames(in_range["rgb"]))
            for method_index, stacker in enumerate(stackers):
                color = self.method_runs[method_index].module.color
                self._compute_maps(method_index, stacker.push_frames(in_range[color]), timeline)
            for moment in timeline.pop_moments():
                if frame_count is not None and moment.number - first_index >= frame_count:
                    return
                yield moment
        for method_index, stacker in enumerate(stackers):
            self._compute_maps(method_index, stacker.finish_stream(), timeline)
        self._check_video_length(timeline, frames_read)
        for moment in timeline.pop_moments(ended=True):
            if frame_count is not None and moment.number - (first_index or 0) >= frame_count:
                return
            yield moment

    def _compute_maps(self, method_index: int, batches: Any, timeline: _MapTimeline) -> None:
        """Append the maps of these window batches to the method's queue."""
        method_run, queue = self.method_runs[method_index], timeline.queues[method_index]
        for batch in batches:
            with torch.inference_mode():
                motion = compute_motion(method_run, batch, self.device)
            for data, index, time in zip(motion.data, motion.index, motion.time, strict=True):
                first, last = int(index[0]), int(index[1])
                queue.append(TimedArray(first, last, float(time[0]), data.numpy()))

    def _check_frame_size(self) -> None:
        for method_run in self.method_runs:
            reason = method_run.why_too_small(self.video.tally.facts)
            if reason:
                raise ShapeError(f"no {method_run.method.name}: {reason}")

    def _check_video_length(self, timeline: _MapTimeline, frame_count: int) -> None:
        """Refuse a video that is too short for one window of a method."""
        begin, _ = self.frame_range
        if 0 < frame_count <= begin:
            raise UsageError(f"--frames {begin}: the video has only {frame_count} frames")
        for method_run, queue in zip(self.method_runs, timeline.queues, strict=True):
            if not queue and frame_count - begin < method_run.rule.min_frames:
                counts = f"{frame_count - begin} frames, needs {method_run.rule.min_frames}"
                raise ShapeError(f"no {method_run.method.name}: too short ({counts})")


def _drop_frames_before(frames: Frames, begin: int) -> Frames:
    """Drop the frames before position `begin`, which becomes position 0."""
    # Windows are planned from position 0, so the range and not the video decides where they begin.
    remaining = frames[int(np.searchsorted(frames.position, begin)) :]
    return replace(remaining, position=remaining.position - begin)

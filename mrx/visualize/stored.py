"""Moments read from a shard, with frames from the source video if it still exists."""

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrx.decode import Video
from mrx.errors import InputError, UsageError
from mrx.job import Decoding
from mrx.shards.layout import make_damage_error
from mrx.shards.reader import Maps, Recording
from mrx.sources.scan import make_path_source, why_unreadable
from mrx.visualize.moments import (
    FrameRange,
    MethodTrack,
    Moment,
    TimedArray,
    iter_timed_frames,
    list_video_warnings,
    select_nondefault,
)

LOST_GRAY = 80  # of 255; the gray of a lost frame, the same as of unknown values in maps
_RANGE_ATTRIBUTES = ("range_start", "range_end")


class StoredMoments:
    """A recording in a shard: maps are read, not computed.

    Args:
        recording: the video's maps and attributes
        names: the methods to show
        frame_range: the frames in which windows may begin

    Raises:
        UsageError: no window begins in the frame range
    """

    def __init__(self, recording: Recording, names: Sequence[str], frame_range: FrameRange) -> None:
        self.maps = [recording[name] for name in names]
        self.tracks: Sequence[MethodTrack] = [_make_stored_track(maps) for maps in self.maps]
        self.window_rows = [maps.items for maps in self.maps]
        counts = [len(rows) for rows in self.window_rows]
        self.leader = counts.index(max(counts))
        firsts = self.window_rows[self.leader]["first"]
        begin, end = frame_range
        inside = (firsts >= begin) & (firsts < (np.inf if end is None else end))
        self.window_indices = np.flatnonzero(inside)
        if not len(self.window_indices):
            raise UsageError(
                f"--frames: no window of {recording.key} begins in this range; windows begin at "
                f"frames {firsts[0]} to {firsts[-1]}"
            )
        self.path, self.attributes = recording.path, recording.attrs
        self.video, self._no_frames_reason = _open_source_video(recording)
        map_height, map_width = max(maps.shape[2:] for maps in self.maps)
        self.size = (
            int(self.attributes.get("height", map_height)),
            int(self.attributes.get("width", map_width)),
        )

    def estimate_rate(self) -> float:
        """Return the moments per second."""
        starts = self.window_rows[self.leader]["start"]
        gap = float(np.median(np.diff(starts))) if len(starts) > 1 else 0.0
        return 1 / gap if gap > 0 else float(self.attributes.get("avg_fps", 25.0))

    def list_warnings(self) -> list[str]:
        """List the reason for missing frames, or the problems of their video."""
        if self._no_frames_reason or self.video is None:
            return [self._no_frames_reason]
        path = self.video.source.public_path
        return [f"{path}: {text}" for text in list_video_warnings(self.video)]

    def iter_moments(self) -> Generator[Moment]:
        """Read the maps and the frames, and yield the moments in order."""
        with closing(self._read_frames()) as frames:
            yield from self._read_moments(frames)

    def _read_moments(self, frames: Iterator[TimedArray]) -> Iterator[Moment]:
        latest: TimedArray | None = None
        leading_rows = self.window_rows[self.leader]
        for window_index in self.window_indices:
            number = int(leading_rows["first"][window_index])
            indices = [_find_current_window(rows["first"], number) for rows in self.window_rows]
            # Several windows may begin at one frame (--fps above the video's), and the search
            # finds the last of them.
            indices[self.leader] = int(window_index)
            rows = [rows[i] for rows, i in zip(self.window_rows, indices, strict=True)]
            if latest is None or latest.number < number:
                latest = next((frame for frame in frames if frame.number >= number), latest)
            frame = None if latest is None else latest.data
            if latest is not None and latest.number != number:
                # The decoder skipped this frame: a neighbor in its place would mislead.
                frame = np.full_like(latest.data, LOST_GRAY)
            yield Moment(
                number,
                float(leading_rows["start"][window_index]),
                frame,
                maps=self._read_maps(indices),
                windows=tuple((int(row["first"]), int(row["last"])) for row in rows),
                starts=tuple(float(row["start"]) for row in rows),
                size=self.size if frame is None else frame.shape[:2],
            )

    def _read_maps(self, indices: list[int]) -> tuple[NDArray[np.float32], ...]:
        """Read one map of each method, by its window's index."""
        try:
            return tuple(maps[i] for maps, i in zip(self.maps, indices, strict=True))
        except OSError as error:
            raise make_damage_error(self.path, error) from error

    def _read_frames(self) -> Generator[TimedArray]:
        """Yield the video's frames; a video that fails to decode only costs the frames."""
        if self.video is None:
            return
        try:
            for chunk in self.video.read_frames(("rgb",)):
                yield from iter_timed_frames(chunk["rgb"])
        except InputError as error:
            path = self.video.source.public_path
            self._no_frames_reason = f"frames are left out: {path}: {error}"


def _find_current_window(firsts: NDArray[np.int32], number: int) -> int:
    # firsts = [0, 3, 6], number = 5 -> 1: the window from 3 holds until 6
    return max(int(np.searchsorted(firsts, number, side="right")) - 1, 0)


def _make_stored_track(maps: Maps) -> MethodTrack:
    attributes = maps.attrs
    channels = tuple(str(channel) for channel in attributes["channels"])
    parameters = json.loads(attributes["params_json"])
    return MethodTrack(
        maps.method, channels, str(attributes["units"]), select_nondefault(maps.method, parameters)
    )


def _open_source_video(recording: Recording) -> tuple[Video | None, str]:
    """Open the video behind a recording with its decoding settings, or return why not."""
    attributes = recording.attrs
    path = str(attributes.get("source", ""))
    is_url = "://" in path
    reason = "" if is_url else why_unreadable(path)
    if not path or reason:
        return None, f"frames are left out: {path}: {reason or 'its name is not known'}"
    stored_size = attributes.get("source_size")
    # Another file under the old name would show frames that do not belong to the maps.
    if not is_url and stored_size is not None and Path(path).stat().st_size != stored_size:
        return None, f"frames are left out: {path} is not the video that was extracted"
    start, end = (
        None if attributes.get(name) is None else float(attributes[name])
        for name in _RANGE_ATTRIBUTES
    )
    source = replace(make_path_source(path, key=recording.key), start=start, end=end)
    return Video(source, _read_decoding(recording)), ""


def _read_decoding(recording: Recording) -> Decoding:
    """Return the settings that the recording was decoded with."""
    stored_settings = json.loads(recording.group.file.attrs["settings_json"])
    # Any decoder is good enough to look at, and the one used then may not be installed here.
    names = Decoding.__dataclass_fields__.keys() - {"decoder"}
    settings = {name: value for name, value in stored_settings.items() if name in names}
    if settings.get("size"):
        settings["size"] = tuple(settings["size"])  # JSON made it a list
    return Decoding(**settings)

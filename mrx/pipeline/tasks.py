"""Records that pass between the stages: a video's task, and batches of its windows."""

import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mrx.decode import Video
from mrx.errors import InputError, StageError
from mrx.job import ManifestRow, Source
from mrx.pipeline.method_run import MethodRun
from mrx.records import Clips
from mrx.shards.chunks import PackedMaps
from mrx.shards.writer import VideoEntry


@dataclass(eq=False)
class VideoTask:
    """A video in the pipeline.

    Attributes:
        source: the input
        video: yields its frames
        method_runs: the methods to compute
        small_methods: methods that its frames are too small for, each with the reason
        failure: the row's fields of its first failure; None if it has not failed
        entry: its entry in a shard; None before its first maps are written
        pending_windows: windows that wait for the device, or are being computed
        is_decoded: True when the decoder will yield no more windows
        began_at: monotonic time at which it began
    """

    source: Source
    video: Video
    method_runs: Sequence[MethodRun] = ()
    small_methods: dict[str, str] = field(default_factory=dict)
    failure: dict[str, Any] | None = None
    entry: VideoEntry | None = None
    pending_windows: int = 0
    is_decoded: bool = False
    began_at: float = field(default_factory=time.monotonic)

    def record_failure(self, error: InputError) -> None:
        """Record a failure, unless there is an earlier one."""
        if self.failure is None:
            self.failure = {"status": "failed", "reason": str(error)}
            if isinstance(error, StageError):
                trace = traceback.format_exception(error.__cause__)
                self.failure["traceback"] = "".join(trace)


@dataclass(frozen=True, eq=False)
class WindowBatch:
    """Windows of one video for one method.

    Attributes:
        task: the video
        method_run: the method
        clips: the windows
        held_bytes: bytes to release when the batch has been computed
    """

    task: VideoTask
    method_run: MethodRun
    clips: Clips
    held_bytes: int = 0

    def __len__(self) -> int:
        return len(self.clips.data)

    @property
    def group_key(self) -> tuple[Any, ...]:
        """Batching key: batches with equal keys may be computed together."""
        return (self.method_run.method.name, *self.clips.data.shape[1:])

    def split_windows(self, max_windows: int | None) -> list["WindowBatch"]:
        """Split into batches of at most `max_windows` windows."""
        if max_windows is None or len(self) <= max_windows:
            return [self]
        parts = [self.clips[i : i + max_windows] for i in range(0, len(self), max_windows)]
        # All parts lie in the same memory, so its bytes are free when the last part is done.
        return [
            *(WindowBatch(self.task, self.method_run, part) for part in parts[:-1]),
            WindowBatch(self.task, self.method_run, parts[-1], self.held_bytes),
        ]


class PipelineStages(Protocol):
    """The stages that a runner passes videos through."""

    def begin_video(self, source: Source) -> VideoTask:
        """Begin a video."""
        ...

    def decode_windows(self, task: VideoTask) -> Iterator[WindowBatch]:
        """Decode a video and yield its windows; may run in a thread of its own."""
        ...

    def write_maps(self, batch: WindowBatch, packed: PackedMaps) -> None:
        """Append maps to the shard."""
        ...

    def finish_video(self, task: VideoTask) -> ManifestRow:
        """Commit a video, or drop it if it failed, and return its row."""
        ...

    def drop_videos(self, tasks: Sequence[VideoTask]) -> None:
        """Drop the videos in flight when the run ends early."""
        ...

    def check_canceled(self) -> None:
        """Raise `RunCanceled` if the run was told to stop."""
        ...

"""What passes between the stages: a video's ticket, and pieces of its windows."""

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
    """A video on its way.

    Attributes:
        video: where its frames come from
        small_methods: methods that its frames are too small for, and why
        failure: what the row says where it failed; the first fault stands
        entry: its place in the shard, once something was written
        pending_windows: pieces that are decoded and not yet written
        is_decoded: nothing more will come from the decoder
    """

    source: Source
    video: Video
    small_methods: dict[str, str] = field(default_factory=dict)
    failure: dict[str, Any] | None = None
    entry: VideoEntry | None = None
    pending_windows: int = 0
    is_decoded: bool = False
    began_at: float = field(default_factory=time.monotonic)

    def record_failure(self, error: InputError) -> None:
        """Keep the video's first fault."""
        if self.failure is None:
            self.failure = {"status": "failed", "reason": str(error)}
            if isinstance(error, StageError):
                trace = traceback.format_exception(error.__cause__)
                self.failure["traceback"] = "".join(trace)


@dataclass(frozen=True, eq=False)
class WindowBatch:
    """Windows of a video for one method.

    Attributes:
        held_bytes: bytes that it keeps from being used again
    """

    task: VideoTask
    method_run: MethodRun
    clips: Clips
    held_bytes: int = 0

    def __len__(self) -> int:
        return len(self.clips.data)

    @property
    def group_key(self) -> tuple[Any, ...]:
        """Pieces that can be computed together have the same."""
        return (self.method_run.method.name, *self.clips.data.shape[1:])

    def split_windows(self, max_windows: int | None) -> list["WindowBatch"]:
        """Pieces of at most so many windows; the last keeps the bytes, as all lie in them."""
        if max_windows is None or len(self) <= max_windows:
            return [self]
        parts = [self.clips[i : i + max_windows] for i in range(0, len(self), max_windows)]
        return [
            *(WindowBatch(self.task, self.method_run, part) for part in parts[:-1]),
            WindowBatch(self.task, self.method_run, parts[-1], self.held_bytes),
        ]


class PipelineStages(Protocol):
    """What a driver brings videos through."""

    def begin_video(self, source: Source) -> VideoTask:
        """Begin a video."""
        ...

    def decode_windows(self, task: VideoTask) -> Iterator[WindowBatch]:
        """The windows of a video, method by method; may run in a thread of its own."""
        ...

    def write_maps(self, batch: WindowBatch, packed: PackedMaps) -> None:
        """Put what was computed into the shard."""
        ...

    def finish_video(self, task: VideoTask) -> ManifestRow:
        """Commit the video, or drop it; its row."""
        ...

    def drop_videos(self, tasks: Sequence[VideoTask]) -> None:
        """Drop videos in flight: the run ends."""
        ...

    def check_cancelled(self) -> None:
        """Raise `RunCancelled` where the run was told to stop."""
        ...

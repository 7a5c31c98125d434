"""The parent's side of a worker process: its pipe, its videos and its reports."""

import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from mrx.engines.messages import (
    DeviceBroken,
    RunBegun,
    RunRefused,
    ShardSealed,
    VideoBegan,
    VideoEnded,
    WorkerClosed,
    WorkerMessage,
    WorkerReady,
)
from mrx.engines.worker import CANCEL_ORDER, STOP_ORDER
from mrx.job import ManifestRow, Source


@dataclass
class AssignedVideo:
    """A video that was sent to a worker.

    Attributes:
        began: monotonic time at which the worker began it; None while it waits in the worker
        death: reason for the death of the worker that had it; empty while the worker lives
    """

    source: Source
    began: float | None = None
    death: str = ""


@dataclass
class WorkerHandle:
    """A worker process as the parent sees it.

    Attributes:
        process: the process
        connection: the parent's end of its pipe
        device: the device it computes on
        inspects_output: it inspects the output folder before it is ready
        orphan_pids: process numbers of dead workers; it saves their shards first
        assigned_videos: key → a video that was sent to it and has not ended
        capacity: number of videos it takes at once
        unsealed_videos: key → source and row of a video that has ended, but whose shard is unsealed
        sealed_keys: keys in sealed shards whose rows have not arrived yet
        inherited_videos: key → a video that was assigned to a dead predecessor
        ready: it has built its methods and takes videos
        stopping: it was told to end
        closed: it has reported its end, which needs no recovery
        end_reason: reason for the death, if the device failed or the parent killed the process
    """

    process: BaseProcess
    connection: Connection
    device: str
    inspects_output: bool = False
    orphan_pids: tuple[int, ...] = ()
    assigned_videos: dict[str, AssignedVideo] = field(default_factory=dict)
    capacity: int = 1
    unsealed_videos: dict[str, tuple[Source, ManifestRow]] = field(default_factory=dict)
    sealed_keys: set[str] = field(default_factory=set)
    inherited_videos: dict[str, AssignedVideo] = field(default_factory=dict)
    ready: bool = False
    stopping: bool = False
    closed: bool = False
    end_reason: str = ""

    @property
    def has_room(self) -> bool:
        """True if the worker takes one more video."""
        return self.ready and not self.stopping and len(self.assigned_videos) < self.capacity

    def assign_video(self, source: Source) -> None:
        """Send a video to the worker."""
        self.assigned_videos[source.key] = AssignedVideo(source)
        self._send_order(source)

    def tell_run(self, number: int) -> None:
        """Tell the worker the number of the run."""
        self._send_order(RunBegun(number))

    def order_stop(self) -> None:
        """Tell the worker to finish its videos, seal its shard and end."""
        self.stopping = True
        self._send_order(STOP_ORDER)

    def order_cancel(self) -> None:
        """Tell the worker to drop its videos, seal its shard and end."""
        self.stopping = True
        self._send_order(CANCEL_ORDER)

    def kill_process(self, reason: str = "") -> None:
        """Kill the process; its end is handled when its pipe reads as closed."""
        self.end_reason = reason or self.end_reason
        self.process.kill()

    def inherit_work(self, predecessor: "WorkerHandle") -> None:
        """Take over the open videos of a dead worker, and those that it had inherited itself."""
        death = predecessor.describe_death()
        for video in predecessor.assigned_videos.values():
            video.death = death
        self.unsealed_videos = predecessor.unsealed_videos
        self.inherited_videos = predecessor.inherited_videos | predecessor.assigned_videos

    def record_message(self, message: WorkerMessage) -> None:
        """Update the state of this handle from a message of its worker."""
        match message:
            case WorkerReady(capacity):
                self.ready, self.capacity = True, capacity
            case VideoBegan(key):
                self.assigned_videos[key].began = time.monotonic()
            case VideoEnded(row):
                self._record_row(row)
            case ShardSealed(_, keys):
                # The video that fills a shard is sealed before its row is sent. Its key is noted,
                # in case the worker dies in between: the video must not be done a second time.
                self.sealed_keys |= set(keys) - self.unsealed_videos.keys()
                for key in keys:
                    self.unsealed_videos.pop(key, None)
            case DeviceBroken(reason):
                self.end_reason = reason
            case WorkerClosed() | RunRefused():
                self.closed = True

    def is_overdue(self, timeout: float) -> bool:
        """Return True if one of the videos has been at work for more than `timeout` seconds."""
        now = time.monotonic()
        return any(v.began and now - v.began > timeout for v in self.assigned_videos.values())

    def describe_death(self) -> str:
        """Wait for the process to end and return the reason, for the rows of its videos."""
        self.process.join()
        code = self.process.exitcode or 0
        exit_text = f"signal {-code}" if code < 0 else f"exit code {code}"
        return self.end_reason or f"worker died ({exit_text})"

    def _send_order(self, order: RunBegun | Source | str) -> None:
        # The process may just have died. That is noticed where its messages are read.
        with suppress(ConnectionError):
            self.connection.send(order)

    def _record_row(self, row: ManifestRow) -> None:
        video = self.assigned_videos.pop(row.key)
        # Until its shard is sealed, an extracted video is lost if the shard cannot be saved.
        if row.status == "ok" and row.key not in self.sealed_keys:
            self.unsealed_videos[row.key] = video.source, row
        self.sealed_keys.discard(row.key)

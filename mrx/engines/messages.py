"""The messages between workers and the parent: plain values, because they cross a pipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mrx.job import DoneMaps, ManifestRow, WorkerTimes


@dataclass(frozen=True)
class WorkerReady:
    """The worker has built its methods and takes videos.

    Attributes:
        capacity: number of videos it takes at once
    """

    capacity: int = 1


@dataclass(frozen=True)
class OutputInspected:
    """The first worker has inspected the output folder.

    Attributes:
        settings: all settings that affect the numbers
        done: key → method → the source of its maps, for all videos in shards
        salvaged: rows of the videos saved from killed runs
        device: type of the first worker's device, as torch names it
        run: number of this run, above that of every run with a shard in the folder
        notes: what the user must be told of the folder, a line each
    """

    settings: Mapping[str, Any]
    done: Mapping[str, Mapping[str, DoneMaps]]
    salvaged: tuple[ManifestRow, ...] = ()
    device: str = "cpu"
    run: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunBegun:
    """The parent's order to a worker that began before the run had its number."""

    number: int


@dataclass(frozen=True)
class VideoBegan:
    """The worker has begun a video that it was assigned."""

    key: str


@dataclass(frozen=True)
class VideoEnded:
    """An input has ended; the row says how."""

    row: ManifestRow


@dataclass(frozen=True)
class FramesAdvanced:
    """More frames were decoded: `frames` since the last such message."""

    frames: int


@dataclass(frozen=True)
class ShardSealed:
    """A shard got its final name; the videos with these keys are safe in it."""

    path: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class VideoUndone:
    """A video was lost with its shard and is done again; its row no longer holds."""

    row: ManifestRow


@dataclass(frozen=True)
class DeviceBroken:
    """The worker's device has failed. The process ends and a successor takes its place."""

    reason: str


@dataclass(frozen=True)
class ShardsAdopted:
    """The worker has saved the shards of its dead predecessors.

    Attributes:
        keys: all videos of the predecessors that are safe in shards
        notes: what the user must be told of them, a line each
    """

    keys: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkerClosed:
    """The worker has sealed its shards and ends."""

    times: WorkerTimes


@dataclass(frozen=True)
class RunRefused:
    """The worker cannot go on, and the run ends with this exit code and error message."""

    exit_code: int
    text: str
    traceback: str = ""


WorkerMessage = (
    WorkerReady
    | OutputInspected
    | VideoBegan
    | VideoEnded
    | VideoUndone
    | FramesAdvanced
    | ShardSealed
    | ShardsAdopted
    | WorkerClosed
    | DeviceBroken
    | RunRefused
)

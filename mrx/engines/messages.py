"""What workers tell the parent: plain values, since they cross a pipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mrx.job import ManifestRow, RowStatus, Source, WorkerTimes


@dataclass(frozen=True)
class WorkerReady:
    """A worker has built its methods and takes videos.

    Attributes:
        capacity: how many at once
    """

    capacity: int = 1


@dataclass(frozen=True)
class OutputInspected:
    """The first worker has looked into the output.

    Attributes:
        settings: all that decides the numbers
        done: key → stamp of the sources extracted already
        salvaged: videos saved from a killed run
        device: where the first worker computes, as torch names it
    """

    settings: Mapping[str, Any]
    done: Mapping[str, tuple[float, ...]]
    salvaged: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class VideoBegan:
    """A video that was handed out is at work."""

    key: str


@dataclass(frozen=True)
class VideoEnded:
    """An input has ended."""

    row: ManifestRow


@dataclass(frozen=True)
class FramesAdvanced:
    """So many more frames went through."""

    frames: int


@dataclass(frozen=True)
class ShardSealed:
    """A shard has its final name, and these keys are safe in it."""

    path: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class VideoUndone:
    """What this row told has been lost with its shard, and is done again."""

    row: ManifestRow


@dataclass(frozen=True)
class DeviceBroken:
    """The worker's device has failed: the process ends, and another takes its place."""

    reason: str


@dataclass(frozen=True)
class ShardsAdopted:
    """What a dead worker had finished is safe."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class WorkerClosed:
    """The worker has sealed its shard and is about to end."""

    times: WorkerTimes


@dataclass(frozen=True)
class RunRefused:
    """The worker cannot go on: the run ends with this exit code and line."""

    exit_code: int
    text: str
    traceback: str = ""


def make_manifest_row(
    source: Source, status: RowStatus, reason: str = "", **facts: Any
) -> ManifestRow:
    """The row of a source: how it ended, and what tells whether it has changed since."""
    return ManifestRow(
        source.key,
        status,
        reason,
        path=source.public_path,
        size=source.size,
        mtime=source.mtime,
        start=source.start,
        end=source.end,
        **facts,
    )


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

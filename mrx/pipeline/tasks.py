"""What passes between the stages: a video's ticket, and pieces of its windows."""

import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mrx.errors import InputError, StageError
from mrx.job import Row, Source
from mrx.pipeline.method_run import Lane
from mrx.records import Clips
from mrx.shards.chunks import Packed


@dataclass(eq=False)
class Ticket:
    """A video on its way.

    Attributes:
        video: where its frames come from
        small: methods that its frames are too small for, and why
        failure: what the row says where it failed; the first fault stands
        entry: its place in the shard, once something was written
        pending: pieces that are decoded and not yet written
        decoded: nothing more will come from the decoder
    """

    source: Source
    video: Any
    small: dict[str, str] = field(default_factory=dict)
    failure: dict[str, Any] | None = None
    entry: Any = None
    pending: int = 0
    decoded: bool = False
    began: float = field(default_factory=time.monotonic)

    def fail(self, error: InputError) -> None:
        """Keep the video's first fault."""
        if self.failure is None:
            self.failure = {"status": "failed", "reason": str(error)}
            if isinstance(error, StageError):
                trace = traceback.format_exception(error.__cause__)
                self.failure["traceback"] = "".join(trace)


@dataclass(frozen=True, eq=False)
class Piece:
    """Windows of a video for one method.

    Attributes:
        held: bytes that it keeps from being used again
    """

    ticket: Ticket
    lane: Lane
    clips: Clips
    held: int = 0

    def __len__(self) -> int:
        return len(self.clips.data)

    @property
    def bucket(self) -> tuple[Any, ...]:
        """Pieces that can be computed together have the same."""
        return (self.lane.method.name, *self.clips.data.shape[1:])

    def split(self, most: int | None) -> list["Piece"]:
        """Pieces of at most so many windows; the last keeps the bytes, as all lie in them."""
        if most is None or len(self) <= most:
            return [self]
        parts = [self.clips[i : i + most] for i in range(0, len(self), most)]
        return [
            *(Piece(self.ticket, self.lane, part) for part in parts[:-1]),
            Piece(self.ticket, self.lane, parts[-1], self.held),
        ]


class Stages(Protocol):
    """What a driver brings videos through."""

    def ticket(self, source: Source) -> Ticket:
        """Begin a video."""
        ...

    def decode(self, ticket: Ticket) -> Iterator[Piece]:
        """The windows of a video, method by method; may run in a thread of its own."""
        ...

    def write(self, piece: Piece, packed: Packed) -> None:
        """Put what was computed into the shard."""
        ...

    def conclude(self, ticket: Ticket) -> Row:
        """Commit the video, or drop it; its row."""
        ...

    def forget(self, tickets: Sequence[Ticket]) -> None:
        """Drop videos in flight: the run ends."""
        ...

    def check(self) -> None:
        """Raise `Cancelled` where the run was told to stop."""
        ...

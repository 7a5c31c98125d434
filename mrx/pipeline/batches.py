"""Pieces of several videos gathered to batches: of one method and one size, never padded."""

from dataclasses import dataclass, field
from typing import Any

from mrx.pipeline.tasks import Piece


@dataclass
class _Bucket:
    since: float
    pieces: list[Piece] = field(default_factory=list)
    windows: int = 0


class Buckets:
    """Batches of at most so many windows, in the order in which their pieces came."""

    def __init__(self) -> None:
        self._open: dict[tuple[Any, ...], _Bucket] = {}

    def add(self, piece: Piece, most: int, now: float) -> list[list[Piece]]:
        """Add a piece of at most `most` windows; the batches that are full now."""
        full = []
        count = len(piece)
        bucket = self._open.get(piece.bucket)
        if bucket and bucket.windows + count > most:
            full.append(self._open.pop(piece.bucket).pieces)
        bucket = self._open.setdefault(piece.bucket, _Bucket(now))
        bucket.pieces.append(piece)
        bucket.windows += count
        if bucket.windows >= most:
            full.append(self._open.pop(piece.bucket).pieces)
        return full

    def older(self, than: float) -> list[list[Piece]]:
        """Take the batches that were begun before a time, full or not."""
        old = [key for key, bucket in self._open.items() if bucket.since <= than]
        return [self._open.pop(key).pieces for key in old]

    @property
    def pieces(self) -> int:
        """How many pieces wait."""
        return sum(len(bucket.pieces) for bucket in self._open.values())

    def rest(self) -> list[list[Piece]]:
        """Take all that is left."""
        return self.older(float("inf"))

"""Pieces of several videos gathered to batches: of one method and one size, never padded."""

from dataclasses import dataclass, field
from typing import Any

from mrx.pipeline.tasks import WindowBatch


@dataclass
class _BatchGroup:
    opened_at: float
    batches: list[WindowBatch] = field(default_factory=list)
    num_windows: int = 0


class BatchGrouper:
    """Batches of at most so many windows, in the order in which their pieces came."""

    def __init__(self) -> None:
        self._open_groups: dict[tuple[Any, ...], _BatchGroup] = {}

    def add_batch(
        self, batch: WindowBatch, max_windows: int, now: float
    ) -> list[list[WindowBatch]]:
        """Add a piece of at most `max_windows` windows; the batches that are full now."""
        full_groups = []
        count = len(batch)
        group = self._open_groups.get(batch.group_key)
        if group and group.num_windows + count > max_windows:
            full_groups.append(self._open_groups.pop(batch.group_key).batches)
        group = self._open_groups.setdefault(batch.group_key, _BatchGroup(now))
        group.batches.append(batch)
        group.num_windows += count
        if group.num_windows >= max_windows:
            full_groups.append(self._open_groups.pop(batch.group_key).batches)
        return full_groups

    def take_older(self, opened_before: float) -> list[list[WindowBatch]]:
        """Take the batches that were begun before a time, full or not."""
        old_keys = [
            key for key, bucket in self._open_groups.items() if bucket.opened_at <= opened_before
        ]
        return [self._open_groups.pop(key).batches for key in old_keys]

    @property
    def num_waiting(self) -> int:
        """How many pieces wait."""
        return sum(len(bucket.batches) for bucket in self._open_groups.values())

    def take_all(self) -> list[list[WindowBatch]]:
        """Take all that is left."""
        return self.take_older(float("inf"))

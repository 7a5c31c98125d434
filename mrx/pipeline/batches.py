"""Grouping of batches from several videos: one method and one frame size, never padded."""

from dataclasses import dataclass, field
from typing import Any

from mrx.pipeline.tasks import WindowBatch


@dataclass
class _BatchGroup:
    opened_at: float
    batches: list[WindowBatch] = field(default_factory=list)
    num_windows: int = 0


class BatchGrouper:
    """Collects batches with equal keys into groups, in the order of their arrival."""

    def __init__(self) -> None:
        self._open_groups: dict[tuple[Any, ...], _BatchGroup] = {}

    def add_batch(
        self, batch: WindowBatch, max_windows: int, now: float
    ) -> list[list[WindowBatch]]:
        """Add a batch of at most `max_windows` windows and return the groups that are full."""
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
        """Take the groups opened at this time or before, full or not."""
        old_keys = [
            key for key, group in self._open_groups.items() if group.opened_at <= opened_before
        ]
        return [self._open_groups.pop(key).batches for key in old_keys]

    @property
    def num_waiting(self) -> int:
        """The number of batches in open groups."""
        return sum(len(group.batches) for group in self._open_groups.values())

    def take_all(self) -> list[list[WindowBatch]]:
        """Take all groups, full or not."""
        return self.take_older(float("inf"))

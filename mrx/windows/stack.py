"""A stream of frames to batches of windows, holding only the frames still needed."""

from collections.abc import Iterator

import numpy as np
import torch

from mrx.errors import ShapeError
from mrx.records import Clips, Frames
from mrx.windows.plan import WindowRule, list_window_frames, plan_windows

# Gathered windows are copies. Overlapping ones could take many times the memory of their frames.
GATHER_BYTES = 32 * 2**20


class WindowStacker:
    """Cuts a stream of `Frames` into `Clips` by a rule.

    `push_frames` for all frames and then `finish_stream` yield exactly the windows of
    `plan_windows(n, rule)`, in order. Windows are views of the frames; those of segments and of a
    repeated tail are copies.

    Args:
        rule: the windows to cut
        frames: the length of the stream; only segments need it
        batch_values: the number of values in a batch's maps, if a map has as many as a frame
    """

    def __init__(
        self, rule: WindowRule, *, frames: int | None = None, batch_values: int = GATHER_BYTES
    ) -> None:
        if rule.segments is not None and frames is None:
            raise ValueError("windows by segments need the number of frames in advance")
        self.rule = rule
        self._batch_values = batch_values
        self._planned_windows = None if frames is None else plan_windows(frames, rule)
        self._held_frames: Frames | None = None
        self._next = 0
        self._num_seen = 0

    def list_wanted_positions(self) -> set[int]:
        """Return the positions of the frames that segments need; the others may be left out."""
        return {position for chosen in self._planned_windows or [] for position in chosen}

    def push_frames(self, frames: Frames) -> Iterator[Clips]:
        """Add the next frames of the stream, and yield the windows that they complete."""
        self._hold_frames(frames)
        self._num_seen = int(frames.position[-1]) + 1
        if self._planned_windows is None:
            yield from self._cut_dense()
        else:
            yield from self._cut_segments(self._planned_windows)

    def finish_stream(self) -> Iterator[Clips]:
        """Yield the windows that a repeated tail adds at the end of the stream."""
        if (
            self._planned_windows is None
            and self.rule.tail == "repeat"
            and self._held_frames is not None
        ):
            starts = range(self._next, self._num_seen, self.rule.step)
            yield from self._gather_windows(
                [list_window_frames(s, self.rule, frames=self._num_seen) for s in starts]
            )

    def _hold_frames(self, frames: Frames) -> None:
        held = self._held_frames
        if held is None or not len(held):
            self._held_frames = frames
            return
        if held.data.shape[1:] != frames.data.shape[1:]:
            raise ShapeError(f"frames changed from {held} to {frames} in the middle of a video")
        self._held_frames = Frames(
            torch.cat([held.data, frames.data]),
            np.concatenate([held.position, frames.position]),
            np.concatenate([held.index, frames.index]),
            np.concatenate([held.time, frames.time]),
        )

    def _cut_dense(self) -> Iterator[Clips]:
        held, rule = self._held_frames, self.rule
        if held is None:
            return
        count = (self._num_seen - self._next - rule.span) // rule.step + 1
        if count > 0:
            skip = self._next - int(held.position[0])
            # span = 5, dilation = 2: views of frames 0..4, 0 + step..4 + step, ...; of each every
            # second frame is kept, so a window of 3 frames costs no copy.
            views = held.data[skip:].unfold(0, rule.span, rule.step)[:count, ..., :: rule.dilation]
            ends = skip + np.arange(count)[:, None] * rule.step + [0, rule.span - 1]
            data = views.permute(0, 4, 3, 1, 2)  # (B, H, W, C, T) → (B, T, C, H, W)
            for part in self._split_batches(count, held):
                yield Clips(data[part], held.index[ends[part]], held.time[ends[part]])
            self._next += count * rule.step
        self._held_frames = held[max(self._next - int(held.position[0]), 0) :]

    def _cut_segments(self, planned: list[list[int]]) -> Iterator[Clips]:
        ready = self._next
        while ready < len(planned) and planned[ready][-1] < self._num_seen:
            ready += 1
        yield from self._gather_windows(planned[self._next : ready])
        self._next = ready
        if self._held_frames is not None and ready < len(planned):
            # Starts never decrease, so frames before the next window are not needed again.
            first = int(np.searchsorted(self._held_frames.position, planned[ready][0]))
            self._held_frames = self._held_frames[first:]

    def _gather_windows(self, windows: list[list[int]]) -> Iterator[Clips]:
        held = self._held_frames
        if not windows or held is None:
            return
        # The stream may skip frames: held.position = [16, 20, 48, 52], window [48, 52] -> [2, 3]
        positions = np.searchsorted(held.position, np.array(windows))
        for part in self._split_batches(len(positions), held):
            places = positions[part]
            data = held.data[torch.from_numpy(places)].permute(0, 1, 4, 2, 3)
            ends = places[:, [0, -1]]
            yield Clips(data, held.index[ends], held.time[ends])

    def _split_batches(self, count: int, frames: Frames) -> Iterator[slice]:
        size = frames.data[0].numel()
        max_windows = max(
            1, min(self._batch_values // size, GATHER_BYTES // (self.rule.length * size))
        )
        return (slice(begin, begin + max_windows) for begin in range(0, count, max_windows))

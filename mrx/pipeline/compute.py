"""Batches through a device: a failure hits its own video only, a batch too large is halved."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mrx.errors import InputError
from mrx.pipeline.method_run import MethodRun
from mrx.pipeline.sync_device import ComputedMaps, SyncDevice
from mrx.pipeline.tasks import WindowBatch
from mrx.pipeline.timing import is_out_of_memory
from mrx.pipeline.transfer import move_windows
from mrx.records import Clips, Motion

BatchResult = tuple[WindowBatch, ComputedMaps | None]
"""A batch with its maps, or with None if its video has failed."""
ComputeFunction = Callable[[Sequence[WindowBatch]], list[ComputedMaps]]


def compute_motion(method_run: MethodRun, clips: Clips, device: torch.device) -> Motion:
    """Compute the maps of these windows at once, and return them as floats on the CPU."""
    data = method_run.module.extract(move_windows(clips.data, device))
    return Motion(data.float().cpu().contiguous(), clips.index, clips.time)


class BatchComputer:
    """Gives groups of batches to a device and returns their results one group later.

    Args:
        device: computes the maps
        max_windows: windows computed at once, until the device runs out of memory; None for no
            limit
    """

    def __init__(self, device: SyncDevice, max_windows: int | None) -> None:
        self.device = device
        self._max_windows = max_windows
        self._reduced_limits: dict[str, int] = {}
        self._in_flight: tuple[Sequence[WindowBatch], Any] | None = None

    def get_window_limit(self, method: str) -> int | None:
        """Return the number of windows of a method to compute at once, or None."""
        return self._reduced_limits.get(method, self._max_windows)

    @property
    def is_busy(self) -> bool:
        """True while a group is in flight."""
        return self._in_flight is not None

    def submit_group(self, batches: Sequence[WindowBatch]) -> list[BatchResult]:
        """Launch a group of batches with one key, and return the results of the group before."""
        failed_before: list[BatchResult] = [
            (batch, None) for batch in batches if batch.task.failure
        ]
        batches = [batch for batch in batches if not batch.task.failure]
        if not batches:
            return [*self.collect_results(), *failed_before]
        # Launched before the previous results are waited for: the device copies this group in
        # while it still computes the last.
        launched, fault = self._try_launch(batches)
        previous = self.collect_results()
        if fault and previous and is_out_of_memory(fault.__cause__):
            # The previous group held memory during this launch. It is gone now, and this group
            # may fit as it is: it is halved only if it is too large alone.
            self._free_memory(fault)
            launched, fault = self._try_launch(batches)
        self._in_flight = launched
        retried = self._retry_smaller(batches, fault) if fault else []
        return [*previous, *retried, *failed_before]

    def collect_results(self) -> list[BatchResult]:
        """Wait for the group in flight and return its results."""
        in_flight, self._in_flight = self._in_flight, None
        if in_flight is None:
            return []
        batches, launched = in_flight
        return self._try_group(batches, lambda _: self.device.finish_group(launched))

    def _try_launch(
        self, batches: Sequence[WindowBatch]
    ) -> tuple[tuple[Sequence[WindowBatch], Any] | None, InputError | None]:
        """Launch a group; return it, or the error that prevented it."""
        try:
            return (batches, self.device.launch_group(batches)), None
        except InputError as error:
            return None, error

    def _try_group(
        self, batches: Sequence[WindowBatch], compute: ComputeFunction
    ) -> list[BatchResult]:
        try:
            return list(zip(batches, compute(batches), strict=True))
        except InputError as error:
            fault = error
        # Outside of the except block, which would keep the error's frames and their tensors.
        return self._retry_smaller(batches, fault)

    def _retry_smaller(
        self, batches: Sequence[WindowBatch], fault: InputError
    ) -> list[BatchResult]:
        """Halve the batches if memory ran out; otherwise compute each alone to find the bad one."""
        count = sum(len(batch) for batch in batches)
        if is_out_of_memory(fault.__cause__) and count > 1:
            self._free_memory(fault)
            batches = self._split_in_half(batches, count)
        elif len(batches) == 1:
            batches[0].task.record_failure(fault)
            return [(batches[0], None)]
        return [
            result
            for batch in batches
            for result in self._try_group([batch], self.device.compute_group)
        ]

    def _free_memory(self, fault: InputError) -> None:
        # The frames of the traceback hold the tensors of the failed group: without this, a smaller
        # one would find the same memory taken.
        for error in (fault, fault.__cause__):
            if error is not None:
                error.__traceback__ = None
        self.device.make_room()

    def _split_in_half(self, batches: Sequence[WindowBatch], count: int) -> list[WindowBatch]:
        method, half = batches[0].method_run.method.name, count // 2
        if not self._reduced_limits:
            batches[0].task.video.tally.warn(
                f"not enough memory on the device for {count} windows of {method} at once: "
                f"from here on {half} or fewer"
            )
        self._reduced_limits[method] = half
        return [part for batch in batches for part in batch.split_windows(half)]

"""Batches through a device: what fails fails alone, and what is too large is halved."""

from collections.abc import Callable, Sequence
from typing import Any

from mrx.errors import InputError
from mrx.pipeline.sync_device import ComputedMaps, SyncDevice
from mrx.pipeline.tasks import WindowBatch
from mrx.pipeline.timing import is_out_of_memory

BatchResult = tuple[WindowBatch, ComputedMaps | None]
ComputeFunction = Callable[[Sequence[WindowBatch]], list[ComputedMaps]]


class BatchComputer:
    """Give pieces to a device, and take what becomes of them one batch later.

    Args:
        device: what computes
        max_windows: windows at once, until the device's memory says otherwise; None for no limit
    """

    def __init__(self, device: SyncDevice, max_windows: int | None) -> None:
        self.device = device
        self._max_windows = max_windows
        self._reduced_limits: dict[str, int] = {}
        self._in_flight: tuple[Sequence[WindowBatch], Any] | None = None

    def get_window_limit(self, method: str) -> int | None:
        """How many windows of a method go at once."""
        return self._reduced_limits.get(method, self._max_windows)

    @property
    def is_busy(self) -> bool:
        """Whether a batch is at work."""
        return self._in_flight is not None

    def submit_group(self, batches: Sequence[WindowBatch]) -> list[BatchResult]:
        """Begin with a batch of one bucket; the results of the batch before.

        A result of None is a piece whose video has failed.
        """
        failed_before: list[BatchResult] = [
            (batch, None) for batch in batches if batch.task.failure
        ]
        batches = [piece for piece in batches if not piece.task.failure]
        if not batches:
            return [*self.collect_results(), *failed_before]
        launched, fault = self._try_launch(batches)
        previous = self.collect_results()
        if fault and previous and is_out_of_memory(fault.__cause__):
            self._free_memory(fault)  # the batch before was in the way, perhaps it alone
            launched, fault = self._try_launch(batches)
        self._in_flight = launched
        retried = self._retry_smaller(batches, fault) if fault else []
        return [*previous, *retried, *failed_before]

    def collect_results(self) -> list[BatchResult]:
        """The results of the batch that was begun last."""
        in_flight, self._in_flight = self._in_flight, None
        if in_flight is None:
            return []
        batches, launched = in_flight
        return self._try_group(batches, lambda _: self.device.finish_group(launched))

    def _try_launch(
        self, batches: Sequence[WindowBatch]
    ) -> tuple[tuple[Sequence[WindowBatch], Any] | None, InputError | None]:
        """What is at work now, or why it is not."""
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
        return self._retry_smaller(batches, fault)

    def _retry_smaller(
        self, batches: Sequence[WindowBatch], fault: InputError
    ) -> list[BatchResult]:
        """Smaller batches where memory was too small, each piece alone where one of them failed."""
        count = sum(len(piece) for piece in batches)
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
        """Let go of what a failed batch left on the device: its error's frames hold it."""
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

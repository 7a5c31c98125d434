"""Seconds spent in each stage, and the stage's name in unexpected errors."""

import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

import torch

from mrx.errors import DeviceFault, MrxError, StageError

T = TypeVar("T")
# Openings of torch's messages for faults that every later call to the device meets again.
LASTING_FAULTS = ("CUDA error", "HIP error")
STAGE_NAMES = ("decode", "transfer", "compute", "pack", "write")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return True if a device ran out of memory, so that a smaller batch may succeed."""
    # Not every backend raises OutOfMemoryError; some raise a RuntimeError that says so.
    says_so = isinstance(error, RuntimeError) and "out of memory" in str(error)
    return says_so or isinstance(error, torch.cuda.OutOfMemoryError)


class StageTimer:
    """Sums the seconds that each stage works, over all threads. Waiting does not count."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGE_NAMES, 0.0)
        self._lock = threading.Lock()

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere."""
        with self._lock:
            self.seconds[stage] += seconds

    def time_stage(self, stage: str, *, timed: bool = True) -> "_TimedStage":
        """Return a context that times a stage and turns unexpected errors into `StageError`.

        Raises:
            DeviceFault: the device is unusable for the rest of this process
            StageError: any other error that mrx does not raise on purpose
        """
        return _TimedStage(self, stage, timed=timed)

    def time_items(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, and count the time to make each for a stage."""
        iterator = iter(items)
        while True:
            with self.time_stage(stage):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item


class _TimedStage:
    # A class, which is cheaper than a generator with @contextmanager: it is entered for every map.
    __slots__ = ("_began", "_is_timed", "_stage", "_timer")

    def __init__(self, timer: StageTimer, stage: str, *, timed: bool) -> None:
        self._timer, self._stage, self._is_timed = timer, stage, timed

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_timed:
            self._timer.add_seconds(self._stage, time.perf_counter() - self._began)
        if not isinstance(error, Exception) or isinstance(error, MrxError):
            return
        # A device out of memory says "CUDA error" too on some calls, but can go on.
        if str(error).startswith(LASTING_FAULTS) and not is_out_of_memory(error):
            raise DeviceFault(f"the device failed in {self._stage}: {error}") from error
        raise StageError(self._stage, error) from error

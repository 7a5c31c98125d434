"""Where the time of a worker goes, and the name of the stage that something went wrong in."""

import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

import torch

from mrx.errors import DeviceFault, MrxError, StageError

T = TypeVar("T")
LASTING_FAULTS = (
    "CUDA error",
    "HIP error",
)  # what torch says of a fault that later calls meet again
STAGE_NAMES = ("decode", "transfer", "compute", "pack", "write")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether a device had too little memory, which smaller batches may mend."""
    says_so = isinstance(error, RuntimeError) and "out of memory" in str(error)
    return says_so or isinstance(error, torch.cuda.OutOfMemoryError)


class StageTimer:
    """Seconds that each stage worked, over all its threads. Waiting does not count."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGE_NAMES, 0.0)
        self._lock = threading.Lock()

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Count work that was timed elsewhere."""
        with self._lock:
            self.seconds[stage] += seconds

    def time_stage(self, stage: str, *, timed: bool = True) -> "_TimedStage":
        """Work of a stage: it is timed, and what nobody foresaw becomes a `StageError`."""
        return _TimedStage(self, stage, timed=timed)

    def time_items(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """The items, with the time that making them takes counted for a stage."""
        iterator = iter(items)
        while True:
            with self.time_stage(stage):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item


class _TimedStage:
    """A piece of a stage's work, as a context; a class, as it is entered for every map."""

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
        if str(error).startswith(LASTING_FAULTS) and not is_out_of_memory(error):
            raise DeviceFault(f"the device failed in {self._stage}: {error}") from error
        raise StageError(self._stage, error) from error

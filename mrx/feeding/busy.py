"""Where the time of a worker goes, and the name of the stage that something went wrong in."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from mrx.errors import DeviceFault, MrxError, StageError

T = TypeVar("T")
LASTING = ("CUDA error", "HIP error")  # what torch says of a fault that later calls meet again
STAGES = ("decode", "transfer", "compute", "pack", "write")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether a device had too little memory, which smaller batches may mend."""
    told = isinstance(error, RuntimeError) and "out of memory" in str(error)
    return told or isinstance(error, torch.cuda.OutOfMemoryError)


class Busy:
    """Seconds that each stage worked, over all its threads. Waiting does not count."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    def add(self, stage: str, seconds: float) -> None:
        """Count work that was timed elsewhere."""
        with self._lock:
            self.seconds[stage] += seconds

    @contextmanager
    def at(self, stage: str, *, timed: bool = True) -> Iterator[None]:
        """Work of a stage: it is timed, and what nobody foresaw becomes a `StageError`."""
        began = time.perf_counter()
        try:
            yield
        except MrxError:
            raise
        except Exception as error:
            if str(error).startswith(LASTING) and not is_out_of_memory(error):
                raise DeviceFault(f"the device failed in {stage}: {error}") from error
            raise StageError(stage, error) from error
        finally:
            if timed:
                self.add(stage, time.perf_counter() - began)

    def each(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """The items, with the time that making them takes counted for a stage."""
        iterator = iter(items)
        while True:
            with self.at(stage):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

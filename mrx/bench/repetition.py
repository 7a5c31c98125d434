"""Repeated measurements within a time limit."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

MIN_SAMPLES = 3
ROW_SECONDS = 30.0  # a row that takes longer gets fewer samples

Sample = TypeVar("Sample")


def take_samples(measure: Callable[[], Sample], repeats: int) -> Iterator[Sample]:
    """Yield `repeats` measurements, or fewer if `ROW_SECONDS` pass, but at least `MIN_SAMPLES`."""
    deadline = time.monotonic() + ROW_SECONDS
    for number in range(repeats):
        if number >= MIN_SAMPLES and time.monotonic() > deadline:
            return
        yield measure()

"""The least and greatest of a map, and the sum of its absolute values, in one pass over it.

The extremes are found in the bits. As unsigned numbers, negative floats are above all others, and
rise as they fall; as signed numbers, the others are in order. Floats would not do: numba does not
vectorise their comparisons. Nor would bits without a type at every step: it makes 64 of them.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mrx.kernels import compile_function

Floats = NDArray[np.float32]
Bits = NDArray[np.uint32]
Found = tuple[Any, Any, Any, float]  # integers of 32 bits

_SIGN, _INFINITY = 0x8000_0000, 0x7F80_0000


def summarize(values: Tensor) -> tuple[float, float, float] | None:
    """The least, the greatest and the sum of absolute values; None where not all are finite.

    Args:
        values: float32 of any shape, at least one
    """
    flat = np.ascontiguousarray(values.numpy()).reshape(-1)
    least, most, top, total = _compiled()(flat, flat.view(np.uint32))
    if max(most % _SIGN, top) >= _INFINITY:
        return None
    low = most if most >= _SIGN else least
    high = top if top >= 0 else least
    first, last = np.array([low, high], np.uint32).view(np.float32).tolist()
    return first, last, total


@functools.cache
def _compiled() -> Callable[[Floats, Bits], Found]:
    floats = np.zeros(3, np.float32)
    bits = floats.view(np.uint32)
    return compile_function(_summarize, trial=lambda run: run(floats, bits), maker="_compiled")


def _summarize(values: Floats, bits: Bits) -> Found:
    """The unsigned least and most, the signed most, and the sum."""
    least, most, top, total = bits[0], bits[0], np.int32(bits[0]), 0.0
    for x in range(np.uintp(values.size)):
        least = min(least, bits[x])
        most = max(most, bits[x])
        top = max(top, np.int32(bits[x]))
        total += np.float64(abs(values[x]))
    return least, most, top, total

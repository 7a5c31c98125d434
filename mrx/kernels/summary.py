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
BitExtremes = tuple[Any, Any, Any, float]  # integers of 32 bits

_SIGN, _INFINITY = 0x8000_0000, 0x7F80_0000


def summarize_values(values: Tensor) -> tuple[float, float, float] | None:
    """The least, the greatest and the sum of absolute values; None where not all are finite.

    Args:
        values: float32 of any shape, at least one
    """
    flat = np.ascontiguousarray(values.numpy()).reshape(-1)
    unsigned_min, unsigned_max, signed_max, total = _compile_summary()(flat, flat.view(np.uint32))
    if max(unsigned_max % _SIGN, signed_max) >= _INFINITY:
        return None
    low = unsigned_max if unsigned_max >= _SIGN else unsigned_min
    high = signed_max if signed_max >= 0 else unsigned_min
    lowest, highest = np.array([low, high], np.uint32).view(np.float32).tolist()
    return lowest, highest, total


@functools.cache
def _compile_summary() -> Callable[[Floats, Bits], BitExtremes]:
    floats = np.zeros(3, np.float32)
    bits = floats.view(np.uint32)
    return compile_function(
        _summarize_bits, trial=lambda run: run(floats, bits), maker="_compile_summary"
    )


def _summarize_bits(values: Floats, bits: Bits) -> BitExtremes:
    """The unsigned least and most, the signed most, and the sum."""
    unsigned_min, unsigned_max, signed_max, total = bits[0], bits[0], np.int32(bits[0]), 0.0
    for x in range(np.uintp(values.size)):
        unsigned_min = min(unsigned_min, bits[x])
        unsigned_max = max(unsigned_max, bits[x])
        signed_max = max(signed_max, np.int32(bits[x]))
        total += np.float64(abs(values[x]))
    return unsigned_min, unsigned_max, signed_max, total

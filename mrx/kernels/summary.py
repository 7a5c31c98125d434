"""The minimum and maximum of a map, and the sum of its absolute values, in one pass.

The extremes are found in the bits of the floats, since numba does not vectorize comparisons of
floats. Read as unsigned integers, negative floats lie above all others, in reverse order; read as
signed integers, the others are in order.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mrx.kernels import compile_function
from mrx.kernels.array_types import Floats

Bits = NDArray[np.uint32]
BitExtremes = tuple[Any, Any, Any, float]  # integers of 32 bits

_SIGN, _INFINITY = 0x8000_0000, 0x7F80_0000


def summarize_values(values: Tensor) -> tuple[float, float, float] | None:
    """Return the minimum, maximum and sum of absolute values, or None if not all are finite.

    Args:
        values: float32 of any shape, with at least one value
    """
    flat = np.ascontiguousarray(values.numpy()).reshape(-1)
    unsigned_min, unsigned_max, signed_max, total = _compile_summary()(flat, flat.view(np.uint32))
    # Without their sign, the bits of infinity and of all NaN are at least _INFINITY.
    if max(unsigned_max % _SIGN, signed_max) >= _INFINITY:
        return None
    # With a negative value, the minimum is the largest unsigned integer; if all are negative, the
    # maximum is the smallest one.
    low = unsigned_max if unsigned_max >= _SIGN else unsigned_min
    high = signed_max if signed_max >= 0 else unsigned_min
    lowest, highest = np.array([low, high], np.uint32).view(np.float32).tolist()
    return lowest, highest, total


@functools.cache
def _compile_summary() -> Callable[[Floats, Bits], BitExtremes]:
    floats = np.zeros(3, np.float32)
    bits = floats.view(np.uint32)
    return compile_function(
        _summarize_bits, warm_up=lambda run: run(floats, bits), compiler_name="_compile_summary"
    )


def _summarize_bits(values: Floats, bits: Bits) -> BitExtremes:
    """Return the unsigned minimum and maximum, the signed maximum, and the sum."""
    # Every step has a type of 32 bits: numba widens untyped integers to 64.
    unsigned_min, unsigned_max, signed_max, total = bits[0], bits[0], np.int32(bits[0]), 0.0
    for x in range(np.uintp(values.size)):
        unsigned_min = min(unsigned_min, bits[x])
        unsigned_max = max(unsigned_max, bits[x])
        signed_max = max(signed_max, np.int32(bits[x]))
        total += np.float64(abs(values[x]))
    return unsigned_min, unsigned_max, signed_max, total

"""Mark tests that need Triton to interpret its kernels, or to compile them.

Triton chooses one of the two when the kernels are imported, so each needs its own process:
``TRITON_INTERPRET=1 python -m pytest tests/triton_kernels`` and the usual one.
"""

import importlib.util
import os

import pytest

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

_needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
interpreted = [
    _needs_triton,
    pytest.mark.skipif(not INTERPRETED, reason="TRITON_INTERPRET is not 1 in this process"),
    # The interpreter computes both sides of every select, as a GPU does.
    pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning"),
]
compiled = [
    _needs_triton,
    pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET is 1 in this process"),
]

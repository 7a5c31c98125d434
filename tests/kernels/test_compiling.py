"""Machine code that is compiled, cached and loaded again."""

import os
import subprocess
import sys

import pytest

from mrx import kernels

PROGRAM = """
import hashlib
import numpy as np
from mrx.kernels.tvl1_rows import compile_iterations, new_fields
numbers = np.random.default_rng(0).normal(size=(10, 46, 62)).astype(np.float32)
fields, term = new_fields(6, 45, 60), numbers[6:, :45, :60].copy()
fields[:2, 1:, 1:-1] = numbers[:2, :45, :60]
one = np.float32(1)
compile_iterations()(fields, term, 3, 1, one * 0.045, one * 0.3, one * 0.83, 0.0)
print(hashlib.sha256(fields.tobytes()).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.skipif(not kernels.has_backend("numba"), reason="numba is not installed")
def test_freshly_compiled_and_cached_code_give_the_same_result(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM]
    runs = [subprocess.run(command, env=environment, capture_output=True, text=True) for _ in "ab"]
    assert [ran.stderr for ran in runs] == ["", ""]
    assert runs[0].stdout == runs[1].stdout
    assert list(tmp_path.rglob("*_iterate*.nbc"))

import numpy as np
import pytest

from mrx.kernels import tvl1_gpu
from mrx.kernels.tvl1_gpu import BlockShape


@pytest.fixture(scope="session", autouse=True)
def compiled_elsewhere(tmp_path_factory):
    """Nothing is read from, or left in, the user's folder of compiled kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.fixture(autouse=True)
def nothing_kept():
    tvl1_gpu.release_idle_buffers()


@pytest.fixture
def large_blocks(monkeypatch):
    """The interpreter's time goes with the number of programs, hardly with their pixels."""
    monkeypatch.setattr(tvl1_gpu, "STEP_SHAPES", (BlockShape(64, 64, 4),))
    monkeypatch.setattr(tvl1_gpu, "TILE_SHAPES", (BlockShape(64, 64, 8, 5),))


@pytest.fixture
def rng():
    return np.random.default_rng(7)

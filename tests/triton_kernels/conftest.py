import numpy as np
import pytest

from mrx.kernels import tvl1_gpu, tvl1_launch
from mrx.kernels.tvl1_launch import BlockShape


@pytest.fixture(scope="session", autouse=True)
def compiled_elsewhere(tmp_path_factory):
    """Keep the user's cache of compiled kernels out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.fixture(autouse=True)
def nothing_kept():
    tvl1_gpu.release_idle_buffers()


@pytest.fixture
def large_blocks(monkeypatch):
    """Use large blocks: the interpreter's time grows with programs, hardly with their pixels."""
    monkeypatch.setattr(tvl1_launch, "STEP_SHAPES", (BlockShape(64, 64, 4),))
    monkeypatch.setattr(tvl1_launch, "TILE_SHAPES", (BlockShape(64, 64, 8, 5),))


@pytest.fixture
def rng():
    return np.random.default_rng(7)

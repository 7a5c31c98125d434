import os
import sys
import tarfile

import h5py
import numpy as np
import pytest
import torch
from support.places import SHARED


def pytest_configure(config):
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def random_state_restored():
    before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002 - to put it back
    yield
    torch.set_rng_state(before[0])
    np.random.set_state(before[1])  # noqa: NPY002


@pytest.fixture(autouse=True)
def no_shard_left_open():
    yield
    left = [f.name for f in h5py.h5f.get_obj_ids(types=h5py.h5f.OBJ_FILE)]
    assert not left, f"left open: {left}"


@pytest.fixture(autouse=True)
def import_path_restored():
    before = list(sys.path)
    yield
    assert sys.path == before


@pytest.fixture
def device():
    if torch.cuda.is_available():
        return torch.device("cuda:0")
    if os.environ.get("MRX_NEED_GPU") == "1":
        pytest.fail("MRX_NEED_GPU=1 and there is no CUDA device")
    pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def real_clips():
    folder = SHARED / "data" / "video"
    if not folder.is_dir():
        pytest.skip("../shared/data/video is not here")
    return folder


@pytest.fixture(scope="session")
def odd(tmp_path_factory):
    archive = SHARED / "data" / "odd.tar"
    if not archive.is_file():
        pytest.skip("../shared/data/odd.tar is not here")
    root = tmp_path_factory.mktemp("odd_archive")
    with tarfile.open(archive) as tar:
        tar.extractall(root, filter="tar")
    return root / "odd"

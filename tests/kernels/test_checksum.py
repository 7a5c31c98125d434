import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from hypothesis.strategies import sampled_from

pytest.importorskip("numba", reason="numba is not installed")

from mrx.kernels.checksum import fletcher32


def by_hdf5(data):
    """Return the checksum that the library appends to a chunk of its own."""
    with h5py.File.in_memory() as file:
        made = file.create_dataset("a", data=data[None], chunks=(1, *data.shape), fletcher32=True)
        return made.id.read_direct_chunk((0,) * made.ndim)[1][-4:]


@settings(deadline=None)
@given(arrays(np.uint16, array_shapes(max_dims=3, max_side=20)))
def test_it_is_the_checksum_of_hdf5(data):
    assert fletcher32(data) == by_hdf5(data)


@pytest.mark.parametrize("value", [0, 1, 0xFFFF, 0xFF00])
@pytest.mark.parametrize("size", [1, 63, 64, 65, 64 * 360, 64 * 360 + 1, 261120])
def test_extreme_words_and_sizes_have_the_checksum_of_hdf5(value, size):
    data = np.full(size, value, np.uint16)
    assert fletcher32(data) == by_hdf5(data)


@settings(deadline=None, max_examples=20)
@given(dtype=sampled_from(["f2", "i2", "f4"]))
def test_types_of_an_even_size_have_the_checksum_of_hdf5(dtype):
    data = np.random.default_rng(0).normal(size=(2, 33, 47)).astype(dtype)
    assert fletcher32(data) == by_hdf5(data)

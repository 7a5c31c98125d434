import h5py
import numpy as np
import pytest

from mrx.shards.attributes import write_attributes

VALUES = {
    "text": "naïve",
    "no text": "",
    "a float": 1.5,
    "a float32": np.float32(0.1),
    "a whole number": 3,
    "a large one": 2**63 - 1,
    "a truth": True,
    "numbers": [1, 2, 3],
    "floats": (0.485, 0.456),
    "texts": ["red", "green"],
    "a tuple of texts": ("pa0",),
    "nothing": [],
    "an array": np.arange(4, dtype=np.int16),
    "rows": [[1, 2], [3, 4]],
}


@pytest.mark.parametrize("name", VALUES)
def test_an_attribute_equals_one_written_by_h5py(name):
    with h5py.File.in_memory() as file:
        ours, theirs = file.create_group("ours"), file.create_group("theirs")
        write_attributes(ours, {name: VALUES[name]})
        theirs.attrs[name] = VALUES[name]
        assert np.array_equal(ours.attrs[name], theirs.attrs[name])
        assert type(ours.attrs[name]) is type(theirs.attrs[name])
        first, second = ours.attrs.get_id(name), theirs.attrs.get_id(name)
        assert first.get_type() == second.get_type()
        assert first.get_space().get_simple_extent_type() == (
            second.get_space().get_simple_extent_type()
        )
        assert first.shape == second.shape


def test_a_text_that_hdf5_cannot_hold_is_refused():
    with h5py.File.in_memory() as file, pytest.raises(ValueError, match="NULL"):
        write_attributes(file, {"key": "a\0b"})

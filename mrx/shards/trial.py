"""Maps written to a file in memory, to learn how many bytes they take in a shard."""

import itertools
from collections.abc import Mapping
from typing import Any

import h5py

from mrx.shards.chunks import PackedMaps
from mrx.shards.encoding import Encoding
from mrx.shards.writer import MethodDataset

_file_numbers = itertools.count()


def measure_stored_bytes(packed: PackedMaps, encoding: Encoding, filters: Mapping[str, Any]) -> int:
    """Return the bytes that maps take in a shard, compressed and with their checksums."""
    # HDF5 refuses two open files of one name, also in memory.
    name = f"trial-{next(_file_numbers)}"
    with h5py.File(name, "w", driver="core", backing_store=False) as file:
        maps = MethodDataset(file, "maps", packed.shape, encoding, filters)
        maps.append_maps(packed)
        file.flush()
        return int(maps.dataset.id.get_storage_size())

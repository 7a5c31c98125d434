"""Compression with a bounded error: channels to HDF5 chunks by SZ3, each decompressed and compared.

SZ3 promises the bound, but takes it from the numbers alone: it makes a finite number of NaN, and
beyond 2**31 steps it crashes the process. So nothing of that kind is given to it, and what it made
is decompressed again before it is stored. A channel that it cannot hold to the bound is stored as
it is, without the filter, which HDF5 allows for each chunk; it is counted, and the video warns.

The filter runs inside of HDF5, on a dataset in memory. That costs nothing beside SZ3 itself, and
the chunks are those that any reader of the file decompresses.
"""

import itertools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mrx.kernels.checksum import fletcher32

# Beyond this many steps of the tolerance, float32 itself is coarser than the tolerance.
MAX_STEPS = 2.0**24
SKIP_FIRST_FILTER = 1
_names = itertools.count()


@dataclass(frozen=True)
class BoundedChunk:
    """The chunk of one channel.

    Attributes:
        data: its bytes as HDF5 stores them, checksum included
        checksum: of the values that a reader gets, see `checksum_values`
        mask: HDF5's mask of the filters that were left out
    """

    data: NDArray[np.uint8]
    checksum: int
    mask: int = 0


def compress_channels(
    maps: NDArray[np.float32], tolerance: float, filters: Mapping[str, Any]
) -> list[BoundedChunk]:
    """Compress each channel of each map with an error of at most `tolerance`.

    Args:
        maps: the maps
        tolerance: the largest error
        filters: compression arguments of the dataset, for this tolerance

    Shape:
        - maps: ``(B, C, H, W)``
    """
    height, width = maps.shape[2:]
    # Without a cache, what is written goes through the filter, and what is read comes through it.
    # A name of its own, as several threads compress at once.
    name = f"bounded-{next(_names)}"
    with h5py.File(name, "w", driver="core", backing_store=False, rdcc_nbytes=0) as memory_file:
        dataset = memory_file.create_dataset(
            "channel",
            (1, 1, height, width),
            np.float32,
            chunks=(1, 1, height, width),
            fletcher32=True,
            **filters,
        )
        return [
            _compress_channel(channel, tolerance, dataset)
            for channel in maps.reshape(-1, height, width)
        ]


def _compress_channel(
    channel: NDArray[np.float32], tolerance: float, dataset: h5py.Dataset
) -> BoundedChunk:
    # Written with `not`, so that NaN takes this branch too: every comparison with it is false.
    if not max(-channel.min(), channel.max()) <= MAX_STEPS * tolerance:
        return _keep_channel(channel)
    dataset[0, 0] = channel
    mask, data = dataset.id.read_direct_chunk((0, 0, 0, 0))
    decompressed = dataset[0, 0]
    # In float64 the difference of two float32 is exact.
    error = np.subtract(decompressed, channel, dtype=np.float64)
    if max(-error.min(), error.max()) > tolerance:
        return _keep_channel(channel)
    return BoundedChunk(np.frombuffer(data, np.uint8), checksum_values(decompressed), mask)


def _keep_channel(channel: NDArray[np.float32]) -> BoundedChunk:
    """Return the chunk of a channel that is not compressed."""
    flat = np.ascontiguousarray(channel).reshape(-1).view(np.uint8)
    checksum = np.frombuffer(fletcher32(flat), np.uint8)
    return BoundedChunk(
        np.concatenate([flat, checksum]), checksum_values(channel), SKIP_FIRST_FILTER
    )


def checksum_values(maps: NDArray[np.float32]) -> int:
    """Return the sum of the CRC-32 of each channel's values.

    The bytes of a chunk prove themselves by their own checksum. This one proves that they still
    decompress to the values that were compared: SZ3 does not promise that of another version.

    Shape:
        - maps: ``(..., H, W)``
    """
    channels = np.ascontiguousarray(maps, "<f4").reshape(-1, *maps.shape[-2:])
    return sum(zlib.crc32(channel) for channel in channels)

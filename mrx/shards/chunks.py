"""Maps to the bytes of chunks: encoded, compressed and checksummed before HDF5 sees them.

The library does one thing at a time in a process. What is done here is done outside its lock, so
that its writer is free for more; `tests/benchmarks/storage.py` measures both ways.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mrx import kernels
from mrx.kernels.checksum import fletcher32
from mrx.records import Clips, Motion
from mrx.shards.encoding import Encoding, ValueStatistics, encode_maps, split_statistics

CHECKSUM_BYTES = 4
ChunkBytes = NDArray[np.uint8]
FillFunction = Callable[[int, NDArray[Any]], object]


@dataclass(frozen=True)
class PackedMaps:
    """Maps as they go into a dataset.

    Attributes:
        shape: of a map, (C, H, W)
        chunks: the bytes of each map's chunk, or
        raw: the raw numbers, (B, C, H, W), where the library has to make the chunks itself
        statistics: of each map
        index, time: as in `Motion`
    """

    shape: tuple[int, ...]
    chunks: list[ChunkBytes] | None
    raw: NDArray[Any] | None
    statistics: list[ValueStatistics]
    index: NDArray[np.int64]
    time: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.statistics)


def pack_motion(motion: Motion, encoding: Encoding, filters: Mapping[str, Any]) -> PackedMaps:
    """Encode maps of the CPU, and make their chunks."""
    statistics = [ValueStatistics() for _ in motion.data]

    def fill_chunk(i: int, out: NDArray[Any]) -> None:
        encode_maps(motion.data[i], encoding, statistics[i], out=out)

    chunks, raw = _make_chunks(fill_chunk, tuple(motion.data.shape), encoding.dtype, filters)
    shape = tuple(motion.data.shape[1:])
    return PackedMaps(shape, chunks, raw, statistics, motion.index, motion.time)


def pack_encoded(
    raw: Tensor, numbers: Tensor, clips: Clips, encoding: Encoding, filters: Mapping[str, Any]
) -> PackedMaps:
    """Make the chunks of maps that a device has encoded.

    Args:
        raw: the encoded maps of `encode_on_device`, brought to the CPU
        numbers: its statistics, likewise
        clips: the windows that they come from, for their indices and times
        encoding: how they were encoded
        filters: of the dataset
    """
    values, shape = raw.numpy(), tuple(raw.shape)
    statistics = split_statistics(numbers, values[0].size if len(values) else 0, encoding)

    def fill_chunk(i: int, out: NDArray[Any]) -> None:
        np.copyto(out, values[i])

    chunks, kept = _make_chunks(fill_chunk, shape, encoding.dtype, filters)
    return PackedMaps(shape[1:], chunks, kept, statistics, clips.index, clips.time)


def _make_chunks(
    fill: FillFunction, shape: tuple[int, ...], dtype: str, filters: Mapping[str, Any]
) -> tuple[list[ChunkBytes] | None, NDArray[Any] | None]:
    """Chunks of what `fill_chunk` writes, or the raw numbers alone."""
    if not _can_make_chunks(filters):
        raw = np.empty(shape, dtype)
        for i, out in enumerate(raw):
            fill(i, out)
        return None, raw
    size = math.prod(shape[1:]) * np.dtype(dtype).itemsize
    rows = np.empty((shape[0], size + CHECKSUM_BYTES), np.uint8)
    chunks = []
    for i, row in enumerate(rows):
        raw = row[:-CHECKSUM_BYTES].view(dtype).reshape(shape[1:])
        fill(i, raw)
        chunks.append(_deflate_chunk(raw, filters) if filters else _add_checksum(row))
    return chunks, None


def _can_make_chunks(filters: Mapping[str, Any]) -> bool:
    """Whether the chunks can be made here: plain ones, and those of gzip."""
    known = not filters or filters.get("compression") == "gzip"
    return known and kernels.choose_backend() == "numba"


def _add_checksum(row: ChunkBytes) -> ChunkBytes:
    """The bytes of a chunk with the checksum in the place left for it."""
    row[-CHECKSUM_BYTES:] = np.frombuffer(fletcher32(row[:-CHECKSUM_BYTES]), np.uint8)
    return row


def _deflate_chunk(raw: NDArray[Any], filters: Mapping[str, Any]) -> ChunkBytes:
    """The bytes of a chunk after HDF5's filters shuffle, deflate and fletcher32, in this order."""
    flat = raw.reshape(-1).view(np.uint8)
    if filters["shuffle"] and raw.itemsize > 1:
        flat = np.ascontiguousarray(flat.reshape(-1, raw.itemsize).T)
    data = zlib.compress(flat.data, filters["compression_opts"])
    return _add_checksum(np.frombuffer(data + bytes(CHECKSUM_BYTES), np.uint8).copy())

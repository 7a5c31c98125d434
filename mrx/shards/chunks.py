"""Maps to the bytes of HDF5 chunks: encoded, compressed and checksummed outside of the library.

HDF5 runs one call at a time in a process. Work done here is done outside of its lock, in any
thread, and leaves the writer thread free; `tests/benchmarks/storage.py` measures both ways.
"""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mrx import kernels
from mrx.kernels.checksum import fletcher32
from mrx.records import Clips, Motion
from mrx.shards.bounded import BoundedChunk, compress_channels
from mrx.shards.encoding import Encoding, ValueStatistics, encode_maps, split_statistics

CHECKSUM_BYTES = 4
ChunkBytes = NDArray[np.uint8]
FillFunction = Callable[[int, NDArray[Any]], object]


@dataclass(frozen=True)
class PackedMaps:
    """Maps in the form in which they are written to a dataset.

    Attributes:
        shape: shape of one map, (C, H, W)
        chunks: bytes of the chunks, in order: one for each map, or one for each channel of each
            map; None if HDF5 has to make the chunks
        raw: raw numbers, (B, C, H, W), for HDF5 to make the chunks of; else None
        statistics: statistics of each map
        index, time: as in `Motion`
        masks: number of a chunk → HDF5's mask of the filters that were left out of it
    """

    shape: tuple[int, ...]
    chunks: list[ChunkBytes] | None
    raw: NDArray[Any] | None
    statistics: list[ValueStatistics]
    index: NDArray[np.int64]
    time: NDArray[np.float64]
    masks: Mapping[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.statistics)

    def place_chunks(self, first: int) -> Iterator[tuple[tuple[int, ...], ChunkBytes, int]]:
        """Yield the place, bytes and filter mask of each chunk, in a dataset of `first` maps."""
        chunks = self.chunks or []
        for number, chunk in enumerate(chunks):
            item, channel = divmod(number, len(chunks) // len(self))
            yield (first + item, channel, 0, 0), chunk, self.masks.get(number, 0)


def pack_motion(motion: Motion, encoding: Encoding, filters: Mapping[str, Any]) -> PackedMaps:
    """Encode float maps and make their chunks."""
    statistics = [ValueStatistics() for _ in motion.data]

    def fill_chunk(i: int, out: NDArray[Any]) -> None:
        encode_maps(motion.data[i], encoding, statistics[i], out=out)

    shape = tuple(motion.data.shape)
    return _pack_maps(fill_chunk, shape, encoding, filters, statistics, motion)


def pack_encoded(
    raw: Tensor,
    statistics_table: Tensor,
    clips: Clips,
    encoding: Encoding,
    filters: Mapping[str, Any],
) -> PackedMaps:
    """Make the chunks of maps that a device has encoded.

    Args:
        raw: encoded maps from `encode_on_device`, on the CPU
        statistics_table: their statistics from `encode_on_device`, on the CPU
        clips: the windows of the maps, for their indices and times
        encoding: the encoding that was used
        filters: compression arguments of the dataset
    """
    values, shape = raw.numpy(), tuple(raw.shape)
    statistics = split_statistics(statistics_table, values[0].size if len(values) else 0, encoding)

    def fill_chunk(i: int, out: NDArray[Any]) -> None:
        np.copyto(out, values[i])

    return _pack_maps(fill_chunk, shape, encoding, filters, statistics, clips)


def _pack_maps(
    fill: FillFunction,
    shape: tuple[int, ...],
    encoding: Encoding,
    filters: Mapping[str, Any],
    statistics: list[ValueStatistics],
    windows: Motion | Clips,
) -> PackedMaps:
    """Pack the maps of this shape that `fill` writes; their statistics are complete by then."""
    index, time = windows.index, windows.time
    if encoding.channel_chunks or not _can_make_chunks(filters):
        raw = np.empty(shape, encoding.dtype)
        for i, out in enumerate(raw):
            fill(i, out)
        if encoding.tolerance is None:
            return PackedMaps(shape[1:], None, raw, statistics, index, time)
        bounded = compress_channels(raw, encoding.tolerance, filters)
        masks = _record_bounded(bounded, statistics, shape[1])
        chunks = [chunk.data for chunk in bounded]
        return PackedMaps(shape[1:], chunks, None, statistics, index, time, masks)
    chunks = _make_chunks(fill, shape, encoding.dtype, filters)
    return PackedMaps(shape[1:], chunks, None, statistics, index, time)


def _record_bounded(
    bounded: list[BoundedChunk], statistics: list[ValueStatistics], channels: int
) -> dict[int, int]:
    """Add the chunks of channels to the statistics of their maps, and return their masks."""
    for number, chunk in enumerate(bounded):
        of_map = statistics[number // channels]
        of_map.decoded_checksum += chunk.checksum
        of_map.lossless += bool(chunk.mask)
    return {number: chunk.mask for number, chunk in enumerate(bounded) if chunk.mask}


def _make_chunks(
    fill: FillFunction, shape: tuple[int, ...], dtype: str, filters: Mapping[str, Any]
) -> list[ChunkBytes]:
    """Make chunks of the maps that `fill` writes."""
    size = math.prod(shape[1:]) * np.dtype(dtype).itemsize
    # Each map is encoded into its chunk, which has room for the checksum: no copy later.
    rows = np.empty((shape[0], size + CHECKSUM_BYTES), np.uint8)
    chunks = []
    for i, row in enumerate(rows):
        raw = row[:-CHECKSUM_BYTES].view(dtype).reshape(shape[1:])
        fill(i, raw)
        chunks.append(_deflate_chunk(raw, filters) if filters else _add_checksum(row))
    return chunks


def _can_make_chunks(filters: Mapping[str, Any]) -> bool:
    """Return True for filters that this module implements: none, and gzip."""
    # Only numba makes the checksum faster than the library's own.
    known = not filters or filters.get("compression") == "gzip"
    return known and kernels.choose_backend() == "numba"


def _add_checksum(row: ChunkBytes) -> ChunkBytes:
    """Write the checksum into the last bytes of a chunk."""
    row[-CHECKSUM_BYTES:] = np.frombuffer(fletcher32(row[:-CHECKSUM_BYTES]), np.uint8)
    return row


def _deflate_chunk(raw: NDArray[Any], filters: Mapping[str, Any]) -> ChunkBytes:
    """Apply HDF5's filters shuffle, deflate and fletcher32, in this order."""
    flat = raw.reshape(-1).view(np.uint8)
    if filters["shuffle"] and raw.itemsize > 1:
        # First the low byte of every number, then the next: like bytes side by side deflate better.
        flat = np.ascontiguousarray(flat.reshape(-1, raw.itemsize).T)
    data = zlib.compress(flat.data, filters["compression_opts"])
    # Copied, as arrays over bytes objects are read-only.
    return _add_checksum(np.frombuffer(data + bytes(CHECKSUM_BYTES), np.uint8).copy())

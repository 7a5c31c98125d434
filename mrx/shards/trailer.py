"""The trailer of a sealed shard: it tells every byte of the file from a damaged one.

    bytes of HDF5 │ frames of the journal │ seal

HDF5 ignores bytes behind its own. The chunks of maps carry checksums of their own, which the
records of the journal repeat; the seal holds one of all bytes of HDF5 between them. So a shard is
checked, and its whole videos are saved, without trust in any structure of HDF5.
"""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrx.errors import FormatError
from mrx.kernels.checksum import fletcher32
from mrx.shards.journal import JournalContents, parse_frames
from mrx.shards.seal import ShardSeal, append_seal, read_seal
from mrx.shards.video_record import MapsRecord

CHECKSUM_BYTES = 4


@dataclass(frozen=True)
class ShardTrailer:
    """The trailer of a shard.

    Attributes:
        contents: the header and the records of all videos
        seal: the seal behind them
    """

    contents: JournalContents
    seal: ShardSeal


def append_trailer(path: Path, journal: Path) -> None:
    """Append the trailer to a file that HDF5 has closed."""
    frames = journal.read_bytes()
    records = parse_frames(frames).records
    chunks = (
        (int(chunk["offset"]), int(chunk["size"]))
        for record in records
        for maps in record.methods.values()
        for chunk in maps.chunks
    )
    with path.open("r+b") as file:
        append_seal(file, frames, chunks)


def read_trailer(path: Path) -> ShardTrailer:
    """Read the trailer of a shard.

    Raises:
        FormatError: there is none, or it is damaged
    """
    seal = read_seal(path)
    with path.open("rb") as file:
        file.seek(seal.trailer_start)
        frames = file.read(seal.seal_start - seal.trailer_start)
    if zlib.crc32(frames) != seal.frames_checksum:
        raise FormatError(f"broken shard ({path}): its trailer is damaged")
    return ShardTrailer(parse_frames(frames), seal)


def list_damaged_items(path: Path, maps: MapsRecord) -> list[int]:
    """List the maps whose chunks are not as they were written."""
    with path.open("rb") as file:
        damaged = {
            int(chunk["start"][0])
            for chunk in maps.chunks
            if read_chunk(file.fileno(), chunk) is None
        }
    return sorted(damaged)


def read_chunk(descriptor: int, chunk: np.void) -> bytes | None:
    """Read the bytes of a chunk; return None if they are not those that were written."""
    try:
        data = os.pread(descriptor, int(chunk["size"]), int(chunk["offset"]))
    except OSError:  # a bad sector
        return None
    if len(data) != chunk["size"] or len(data) <= CHECKSUM_BYTES:
        return None
    stored = data[-CHECKSUM_BYTES:]
    if int.from_bytes(stored, "little") != chunk["checksum"]:
        return None
    body = np.frombuffer(data, np.uint8)[:-CHECKSUM_BYTES]
    return data if fletcher32(body) == stored else None


def read_checksums(descriptor: int, chunks: NDArray[Any]) -> None:
    """Fill in the checksums of chunks, which are their last bytes in the file."""
    for chunk in chunks:
        place = int(chunk["offset"]) + int(chunk["size"]) - CHECKSUM_BYTES
        chunk["checksum"] = int.from_bytes(os.pread(descriptor, CHECKSUM_BYTES, place), "little")


def combine_checksums(chunks: NDArray[Any], count: int) -> NDArray[np.uint32]:
    """Return the checksum of each map: that of its only chunk, or the CRC-32 of several.

    Args:
        chunks: in the order of their places
        count: the number of maps; one without a chunk has the checksum 0
    """
    checksums = np.zeros(count, np.uint32)
    items, counts = np.unique(chunks["start"][:, 0], return_counts=True)
    ends = np.cumsum(counts)
    for item, num_chunks, end in zip(items, counts, ends, strict=True):
        own = chunks["checksum"][end - num_chunks : end]
        checksums[item] = own[0] if num_chunks == 1 else zlib.crc32(own.tobytes())
    return checksums

"""The seal at the end of a shard: it tells a file whose structure is as it was written.

    gaps │ places of trailer and seal, CRC-32 of frames, of all gaps and of the seal, "mrxSEAL2"

A gap is a part of HDF5's bytes that no chunk of maps covers. HDF5 may crash, or go on for ever, in
a structure of which one bit is wrong; so no shard is opened by the library unless its gaps are
whole. Chunks have checksums of their own, which the library tests.
"""

import functools
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mrx.errors import FormatError

_MAGIC = b"mrxSEAL2"
_FOOTER = struct.Struct("<QQIII8s")
_GAP_DTYPE = np.dtype("<u8")
_READ_BYTES = 2**20


@dataclass(frozen=True)
class ShardSeal:
    """The seal of a shard.

    Attributes:
        trailer_start: the place of the trailer's frames, and the length of the file without it
        seal_start: the place of the seal behind them
        frames_checksum: CRC-32 of the frames
        gap_checksum: CRC-32 of the bytes in all gaps
        gaps: (G, 2) the places where gaps begin and end, in order
    """

    trailer_start: int
    seal_start: int
    frames_checksum: int
    gap_checksum: int
    gaps: NDArray[Any]


def append_seal(file: BinaryIO, frames: bytes, chunks: Iterable[tuple[int, int]]) -> None:
    """Append the frames of a trailer and a seal to a file that holds HDF5's bytes only.

    Args:
        file: open for reading and writing
        frames: the frames of the trailer
        chunks: offset and size of each chunk
    """
    length = file.seek(0, os.SEEK_END)
    gaps = find_gaps(chunks, length)
    gap_bytes = gaps.tobytes()
    numbers = (
        length,
        length + len(frames),
        zlib.crc32(frames),
        _checksum_gaps(file.fileno(), gaps),
    )
    checksum = zlib.crc32(gap_bytes + struct.pack("<QQII", *numbers))
    file.write(frames + gap_bytes + _FOOTER.pack(*numbers, checksum, _MAGIC))


def find_gaps(chunks: Iterable[tuple[int, int]], length: int) -> NDArray[Any]:
    """Find the parts of a file that no chunk covers.

    >>> find_gaps([(10, 5)], 20).tolist()
    [[0, 10], [15, 20]]
    """
    places = np.array(sorted(chunks), _GAP_DTYPE).reshape(-1, 2)
    starts = np.concatenate([[0], np.maximum.accumulate(places.sum(1))]).astype(_GAP_DTYPE)
    gaps = np.stack([starts, np.append(places[:, 0], length).astype(_GAP_DTYPE)], 1)
    return gaps[gaps[:, 0] < gaps[:, 1]]


def read_seal(path: Path) -> ShardSeal:
    """Read the seal of a shard.

    Raises:
        FormatError: there is none, or it is damaged
    """
    try:
        return _parse_seal(path)
    except OSError as error:
        raise FormatError(f"broken shard ({path}): {error.strerror}") from error


def _parse_seal(path: Path) -> ShardSeal:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < _FOOTER.size:
            raise FormatError(f"broken shard ({path}): it is too short")
        file.seek(size - _FOOTER.size)
        *numbers, checksum, magic = _FOOTER.unpack(file.read())
        trailer_start, seal_start, frames_checksum, gap_checksum = numbers
        if magic != _MAGIC or not trailer_start <= seal_start <= size - _FOOTER.size:
            raise FormatError(f"broken shard ({path}): its end is cut off, damaged or changed")
        file.seek(seal_start)
        gap_bytes = file.read(size - _FOOTER.size - seal_start)
    if zlib.crc32(gap_bytes + struct.pack("<QQII", *numbers)) != checksum:
        raise FormatError(f"broken shard ({path}): its end is damaged")
    gaps = np.frombuffer(gap_bytes, _GAP_DTYPE).reshape(-1, 2)
    return ShardSeal(trailer_start, seal_start, frames_checksum, gap_checksum, gaps)


def has_seal_mark(path: Path) -> bool:
    """Return True if a file ends as only a shard does, be the rest damaged or not."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - len(_MAGIC)))
        return file.read() == _MAGIC


def are_gaps_whole(path: Path, seal: ShardSeal) -> bool:
    """Return True if all bytes of HDF5 outside of the chunks are as they were sealed."""
    with path.open("rb") as file:
        return _checksum_gaps(file.fileno(), seal.gaps) == seal.gap_checksum


def is_structure_damaged(path: Path) -> bool:
    """Return True for a shard whose seal is whole and tells that HDF5 must not read the file.

    A file without a seal is of format 1, or was changed through HDF5, whose structure is whole.
    The result is kept for as long as the file does not change.
    """
    facts = path.stat()
    return _compare_gaps(path, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _compare_gaps(path: Path, *facts: int) -> bool:
    try:
        seal = read_seal(path)
    except FormatError:
        return False
    return not are_gaps_whole(path, seal)


def _checksum_gaps(descriptor: int, gaps: NDArray[Any]) -> int:
    checksum = 0
    for start, end in gaps.tolist():
        for place in range(start, end, _READ_BYTES):
            data = os.pread(descriptor, min(_READ_BYTES, end - place), place)
            checksum = zlib.crc32(data, checksum)
    return checksum

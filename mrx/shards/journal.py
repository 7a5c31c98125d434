"""The journal of a shard that is being written: what is committed, outside of HDF5's metadata.

An HDF5 file that is appended to is not crash-consistent: after a kill it may not open, or it opens
and lacks a video that was flushed. The journal beside it is a row of frames, each written with one
call after the data that it describes:

    "mrxJ", kind, length of the payload, CRC-32 of kind, length and payload, payload

A torn frame at its end is left out, and so is a damaged one before. The first frame is the
shard's header, and each
other one a `VideoRecord`, deflated, whose chunks are read from the HDF5 file at known offsets.
"""

import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mrx.shards.video_record import VideoRecord

MAGIC = b"mrxJ"
FrameKind = Literal["H", "V"]  # header, video
_HEAD = struct.Struct("<4scQI")


@dataclass(frozen=True)
class JournalContents:
    """A journal as far as it is whole.

    Attributes:
        header: the attributes of the shard, or nothing if not even the header is whole
        records: the committed videos; of one key the last counts
        is_damaged: bytes before the end are no frame, so records may be missing
    """

    header: Mapping[str, Any]
    records: list[VideoRecord]
    is_damaged: bool = False


class Journal:
    """The journal of a temporary file, open for appending."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        self._descriptor = os.open(path, flags, 0o666)
        try:
            self._append(pack_frame("H", json.dumps(dict(header)).encode()))
        except OSError:
            self.close()
            raise

    def append_record(self, record: VideoRecord) -> None:
        """Append a committed video, whose data must be in the file already."""
        self._append(pack_frame("V", record.to_bytes()))

    def touch(self) -> None:
        """Show other machines that the writer lives."""
        os.utime(self._descriptor)

    def close(self) -> None:
        """Close the journal and keep its file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Close the journal and delete its file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _append(self, frame: bytes) -> None:
        # A full disk takes a part of a frame and raises at the rest. The torn frame ends the
        # journal, so nothing may follow it: the writer abandons the shard at this error.
        view = memoryview(frame)
        while view:
            view = view[os.write(self._descriptor, view) :]


def pack_frame(kind: FrameKind, payload: bytes) -> bytes:
    """Make a frame of a deflated payload."""
    # Level 1: a record is mostly attributes in JSON, and costs 0.1 ms.
    packed = zlib.compress(payload, 1)
    return _HEAD.pack(MAGIC, kind.encode(), len(packed), _checksum(kind.encode(), packed)) + packed


def read_journal(path: Path) -> JournalContents:
    """Read the whole frames of a journal; a missing file is an empty one.

    Raises:
        OSError: the file cannot be read
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    return parse_frames(data)


def parse_frames(data: bytes) -> JournalContents:
    """Return the header and the records in frames, and whether there is damage between them."""
    header: Mapping[str, Any] = {}
    records: dict[str, VideoRecord] = {}
    is_damaged = False
    start = 0
    while start < len(data):
        frame = _read_frame(data, start)
        if frame is None:
            # Behind damage there may be whole frames. A torn one is the last, and shorter than its
            # head says: a kill in the middle of a write leaves it.
            following = _find_frame(data, start + 1)
            is_last = following == len(data)
            is_damaged = is_damaged or not (is_last and _is_torn(data, start))
            start = following
            continue
        kind, payload, start = frame
        if kind == "H":
            header = json.loads(payload)
        else:
            record = VideoRecord.from_bytes(payload)
            records[record.key] = record
    return JournalContents(header, list(records.values()), is_damaged)


def _read_frame(data: bytes, start: int) -> tuple[str, bytes, int] | None:
    """Return the kind, the payload and the end of a frame, or None if it is not whole."""
    if start + _HEAD.size > len(data):
        return None
    magic, kind, length, checksum = _HEAD.unpack_from(data, start)
    end = start + _HEAD.size + length
    packed = data[start + _HEAD.size : end]
    if magic != MAGIC or len(packed) != length or _checksum(kind, packed) != checksum:
        return None
    return kind.decode(), zlib.decompress(packed), end


def _is_torn(data: bytes, start: int) -> bool:
    """Return True if the bytes from `start` on are the beginning of a frame."""
    rest = data[start:]
    if len(rest) < _HEAD.size:
        return MAGIC.startswith(rest[: len(MAGIC)])
    magic, _, length, _ = _HEAD.unpack_from(rest)
    return bool(magic == MAGIC and len(rest) < _HEAD.size + length)


def _find_frame(data: bytes, start: int) -> int:
    """Return the place of the next whole frame, or the end."""
    place = data.find(MAGIC, start)
    while place >= 0 and _read_frame(data, place) is None:
        place = data.find(MAGIC, place + 1)
    return place if place >= 0 else len(data)


def _checksum(kind: bytes, packed: bytes) -> int:
    return zlib.crc32(packed, zlib.crc32(kind + len(packed).to_bytes(8, "little")))

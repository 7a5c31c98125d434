"""The layout of a shard, format 2: its objects, its index and the names of files.

/                        mrx_format, mrx_version, run, created, complete, digest, settings_json, ...
/index                   one row for each video and method, for a fast listing
/videos/<key>            attributes of the source, digest; '/' in a key is written %2F
/videos/<key>/<method>         (N, C, H, W), one chunk for each item or channel, checksummed
/videos/<key>/<method>.items   (N,) first and last source frame, their times, the maps' checksums
/videos/<key>/<name>.attribute a list that is too long for an attribute

Behind the bytes of HDF5 lies a trailer: see `mrx.shards.trailer`. Format 1 had no digests, no
checksums of items and no trailer; it is read, but no run goes on in it.
"""

import fcntl
import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mrx.errors import FormatError, OutputError, UnknownFormatError
from mrx.shards.seal import is_structure_damaged

FORMAT_VERSION = 2
# h5py raises any of these when it reads a damaged object.
READ_ERRORS = (KeyError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
# Of numbers -1 is unknown, of the fingerprint an empty text.
STAMP_NAMES = ("source_size", "source_mtime", "range_start", "range_end", "source_fingerprint")
ITEMS_SUFFIX = ".items"
ATTRIBUTE_SUFFIX = ".attribute"
JOURNAL_SUFFIX = ".journal"
BROKEN_PREFIX = "broken-"
PARTIAL_GROUP = "_partial"
SHARD_NAME = re.compile(r"shard-(?:(?P<share>\d+of\d+)-)?(?P<number>\d{5,})\.h5")
TEMPORARY_NAME = re.compile(
    r"\.tmp-(?P<share>\d+of\d+|all)-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]+\.h5"
)

ITEM_DTYPE = np.dtype(
    [("first", "i4"), ("last", "i4"), ("start", "f8"), ("end", "f8"), ("checksum", "u4")]
)
INDEX_DTYPE = np.dtype(
    [
        ("key", h5py.string_dtype()),
        ("method", h5py.string_dtype()),
        ("n_out", "i4"),
        ("channels", "i4"),
        ("height", "i4"),
        ("width", "i4"),
        ("fps", "f8"),
        ("duration", "f8"),
        ("label", "i8"),
        ("source_size", "i8"),
        ("source_mtime", "f8"),
        ("range_start", "f8"),
        ("range_end", "f8"),
        ("source_fingerprint", "S16"),
        ("source", h5py.string_dtype()),
        ("digest", "S64"),
    ]
)
TEXT_COLUMNS = [n for n in INDEX_DTYPE.names or () if INDEX_DTYPE[n].kind in "OS"]


@dataclass(frozen=True)
class ShardIndex:
    """The index of a shard.

    Attributes:
        run: the number of the run that wrote the shard; of two shards the higher one counts
        created: the time of writing, which orders shards of format 1 only
        writer: the process that wrote it, ``host:pid``
        version: the format
        rows: a row for each video and method, with the fields of `INDEX_DTYPE`
    """

    path: Path
    run: int
    created: str
    writer: str
    version: int
    rows: np.ndarray[Any, Any]

    @property
    def age(self) -> tuple[int, str, str]:
        """Sorting key: of shards that hold the same video, the last one counts."""
        return self.run, self.created if self.version == 1 else "", self.path.name


def read_host_name() -> str:
    """Return this machine's name in characters that are safe in a file name."""
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())


def list_shards(folder: Path) -> list[Path]:
    """List the finished shards of a folder by name; links are not followed."""
    with os.scandir(folder) as entries:
        named = [entry for entry in entries if SHARD_NAME.fullmatch(entry.name)]
    shards = []
    for entry in named:
        with suppress(FileNotFoundError):  # it was set aside meanwhile
            # An empty file only claims its number: see `mrx.shards.files.publish_shard`.
            if entry.is_file(follow_symlinks=False) and entry.stat().st_size:
                shards.append(folder / entry.name)
    return sorted(shards)


def list_temporaries(folder: Path) -> list[Path]:
    """List the shards of a folder that are being written or were never finished.

    Of some only the journal exists: it is made before the file, and removed after it.
    """
    names = {p.name.removesuffix(JOURNAL_SUFFIX).removesuffix(".h5") for p in folder.iterdir()}
    paths = (folder / f"{name}.h5" for name in names)
    return sorted(path for path in paths if TEMPORARY_NAME.fullmatch(path.name))


def is_being_written(path: Path) -> bool:
    """Tell whether a process of this machine has an HDF5 file open for writing."""
    try:
        with path.open("rb") as file:
            # HDF5 holds an exclusive lock for as long as it may write.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def open_shard(path: Path, mode: str = "r", *, checked: bool = True) -> h5py.File:
    """Open a shard.

    Args:
        path: the shard
        mode: of `h5py.File`
        checked: refuse a file whose seal tells that the library may crash in it

    Raises:
        OutputError: it is missing, unreadable, or open in another process
        FormatError: it is damaged, of a newer format, or no shard of mrx
    """
    try:
        if checked and is_being_written(path):
            raise OutputError(f"shard is open in another process ({path}): wait for it to finish")
        if checked and is_structure_damaged(path):
            raise make_damage_error(path)
        file = h5py.File(path, mode)
    except BlockingIOError as error:
        raise OutputError(
            f"shard is open in another process ({path}): wait for it to finish. If the file "
            "system cannot lock files, set HDF5_USE_FILE_LOCKING=BEST_EFFORT"
        ) from error
    except FileNotFoundError as error:
        raise OutputError(f"no such shard ({path})") from error
    except PermissionError as error:
        raise OutputError(f"shard is not readable ({path}): permission denied") from error
    except OSError as error:
        raise make_damage_error(path, error) from error
    try:
        version = file.attrs.get("mrx_format")
        is_newer = version is not None and int(version) > FORMAT_VERSION
    except READ_ERRORS as error:
        file.close()
        raise make_damage_error(path, error) from error
    if version is None or is_newer:
        file.close()
        cause = "not a shard of mrx" if version is None else f"format {version}"
        text = f"cannot read ({path}): {cause}, this mrx reads format {FORMAT_VERSION}"
        raise UnknownFormatError(text)
    return file


def make_damage_error(path: Path, error: Exception | None = None) -> FormatError:
    """Make the error for a damaged shard; without an error its structure is damaged."""
    cause = "its index or an attribute is damaged" if error else "its structure is damaged"
    if isinstance(error, OSError):
        # "Unable to open file (truncated file: eof = 5, ...)": HDF5 puts the cause in brackets.
        text = " ".join(str(error).split())
        cause = "truncated" if "truncated" in text else text.rsplit("(", 1)[-1].rstrip(")")
    return FormatError(
        f"broken shard ({path}): {cause}. mrx verify --repair {path.parent} sets it aside, "
        "mrx extract then makes its videos again"
    )


def read_index(path: Path) -> ShardIndex:
    """Read the index of a shard.

    Raises:
        OutputError: see `open_shard`
        FormatError: the index or an attribute of the file is damaged
    """
    with open_shard(path) as file:
        try:
            stored = file["index"][...]
            rows = np.zeros(len(stored), INDEX_DTYPE)
            rows["source"] = b""
            for name in stored.dtype.names:
                rows[name] = stored[name]
            # The library keeps texts outside of the chunk that has a checksum.
            for name in TEXT_COLUMNS:
                for value in rows[name]:
                    value.decode()
            run = int(file.attrs.get("run", 0))
            created, writer = str(file.attrs["created"]), str(file.attrs["writer"])
            return ShardIndex(path, run, created, writer, int(file.attrs["mrx_format"]), rows)
        except READ_ERRORS as error:
            raise make_damage_error(path, error) from error


def read_row_stamp(row: Any) -> tuple[float | str, ...]:
    """Return the stamp of the source that a row of an index describes."""
    return *(float(row[name]) for name in STAMP_NAMES[:-1]), row[STAMP_NAMES[-1]].decode()


def is_map_name(name: str) -> bool:
    """Tell the maps of a method from the other datasets in the group of a video."""
    return not name.endswith((ITEMS_SUFFIX, ATTRIBUTE_SUFFIX))


def journal_path(path: Path) -> Path:
    """Return the path of the journal of a temporary file."""
    return path.with_name(path.name.removesuffix(".h5") + JOURNAL_SUFFIX)


def group_name(key: str) -> str:
    """Return the name of a key's HDF5 group, which has no slash."""
    # Keys escape "%", so distinct keys give distinct names: "a/b" -> "a%2Fb".
    return key.replace("/", "%2F")


def split_shard_path(text: str) -> tuple[str, str]:
    """Split ``PATH::KEY`` into path and key; the key is empty if there is none.

    An existing path and a URL have no key, whatever their name: ``http://[::1]/a.mp4`` is a path.
    """
    path, _, key = text.partition("::")
    if "://" in text or Path(text).exists():
        return text, ""
    return path, key

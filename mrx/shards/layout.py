"""The layout of a shard, format 1: names, the index, and how files of a folder are called.

/                        mrx_format, mrx_version, created, complete, settings_json, ...
/index                   one row for each video and method, for a fast listing
/videos/<key>            attributes of the source; '/' in a key is written %2F
/videos/<key>/<method>         (N, C, H, W), one chunk for each item, checksummed
/videos/<key>/<method>.items   (N,) first and last source frame and their times
"""

import re
import socket
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mrx.errors import FormatError, OutputError

FORMAT_VERSION = 1
READ_ERRORS = (KeyError, OSError, RuntimeError, TypeError, ValueError)  # what h5py raises at damage
STAMP_NAMES = ("source_size", "source_mtime", "range_start", "range_end")  # -1 for what is unknown
ITEMS_SUFFIX = ".items"
PARTIAL_GROUP = "_partial"
SHARD_NAME = re.compile(r"shard-(?:(?P<share>\d+of\d+)-)?(?P<number>\d{5,})\.h5")
TEMPORARY_NAME = re.compile(
    r"\.tmp-(?P<share>\d+of\d+|all)-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]+\.h5"
)

ITEM_DTYPE = np.dtype([("first", "i4"), ("last", "i4"), ("start", "f8"), ("end", "f8")])
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
    ]
)


def read_host_name() -> str:
    """This machine's name, as it may stand in a file name."""
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())


def list_shards(folder: Path) -> list[Path]:
    """The finished shards of a folder, by name; an empty file only claims its number."""
    named = (p for p in folder.iterdir() if SHARD_NAME.fullmatch(p.name))
    return sorted(p for p in named if p.stat().st_size)


def list_temporaries(folder: Path) -> list[Path]:
    """Shards of a folder that were never finished, or are being written."""
    return sorted(p for p in folder.iterdir() if TEMPORARY_NAME.fullmatch(p.name))


def open_shard(path: Path, mode: str = "r") -> h5py.File:
    """Open a shard, and say in one line why it cannot be."""
    try:
        file = h5py.File(path, mode)
    except BlockingIOError as error:
        raise OutputError(
            f"shard is open in another process ({path}): wait for it to finish; where the file "
            "system cannot lock, set HDF5_USE_FILE_LOCKING=BEST_EFFORT"
        ) from error
    except FileNotFoundError as error:
        raise OutputError(f"no such shard ({path})") from error
    except PermissionError as error:
        raise OutputError(f"shard is not readable ({path}): permission denied") from error
    except OSError as error:
        raise make_damage_error(path, error) from error
    version = file.attrs.get("mrx_format")
    if version is None or version > FORMAT_VERSION:
        file.close()
        what = "not a shard of mrx" if version is None else f"format {version}"
        raise FormatError(f"cannot read ({path}): {what}, this mrx reads format {FORMAT_VERSION}")
    return file


def make_damage_error(path: Path, error: Exception) -> FormatError:
    """The error for a shard that is damaged."""
    cause = "its index or an attribute is damaged"
    if isinstance(error, OSError):  # HDF5 puts the cause last, in brackets
        text = " ".join(str(error).split())
        cause = "truncated" if "truncated" in text else text.rsplit("(", 1)[-1].rstrip(")")
    return FormatError(
        f"broken shard ({path}): {cause}. mrx verify --repair {path.parent} sets it aside, "
        "mrx extract then makes its videos again"
    )


def read_index(path: Path) -> tuple[str, np.ndarray[Any, Any]]:
    """When a shard was made, and its index."""
    with open_shard(path) as file:
        try:
            return str(file.attrs["created"]), file["index"][...].astype(INDEX_DTYPE)
        except READ_ERRORS as error:
            raise make_damage_error(path, error) from error


def group_name(key: str) -> str:
    """The one-part name of a key's HDF5 group; ``%`` never stands raw in a key, so no two meet."""
    return key.replace("/", "%2F")

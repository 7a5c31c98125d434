"""The layout of a shard, format 1: its objects, its index and the names of files.

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
# h5py raises any of these when it reads a damaged object.
READ_ERRORS = (KeyError, OSError, RuntimeError, TypeError, ValueError)
STAMP_NAMES = ("source_size", "source_mtime", "range_start", "range_end")  # -1 if unknown
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
    """Return this machine's name in characters that are safe in a file name."""
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())


def list_shards(folder: Path) -> list[Path]:
    """List the finished shards of a folder by name."""
    # An empty file only claims its number: see `mrx.shards.writer`.
    named = (p for p in folder.iterdir() if SHARD_NAME.fullmatch(p.name))
    return sorted(p for p in named if p.stat().st_size)


def list_temporaries(folder: Path) -> list[Path]:
    """List the shards of a folder that are being written or were never finished."""
    return sorted(p for p in folder.iterdir() if TEMPORARY_NAME.fullmatch(p.name))


def open_shard(path: Path, mode: str = "r") -> h5py.File:
    """Open a shard.

    Raises:
        OutputError: it is missing, unreadable, or open in another process
        FormatError: it is damaged, of a newer format, or no shard of mrx
    """
    try:
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
    version = file.attrs.get("mrx_format")
    if version is None or version > FORMAT_VERSION:
        file.close()
        cause = "not a shard of mrx" if version is None else f"format {version}"
        raise FormatError(f"cannot read ({path}): {cause}, this mrx reads format {FORMAT_VERSION}")
    return file


def make_damage_error(path: Path, error: Exception) -> FormatError:
    """Make the error for a damaged shard."""
    cause = "its index or an attribute is damaged"
    if isinstance(error, OSError):
        # "Unable to open file (truncated file: eof = 5, ...)": HDF5 puts the cause in brackets.
        text = " ".join(str(error).split())
        cause = "truncated" if "truncated" in text else text.rsplit("(", 1)[-1].rstrip(")")
    return FormatError(
        f"broken shard ({path}): {cause}. mrx verify --repair {path.parent} sets it aside, "
        "mrx extract then makes its videos again"
    )


def read_index(path: Path) -> tuple[str, np.ndarray[Any, Any]]:
    """Read the time at which a shard was created, and its index."""
    with open_shard(path) as file:
        try:
            return str(file.attrs["created"]), file["index"][...].astype(INDEX_DTYPE)
        except READ_ERRORS as error:
            raise make_damage_error(path, error) from error


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

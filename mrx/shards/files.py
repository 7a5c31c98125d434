"""Files of an output folder: opened, given up, synced and named; errors say what to do."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py

from mrx.errors import OutputError
from mrx.shards.layout import BROKEN_PREFIX, SHARD_NAME, journal_path, list_shards, read_host_name

# A full disk, a file-size limit, and a full quota.
DISK_FULL_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
# A writer on another machine cannot be looked for, and not every file system shares its locks with
# all machines. A writer touches its journal after each video, so a file that did not change for
# this long is taken to have lost its writer.
FOREIGN_SECONDS = 3600.0
# The file system has no hard links, or refuses them.
NO_LINK_ERRORS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn errors of writing into an `OutputError` that says what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # h5py raises RuntimeError when a flush fails
        text = " ".join(str(error).split())
        # Some errors of HDF5 have the errno in their text only.
        full = getattr(error, "errno", 0) in DISK_FULL_ERRORS or any(
            f"errno = {n}," in text for n in DISK_FULL_ERRORS
        )
        cause = "no space left, or a file-size limit" if full else text
        raise OutputError(
            f"cannot write ({path.parent}): {cause}. Finished videos are kept: make room and run "
            "the same command again"
        ) from error


def open_new_file(path: Path) -> h5py.File:
    """Create an HDF5 file; an existing one is not touched."""
    return h5py.File(path, "x")


def abandon_file(file: h5py.File) -> None:
    """Close a file that could not be written to, and leave its bytes on disk unchanged."""
    if file:
        # HDF5 writes on closing, which would fail again: its descriptor is pointed to /dev/null
        # first.
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, file.id.get_vfd_handle())
        os.close(nowhere)
        with suppress(OSError, RuntimeError):  # /dev/null cannot be truncated to a length
            file.close()


def may_have_foreign_writer(path: Path, host: str) -> bool:
    """Return True for an unfinished file that a process of another machine may still write."""
    if host == read_host_name():
        return False
    clock = path.with_name(".lock")
    # The clock of the file system, since those of machines differ.
    clock.touch()
    files = (path, journal_path(path), path.with_suffix(".h5"))
    times = [p.stat().st_mtime for p in files if p.exists()]
    return clock.stat().st_mtime - max(times, default=0.0) < FOREIGN_SECONDS


def set_aside(path: Path) -> Path:
    """Rename a damaged file, and its journal, to the first free ``broken-*``."""
    name = f"{BROKEN_PREFIX}{path.name.lstrip('.')}"
    target = path.with_name(name)
    number = 1
    while target.exists():
        target = path.with_name(f"{name.removesuffix('.h5')}-{number}.h5")
        number += 1
    # The journal first: a kill in between leaves a temporary without a journal, which is set aside
    # by the next run.
    with suppress(FileNotFoundError):
        journal_path(path).rename(journal_path(target))
    path.rename(target)
    return target


def publish_shard(path: Path, share: str) -> Path:
    """Give a finished file the next free number of its share, and return its final path."""
    prefix = f"shard-{share}-" if share else "shard-"
    matches = (SHARD_NAME.fullmatch(p.name) for p in list_shards(path.parent))
    taken = [int(m["number"]) for m in matches if m and (m["share"] or "") == share]
    number = max(taken, default=-1) + 1
    while True:
        final = path.parent / f"{prefix}{number:05}.h5"
        try:
            # Workers seal at once and may choose the same number. A hard link fails if the name
            # exists; a rename would replace the other worker's shard.
            final.hardlink_to(path)
        except FileExistsError:
            number += 1
        except OSError as error:
            if error.errno not in NO_LINK_ERRORS:
                raise
            # Without hard links an empty file claims the name, which fails if it exists too. The
            # rename then replaces that file. Empty files are no shards for readers.
            try:
                os.close(os.open(final, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                number += 1
                continue
            path.replace(final)
            return final
        else:
            # A kill before this line leaves a file with two names: see `salvage_leftover`.
            path.unlink()
            return final


def sync_to_disk(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

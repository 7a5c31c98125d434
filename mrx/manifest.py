"""The manifest beside the shards, with a JSON line for each input, and the lock of the folder.

The manifest is plain text, so that the parent process needs no h5py. Videos count as done by the
shards alone; the manifest records failures and skips with their reasons.
"""

import errno
import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mrx.errors import OutputError
from mrx.job import ManifestRow
from mrx.settings import hash_settings

HEADER_KEY = "mrx_format"
HEADER_BEGIN = f'{{"{HEADER_KEY}": '.encode()
LOCK_NAME = re.compile(r"\.lock-(?P<index>\d*)of(?P<count>\d+)")
GATE_SECONDS = 60.0  # the gate is held for milliseconds, but a thousand jobs may start at once
SALVAGE_SECONDS = 3600.0  # a salvage copies all videos of a leftover
POLL_LOCK_SECONDS = 0.02
MANIFEST_NAME = re.compile(r"manifest(-\d+of\d+)?\.jsonl")


def build_manifest_path(folder: Path, share: str) -> Path:
    """Return the path of the manifest of a share."""
    return folder / (f"manifest-{share}.jsonl" if share else "manifest.jsonl")


def list_manifests(folder: Path) -> list[Path]:
    """List the manifests in a folder, without the files of others that are named like one."""
    named = (p for p in folder.glob("manifest*.jsonl") if MANIFEST_NAME.fullmatch(p.name))
    return sorted(path for path in named if is_own_manifest(path))


def is_own_manifest(path: Path) -> bool:
    """Return True for a file that mrx wrote; a link is not followed and is none.

    Raises:
        OutputError: the file cannot be read
    """
    try:
        with os.fdopen(_open_regular_file(path, os.O_RDONLY), "rb") as file:
            return _begins_like_manifest(file.readline(len(HEADER_BEGIN)))
    except (FileNotFoundError, _ForeignFileError):
        return False
    except OSError as error:
        raise OutputError(f"cannot read ({path}): {error.strerror}") from error


def check_manifest(folder: Path, share: str) -> None:
    """Refuse a file of somebody else that has the name of this share's manifest.

    Raises:
        OutputError: there is one, or it cannot be read
    """
    path = build_manifest_path(folder, share)
    if os.path.lexists(path) and not is_own_manifest(path):
        raise _ForeignFileError(path)


def read_rows(path: Path) -> tuple[dict[str, Any], dict[str, ManifestRow]]:
    """Read the settings in a manifest's header, and the last row of each key."""
    settings: dict[str, Any] = {}
    rows: dict[str, ManifestRow] = {}
    with os.fdopen(_open_regular_file(path, os.O_RDONLY), "rb") as lines:
        for line in lines:
            try:
                text = line.decode(errors="replace")
                record = json.loads(text)
                if HEADER_KEY in record:
                    settings = record["settings"]
                else:
                    row = ManifestRow.from_json(text)
                    rows[row.key] = row
            except (KeyError, TypeError, ValueError):
                # A killed run left the line unfinished. Without a row, the video is done again.
                continue
    return settings, rows


def merge_rows(tables: Iterable[Mapping[str, ManifestRow]]) -> dict[str, ManifestRow]:
    """Merge the rows of several manifests: of two rows of a key, that of the later run counts."""
    merged: dict[str, ManifestRow] = {}
    for rows in tables:
        for key, row in rows.items():
            # Runs are numbered. Clocks may be set back, and differ between machines.
            if key not in merged or row.run >= merged[key].run:
                merged[key] = row
    return merged


class Manifest:
    """An open manifest, to which rows are appended as inputs end.

    Raises:
        OutputError: it cannot be written, or the file is not a manifest of mrx
    """

    def __init__(self, folder: Path, share: str, settings: Mapping[str, Any]) -> None:
        path = build_manifest_path(folder, share)
        try:
            self._descriptor = _open_regular_file(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        except OSError as error:
            raise OutputError(f"cannot write ({path}): {error.strerror}") from error
        try:
            self._begin_file(path, settings)
        except OutputError:
            self.close()
            raise

    def append_row(self, row: ManifestRow) -> None:
        """Append a row."""
        self._write_line(row.to_json())

    def close(self) -> None:
        """Close the file. All rows have been written by then."""
        os.close(self._descriptor)

    def _begin_file(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Write the header unless the file has one, and end a line that was left unfinished."""
        with os.fdopen(self._descriptor, "rb", closefd=False) as file:
            first_line = file.readline()
            file.seek(0)
            # A killed run may have left the header unfinished; the next one wrote it below.
            has_header = any(_is_whole_line(line) for line in file)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            last_byte = file.read(1)
        if not _begins_like_manifest(first_line):
            raise _ForeignFileError(path)
        if last_byte not in (b"", b"\n"):
            # A killed run left its last line unfinished. End it, or the next row would become part
            # of it.
            self._write_line("")
        if not has_header:
            header = {HEADER_KEY: 1, "settings_hash": hash_settings(settings), "settings": settings}
            self._write_line(json.dumps(header))

    def _write_line(self, line: str) -> None:
        # Unbuffered: a row is in the file as soon as its video has ended.
        left = line.encode() + b"\n"
        try:
            # A disk that is nearly full may take a part of the line; the next write then fails.
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:
            raise OutputError(f"cannot write the manifest: {error.strerror}") from error


class _ForeignFileError(OutputError):
    """A file that mrx did not write has a name that mrx uses."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"not a file of mrx ({path}): mrx does not follow links or write to files of other "
            "programs. Move it away, or use another -o"
        )


def _open_regular_file(path: Path, flags: int) -> int:
    """Open a regular file, and never what a symbolic link leads to.

    Raises:
        _ForeignFileError: the path is a link, a folder, a FIFO or the like
        OSError: it cannot be opened
    """
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for its other end.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        # What the system says of a link, of a folder that is to be written, and of a socket.
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _ForeignFileError(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _ForeignFileError(path)
    return descriptor


def _is_whole_line(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _begins_like_manifest(first_line: bytes) -> bool:
    """Return True for an empty file and for a header, which a killed run may have cut off."""
    text = first_line.removesuffix(b"\n")
    return not first_line or bool(
        text and (text.startswith(HEADER_BEGIN) or HEADER_BEGIN.startswith(text))
    )


@contextmanager
def lock_output(folder: Path, share: str) -> Iterator[None]:
    """Lock the output folder for this share; "" locks it for a run without shares.

    Raises:
        OutputError: another run holds the lock, or the folder cannot be written or locked
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write ({folder}): {error.strerror}") from error
    with ExitStack() as locks:
        # Runs of different shares may write concurrently: they hold the folder's lock together, and
        # each holds the lock of its share. A run without shares excludes all others. The kernel
        # drops the locks of a killed process.
        with _hold_gate(folder):
            _add_lock(locks, folder / ".lock", fcntl.LOCK_SH if share else fcntl.LOCK_EX)
            if share:
                _refuse_other_counts(folder, share)
                _add_lock(locks, folder / f".lock-of{_count_of(share)}", fcntl.LOCK_SH)
                _add_lock(locks, folder / f".lock-{share}", fcntl.LOCK_EX)
        yield


def is_share_free(folder: Path, share: str) -> bool:
    """Return True if no run of this machine holds the lock of a share.

    A run finds its own share held. Only a share of another count stays free for as long as the
    asking run lasts: a run of the same count may begin at any time.

    Args:
        folder: the output folder
        share: the share, as in ``3of8``; "" is a run without shares

    Raises:
        OutputError: the folder cannot be locked
    """
    path = folder / (f".lock-{share}" if share else ".lock")
    if not os.path.lexists(path):
        return True
    with _hold_gate(folder):
        return not _is_lock_held(path, fcntl.LOCK_SH)


def lock_salvage(folder: Path) -> AbstractContextManager[None]:
    """Lock the leftovers of killed runs in a folder, and wait while another run saves some.

    Several shares of one count may begin at once, and each would save the same leftover.

    Raises:
        OutputError: the lock cannot be taken, or the other run does not go on
    """
    return _hold_lock(folder / ".lock-salvage", SALVAGE_SECONDS)


def _hold_gate(folder: Path) -> AbstractContextManager[None]:
    """Hold the lock under which all others are taken and tested.

    A test takes the lock for a moment, so without this two runs could refuse each other. Or, if
    each tested first and locked then, both could pass.
    """
    return _hold_lock(folder / ".lock-gate", GATE_SECONDS)


@contextmanager
def _hold_lock(path: Path, seconds: float) -> Iterator[None]:
    """Hold a lock, and wait so many seconds for it."""
    deadline = time.monotonic() + seconds
    with _open_lock(path) as lock:
        while not _try_lock(lock, path, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise OutputError(
                    f"output cannot be locked ({path.parent}): another process holds {path} and "
                    "does not go on. End it, or use another -o"
                )
            time.sleep(POLL_LOCK_SECONDS)
        yield


def _refuse_other_counts(folder: Path, share: str) -> None:
    """Refuse a share if shares of another count are at work: their keys overlap."""
    matches = [match for path in folder.iterdir() if (match := LOCK_NAME.fullmatch(path.name))]
    for match in matches:
        count = match["count"]
        is_lock_of_count = not match["index"] and count != _count_of(share)
        if not is_lock_of_count or not _is_lock_held(folder / match[0], fcntl.LOCK_EX):
            continue
        held_shares = (
            f"{other['index']}/{count}"
            for other in matches
            if other["index"]
            and other["count"] == count
            and _is_lock_held(folder / other[0], fcntl.LOCK_SH)
        )
        # The other run may be ending just now, with the lock of its share dropped already.
        other_share = next(held_shares, f"i/{count}")
        raise OutputError(
            f"output is being written by another run ({folder}): it has --shard {other_share}, this"
            f" one --shard {share.replace('of', '/')}. Wait until it ends, give all runs the same "
            "N, or use another -o"
        )


def _count_of(share: str) -> str:
    return share.partition("of")[2]


def _add_lock(locks: ExitStack, path: Path, operation: int) -> None:
    """Take a lock until `locks` is closed.

    Raises:
        OutputError: another run holds the lock, or it cannot be taken
    """
    file = locks.enter_context(_open_lock(path))
    if not _try_lock(file, path, operation):
        raise OutputError(
            f"output is being written by another run ({path.parent}): wait until it ends, use "
            "another -o, or split the work with --shard"
        )


def _is_lock_held(path: Path, operation: int) -> bool:
    """Return True if a lock could not be taken now."""
    if not os.path.lexists(path):
        return False
    with _open_lock(path) as file:
        return not _try_lock(file, path, operation)


@contextmanager
def _open_lock(path: Path) -> Iterator[int]:
    """Open a lock's file; its lock is dropped when it is closed."""
    try:
        file = _open_regular_file(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise OutputError(f"cannot write ({path}): {error.strerror}") from error
    try:
        yield file
    finally:
        os.close(file)


def _try_lock(file: int, path: Path, operation: int) -> bool:
    """Lock an open file; return False if another process holds the lock."""
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise OutputError(
            f"output cannot be locked ({path.parent}): {error.strerror}. Use a folder on a file "
            "system that supports locks"
        ) from error
    return True

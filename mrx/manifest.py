"""The manifest beside the shards, with a JSON line for each input, and the lock of the folder.

The manifest is plain text, so that the parent process needs no h5py. Videos count as done by the
shards alone; the manifest records failures and skips with their reasons.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mrx.errors import OutputError
from mrx.job import ManifestRow, hash_settings

HEADER_KEY = "mrx_format"
MANIFEST_NAME = re.compile(r"manifest(-\d+of\d+)?\.jsonl")


def build_manifest_path(folder: Path, share: str) -> Path:
    """Return the path of the manifest of a share."""
    return folder / (f"manifest-{share}.jsonl" if share else "manifest.jsonl")


def list_manifests(folder: Path) -> list[Path]:
    """List the manifests in a folder."""
    return sorted(p for p in folder.glob("manifest*.jsonl") if MANIFEST_NAME.fullmatch(p.name))


def read_rows(path: Path) -> tuple[dict[str, Any], dict[str, ManifestRow]]:
    """Read the settings in a manifest's header, and the last row of each key."""
    settings: dict[str, Any] = {}
    rows: dict[str, ManifestRow] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                record = json.loads(line)
                if HEADER_KEY in record:
                    settings = record["settings"]
                else:
                    row = ManifestRow.from_json(line)
                    rows[row.key] = row
            except (KeyError, TypeError, ValueError):
                # A killed run left the line unfinished. Without a row, the video is done again.
                continue
    return settings, rows


class Manifest:
    """An open manifest, to which rows are appended as inputs end."""

    def __init__(self, folder: Path, share: str, settings: Mapping[str, Any]) -> None:
        path = build_manifest_path(folder, share)
        has_header = path.exists() and path.stat().st_size > 0
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            if has_header and os.pread(self._descriptor, 1, path.stat().st_size - 1) != b"\n":
                # A killed run left its last line unfinished. End it, or the next row would become
                # part of it.
                self._write_line("")
        except OSError as error:
            raise OutputError(f"cannot write ({path}): {error.strerror}") from error
        if not has_header:
            header = {HEADER_KEY: 1, "settings_hash": hash_settings(settings), "settings": settings}
            self._write_line(json.dumps(header))

    def append_row(self, row: ManifestRow) -> None:
        """Append a row."""
        self._write_line(row.to_json())

    def close(self) -> None:
        """Close the file. All rows have been written by then."""
        os.close(self._descriptor)

    def _write_line(self, line: str) -> None:
        # One unbuffered write per row: a row is in the file as soon as its video has ended.
        try:
            os.write(self._descriptor, line.encode() + b"\n")
        except OSError as error:
            raise OutputError(f"cannot write the manifest: {error.strerror}") from error


@contextmanager
def lock_output(folder: Path, share: str) -> Iterator[None]:
    """Lock the output folder for this share.

    Raises:
        OutputError: another run holds the lock, or the folder cannot be written or locked
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder_lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"cannot write ({folder}): {error.strerror}") from error
    lock_files = [folder_lock]
    try:
        # Runs of different shares may write concurrently: they hold the folder's lock together, and
        # each holds the lock of its share. A run without shares excludes all others. The kernel
        # drops the locks of a killed process.
        _lock_file(folder_lock, fcntl.LOCK_SH if share else fcntl.LOCK_EX, folder)
        if share:
            lock_files.append(os.open(folder / f".lock-{share}", os.O_RDWR | os.O_CREAT, 0o666))
            _lock_file(lock_files[-1], fcntl.LOCK_EX, folder)
        yield
    finally:
        for file in lock_files:
            os.close(file)


def _lock_file(file: int, operation: int, folder: Path) -> None:
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(
            f"output is being written by another run ({folder}): wait until it ends, use another "
            "-o, or split the work with --shard"
        ) from error
    except OSError as error:
        raise OutputError(
            f"output cannot be locked ({folder}): {error.strerror}. Use a folder on a file system "
            "that supports locks"
        ) from error

"""The text beside the shards: one JSON line for each input that ended, and the lock of a run.

Text only, so that the parent process needs no h5py. The shards tell what is done; the manifest
tells what failed or was skipped, and why.
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
from mrx.job import Row, settings_hash

HEADER = "mrx_format"
NAME = re.compile(r"manifest(-\d+of\d+)?\.jsonl")


def manifest_path(folder: Path, share: str) -> Path:
    """Where a run with this share writes its rows."""
    return folder / (f"manifest-{share}.jsonl" if share else "manifest.jsonl")


def manifests(folder: Path) -> list[Path]:
    """All manifests of a folder."""
    return sorted(p for p in folder.glob("manifest*.jsonl") if NAME.fullmatch(p.name))


def read_rows(path: Path) -> tuple[dict[str, Any], dict[str, Row]]:
    """The settings in a manifest's first line, and the last row of each key.

    A line that a killed run left unfinished is passed over: its video is done again.
    """
    settings: dict[str, Any] = {}
    rows: dict[str, Row] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                values = json.loads(line)
                if HEADER in values:
                    settings = values["settings"]
                else:
                    row = Row.from_json(line)
                    rows[row.key] = row
            except (KeyError, TypeError, ValueError):
                continue
    return settings, rows


class Manifest:
    """Rows are appended as inputs end, each with one write."""

    def __init__(self, folder: Path, share: str, settings: Mapping[str, Any]) -> None:
        path = manifest_path(folder, share)
        begun = path.exists() and path.stat().st_size > 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            if begun and os.pread(self._file, 1, path.stat().st_size - 1) != b"\n":
                self._write("")  # a killed run's torn line must not swallow the next one
        except OSError as error:
            raise OutputError(f"cannot write ({path}): {error.strerror}") from error
        if not begun:
            header = {HEADER: 1, "settings_hash": settings_hash(settings), "settings": settings}
            self._write(json.dumps(header))

    def append(self, row: Row) -> None:
        """Add a row."""
        self._write(row.to_json())

    def close(self) -> None:
        """Close the file; what was appended is there already."""
        os.close(self._file)

    def _write(self, line: str) -> None:
        try:
            os.write(self._file, line.encode() + b"\n")
        except OSError as error:
            raise OutputError(f"cannot write the manifest: {error.strerror}") from error


@contextmanager
def locked(folder: Path, share: str) -> Iterator[None]:
    """Hold the output folder for this share; refuse where another run holds it.

    Runs of different shares may write side by side; a run of all keys stands alone.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        whole = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"cannot write ({folder}): {error.strerror}") from error
    files = [whole]
    try:
        _lock(whole, fcntl.LOCK_SH if share else fcntl.LOCK_EX, folder)
        if share:
            files.append(os.open(folder / f".lock-{share}", os.O_RDWR | os.O_CREAT, 0o666))
            _lock(files[-1], fcntl.LOCK_EX, folder)
        yield
    finally:
        for file in files:
            os.close(file)


def _lock(file: int, kind: int, folder: Path) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(
            f"output is being written by another run ({folder}): wait for it to end, use another "
            "-o, or split the work with --shard"
        ) from error
    except OSError as error:
        raise OutputError(
            f"output cannot be locked ({folder}): {error.strerror}. Use a folder on a file system "
            "that has locks"
        ) from error

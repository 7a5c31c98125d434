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
from mrx.job import ManifestRow, hash_settings

HEADER_KEY = "mrx_format"
MANIFEST_NAME = re.compile(r"manifest(-\d+of\d+)?\.jsonl")


def build_manifest_path(folder: Path, share: str) -> Path:
    """Where a run with this share writes its rows."""
    return folder / (f"manifest-{share}.jsonl" if share else "manifest.jsonl")


def list_manifests(folder: Path) -> list[Path]:
    """All manifests of a folder."""
    return sorted(p for p in folder.glob("manifest*.jsonl") if MANIFEST_NAME.fullmatch(p.name))


def read_rows(path: Path) -> tuple[dict[str, Any], dict[str, ManifestRow]]:
    """The settings in a manifest's first line, and the last row of each key.

    A line that a killed run left unfinished is passed over: its video is done again.
    """
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
                continue
    return settings, rows


class Manifest:
    """Rows are appended as inputs end, each with one write."""

    def __init__(self, folder: Path, share: str, settings: Mapping[str, Any]) -> None:
        path = build_manifest_path(folder, share)
        has_header = path.exists() and path.stat().st_size > 0
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            if has_header and os.pread(self._descriptor, 1, path.stat().st_size - 1) != b"\n":
                self._write_line("")  # a killed run's torn line must not swallow the next one
        except OSError as error:
            raise OutputError(f"cannot write ({path}): {error.strerror}") from error
        if not has_header:
            header = {HEADER_KEY: 1, "settings_hash": hash_settings(settings), "settings": settings}
            self._write_line(json.dumps(header))

    def append_row(self, row: ManifestRow) -> None:
        """Add a row."""
        self._write_line(row.to_json())

    def close(self) -> None:
        """Close the file; what was appended is there already."""
        os.close(self._descriptor)

    def _write_line(self, line: str) -> None:
        try:
            os.write(self._descriptor, line.encode() + b"\n")
        except OSError as error:
            raise OutputError(f"cannot write the manifest: {error.strerror}") from error


@contextmanager
def lock_output(folder: Path, share: str) -> Iterator[None]:
    """Hold the output folder for this share; refuse where another run holds it.

    Runs of different shares may write side by side; a run of all keys stands alone.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder_lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"cannot write ({folder}): {error.strerror}") from error
    lock_files = [folder_lock]
    try:
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
            f"output is being written by another run ({folder}): wait for it to end, use another "
            "-o, or split the work with --shard"
        ) from error
    except OSError as error:
        raise OutputError(
            f"output cannot be locked ({folder}): {error.strerror}. Use a folder on a file system "
            "that has locks"
        ) from error

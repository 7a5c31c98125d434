"""Resuming in an output folder: its settings, its finished videos and leftovers of killed runs."""

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrx.errors import OutputError
from mrx.job import Job, hash_settings, make_mismatch_error
from mrx.manifest import list_manifests
from mrx.shards.layout import (
    READ_ERRORS,
    SHARD_NAME,
    TEMPORARY_NAME,
    list_shards,
    list_temporaries,
    make_damage_error,
    open_shard,
    read_host_name,
    read_index,
)
from mrx.shards.repair import KnownStamps, list_rescues, read_stamps, salvage_leftover

DYING_SECONDS = 10.0  # a worker whose parent was killed ends within this time
# A writer on another machine cannot be looked for, and not every file system shares its locks with
# all machines. A writer flushes after each video, so a file that did not change for this long has
# lost its writer.
FOREIGN_SECONDS = 3600.0


@dataclass(frozen=True)
class OutputState:
    """The contents of an output folder.

    Attributes:
        done: key → stamp of the source that was extracted
        salvaged: the number of videos rescued from files of killed runs
    """

    done: KnownStamps = field(default_factory=dict)
    salvaged: int = 0


def inspect_output(job: Job, settings: Mapping[str, Any]) -> OutputState:
    """Check an output folder, rescue leftovers of killed runs, and list the finished videos.

    With `overwrite` the folder is cleared instead. Nothing is changed if the settings differ.

    Raises:
        OutputError: the folder holds shards of other settings, or a damaged shard
    """
    folder = Path(job.output)
    if not folder.is_dir():
        return OutputState()
    if job.overwrite:
        if not job.dry_run:
            clear_output(folder)
        return OutputState()
    # All checks come before the first change to the folder.
    for path in list_shards(folder):
        read_index(path)  # raises if the shard is damaged
    for path in (*list_shards(folder), *_list_orphans(folder, job)):
        _check_shard_settings(path, settings)
    done = read_stamps(list_shards(folder))
    if job.dry_run:
        return OutputState(done)
    for path in list_rescues(folder, job.share_name):
        path.unlink()
    saved = [
        key
        for path in _list_orphans(folder, job)
        for key in _salvage_when_free(path, job.share_name, done)
    ]
    return OutputState(read_stamps(list_shards(folder)) if saved else done, len(saved))


def clear_output(folder: Path) -> None:
    """Remove the shards and manifests of an output folder, and nothing else."""
    ours = [
        p
        for p in folder.iterdir()
        if SHARD_NAME.fullmatch(p.name) or TEMPORARY_NAME.fullmatch(p.name)
    ]
    for path in (*ours, *list_manifests(folder)):
        path.unlink()


def salvage_dead_workers(job: Job, pids: Collection[int]) -> list[str]:
    """Rescue the shards of dead workers of this machine, and return the keys in them."""
    keys = []
    for path in list_temporaries(Path(job.output)):
        match = TEMPORARY_NAME.fullmatch(path.name)
        if match and match["host"] == read_host_name() and int(match["pid"]) in pids:
            keys += _salvage_when_free(path, job.share_name, {})
    return keys


def _list_orphans(folder: Path, job: Job) -> list[Path]:
    """List the temporaries of this share that have no living writer."""
    # The caller holds the lock of the share, so on this machine no writer of it lives.
    orphans = []
    for path in list_temporaries(folder):
        match = TEMPORARY_NAME.fullmatch(path.name)
        if not match or (job.share_name and match["share"] != job.share_name):
            continue
        if (
            match["host"] == read_host_name()
            or time.time() - path.stat().st_mtime > FOREIGN_SECONDS
        ):
            orphans.append(path)
    return orphans


def _salvage_when_free(path: Path, share: str, known: KnownStamps) -> list[str]:
    """Salvage a leftover, and wait for a dying worker to free it."""
    deadline = time.monotonic() + DYING_SECONDS
    while True:
        try:
            return salvage_leftover(path, share, known)
        except FileNotFoundError:  # its worker could still seal it
            return []
        except OutputError as error:
            is_busy = isinstance(error.__cause__, BlockingIOError)
            if not is_busy or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _check_shard_settings(path: Path, settings: Mapping[str, Any]) -> None:
    try:
        with open_shard(path) as file:
            stored_settings = json.loads(file.attrs["settings_json"])
    except READ_ERRORS as error:
        raise make_damage_error(path, error) from error
    except OutputError:
        # A temporary may be damaged, or still open in a dying worker; the salvage handles both.
        if TEMPORARY_NAME.fullmatch(path.name):
            return
        raise
    if hash_settings(stored_settings) != hash_settings(settings):
        raise make_mismatch_error(path.parent, stored_settings, settings)

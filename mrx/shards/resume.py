"""What an output folder holds already: may this run go on in it, and what is left to do."""

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

DYING_SECONDS = 10.0  # a worker whose parent was killed ends within this
FOREIGN_SECONDS = 3600.0  # a temporary of another machine is left alone for this long


@dataclass(frozen=True)
class OutputState:
    """What the folder holds.

    Attributes:
        done: key → stamp of the source that was extracted
        salvaged: videos found whole in files that a killed run left behind
    """

    done: KnownStamps = field(default_factory=dict)
    salvaged: int = 0


def inspect_output(job: Job, settings: Mapping[str, Any]) -> OutputState:
    """Check that this run may go on in the folder, save what was left behind, list what is done.

    Nothing is touched where the settings differ.
    """
    folder = Path(job.output)
    if not folder.is_dir():
        return OutputState()
    if job.overwrite:
        if not job.dry_run:
            clear_output(folder)
        return OutputState()
    for path in list_shards(folder):
        read_index(path)  # says so where it is damaged
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
    """Save the shards of workers of this machine that died; the keys that were whole in them."""
    keys = []
    for path in list_temporaries(Path(job.output)):
        match = TEMPORARY_NAME.fullmatch(path.name)
        if match and match["host"] == read_host_name() and int(match["pid"]) in pids:
            keys += _salvage_when_free(path, job.share_name, {})
    return keys


def _list_orphans(folder: Path, job: Job) -> list[Path]:
    """Temporaries of this share. The caller holds the share's lock: none has a living owner."""
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
    """Workers whose parent was killed may take a moment to end and free their file."""
    deadline = time.monotonic() + DYING_SECONDS
    while True:
        try:
            return salvage_leftover(path, share, known)
        except FileNotFoundError:
            return []
        except OutputError as error:
            busy = isinstance(error.__cause__, BlockingIOError)
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _check_shard_settings(path: Path, settings: Mapping[str, Any]) -> None:
    try:
        with open_shard(path) as file:
            stored_settings = json.loads(file.attrs["settings_json"])
    except READ_ERRORS as error:
        raise make_damage_error(path, error) from error
    except OutputError:
        if TEMPORARY_NAME.fullmatch(path.name):
            return
        raise
    if hash_settings(stored_settings) != hash_settings(settings):
        raise make_mismatch_error(path.parent, stored_settings, settings)

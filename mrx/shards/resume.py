"""What an output folder holds already: may this run go on in it, and what is left to do."""

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrx.errors import OutputError
from mrx.job import Job, mismatch, settings_hash
from mrx.manifest import manifests
from mrx.shards.layout import (
    FINAL,
    TEMPORARY,
    UNREADABLE,
    broken,
    host,
    open_shard,
    read_index,
    shards,
    temporaries,
)
from mrx.shards.repair import Known, held, rescues, salvage

DYING_SECONDS = 10.0  # a worker whose parent was killed ends within this
FOREIGN_SECONDS = 3600.0  # a temporary of another machine is left alone for this long


@dataclass(frozen=True)
class Held:
    """What the folder holds.

    Attributes:
        done: key → stamp of the source that was extracted
        salvaged: videos found whole in files that a killed run left behind
    """

    done: Known = field(default_factory=dict)
    salvaged: int = 0


def look(job: Job, settings: Mapping[str, Any]) -> Held:
    """Check that this run may go on in the folder, save what was left behind, list what is done.

    Nothing is touched where the settings differ.
    """
    folder = Path(job.output)
    if not folder.is_dir():
        return Held()
    if job.overwrite:
        if not job.dry_run:
            clear(folder)
        return Held()
    for path in shards(folder):
        read_index(path)  # says so where it is damaged
    for path in (*shards(folder), *_orphans(folder, job)):
        _check_settings(path, settings)
    done = held(shards(folder))
    if job.dry_run:
        return Held(done)
    for path in rescues(folder, job.share_name):
        path.unlink()
    saved = [
        key
        for path in _orphans(folder, job)
        for key in _salvage_when_free(path, job.share_name, done)
    ]
    return Held(held(shards(folder)) if saved else done, len(saved))


def clear(folder: Path) -> None:
    """Remove the shards and manifests of an output folder, and nothing else."""
    ours = [p for p in folder.iterdir() if FINAL.fullmatch(p.name) or TEMPORARY.fullmatch(p.name)]
    for path in (*ours, *manifests(folder)):
        path.unlink()


def adopt(job: Job, pids: Collection[int]) -> list[str]:
    """Save the shards of workers of this machine that died; the keys that were whole in them."""
    keys = []
    for path in temporaries(Path(job.output)):
        match = TEMPORARY.fullmatch(path.name)
        if match and match["host"] == host() and int(match["pid"]) in pids:
            keys += _salvage_when_free(path, job.share_name, {})
    return keys


def _orphans(folder: Path, job: Job) -> list[Path]:
    """Temporaries of this share. The caller holds the share's lock: none has a living owner."""
    mine = []
    for path in temporaries(folder):
        match = TEMPORARY.fullmatch(path.name)
        if not match or (job.share_name and match["share"] != job.share_name):
            continue
        if match["host"] == host() or time.time() - path.stat().st_mtime > FOREIGN_SECONDS:
            mine.append(path)
    return mine


def _salvage_when_free(path: Path, share: str, known: Known) -> list[str]:
    """Workers whose parent was killed may take a moment to end and free their file."""
    deadline = time.monotonic() + DYING_SECONDS
    while True:
        try:
            return salvage(path, share, known)
        except FileNotFoundError:
            return []
        except OutputError as error:
            busy = isinstance(error.__cause__, BlockingIOError)
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    try:
        with open_shard(path) as file:
            made = json.loads(file.attrs["settings_json"])
    except UNREADABLE as error:
        raise broken(path, error) from error
    except OutputError:
        if TEMPORARY.fullmatch(path.name):
            return
        raise
    if settings_hash(made) != settings_hash(settings):
        raise mismatch(path.parent, made, settings)

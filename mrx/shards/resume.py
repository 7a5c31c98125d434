"""Resuming in an output folder: its settings, its finished videos and leftovers of killed runs."""

import json
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrx.errors import FormatError, OutputError
from mrx.job import DoneMaps, Job, ManifestRow
from mrx.manifest import is_share_free, list_manifests, lock_salvage
from mrx.settings import are_compatible, make_mismatch_error
from mrx.shards.contents import KnownVideos, read_known_videos
from mrx.shards.files import may_have_foreign_writer, set_aside
from mrx.shards.journal import read_journal
from mrx.shards.layout import (
    FORMAT_VERSION,
    JOURNAL_SUFFIX,
    READ_ERRORS,
    SHARD_NAME,
    TEMPORARY_NAME,
    is_being_written,
    journal_path,
    list_shards,
    list_temporaries,
    make_damage_error,
    open_shard,
    read_host_name,
    read_index,
)
from mrx.shards.repair import RESCUE_PREFIX, SavedVideos, salvage_leftover
from mrx.shards.seal import has_seal_mark
from mrx.shards.video_record import VideoRecord

DYING_SECONDS = 10.0  # a worker whose parent was killed ends within this time
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class OutputState:
    """The contents of an output folder.

    Attributes:
        done: key → method → the source of its maps
        salvaged: rows of the videos saved from files of killed runs
        notes: what the user must be told, a line each
        run: the number of the next run
    """

    done: Mapping[str, Mapping[str, DoneMaps]] = field(default_factory=dict)
    salvaged: tuple[ManifestRow, ...] = ()
    notes: tuple[str, ...] = ()
    run: int = 1


def inspect_output(job: Job, settings: Mapping[str, Any]) -> OutputState:
    """Check an output folder, save leftovers of killed runs, and list the finished videos.

    With `overwrite` the folder is cleared instead. Nothing is changed if the settings differ.

    Raises:
        OutputError: the folder holds shards of other settings or of format 1, or a damaged shard
    """
    folder = Path(job.output)
    if not folder.is_dir():
        return OutputState()
    if job.overwrite:
        if not job.dry_run:
            clear_output(folder)
        return OutputState()
    if job.dry_run:
        return _inspect_contents(folder, job, settings)
    with lock_salvage(folder):
        return _inspect_contents(folder, job, settings)


def _inspect_contents(folder: Path, job: Job, settings: Mapping[str, Any]) -> OutputState:
    # All checks come before the first change to the folder.
    shards = list_shards(folder)
    run = 1 + max((_check_shard_settings(path, settings) for path in shards), default=0)
    orphans = _list_orphans(folder, job)
    for path in orphans:
        header = read_journal(journal_path(path)).header
        if header:
            _check_settings(folder, header, settings)
            run = max(run, 1 + int(header["run"]))
    known = read_known_videos(shards)
    if job.dry_run:
        return OutputState(known.maps, run=run)
    _remove_dead_rescues(folder, job)
    saved = _salvage_all(orphans, job, known)
    records = [record for one in saved for record in one.saved]
    if records:
        known = read_known_videos(list_shards(folder))
    rows = tuple(_make_salvaged_row(record) for record in records)
    return OutputState(known.maps, rows, tuple(_describe_losses(saved)), run)


def clear_output(folder: Path) -> None:
    """Remove the shards, leftovers and manifests that mrx wrote to a folder, and nothing else."""
    named = [path for path in folder.iterdir() if SHARD_NAME.fullmatch(path.name)]
    for path in named:
        if not _is_own_shard(path):
            raise OutputError(
                f"not a shard of mrx ({path}): --overwrite does not delete it. Move it away, or "
                "use another -o"
            )
    for path in (*named, *folder.glob(f"{RESCUE_PREFIX}-*")):
        path.unlink()
    for path in list_temporaries(folder):
        path.unlink(missing_ok=True)
        journal_path(path).unlink(missing_ok=True)
    for path in list_manifests(folder):
        path.unlink()


def salvage_dead_workers(job: Job, pids: Collection[int], run: int) -> tuple[list[str], list[str]]:
    """Save the videos of dead workers of this machine.

    Returns:
        the keys that are safe, also those in shards that a worker had sealed without having told
        so; and what the user must be told, a line each

    Args:
        job: the job of the run
        pids: the process numbers of the workers
        run: the number of the run
    """
    folder = Path(job.output)
    keys, results = [], []
    for path in list_temporaries(folder):
        match = TEMPORARY_NAME.fullmatch(path.name)
        is_here = match and match["host"] == read_host_name() and int(match["pid"]) in pids
        # Machines that are containers may share a host name, and repeat process numbers.
        if match and is_here and match["share"] == (job.share_name or "all"):
            with lock_salvage(folder):
                known = read_known_videos(list_shards(folder))
                results.append(_salvage_when_free(path, job.share_name, known))
            keys += [record.key for record in results[-1].saved]
    writers = {f"{read_host_name()}:{pid}" for pid in pids}
    for path in list_shards(folder):
        with suppress(FormatError):
            index = read_index(path)
            # A process number may have been another worker's in an earlier run.
            if index.writer in writers and index.run == run:
                keys += [row["key"].decode() for row in index.rows]
    return list(dict.fromkeys(keys)), list(_describe_losses(results))


def _is_own_shard(path: Path) -> bool:
    """Tell a shard from a file of somebody else with such a name, by what only mrx writes."""
    if path.is_symlink() or not path.is_file():
        return False
    if path.stat().st_size == 0:  # it claims a number: see `mrx.shards.files.publish_shard`
        return True
    if has_seal_mark(path):
        return True
    try:
        with open_shard(path):
            return True
    except FormatError:
        return False


def _list_orphans(folder: Path, job: Job) -> list[Path]:
    """List the temporary files in the folder that have no living writer.

    Some may not exist: only their journal was begun, or is left.
    """
    return [path for path in list_temporaries(folder) if _has_no_writer(path, path.name, job)]


def _remove_dead_rescues(folder: Path, job: Job) -> None:
    """Remove the unfinished copies of killed salvages; their originals still exist."""
    for path in folder.glob(f"{RESCUE_PREFIX}-*"):
        name = path.name.removeprefix(RESCUE_PREFIX).removesuffix(JOURNAL_SUFFIX)
        if _has_no_writer(path, f".tmp{name.removesuffix('.h5')}.h5", job):
            path.unlink(missing_ok=True)


def _has_no_writer(path: Path, name: str, job: Job) -> bool:
    """Return True if the writer of an unfinished file with such a name lives no more."""
    match = TEMPORARY_NAME.fullmatch(name)
    if not match:
        return False
    share = "" if match["share"] == "all" else match["share"]
    # The caller holds the lock of its share, so on this machine no writer of it lives.
    is_mine = share == job.share_name or is_share_free(path.parent, share)
    return is_mine and not may_have_foreign_writer(path, match["host"])


def _salvage_all(orphans: Iterable[Path], job: Job, known: KnownVideos) -> list[SavedVideos]:
    """Salvage leftovers one after another, each knowing what the ones before have saved."""
    results = []
    for path in orphans:
        result = _salvage_when_free(path, job.share_name, known)
        results.append(result)
        if result.saved:
            known = read_known_videos(list_shards(path.parent))
    return results


def _salvage_when_free(path: Path, share: str, known: KnownVideos) -> SavedVideos:
    """Salvage a leftover, after a dying worker has ended."""
    deadline = time.monotonic() + DYING_SECONDS
    # A worker whose parent was killed ends by itself, and may still write until then.
    while is_being_written(path):
        if time.monotonic() > deadline:
            raise OutputError(
                f"leftover is still being written ({path}): end the process that does, then run "
                "the same command again"
            )
        time.sleep(POLL_SECONDS)
    try:
        return salvage_leftover(path, share, known)
    except OSError as error:
        # A leftover that cannot be read ends no run. What cannot be written is an OutputError.
        return SavedVideos(aside=f"{set_aside(path).name}: {error.strerror}")


def _describe_losses(results: Iterable[SavedVideos]) -> Iterable[str]:
    """Yield a line for each file that was set aside, and one for all videos that were lost."""
    lost = [key for result in results for key in result.lost]
    if lost:
        yield f"could not recover {len(lost)} videos from a killed run: {', '.join(lost)}"
    for result in results:
        if result.aside:
            yield f"set aside {result.aside}"


def _make_salvaged_row(record: VideoRecord) -> ManifestRow:
    """Make the row that the killed run would have written."""
    values = record.attributes
    return ManifestRow(
        key=record.key,
        status="ok",
        reason="recovered from a killed run",
        path=str(values.get("source", "")),
        size=values.get("source_size"),
        mtime=values.get("source_mtime"),
        start=values.get("range_start"),
        end=values.get("range_end"),
        fingerprint=values.get("source_fingerprint") or None,
        frames=int(values.get("n_frames", 0)),
        n_out={name: maps.shape[0] for name, maps in record.methods.items()},
        bytes=sum(int(maps.chunks["size"].sum()) for maps in record.methods.values()),
        warnings=tuple(values.get("warnings", ())),
        methods=tuple(record.methods),
    )


def _check_shard_settings(path: Path, settings: Mapping[str, Any]) -> int:
    """Refuse a shard of other settings or of an old format; return the number of its run."""
    index = read_index(path)  # raises if the shard is damaged
    if index.version < FORMAT_VERSION:
        raise OutputError(
            f"old format ({path}): it has format {index.version}, which can be read, but a run "
            f"writes format {FORMAT_VERSION}. Use another -o, or --overwrite to extract it again"
        )
    try:
        with open_shard(path) as file:
            header = dict(file.attrs)
        _check_settings(path.parent, header, settings)
    except READ_ERRORS as error:
        raise make_damage_error(path, error) from error
    return index.run


def _check_settings(folder: Path, header: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    stored = json.loads(header["settings_json"])
    if not are_compatible(stored, settings):
        raise make_mismatch_error(folder, stored, settings)

"""Saving of the whole videos of a file, after a kill or after damage.

Whole videos are copied chunk by chunk to a fresh file, which becomes a shard. Their places and
checksums come from the journal or the trailer, so that no damaged structure of HDF5 is followed.
Nothing is repaired in place. What cannot be read is set aside as ``broken-*`` and named.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrx.errors import FormatError, OutputError, UnknownFormatError, UsageError
from mrx.manifest import list_manifests, lock_output, read_rows
from mrx.settings import hash_settings
from mrx.shards.contents import KnownVideos, read_known_videos
from mrx.shards.digest import to_plain_value
from mrx.shards.files import may_have_foreign_writer, set_aside
from mrx.shards.isolation import run_isolated
from mrx.shards.journal import JournalContents, read_journal
from mrx.shards.layout import (
    BROKEN_PREFIX,
    FORMAT_VERSION,
    READ_ERRORS,
    SHARD_NAME,
    TEMPORARY_NAME,
    is_being_written,
    journal_path,
    list_shards,
    open_shard,
)
from mrx.shards.record_writer import seal_record
from mrx.shards.trailer import combine_checksums, list_damaged_items, read_checksums, read_trailer
from mrx.shards.verify import (
    CHECK_SECONDS,
    READ_RATE,
    find_video_problems,
    iterate_groups,
)
from mrx.shards.video_record import VideoRecord, read_record
from mrx.shards.writer import ShardWriter

RESCUE_PREFIX = ".rescue"
# The attributes of a shard, as `ShardWriter.for_job` writes them. Their format is always the
# present one, in which the copies are written.
_HEADER_DEFAULTS: dict[str, Any] = {
    "mrx_version": "",
    "run": 0,
    "created": "",
    "writer": "",
    "methods": [],
    "settings_json": "",
    "settings_hash": "",
    "versions": "{}",
    "shard": "0/1",
}


@dataclass
class SavedVideos:
    """The outcome of a salvage or a repair.

    Attributes:
        saved: the videos that are in a new shard
        lost: keys of the videos that are not whole
        aside: the new name of a file that was set aside, with the cause
    """

    saved: list[VideoRecord] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    aside: str = ""


def salvage_leftover(path: Path, share: str, known: KnownVideos) -> SavedVideos:
    """Turn the committed videos of a dead writer's file into a shard, and remove the file.

    Args:
        path: the temporary file
        share: the share of the new shard
        known: videos in other shards, which are not copied again

    Raises:
        OutputError: the new shard cannot be written
    """
    if is_being_written(path):
        raise OutputError(f"shard is open in another process ({path}): wait for it to finish")
    journal = journal_path(path)
    if not path.exists() or _has_final_name(path):
        # The writer was killed between naming the shard and removing these.
        path.unlink(missing_ok=True)
        journal.unlink(missing_ok=True)
        return SavedVideos()
    contents = read_journal(journal)
    if not contents.header:
        # No writer of this format: its journal comes first, and its header with it.
        cause = "the header of its journal is damaged" if journal.exists() else "it has no journal"
        return SavedVideos(aside=f"{set_aside(path).name}: {cause}")
    result = _copy_whole_videos(path, contents, share, known)
    if contents.is_damaged:
        # Videos may be in the file that the journal does not name any more.
        result.aside = f"{set_aside(path).name}: its journal is damaged, videos may be missing"
        return result
    # Removed last. After a kill before this line the next salvage finds the file again, and skips
    # the videos that are known by then.
    path.unlink()
    journal.unlink()
    return result


def is_repairable(path: Path) -> bool:
    """Tell whether `repair_shard` takes a file of this name."""
    is_aside = path.name.startswith(BROKEN_PREFIX) and path.suffix == ".h5"
    return bool(is_aside or SHARD_NAME.fullmatch(path.name) or TEMPORARY_NAME.fullmatch(path.name))


def repair_shard(path: Path) -> SavedVideos:
    """Save the whole videos of a damaged file in a new shard.

    A shard is then set aside, and a temporary file removed.

    The folder is locked meanwhile, so that no run writes to it.

    Args:
        path: a shard, a temporary file of a killed run, or a file that was set aside

    Raises:
        UsageError: the file is named like none of these
        FormatError: the shard is of a newer format
        OutputError: a run is writing to the folder
    """
    if not is_repairable(path):
        raise UsageError(f"not a shard ({path}): give shard-*.h5, .tmp-*.h5 or {BROKEN_PREFIX}*.h5")
    temporary = TEMPORARY_NAME.fullmatch(path.name)
    match = temporary or SHARD_NAME.fullmatch(path.name)
    share = match["share"] or "" if match else ""
    with lock_output(path.parent, ""):
        if temporary and may_have_foreign_writer(path, temporary["host"]):
            raise OutputError(f"shard is being written on {temporary['host']} ({path})")
        known = read_known_videos(p for p in list_shards(path.parent) if p != path)
        if temporary:
            return salvage_leftover(path, "" if share == "all" else share, known)
        contents, lost = _read_contents(path)
        result = _copy_whole_videos(path, contents, share, known)
        result.lost = sorted({*result.lost, *lost})
        if not path.name.startswith(BROKEN_PREFIX):
            # Only after the copy is sealed: a kill before this leaves the damaged shard in its
            # place, and a second repair skips the videos that the new shard already has.
            result.aside = set_aside(path).name
    return result


def _has_final_name(path: Path) -> bool:
    """Tell whether a temporary file is the second name of a shard in its folder."""
    # Compared by identity: a count of names would take a backup by hard links for a shard.
    with suppress(FileNotFoundError):
        return any(path.samefile(shard) for shard in list_shards(path.parent))
    return False


def _read_contents(path: Path) -> tuple[JournalContents, list[str]]:
    """Read the header and records of a shard from the best source that is whole.

    Returns:
        the contents, and the keys of videos that are in the file but cannot be read
    """
    with suppress(FormatError):
        return read_trailer(path).contents, []
    journal = read_journal(journal_path(path))
    if journal.header:
        return journal, []
    seconds = CHECK_SECONDS + path.stat().st_size / READ_RATE
    found = run_isolated(lambda: _read_groups(path), seconds)
    if isinstance(found, FormatError):
        raise found
    return found or (JournalContents({}, []), [])


def _read_groups(path: Path) -> tuple[JournalContents, list[str]] | FormatError:
    """Read the header and the whole videos of a shard by HDF5 itself: it has no whole trailer.

    Returns:
        as `_read_contents`, or the error if the shard is of a newer format
    """
    try:
        file = open_shard(path, checked=False)
    except FormatError as error:
        # Another format is no damage: a newer mrx can read the shard.
        if isinstance(error, UnknownFormatError):
            return error
        return JournalContents({}, []), []
    records, lost = [], []
    with file, path.open("rb") as raw:
        for name, group in iterate_groups(file):
            record = None
            if group is not None and not any(find_video_problems(group)):
                with suppress(*READ_ERRORS):
                    record = _fill_checksums(read_record(group), raw.fileno())
            if record is None:
                lost.append(name.replace("%2F", "/"))
            else:
                records.append(record)
        header = _restore_header(path.parent, file.attrs)
    if not header:
        # Without settings no run could go on in the folder.
        return JournalContents({}, []), sorted({*lost, *(record.key for record in records)})
    return JournalContents(header, records), lost


def _restore_header(folder: Path, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the header of a shard from its attributes, of which some may be damaged.

    Settings that do not fit their hash are replaced by those of a manifest of the folder that fit
    either of them. If there are none, nothing is returned.
    """
    found = {name: to_plain_value(attributes.get(name)) for name in _HEADER_DEFAULTS}
    header: dict[str, Any] = {"mrx_format": FORMAT_VERSION}
    for name, default in _HEADER_DEFAULTS.items():
        header[name] = found[name] if isinstance(found[name], type(default)) else default
    with suppress(ValueError):
        if hash_settings(json.loads(header["settings_json"])) == header["settings_hash"]:
            return header
    for path in list_manifests(folder):
        settings, _ = read_rows(path)
        whole = {
            "settings_json": json.dumps(settings, sort_keys=True),
            "settings_hash": hash_settings(settings),
        }
        if any(header[name] == value for name, value in whole.items()):
            return {**header, **whole}
    return {}


def _fill_checksums(record: VideoRecord, descriptor: int) -> VideoRecord | None:
    """Fill in the checksums of a record that was read from HDF5; None if they do not fit."""
    for maps in record.methods.values():
        read_checksums(descriptor, maps.chunks)
        checksums = combine_checksums(maps.chunks, len(maps.items))
        if not record.digest:  # of format 1
            maps.items["checksum"] = checksums
        elif not (maps.items["checksum"] == checksums).all():
            return None
    if record.digest and record.compute_digest() != record.digest:
        return None
    return record


def _copy_whole_videos(
    path: Path, contents: JournalContents, share: str, known: KnownVideos
) -> SavedVideos:
    """Copy the whole videos that are not known to a new shard."""
    result = SavedVideos()
    for record in contents.records:
        missing = known.drop_known(record)
        if not missing.methods:
            continue
        damaged = any(list_damaged_items(path, maps) for maps in missing.methods.values())
        if damaged or record.digest not in ("", record.compute_digest()):
            result.lost.append(record.key)
        else:
            # Without the maps that another shard has, the digest is another.
            is_sealed = record.digest and len(missing.methods) == len(record.methods)
            result.saved.append(record if is_sealed else seal_record(missing))
    if result.saved:
        _write_shard(path, contents.header, share, result.saved)
    return result


def _write_shard(
    path: Path, header: Mapping[str, Any], share: str, records: Iterable[VideoRecord]
) -> None:
    # A prefix of its own, which no run takes for a leftover: after a kill the copy is removed, and
    # made again from its original.
    writer = ShardWriter(path.parent, share, header, prefix=RESCUE_PREFIX)
    try:
        with path.open("rb") as source:
            for record in records:
                writer.begin_entry(record.key).commit_copy(record, source.fileno())
        writer.seal_shard()
    except OutputError:
        writer.abandon_shard()
        writer.path.unlink(missing_ok=True)
        journal_path(writer.path).unlink(missing_ok=True)
        raise

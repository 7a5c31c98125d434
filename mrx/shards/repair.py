"""Rescue of the whole videos of a shard, after a kill or after damage.

The whole videos are copied unchanged to a fresh file, which becomes a shard. Nothing is repaired in
place: a file whose writer was killed may open and still hold links to nowhere.
"""

import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import h5py

from mrx.errors import FormatError, OutputError, UsageError
from mrx.manifest import lock_output
from mrx.shards.layout import (
    FORMAT_VERSION,
    SHARD_NAME,
    STAMP_NAMES,
    list_shards,
    open_shard,
    read_index,
)
from mrx.shards.verify import iterate_groups, read_key, read_stamp, video_problems
from mrx.shards.writer import abandon_file, explain_write_errors, seal_file

KnownStamps = Mapping[str, tuple[float, ...]]
"""Keys in shards, with the stamps of their sources."""


def salvage_leftover(path: Path, share: str, known: KnownStamps) -> list[str]:
    """Turn the whole videos of a dead writer's file into a shard, and remove the file.

    Args:
        path: the temporary file
        share: the share of the run that wrote it
        known: keys in other shards, which are not copied again

    Returns:
        the keys in the new shard
    """
    if path.stat().st_nlink > 1:
        # The writer was killed between linking the final name and removing this one, so the shard
        # is complete under its final name.
        path.unlink()
        return []
    try:
        source = open_shard(path)
    except FormatError:
        # Nothing in a file that does not open can be trusted.
        path.unlink(missing_ok=True)
        return []
    with source:
        saved, _ = _copy_whole_videos(source, path.parent, share, known)
    # Removed last. After a kill before this line the next salvage finds the file again, and skips
    # the videos that are already in the new shard by their `known` stamps.
    path.unlink()
    return saved


def repair_shard(path: Path) -> tuple[list[str], list[str]]:
    """Copy the whole videos of a damaged shard to a new one, then set the damaged one aside.

    The folder is locked meanwhile, so that no run writes to it.

    Returns:
        the keys that were kept, and the keys that the next `mrx extract` must make again, as far
        as they can be read

    Raises:
        UsageError: the file is not named like a shard
        FormatError: the shard is of a newer format
        OutputError: a run is writing to the folder
    """
    match = SHARD_NAME.fullmatch(path.name)
    if not match:
        raise UsageError(f"not a shard ({path}): only shard-*.h5 can be repaired")
    with lock_output(path.parent, ""):
        for rescue in list_rescues(path.parent, match["share"] or ""):
            rescue.unlink()
        try:
            source = open_shard(path)
        except FormatError as error:
            # Another format is no damage: a newer mrx can read the shard.
            if f"reads format {FORMAT_VERSION}" in str(error):
                raise
            _set_aside(path)
            return [], []
        known = read_stamps([p for p in list_shards(path.parent) if p != path])
        with source:
            kept, lost = _copy_whole_videos(source, path.parent, match["share"] or "", known)
        # Only after the copy is sealed: a kill before this leaves the damaged shard in its place,
        # and a second repair skips the videos that the new shard already has.
        _set_aside(path)
    return kept, lost


def read_stamps(paths: Iterable[Path]) -> KnownStamps:
    """Read the keys in these shards, with the stamps of their sources; skip damaged shards."""
    indexes = []
    for path in paths:
        with suppress(FormatError):
            indexes.append(read_index(path))
    return {
        row["key"].decode(): tuple(float(row[name]) for name in STAMP_NAMES)
        for _, rows in sorted(indexes, key=lambda index: index[0])  # the newest shard counts
        for row in rows
    }


def list_rescues(folder: Path, share: str) -> list[Path]:
    """List the unfinished copies of killed salvages; their originals still exist."""
    return sorted(folder.glob(f".rescue-{share or 'all'}-*.h5"))


def _set_aside(path: Path) -> None:
    """Rename a file to the first free of ``*.broken``, ``*.broken1``, ``*.broken2``, ..."""
    number = 0
    target = path.with_name(f"{path.name}.broken")
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.broken{number}")
    path.rename(target)


def _copy_whole_videos(
    source: h5py.File, folder: Path, share: str, known: KnownStamps
) -> tuple[list[str], list[str]]:
    """Copy the whole videos that are not known to a new shard; return the kept and lost keys."""
    # A name of its own, which no run takes for a shard or a leftover: after a kill the copy is
    # removed, and made again from its original.
    fresh = folder / f".rescue-{share or 'all'}-{secrets.token_hex(4)}.h5"
    kept, lost = list[str](), list[str]()
    with explain_write_errors(fresh):
        target = h5py.File(fresh, "x")
    try:
        with explain_write_errors(fresh):
            target.attrs.update({k: v for k, v in source.attrs.items() if k != "complete"})
            target.attrs["complete"] = 0  # until `seal_file` has written the index
            videos = target.create_group("videos")
            for name, group in iterate_groups(source):
                key = read_key(name, group)
                if group is None or any(video_problems(group)):
                    lost.append(key)
                elif known.get(key) != read_stamp(group):
                    source.copy(group, videos, name)
                    kept.append(key)
        seal_file(target, fresh, share)
    except OutputError:
        abandon_file(target)
        fresh.unlink(missing_ok=True)
        raise
    return kept, lost

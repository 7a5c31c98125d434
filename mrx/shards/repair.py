"""Saving what is whole of a shard that is not: after a kill, or after damage.

What is whole is copied, as it lies, to a fresh file that then becomes a shard. Nothing is mended
in place: a file whose writer was killed may open and still hold links that lead nowhere.
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
"""Keys that shards hold, with the stamps of their sources."""


def salvage_leftover(path: Path, share: str, known: KnownStamps) -> list[str]:
    """Turn what is whole of a writer's leftover into a shard; the keys that are safe in it.

    A leftover that cannot be opened holds nothing that can be trusted, and is removed. One that
    has a second name was finished: only its temporary name is left to remove.

    Args:
        path: the temporary file; its writer is gone
        share: of the run that it belonged to
        known: what other shards hold, as after a kill in the middle of a salvage
    """
    if path.stat().st_nlink > 1:
        path.unlink()
        return []
    try:
        source = open_shard(path)
    except FormatError:
        path.unlink(missing_ok=True)
        return []
    with source:
        saved, _ = _copy_whole_videos(source, path.parent, share, known)
    path.unlink()
    return saved


def repair_shard(path: Path) -> tuple[list[str], list[str]]:
    """Make a new shard of what is whole in a damaged one, then set that one aside.

    The folder is locked meanwhile: no run may write to it.

    Returns:
        the keys that were kept, and those that the next `mrx extract` must make again, as far as
        they can still be read
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
            if f"reads format {FORMAT_VERSION}" in str(error):
                raise
            _set_aside(path)
            return [], []
        known = read_stamps([p for p in list_shards(path.parent) if p != path])
        with source:
            kept, lost = _copy_whole_videos(source, path.parent, match["share"] or "", known)
        _set_aside(path)
    return kept, lost


def read_stamps(paths: Iterable[Path]) -> KnownStamps:
    """Every key that these shards hold, with the stamp of its source; damaged ones are left out."""
    indexes = []
    for path in paths:
        with suppress(FormatError):
            indexes.append(read_index(path))
    return {
        row["key"].decode(): tuple(float(row[name]) for name in STAMP_NAMES)
        for _, rows in sorted(indexes, key=lambda one: one[0])
        for row in rows
    }


def list_rescues(folder: Path, share: str) -> list[Path]:
    """Copies that a kill in the middle of a salvage left; what they were made of is there too."""
    return sorted(folder.glob(f".rescue-{share or 'all'}-*.h5"))


def _set_aside(path: Path) -> None:
    number = 0
    while (aside := path.with_name(f"{path.name}.broken{number or ''}")).exists():
        number += 1
    path.rename(aside)


def _copy_whole_videos(
    source: h5py.File, folder: Path, share: str, known: KnownStamps
) -> tuple[list[str], list[str]]:
    fresh = folder / f".rescue-{share or 'all'}-{secrets.token_hex(4)}.h5"
    kept, lost = list[str](), list[str]()
    with explain_write_errors(fresh):
        target = h5py.File(fresh, "x")
    try:
        with explain_write_errors(fresh):
            target.attrs.update({k: v for k, v in source.attrs.items() if k != "complete"})
            target.attrs["complete"] = 0
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

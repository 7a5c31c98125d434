"""Saving what is whole of a shard that is not: after a kill, or after damage.

What is whole is copied, as it lies, to a fresh file that then becomes a shard. Nothing is mended
in place: a file whose writer was killed may open and still hold links that lead nowhere.
"""

import secrets
from collections.abc import Collection
from pathlib import Path

import h5py

from mrx.errors import FormatError, OutputError
from mrx.sinks.hdf5 import seal, writing
from mrx.sinks.layout import FINAL, FORMAT, open_shard
from mrx.sinks.verify import groups, key_of, video_problems


def salvage(path: Path, share: str, known: Collection[str] = ()) -> list[str]:
    """Turn what is whole of a writer's leftover into a shard; the keys that are safe in it.

    A leftover that cannot be opened holds nothing that can be trusted, and is removed. One that
    has a second name was finished: only its temporary name is left to remove.

    Args:
        path: the temporary file; its writer is gone
        share: of the run that it belonged to
        known: keys that other shards hold, as after a kill in the middle of a salvage
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
        saved, _ = _copy(source, path.parent, share, known)
    path.unlink()
    return saved


def repair(path: Path) -> tuple[list[str], list[str]]:
    """Set a damaged shard aside and make a new one of what is whole in it.

    Returns:
        the keys that were kept, and those that the next `mrx extract` must make again, as far as
        they can still be read
    """
    aside = path.with_suffix(".h5.broken")
    match = FINAL.fullmatch(path.name)
    try:
        source = open_shard(path)
    except FormatError as error:
        if f"reads format {FORMAT}" in str(error):
            raise
        path.rename(aside)
        return [], []
    with source:
        path.rename(aside)
        return _copy(source, path.parent, (match["share"] if match else None) or "", ())


def rescues(folder: Path, share: str) -> list[Path]:
    """Copies that a kill in the middle of a salvage left; what they were made of is there too."""
    return sorted(folder.glob(f".rescue-{share or 'all'}-*.h5"))


def _copy(
    source: h5py.File, folder: Path, share: str, known: Collection[str]
) -> tuple[list[str], list[str]]:
    fresh = folder / f".rescue-{share or 'all'}-{secrets.token_hex(4)}.h5"
    kept, lost = list[str](), list[str]()
    try:
        with writing(fresh):
            target = h5py.File(fresh, "x")
            target.attrs.update({k: v for k, v in source.attrs.items() if k != "complete"})
            target.attrs["complete"] = 0
            videos = target.create_group("videos")
            for name, group in groups(source):
                key = key_of(name, group)
                if any(video_problems(group)):
                    lost.append(key)
                elif key not in known:
                    source.copy(group, videos, name)
                    kept.append(key)
        seal(target, fresh, share)
    except OutputError:
        fresh.unlink(missing_ok=True)
        raise
    return kept, lost

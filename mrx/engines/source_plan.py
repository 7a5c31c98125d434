"""The plan of a source: the methods it still lacks, its earlier end, and its move, if it moved.

Only shards prove maps. The manifest is believed for methods that have none: they failed, were
skipped, or the video was too short for them.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mrx.errors import UsageError
from mrx.job import DoneMaps, ManifestRow, RowStatus, Source, restore_path


def list_missing_methods(
    source: Source, done: Mapping[str, DoneMaps], methods: Iterable[str]
) -> tuple[str, ...]:
    """List the methods that have no maps of the source as it is now."""
    return tuple(m for m in methods if m not in done or done[m].stamp != source.stamp)


def find_earlier_end(
    source: Source, missing: Sequence[str], methods: Sequence[str], row: ManifestRow | None
) -> RowStatus | None:
    """Return how a source has ended for all methods of a run, or None if it has not.

    Args:
        source: the source
        missing: those of the methods that have no maps of it
        methods: all methods of the run
        row: its last row in the manifests
    """
    if not missing:
        return "ok"
    if row is None or row.stamp != source.stamp:
        return None
    has_maps = len(missing) < len(methods)
    if row.status == "ok":
        # A method that found the video too short or too small left a warning, and no maps.
        explained = all(
            any(text.startswith(f"no {name}: ") for text in row.warnings) for name in missing
        )
        return "ok" if has_maps and explained else None
    if not set(missing) <= set(row.methods):
        return None
    # As in one run of all methods: the video is ok if it has maps of one, and others skip it.
    return "ok" if has_maps and row.status == "skipped" else row.status


def needs_success_row(row: ManifestRow | None, source: Source, methods: Sequence[str]) -> bool:
    """Return True if the manifest lacks a row for a source with maps of all these methods.

    A run was killed after it had sealed the shard, and before it wrote the row.
    """
    if row is None or row.stamp != source.stamp:
        return True
    # A failure of another method stands.
    return row.status != "ok" and bool(set(methods) & set(row.methods))


def count_moved_sources(
    sources: Iterable[Source], done: Mapping[str, Mapping[str, DoneMaps]]
) -> int:
    """Return the number of sources that lie at another path than when their maps were made.

    Raises:
        UsageError: a key has maps of another source, which still exists or has other contents
    """
    moved = 0
    clashes: list[tuple[Source, str]] = []
    for source in sources:
        elsewhere = [
            maps
            for maps in done.get(source.key, {}).values()
            if not source.problem and not _is_same_source(maps.source, source)
        ]
        if not elsewhere:
            continue
        remaining = [maps.source for maps in elsewhere if not _has_moved(maps, source)]
        if remaining:
            clashes.append((source, remaining[0]))
        else:
            moved += 1
    if clashes:
        source, path = clashes[0]
        others = f", and so for {len(clashes) - 1} more keys" if len(clashes) > 1 else ""
        raise UsageError(
            f"two sources for key {source.key}: the output has maps of {path}, this run is given "
            f"{source.stored_path}{others}. Use another -o, --root so that their keys differ, or "
            "--overwrite"
        )
    return moved


def _is_same_source(stored: str, source: Source) -> bool:
    if stored in ("", source.stored_path):
        return True
    # One file has many paths: by links, and by mounts.
    with suppress(OSError, ValueError):
        return Path(restore_path(stored)).samefile(source.path)
    return False


def _has_moved(maps: DoneMaps, source: Source) -> bool:
    is_gone = "://" not in maps.source and not os.path.lexists(restore_path(maps.source))
    return is_gone and maps.stamp == source.stamp

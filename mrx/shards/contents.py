"""The videos of several shards: which shard holds which maps, and which of two counts."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mrx.errors import FormatError
from mrx.job import DoneMaps
from mrx.shards.layout import ShardIndex, read_index, read_row_stamp
from mrx.shards.trailer import list_damaged_items, read_trailer
from mrx.shards.video_record import VideoRecord


@dataclass(frozen=True)
class KnownVideos:
    """The maps that shards hold.

    Attributes:
        maps: key → method → where the maps come from
        paths: key → method → the shard
    """

    maps: Mapping[str, Mapping[str, DoneMaps]]
    paths: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)

    def drop_known(self, record: VideoRecord) -> VideoRecord:
        """Return a video without the maps that are there, whole and made from the same source."""
        methods = self.maps.get(record.key, {})
        missing = {
            name: maps
            for name, maps in record.methods.items()
            if name not in methods
            or methods[name].stamp != record.stamp
            or not self._are_whole(record.key, name)
        }
        return replace(record, methods=missing)

    def _are_whole(self, key: str, method: str) -> bool:
        """Return True if the shard holds the maps undamaged, whatever its index says."""
        path = self.paths.get(key, {}).get(method)
        if path is None:
            return True
        try:
            records = read_trailer(path).contents.records
        except FormatError:
            return False
        found = [r.methods[method] for r in records if r.key == key and method in r.methods]
        return any(not list_damaged_items(path, maps) for maps in found)


def find_counting_rows(indexes: Iterable[ShardIndex]) -> dict[str, dict[str, tuple[Path, Any]]]:
    """Find the shard and index row that count for each key and method.

    Of two shards with the same maps, that of the later run counts. Maps of an earlier run that were
    made from another state of the source do not count beside newer ones.
    """
    found: dict[str, dict[str, tuple[Path, Any]]] = {}
    for index in sorted(indexes, key=lambda index: index.age):
        for row in index.rows:
            methods = found.setdefault(row["key"].decode(), {})
            stale = [m for m, (_, r) in methods.items() if read_row_stamp(r) != read_row_stamp(row)]
            for method in stale:
                del methods[method]
            methods[row["method"].decode()] = index.path, row
    return found


def read_known_videos(paths: Iterable[Path]) -> KnownVideos:
    """Read the maps in these shards; skip damaged shards."""
    indexes = []
    for path in paths:
        with suppress(FormatError):
            indexes.append(read_index(path))
    found = find_counting_rows(indexes)
    maps = {
        key: {
            method: DoneMaps(read_row_stamp(row), row["source"].decode())
            for method, (_, row) in methods.items()
        }
        for key, methods in found.items()
    }
    shards = {key: {m: path for m, (path, _) in methods.items()} for key, methods in found.items()}
    return KnownVideos(maps, shards)

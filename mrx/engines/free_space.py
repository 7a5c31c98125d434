"""The free space of the output's file system, and whether the videos left will fit into it."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from mrx.job import ManifestRow, Source

SETTLED_VIDEOS = 3  # videos after which their mean size tells of the others


class SpaceWatch:
    """Compares the bytes that the videos left will take with the free space, and warns once.

    A video is taken to need as many bytes for each byte of its file as those before it; where a
    file's size is not known, as many as their mean.

    Args:
        folder: the output folder
        sources: the videos to extract
    """

    def __init__(self, folder: Path, sources: Sequence[Source]) -> None:
        knows_sizes = all(source.size for source in sources)
        self.folder = folder
        self._weights_left = {s.key: float(s.size or 0) if knows_sizes else 1.0 for s in sources}
        self._sum_left = sum(self._weights_left.values())
        self._sum_done = 0.0
        self._num_done = 0
        self._bytes_done = 0
        self._has_warned = False

    def follow_row(self, row: ManifestRow) -> str:
        """Follow the end of a video; return a warning, once, if those left will not fit."""
        weight = self._weights_left.pop(row.key, 0.0)
        self._sum_left -= weight
        if row.status == "ok":
            self._sum_done += weight
            self._bytes_done += row.bytes
            self._num_done += 1
        if self._has_warned or not self._weights_left or self._num_done < SETTLED_VIDEOS:
            return ""
        needed = round(self._bytes_done * self._sum_left / max(self._sum_done, 1.0))
        free = read_free_bytes(self.folder)
        self._has_warned = free is not None and needed > free
        if free is None or not self._has_warned:
            return ""
        return describe_shortage(
            self.folder, f"the {len(self._weights_left)} videos left", needed=needed, free=free
        )


def describe_shortage(folder: Path, subject: str, *, needed: int, free: int) -> str:
    """Return the warning that the output will not fit."""
    return (
        f"{subject} need about {round_bytes(needed)}, and {folder} has {round_bytes(free)} "
        "free: use another disk, --tolerance, or a smaller --dtype"
    )


def read_free_bytes(folder: Path) -> int | None:
    """Return the free bytes of a folder's file system, or None if it does not tell.

    The folder need not exist yet.
    """
    place = folder.absolute()
    existing = next((p for p in (place, *place.parents) if p.is_dir()), place)
    try:
        return shutil.disk_usage(existing).free
    except OSError:
        # Not every file system counts its blocks. A full one still ends the run with its own error.
        return None


def round_bytes(count: int) -> str:
    """Round a number of bytes for a person to read.

    >>> round_bytes(900), round_bytes(48_600_000)
    ('900 B', '48.6 MB')
    """
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"

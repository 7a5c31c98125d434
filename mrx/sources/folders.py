"""Walks folders and finds the videos in them: files by extension, folders of numbered images."""

# ruff: noqa: PTH114, PTH116, PTH120
# Paths are str for the reasons that mrx.sources.scan has.

import errno
import heapq
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from mrx.sources.keys import NaturalKey, natural_sort_key
from mrx.sources.numbered import (
    NUMBERED_IMAGE,
    compute_fingerprint,
    is_flow_image,
    is_folder_entry,
)

NO_FILE = "no such file"


@dataclass(frozen=True, slots=True)
class FoundVideo:
    """A video, or a path that cannot be read as one.

    Attributes:
        path: absolute path
        size: size in bytes; None for folders, and if `stat` failed
        mtime: time of the last change; None if `stat` failed
        problem: reason why it cannot be opened, as far as `stat` can tell
        has_images: it is a folder of numbered images
        fingerprint: of the images of a folder; None for files
    """

    path: str
    size: int | None = None
    mtime: float | None = None
    problem: str | None = None
    has_images: bool = False
    fingerprint: str | None = None

    @classmethod
    def from_stat(
        cls, path: str, stat_result: os.stat_result | None, problem: str | None
    ) -> "FoundVideo":
        """Make one from the results of `stat_input`."""
        if stat_result is None:
            return cls(path, problem=problem)
        return cls(path, stat_result.st_size, stat_result.st_mtime, problem)


class FolderWalker:
    """Finds the videos in folders.

    Args:
        extensions: extensions of video files, in any case, with or without the dot
        image_folders: treat folders of numbered images as videos

    Attributes:
        passed_over: reason → number of entries that were ignored
    """

    def __init__(self, extensions: Collection[str], *, image_folders: bool) -> None:
        self.extensions = frozenset(ending.lower().lstrip(".") for ending in extensions)
        self.image_folders = image_folders
        self.passed_over: Counter[str] = Counter()

    def find_videos(self, folders: Iterable[str]) -> list[FoundVideo]:
        """Find the videos in these folders and all below, in natural order of their paths."""
        starts = (folder for folder in folders if not links_upward(folder))
        # A folder may be reached by several ways and is visited once. Ways through fewer links come
        # first, so that the keys name its real place.
        pending = [
            (int(os.path.islink(folder)), natural_sort_key(folder), folder) for folder in starts
        ]
        heapq.heapify(pending)
        visited: set[tuple[int, int]] = set()
        videos: list[FoundVideo] = []
        while pending:
            num_links, _, folder = heapq.heappop(pending)
            try:
                stat_result = os.stat(folder)
                # Device and inode identify a folder under all its names, so link cycles end here.
                if (stat_result.st_dev, stat_result.st_ino) in visited:
                    continue
                visited.add((stat_result.st_dev, stat_result.st_ino))
                with os.scandir(folder) as entries:
                    files, subfolders, has_images = self._sort_entries(entries)
                fingerprint = compute_fingerprint(folder) if has_images else None
            except OSError as error:
                videos.append(FoundVideo(folder, problem=describe_os_error(error, folder)))
                continue
            videos += [
                FoundVideo.from_stat(entry.path, *stat_input(entry.path, entry)) for entry in files
            ]
            if has_images:
                videos.append(
                    FoundVideo(
                        folder,
                        mtime=stat_result.st_mtime,
                        has_images=True,
                        fingerprint=fingerprint,
                    )
                )
            for entry in subfolders:
                links_passed = num_links + entry.is_symlink()
                heapq.heappush(pending, (links_passed, natural_sort_key(entry.path), entry.path))
        return sorted(videos, key=lambda video: path_sort_key(video.path))

    def _sort_entries(
        self, entries: Iterable[os.DirEntry[str]]
    ) -> tuple[list[os.DirEntry[str]], list[os.DirEntry[str]], bool]:
        """Return a folder's video files, its subfolders, and True if its images are a video."""
        videos, folders, other_names = [], [], []
        for entry in entries:
            if entry.name.startswith("."):
                self.passed_over["hidden"] += 1
            elif is_folder_entry(entry):
                folders.append(entry)
            elif entry.name.rpartition(".")[2].lower() in self.extensions and "." in entry.name:
                videos.append(entry)
            else:
                other_names.append(entry.name)
        matches = map(NUMBERED_IMAGE.fullmatch, other_names)
        images = [match for match in matches if match]
        # Images beside video files are not taken for the frames of another video.
        has_images = self.image_folders and not videos and not all(map(is_flow_image, images))
        num_ignored = len(other_names) - (len(images) if has_images else 0)
        if num_ignored:
            self.passed_over["other extension"] += num_ignored
        subfolders = [
            entry for entry in folders if not entry.is_symlink() or not links_upward(entry.path)
        ]
        return videos, subfolders, has_images


def stat_input(
    path: str, entry: os.DirEntry[str] | None = None
) -> tuple[os.stat_result | None, str | None]:
    """Return the `stat` result of a path, if any, and the reason why it is no readable file."""
    try:
        stat_result = entry.stat() if entry else os.stat(path)
    except (OSError, ValueError) as error:
        return None, describe_os_error(error, path)
    if not stat.S_ISREG(stat_result.st_mode):
        return stat_result, "not a regular file"
    if not stat_result.st_size:
        return stat_result, "empty file"
    return stat_result, None if os.access(path, os.R_OK) else "permission denied"


def describe_os_error(error: OSError | ValueError, path: str) -> str:
    """Return the reason in an error of the operating system, in lower case."""
    if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{NO_FILE} (broken symbolic link)" if os.path.islink(path) else NO_FILE
    return str(getattr(error, "strerror", None) or error).lower()


def path_sort_key(path: str) -> NaturalKey:
    """Return the sort key of a path: natural order, part by part."""
    # A separator sorts before all other characters: a/b < a-b/c, although "-" < "/".
    return natural_sort_key(path.replace(os.sep, "\0"))


def links_upward(link: str) -> bool:
    """Return True for a link to a folder above itself."""
    if not os.path.islink(link):
        return False
    parent, target = os.path.realpath(os.path.dirname(link)), os.path.realpath(link)
    return os.path.commonpath([parent, target]) == target

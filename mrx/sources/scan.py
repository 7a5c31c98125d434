"""Files, folders, lists, stdin and URLs → an ordered list of videos with stable keys.

Only lists and folders are opened here; a video costs one ``stat``. What ``stat`` knows to be
hopeless stays in the list with its ``problem``, so that the run can report it.
"""
# ruff: noqa: PTH100, PTH112, PTH114, PTH116, PTH119, PTH120
# Paths are str: a scan may meet millions, and absolute paths must lose ".." but keep their links.

import errno
import glob
import heapq
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal

from mrx.errors import NoInputError, UsageError
from mrx.job import Source
from mrx.sources.keys import (
    NaturalKey,
    escape_key,
    find_common_folder,
    make_key,
    natural_sort_key,
    printable,
    simplify_url,
)
from mrx.sources.lists import EMPTY_ROW, ListRow, read_list, split_list_lines
from mrx.sources.numbered import (
    NUMBERED_IMAGE,
    is_flow_image,
    is_folder_entry,
    list_numbered_images,
)

_VIDEO_ENDINGS = (
    "264 265 3g2 3gp asf avi divx f4v flv gif h264 h265 hevc m1v m2ts m2v m4v mjpeg mjpg mkv mov"
    " mp4 mpeg mpg mts mxf ogm ogv rm rmvb ts vob webm wmv y4m"
)
VIDEO_EXTENSIONS = frozenset(_VIDEO_ENDINGS.split())

NO_FILE = "no such file"
NO_FRAMES = "is a directory without frames"
UPWARD_LINK = "a directory link back to a folder above it"

_URL_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class ScanResult:
    """All videos of a run, and what was left out.

    Attributes:
        sources: In the order named; natural order within a scan.
        passed_over: Reason → number of entries that scans rightly ignored.
        duplicates: How often a video was named again.
    """

    sources: list[Source]
    passed_over: dict[str, int]
    duplicates: int


def find_sources(
    inputs: Sequence[str],
    *,
    stdin: BinaryIO | None = None,
    nul_separated: bool = False,
    root: str | None = None,
    key: Literal["relpath", "stem"] = "relpath",
    extensions: Collection[str] = VIDEO_EXTENSIONS,
    label_from_parent: bool = False,
    image_folders: bool = True,
) -> ScanResult:
    """Turn what the user named into videos with keys.

    Args:
        inputs: Files, folders, globs, URLs, ``@list.txt``, ``list.csv``, or ``-`` for a list on
            stdin. Lists hold literal paths; a CSV has the columns path, key, start, end, label.
        stdin: Where ``-`` reads; ``sys.stdin`` if not given.
        nul_separated: Text lists are separated by NUL bytes instead of line ends.
        root: What keys are relative to; the deepest folder that holds all inputs if not given.
        key: Relative path, or file name without its ending.
        extensions: Endings that a scan takes, without regard to case.
        label_from_parent: Label each video by the name of its folder.
        image_folders: Folders of numbered images are videos.

    Raises:
        UsageError: A list cannot be read, two videos have one key, a path is outside the root.
        NoInputError: Nothing matched.
    """
    finder = _SourceFinder(
        extensions,
        image_folders=image_folders,
        label_from_parent=label_from_parent,
        use_stems=key == "stem",
    )
    for text in inputs:
        if text == "-":
            lines = split_list_lines(
                (stdin or sys.stdin.buffer).read(), "standard input", nul_separated=nul_separated
            )
            finder.take_list((line, EMPTY_ROW) for line in lines)
        elif text.startswith("@") or text.lower().endswith(".csv"):
            finder.take_list(read_list(text.removeprefix("@"), nul_separated=nul_separated))
        elif glob.has_magic(text) and not (_URL_SCHEME.match(text) or os.path.lexists(text)):
            finder.take_glob(text)
        else:
            finder.take_input(text)
    if all(source.missing or source.problem == NO_FRAMES for source in finder.sources):
        raise _make_no_input_error(inputs, finder)
    return finder.assign_keys(os.path.abspath(root) if root else find_common_folder(finder.folders))


def why_unreadable(path: str) -> str | None:
    """Why this path cannot even be opened, or None. A FIFO would block whoever opens it."""
    stat_result, reason = _stat_input(path)
    if not (stat_result and stat.S_ISDIR(stat_result.st_mode)):
        return reason
    try:
        return None if list_numbered_images(path).paths else NO_FRAMES
    except OSError as error:
        return _describe_os_error(error, path)


class _SourceFinder:
    """Collects videos, the folders that hold them, and counts of what was left out."""

    def __init__(
        self,
        extensions: Collection[str],
        *,
        image_folders: bool,
        label_from_parent: bool,
        use_stems: bool,
    ) -> None:
        self.extensions = frozenset(ending.lower().lstrip(".") for ending in extensions)
        self.image_folders = image_folders
        self.label_from_parent = label_from_parent
        self.use_stems = use_stems
        self.sources: list[Source] = []
        self.folders: set[str] = set()
        self.passed_over: Counter[str] = Counter()

    def take_input(self, text: str, row: ListRow = EMPTY_ROW) -> None:
        """Take a path or a URL, as it stands."""
        if not text:
            raise UsageError("bad input (): the name is empty. Name . for the current folder")
        if _URL_SCHEME.match(text):
            self.sources.append(self._make_url_source(text, row))
            return
        path = os.path.abspath(text)
        stat_result, reason = _stat_input(path)
        is_directory = stat_result is not None and stat.S_ISDIR(stat_result.st_mode)
        sources = (
            self._find_in_folder(path, row)
            if is_directory
            else [self._make_source(path, row, stat_result, reason)]
        )
        self.sources += sources
        if not row.key:
            self.folders.add(os.path.dirname(path) if sources[0].path == path else path)

    def take_list(self, rows: Iterable[tuple[str, ListRow]]) -> None:
        """Take what a list names."""
        for path, row in rows:
            self.take_input(path, row)

    def take_glob(self, pattern: str) -> None:
        """Take the files that match, and the videos of the folders that match."""
        head = pattern
        while glob.has_magic(head):
            head = os.path.dirname(head)
        tail = pattern[len(head) :].strip("/")
        if tail == "**":
            self.take_input(head or ".")
            return
        base = os.path.abspath(head or ".")
        paths = _match_glob(base, tail)
        folders = {path for path in paths if os.path.isdir(path)}
        files = (self._make_source(path, EMPTY_ROW, *_stat_input(path)) for path in paths - folders)
        by_path = {
            source.path: source for source in chain(self._walk_folders(folders, EMPTY_ROW), files)
        }
        no_match = self._make_source(os.path.abspath(pattern), EMPTY_ROW, None, NO_FILE)
        self.sources += sorted(by_path.values(), key=_path_sort_key) or [no_match]
        self.folders.add(base)

    def assign_keys(self, base: str) -> ScanResult:
        """Give each video its key, relative to ``base`` unless a list gave one."""
        by_key: dict[str, Source] = {}
        for source in self.sources:
            key = source.key or make_key(
                source.path, base, use_stem=self.use_stems, is_folder=source.kind == "frames"
            )
            first = by_key.setdefault(key, source)
            if (first.path, first.start, first.end) != (source.path, source.start, source.end):
                raise UsageError(
                    f"two videos have the key {key}: {printable(first.path)} and {printable(source.path)}."
                    " Use a CSV list with a column key, another --root, or --key relpath"
                )
        sources = [replace(source, key=key) for key, source in by_key.items()]
        return ScanResult(sources, dict(self.passed_over), len(self.sources) - len(sources))

    def _find_in_folder(self, path: str, row: ListRow) -> list[Source]:
        if _links_upward(path):
            return [self._make_source(path, row, None, UPWARD_LINK)]
        return self._walk_folders([path], row) or [self._make_source(path, row, None, NO_FRAMES)]

    def _walk_folders(self, folders: Iterable[str], row: ListRow) -> list[Source]:
        starts = (folder for folder in folders if not _links_upward(folder))
        # Folders reached through fewer links come first, so that keys name the real place
        pending = [
            (int(os.path.islink(folder)), natural_sort_key(folder), folder) for folder in starts
        ]
        heapq.heapify(pending)
        visited: set[tuple[int, int]] = set()
        sources: list[Source] = []
        while pending:
            num_links, _, folder = heapq.heappop(pending)
            try:
                stat_result = os.stat(folder)
                if (stat_result.st_dev, stat_result.st_ino) in visited:
                    continue
                visited.add((stat_result.st_dev, stat_result.st_ino))
                with os.scandir(folder) as entries:
                    videos, subfolders, holds_frames = self._sort_entries(entries)
            except OSError as error:
                sources.append(
                    self._make_source(folder, row, None, _describe_os_error(error, folder))
                )
                continue
            sources += [
                self._make_source(entry.path, row, *_stat_input(entry.path, entry))
                for entry in videos
            ]
            if holds_frames:
                sources.append(
                    replace(self._make_source(folder, row, stat_result), kind="frames", size=None)
                )
            for entry in subfolders:
                links_passed = num_links + entry.is_symlink()
                heapq.heappush(pending, (links_passed, natural_sort_key(entry.path), entry.path))
        return sorted(sources, key=_path_sort_key)

    def _sort_entries(
        self, entries: Iterable[os.DirEntry[str]]
    ) -> tuple[list[os.DirEntry[str]], list[os.DirEntry[str]], bool]:
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
        images = [image for name in other_names if (image := NUMBERED_IMAGE.fullmatch(name))]
        holds_frames = self.image_folders and not videos and not all(map(is_flow_image, images))
        num_ignored = len(other_names) - (len(images) if holds_frames else 0)
        if num_ignored:
            self.passed_over["other extension"] += num_ignored
        subfolders = [
            entry for entry in folders if not entry.is_symlink() or not _links_upward(entry.path)
        ]
        return videos, subfolders, holds_frames

    def _make_url_source(self, text: str, row: ListRow) -> Source:
        place = simplify_url(text)
        key = row.key or (
            make_key(place, "", use_stem=True) if self.use_stems else escape_key(place)
        )
        return Source(key, text, "url", row.start, row.end, self._choose_label(place, row))

    def _make_source(
        self,
        path: str,
        row: ListRow,
        stat_result: os.stat_result | None,
        problem: str | None = None,
    ) -> Source:
        size, mtime = (stat_result.st_size, stat_result.st_mtime) if stat_result else (None, None)
        label, missing = self._choose_label(path, row), problem == NO_FILE
        return Source(
            row.key, path, "file", row.start, row.end, label, size, mtime, problem, missing
        )

    def _choose_label(self, path: str, row: ListRow) -> str | None:
        parent = os.path.basename(os.path.dirname(path)) if self.label_from_parent else ""
        return printable(row.label or parent) or None


def _match_glob(base: str, tail: str) -> set[str]:
    try:
        # glob.glob would go round link cycles on **; a Path does not, but it takes hidden names
        paths = {os.path.abspath(path) for path in Path(base).glob(tail)}
    except (ValueError, NotImplementedError) as error:
        raise UsageError(
            f"bad pattern ({printable(tail)}): {error}. Use * ? [] and /**/"
        ) from error
    wants_hidden = "/." in f"/{tail}"
    return {path for path in paths if wants_hidden or "/." not in path[len(base.rstrip("/")) :]}


def _stat_input(
    path: str, entry: os.DirEntry[str] | None = None
) -> tuple[os.stat_result | None, str | None]:
    try:
        stat_result = entry.stat() if entry else os.stat(path)
    except (OSError, ValueError) as error:
        return None, _describe_os_error(error, path)
    if not stat.S_ISREG(stat_result.st_mode):
        return stat_result, "not a regular file"
    if not stat_result.st_size:
        return stat_result, "empty file"
    return stat_result, None if os.access(path, os.R_OK) else "permission denied"


def _describe_os_error(error: OSError | ValueError, path: str) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{NO_FILE} (a link that leads nowhere)" if os.path.islink(path) else NO_FILE
    return str(getattr(error, "strerror", None) or error).lower()


def _path_sort_key(source: Source) -> NaturalKey:
    return natural_sort_key(source.path.replace(os.sep, "\0"))  # so that a/b sorts before a-b/c


def _links_upward(link: str) -> bool:
    if not os.path.islink(link):
        return False
    parent, target = os.path.realpath(os.path.dirname(link)), os.path.realpath(link)
    return os.path.commonpath([parent, target]) == target


def _make_no_input_error(inputs: Sequence[str], finder: _SourceFinder) -> NoInputError:
    names = ", ".join(map(printable, inputs[:3])) + (", …" if len(inputs) > 3 else "")
    causes = Counter(str(source.problem) for source in finder.sources)
    details = [f"{cause} ({count})" for cause, count in causes.items()]
    details += [f"passed over: {cause} ({count})" for cause, count in finder.passed_over.items()]
    advice = "--ext takes other endings" if finder.passed_over else "Name files, folders or @lists"
    return NoInputError(f"no video in ({names}): {', '.join(details) or 'nothing named'}. {advice}")

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
    common_folder,
    escape_key,
    make_key,
    natural,
    shown,
    url_place,
)
from mrx.sources.lists import PLAIN, ListRow, read_lines, read_list
from mrx.sources.numbered import (
    NUMBERED_IMAGE,
    is_flow,
    is_folder,
    numbered_images,
)

_VIDEO = (
    "264 265 3g2 3gp asf avi divx f4v flv gif h264 h265 hevc m1v m2ts m2v m4v mjpeg mjpg mkv mov"
    " mp4 mpeg mpg mts mxf ogm ogv rm rmvb ts vob webm wmv y4m"
)
VIDEO_EXTENSIONS = frozenset(_VIDEO.split())

NO_FILE = "no such file"
NO_FRAMES = "is a directory without frames"
UPWARD = "a directory link back to a folder above it"

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class Found:
    """All videos of a run, and what was left out.

    Attributes:
        sources: In the order named; natural order within a scan.
        passed_over: Reason → number of entries that scans rightly ignored.
        duplicates: How often a video was named again.
    """

    sources: list[Source]
    passed_over: dict[str, int]
    duplicates: int


def find(
    inputs: Sequence[str],
    *,
    stdin: BinaryIO | None = None,
    null: bool = False,
    root: str | None = None,
    key: Literal["relpath", "stem"] = "relpath",
    extensions: Collection[str] = VIDEO_EXTENSIONS,
    label_from_parent: bool = False,
    frames: bool = True,
) -> Found:
    """Turn what the user named into videos with keys.

    Args:
        inputs: Files, folders, globs, URLs, ``@list.txt``, ``list.csv``, or ``-`` for a list on
            stdin. Lists hold literal paths; a CSV has the columns path, key, start, end, label.
        stdin: Where ``-`` reads; ``sys.stdin`` if not given.
        null: Text lists are separated by NUL bytes instead of line ends.
        root: What keys are relative to; the deepest folder that holds all inputs if not given.
        key: Relative path, or file name without its ending.
        extensions: Endings that a scan takes, without regard to case.
        label_from_parent: Label each video by the name of its folder.
        frames: Folders of numbered images are videos.

    Raises:
        UsageError: A list cannot be read, two videos have one key, a path is outside the root.
        NoInputError: Nothing matched.
    """
    finder = _Finder(extensions, frames=frames, labels=label_from_parent, stems=key == "stem")
    for text in inputs:
        if text == "-":
            lines = read_lines((stdin or sys.stdin.buffer).read(), "standard input", null=null)
            finder.take_list((line, PLAIN) for line in lines)
        elif text.startswith("@") or text.lower().endswith(".csv"):
            finder.take_list(read_list(text.removeprefix("@"), null=null))
        elif glob.has_magic(text) and not (_URL.match(text) or os.path.lexists(text)):
            finder.take_glob(text)
        else:
            finder.take(text)
    if all(source.missing or source.problem == NO_FRAMES for source in finder.sources):
        raise _nothing(inputs, finder)
    return finder.with_keys(os.path.abspath(root) if root else common_folder(finder.folders))


def problem(path: str) -> str | None:
    """Why this path cannot even be opened, or None. A FIFO would block whoever opens it."""
    state, why = _look(path)
    if not (state and stat.S_ISDIR(state.st_mode)):
        return why
    try:
        return None if numbered_images(path).paths else NO_FRAMES
    except OSError as error:
        return _reason(error, path)


class _Finder:
    """Collects videos, the folders that hold them, and counts of what was left out."""

    def __init__(
        self, extensions: Collection[str], *, frames: bool, labels: bool, stems: bool
    ) -> None:
        self.extensions = frozenset(ending.lower().lstrip(".") for ending in extensions)
        self.frames = frames
        self.labels = labels
        self.stems = stems
        self.sources: list[Source] = []
        self.folders: set[str] = set()
        self.passed_over: Counter[str] = Counter()

    def take(self, text: str, row: ListRow = PLAIN) -> None:
        """Take a path or a URL, as it stands."""
        if not text:
            raise UsageError("bad input (): the name is empty. Name . for the current folder")
        if _URL.match(text):
            self.sources.append(self._url(text, row))
            return
        path = os.path.abspath(text)
        state, why = _look(path)
        is_folder = state is not None and stat.S_ISDIR(state.st_mode)
        found = self._folder(path, row) if is_folder else [self._source(path, row, state, why)]
        self.sources += found
        if not row.key:
            self.folders.add(os.path.dirname(path) if found[0].path == path else path)

    def take_list(self, rows: Iterable[tuple[str, ListRow]]) -> None:
        """Take what a list names."""
        for path, row in rows:
            self.take(path, row)

    def take_glob(self, pattern: str) -> None:
        """Take the files that match, and the videos of the folders that match."""
        head = pattern
        while glob.has_magic(head):
            head = os.path.dirname(head)
        tail = pattern[len(head) :].strip("/")
        if tail == "**":
            self.take(head or ".")
            return
        base = os.path.abspath(head or ".")
        paths = _matches(base, tail)
        folders = {path for path in paths if os.path.isdir(path)}
        files = (self._source(path, PLAIN, *_look(path)) for path in paths - folders)
        found = {source.path: source for source in chain(self._scan(folders, PLAIN), files)}
        none = self._source(os.path.abspath(pattern), PLAIN, None, NO_FILE)
        self.sources += sorted(found.values(), key=_place) or [none]
        self.folders.add(base)

    def with_keys(self, base: str) -> Found:
        """Give each video its key, relative to ``base`` unless a list gave one."""
        by_key: dict[str, Source] = {}
        for source in self.sources:
            key = source.key or make_key(
                source.path, base, stem=self.stems, folder=source.kind == "frames"
            )
            first = by_key.setdefault(key, source)
            if (first.path, first.start, first.end) != (source.path, source.start, source.end):
                raise UsageError(
                    f"two videos have the key {key}: {shown(first.path)} and {shown(source.path)}."
                    " Use a CSV list with a column key, another --root, or --key relpath"
                )
        sources = [replace(source, key=key) for key, source in by_key.items()]
        return Found(sources, dict(self.passed_over), len(self.sources) - len(sources))

    def _folder(self, path: str, row: ListRow) -> list[Source]:
        if _leads_up(path):
            return [self._source(path, row, None, UPWARD)]
        return self._scan([path], row) or [self._source(path, row, None, NO_FRAMES)]

    def _scan(self, folders: Iterable[str], row: ListRow) -> list[Source]:
        starts = (folder for folder in folders if not _leads_up(folder))
        # Folders reached through fewer links come first, so that keys name the real place
        waiting = [(int(os.path.islink(folder)), natural(folder), folder) for folder in starts]
        heapq.heapify(waiting)
        entered: set[tuple[int, int]] = set()
        found: list[Source] = []
        while waiting:
            links, _, folder = heapq.heappop(waiting)
            try:
                state = os.stat(folder)
                if (state.st_dev, state.st_ino) in entered:
                    continue
                entered.add((state.st_dev, state.st_ino))
                with os.scandir(folder) as entries:
                    videos, deeper, holds_frames = self._sort_out(entries)
            except OSError as error:
                found.append(self._source(folder, row, None, _reason(error, folder)))
                continue
            found += [self._source(entry.path, row, *_look(entry.path, entry)) for entry in videos]
            if holds_frames:
                found.append(replace(self._source(folder, row, state), kind="frames", size=None))
            for entry in deeper:
                through = links + entry.is_symlink()
                heapq.heappush(waiting, (through, natural(entry.path), entry.path))
        return sorted(found, key=_place)

    def _sort_out(
        self, entries: Iterable[os.DirEntry[str]]
    ) -> tuple[list[os.DirEntry[str]], list[os.DirEntry[str]], bool]:
        videos, folders, others = [], [], []
        for entry in entries:
            if entry.name.startswith("."):
                self.passed_over["hidden"] += 1
            elif is_folder(entry):
                folders.append(entry)
            elif entry.name.rpartition(".")[2].lower() in self.extensions and "." in entry.name:
                videos.append(entry)
            else:
                others.append(entry.name)
        images = [image for name in others if (image := NUMBERED_IMAGE.fullmatch(name))]
        holds_frames = self.frames and not videos and not all(map(is_flow, images))
        ignored = len(others) - (len(images) if holds_frames else 0)
        if ignored:
            self.passed_over["other extension"] += ignored
        deeper = [entry for entry in folders if not entry.is_symlink() or not _leads_up(entry.path)]
        return videos, deeper, holds_frames

    def _url(self, text: str, row: ListRow) -> Source:
        place = url_place(text)
        key = row.key or (make_key(place, "", stem=True) if self.stems else escape_key(place))
        return Source(key, text, "url", row.start, row.end, self._label(place, row))

    def _source(
        self, path: str, row: ListRow, state: os.stat_result | None, why: str | None = None
    ) -> Source:
        size, mtime = (state.st_size, state.st_mtime) if state else (None, None)
        label, missing = self._label(path, row), why == NO_FILE
        return Source(row.key, path, "file", row.start, row.end, label, size, mtime, why, missing)

    def _label(self, path: str, row: ListRow) -> str | None:
        parent = os.path.basename(os.path.dirname(path)) if self.labels else ""
        return shown(row.label or parent) or None


def _matches(base: str, tail: str) -> set[str]:
    try:
        # glob.glob would go round link cycles on **; a Path does not, but it takes hidden names
        paths = {os.path.abspath(path) for path in Path(base).glob(tail)}
    except (ValueError, NotImplementedError) as error:
        raise UsageError(f"bad pattern ({shown(tail)}): {error}. Use * ? [] and /**/") from error
    hidden = "/." in f"/{tail}"
    return {path for path in paths if hidden or "/." not in path[len(base.rstrip("/")) :]}


def _look(
    path: str, entry: os.DirEntry[str] | None = None
) -> tuple[os.stat_result | None, str | None]:
    try:
        state = entry.stat() if entry else os.stat(path)
    except (OSError, ValueError) as error:
        return None, _reason(error, path)
    if not stat.S_ISREG(state.st_mode):
        return state, "not a regular file"
    if not state.st_size:
        return state, "empty file"
    return state, None if os.access(path, os.R_OK) else "permission denied"


def _reason(error: OSError | ValueError, path: str) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{NO_FILE} (a link that leads nowhere)" if os.path.islink(path) else NO_FILE
    return str(getattr(error, "strerror", None) or error).lower()


def _place(source: Source) -> NaturalKey:
    return natural(source.path.replace(os.sep, "\0"))  # so that a/b sorts before a-b/c


def _leads_up(link: str) -> bool:
    if not os.path.islink(link):
        return False
    here, there = os.path.realpath(os.path.dirname(link)), os.path.realpath(link)
    return os.path.commonpath([here, there]) == there


def _nothing(inputs: Sequence[str], finder: _Finder) -> NoInputError:
    names = ", ".join(map(shown, inputs[:3])) + (", …" if len(inputs) > 3 else "")
    causes = Counter(str(source.problem) for source in finder.sources)
    why = [f"{cause} ({count})" for cause, count in causes.items()]
    why += [f"passed over: {cause} ({count})" for cause, count in finder.passed_over.items()]
    advice = "--ext takes other endings" if finder.passed_over else "Name files, folders or @lists"
    return NoInputError(f"no video in ({names}): {', '.join(why) or 'nothing named'}. {advice}")

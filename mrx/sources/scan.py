"""Turns files, folders, lists, stdin and URLs into an ordered list of videos with stable keys.

Only lists and folders are opened here; a video costs one ``stat``. A video that ``stat`` finds
unreadable stays in the list with its ``problem``, so that the run can report it.
"""
# ruff: noqa: PTH100, PTH112, PTH119, PTH120
# Paths are str: there may be millions of them, and abspath removes ".." but keeps links.

import glob
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

from mrx.errors import NoInputError, UsageError
from mrx.job import Decoding, Source
from mrx.sources.folders import (
    NO_FILE,
    FolderWalker,
    FoundVideo,
    describe_os_error,
    links_upward,
    path_sort_key,
    stat_input,
)
from mrx.sources.keys import (
    escape_key,
    find_common_folder,
    make_key,
    printable,
    simplify_url,
)
from mrx.sources.lists import EMPTY_ROW, ListRow, read_list, split_list_lines
from mrx.sources.numbered import compute_fingerprint, list_numbered_images

_VIDEO_ENDINGS = (
    "264 265 3g2 3gp asf avi divx f4v flv gif h264 h265 hevc m1v m2ts m2v m4v mjpeg mjpg mkv mov"
    " mp4 mpeg mpg mts mxf ogm ogv rm rmvb ts vob webm wmv y4m"
)
VIDEO_EXTENSIONS = frozenset(_VIDEO_ENDINGS.split())

KeyStyle = Literal["relpath", "stem"]

NO_FRAMES = "is a directory without frames"
UPWARD_LINK = "a directory link back to a folder above it"

_URL_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class ScanResult:
    """The videos of a run, with counts of ignored entries and duplicates.

    Attributes:
        sources: Videos in the order of the inputs; in natural order within a folder.
        passed_over: Reason → number of folder entries that were ignored.
        duplicates: Number of inputs that name a video again.
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
    key: KeyStyle = "relpath",
    extensions: Collection[str] = VIDEO_EXTENSIONS,
    label_from_parent: bool = False,
    image_folders: bool = True,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
) -> ScanResult:
    """Find the videos that the inputs name, and give them keys.

    Args:
        inputs: Files, folders, globs, URLs, ``@list.txt``, ``list.csv``, or ``-`` for a list on
            stdin. Lists hold literal paths; a CSV has the columns path, key, start, end, label.
        stdin: Stream that ``-`` reads; ``sys.stdin`` if not given.
        nul_separated: The paths in text lists are separated by NUL bytes, not by newlines.
        root: Folder that keys are relative to; the deepest folder that holds all inputs if not
            given.
        key: Key style: relative path, or file name without extension.
        extensions: Extensions of video files in folders, in any case.
        label_from_parent: Label each video with the name of its folder.
        image_folders: Treat folders of numbered images as videos.
        decoding: Settings whose start and end hold for the rows of a CSV that lack one.

    Raises:
        UsageError: A list cannot be read, a range in it is empty, two videos have the same key, or
            a path is outside the root.
        NoInputError: No video was found.
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
            name = text.removeprefix("@")
            finder.take_list(read_list(name, nul_separated=nul_separated, decoding=decoding))
        elif glob.has_magic(text) and not (_URL_SCHEME.match(text) or os.path.lexists(text)):
            finder.take_glob(text)
        else:
            finder.take_input(text)
    if all(source.missing or source.problem == NO_FRAMES for source in finder.sources):
        raise _make_no_input_error(inputs, finder)
    return finder.assign_keys(os.path.abspath(root) if root else find_common_folder(finder.folders))


def make_path_source(path: str | os.PathLike[str], key: str | None = None) -> Source:
    """Return the source of one file, folder of numbered images or URL.

    The path is not checked: see `why_unreadable`.

    Args:
        path: Made absolute, unless it is a URL.
        key: The absolute path or the URL if not given.
    """
    text = os.fsdecode(path)
    if "://" in text:
        return Source(text if key is None else key, text, "url")
    absolute = os.path.abspath(text)
    stat_result, _ = stat_input(absolute)
    is_folder = stat_result is not None and stat.S_ISDIR(stat_result.st_mode)
    fingerprint = None
    if is_folder:
        # `why_unreadable` tells of a folder that cannot be listed.
        with suppress(OSError):
            fingerprint = compute_fingerprint(absolute)
    return Source(
        key=absolute if key is None else key,
        path=absolute,
        kind="frames" if is_folder else "file",
        size=stat_result.st_size if stat_result and not is_folder else None,
        mtime=stat_result.st_mtime if stat_result else None,
        fingerprint=fingerprint,
    )


def why_unreadable(path: str) -> str | None:
    """Return the reason why a path cannot be opened, or None if it seems readable."""
    # `stat` must answer this: opening a FIFO blocks until something writes to it.
    stat_result, reason = stat_input(path)
    if not (stat_result and stat.S_ISDIR(stat_result.st_mode)):
        return reason
    try:
        return None if list_numbered_images(path).paths else NO_FRAMES
    except OSError as error:
        return describe_os_error(error, path)


class _SourceFinder:
    """Collects the videos that the inputs name.

    Attributes:
        sources: videos so far; their keys are empty unless a list gave one
        folders: folders of the inputs; keys are relative to the deepest one that holds them all
    """

    def __init__(
        self,
        extensions: Collection[str],
        *,
        image_folders: bool,
        label_from_parent: bool,
        use_stems: bool,
    ) -> None:
        self.walker = FolderWalker(extensions, image_folders=image_folders)
        self.label_from_parent = label_from_parent
        self.use_stems = use_stems
        self.sources: list[Source] = []
        self.folders: set[str] = set()

    def take_input(self, text: str, row: ListRow = EMPTY_ROW) -> None:
        """Add the videos of a literal path or URL."""
        if not text:
            raise UsageError("bad input (): the name is empty. Use . for the current folder")
        if _URL_SCHEME.match(text):
            self.sources.append(self._make_url_source(text, row))
            return
        path = os.path.abspath(text)
        stat_result, reason = stat_input(path)
        is_directory = stat_result is not None and stat.S_ISDIR(stat_result.st_mode)
        videos = (
            self._find_in_folder(path)
            if is_directory
            else [FoundVideo.from_stat(path, stat_result, reason)]
        )
        self.sources += [self._make_source(video, row) for video in videos]
        if not row.key:
            # A folder of images is itself the video, so its key is relative to its parent.
            self.folders.add(os.path.dirname(path) if videos[0].path == path else path)

    def take_list(self, rows: Iterable[tuple[str, ListRow]]) -> None:
        """Add the videos that a list names."""
        for path, row in rows:
            self.take_input(path, row)

    def take_glob(self, pattern: str) -> None:
        """Add the files that match a pattern, and the videos in the folders that match."""
        # "v/*/b?.mp4" -> head "v", tail "*/b?.mp4"
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
        # A file may match the pattern and also lie in a folder that matches.
        by_path = {video.path: video for video in self.walker.find_videos(folders)}
        by_path |= {path: FoundVideo.from_stat(path, *stat_input(path)) for path in paths - folders}
        videos = [by_path[path] for path in sorted(by_path, key=path_sort_key)]
        no_match = FoundVideo(os.path.abspath(pattern), problem=NO_FILE)
        self.sources += [self._make_source(video, EMPTY_ROW) for video in videos or [no_match]]
        self.folders.add(base)

    def assign_keys(self, base: str) -> ScanResult:
        """Give each video its key, relative to ``base`` unless a list gave one.

        Raises:
            UsageError: two videos have the same key
        """
        by_key: dict[str, Source] = {}
        for source in self.sources:
            key = source.key or make_key(
                source.path, base, use_stem=self.use_stems, is_folder=source.kind == "frames"
            )
            first = by_key.setdefault(key, source)
            if (first.path, first.start, first.end) != (source.path, source.start, source.end):
                paths = f"{printable(first.path)} and {printable(source.path)}"
                raise UsageError(
                    f"duplicate key ({key}): {paths} have the same key."
                    " Use a CSV list with a column key, another --root, or --key relpath"
                )
        sources = [replace(source, key=key) for key, source in by_key.items()]
        return ScanResult(sources, dict(self.walker.passed_over), len(self.sources) - len(sources))

    def _find_in_folder(self, path: str) -> list[FoundVideo]:
        if links_upward(path):
            return [FoundVideo(path, problem=UPWARD_LINK)]
        return self.walker.find_videos([path]) or [FoundVideo(path, problem=NO_FRAMES)]

    def _make_url_source(self, text: str, row: ListRow) -> Source:
        place = simplify_url(text)
        key = row.key or (
            make_key(place, "", use_stem=True) if self.use_stems else escape_key(place)
        )
        return Source(key, text, "url", row.start, row.end, self._choose_label(place, row))

    def _make_source(self, video: FoundVideo, row: ListRow) -> Source:
        return Source(
            key=row.key,
            path=video.path,
            kind="frames" if video.has_images else "file",
            start=row.start,
            end=row.end,
            label=self._choose_label(video.path, row),
            size=video.size,
            mtime=video.mtime,
            problem=video.problem,
            missing=video.problem == NO_FILE,
            fingerprint=video.fingerprint,
        )

    def _choose_label(self, path: str, row: ListRow) -> str | None:
        parent = os.path.basename(os.path.dirname(path)) if self.label_from_parent else ""
        return printable(row.label or parent) or None


def _match_glob(base: str, tail: str) -> set[str]:
    try:
        # glob.glob follows link cycles on **. Path.glob does not, but it matches hidden names.
        paths = {os.path.abspath(path) for path in Path(base).glob(tail)}
    except (ValueError, NotImplementedError) as error:
        raise UsageError(
            f"bad pattern ({printable(tail)}): {error}. Use * ? [] and /**/"
        ) from error
    wants_hidden = "/." in f"/{tail}"
    return {path for path in paths if wants_hidden or "/." not in path[len(base.rstrip("/")) :]}


def _make_no_input_error(inputs: Sequence[str], finder: _SourceFinder) -> NoInputError:
    names = ", ".join(map(printable, inputs[:3])) + (", …" if len(inputs) > 3 else "")
    causes = Counter(str(source.problem) for source in finder.sources)
    details = [f"{cause} ({count})" for cause, count in causes.items()]
    details += [f"ignored: {cause} ({count})" for cause, count in finder.walker.passed_over.items()]
    passed_over = finder.walker.passed_over
    advice = "Use --ext for other extensions" if passed_over else "Give files, folders or @lists"
    return NoInputError(
        f"no video in ({names}): {', '.join(details) or 'no input given'}. {advice}"
    )

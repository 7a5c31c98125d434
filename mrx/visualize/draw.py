"""decode → windows → method → render → film or page: what ``mrx visualize`` does.

A first pass measures the whole clip, so that one scale serves all its pictures; what it computed
is kept for the second where that is little, and computed again where it is not.
"""

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from pathlib import Path

from mrx.errors import FormatError, InputError, NoInputError, OutputError, UsageError
from mrx.job import Job, Source
from mrx.shards.layout import list_shards
from mrx.shards.reader import Recording, Shards
from mrx.sources.numbered import list_numbered_images
from mrx.sources.scan import why_unreadable
from mrx.visualize.film import CODECS, find_output_kind, open_film, write_png
from mrx.visualize.moments import ComputedMoments, FrameRange, Moment, MomentSource, StoredMoments
from mrx.visualize.page import Page
from mrx.visualize.painter import Painter
from mrx.visualize.painter import PictureOptions as PictureOptions

KEPT_BYTES = 256 * 2**20
LARGE_PAGE = 100e6  # bytes
PAGE_TOO_LARGE = (
    f"the page is past {LARGE_PAGE / 1e6:.0f} MB, which is much to send and to open: show less by "
    "--every, --frames or --scale"
)
UNEVEN_TIMES = (
    "the video's pictures are not evenly apart in time, the film's are: off by up to {:.2f} s; an "
    ".html tells the time of each"
)
NO_WINDOWS = "nothing to show: no window fits into the frames asked for"
SHARD_ENDINGS = (".h5", ".hdf5")


@dataclass(frozen=True)
class DrawRequest:
    """What is drawn of an input, how, and where to.

    Attributes:
        output: a file's name, whose ending tells the kind, a folder, or ``-``
        frame_range: the frames in which windows begin
        options: how the pictures look
        notify: takes what the user should know
    """

    output: str
    frame_range: FrameRange
    options: PictureOptions
    notify: Callable[[str], None]


def is_stored(text: str) -> bool:
    """Whether an input is a shard, a folder of them, or a key of one."""
    path = Path(text)
    if path.is_dir():
        return bool(list_shards(path))
    return path.suffix.lower() in SHARD_ENDINGS or bool(_split_shard_key(text))


def check_output_differs(text: str, *, output: str) -> None:
    """Refuse to write over what is read, or among the frames of a folder."""
    path, target = Path((_split_shard_key(text) or (text, ""))[0]), Path(output)
    if _is_same_file(path, target):
        raise UsageError(f"-o {output} is the input: give another name")
    in_frame_folder = target.suffix.lower() == ".png" and _is_same_file(path, target.parent)
    if in_frame_folder and not list_shards(path):
        raise UsageError(f"-o {output} lies among the frames of the input: give another folder")


def _is_same_file(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def visualize_video(path: str, job: Job, request: DrawRequest) -> None:
    """Draw a video, a folder of numbered images or a URL, computing the maps."""
    source = _make_video_source(path)
    name = source.public_path if source.kind == "url" else source.key
    _write_clip(ComputedMoments(job, source, request.frame_range), name, request)


def visualize_shard(text: str, names: Sequence[str], request: DrawRequest) -> None:
    """Draw what a shard holds: one key, or each in a folder of its own."""
    path, key = _split_shard_key(text) or (text, "")
    if not Path(path).exists():
        raise NoInputError(f"no such shard ({path})")
    with Shards(path) as recordings:
        if key and key not in recordings:
            raise UsageError(f"no such key ({key}) in {path}; mrx ls {path} lists them")
        keys = [key] if key else list(recordings)
        if not keys:
            raise NoInputError(f"{path} holds no videos")
        if len(keys) == 1:
            _draw_recording(recordings[keys[0]], names, request)
            return
        if find_output_kind(request.output):
            raise UsageError(
                f"{path} holds {len(keys)} videos: name one, as in {path}::{keys[0]}, or give a "
                "folder as -o"
            )
        _draw_all_recordings(recordings, names, request)


def _draw_recording(recording: Recording, names: Sequence[str], request: DrawRequest) -> None:
    """One key of a shard."""
    if source := str(recording.attrs.get("source", "")):
        check_output_differs(source, output=request.output)
    method_names = _choose_stored_methods(list(recording), names, recording.key)
    _write_clip(StoredMoments(recording, method_names, request.frame_range), recording.key, request)


def _draw_all_recordings(recordings: Shards, names: Sequence[str], request: DrawRequest) -> None:
    """Each key in a folder of its own; one that fails does not end the others."""
    targets = {key: _make_key_folder(request.output, key=key) for key in recordings}
    _check_folders_empty(targets.values())
    failed = 0
    for key, target in targets.items():
        try:
            _draw_recording(recordings[key], names, replace(request, output=target))
        except (InputError, UsageError, FormatError) as error:
            failed += 1
            request.notify(f"failed: {key}: {error}")
    if failed:
        raise InputError(f"{failed} of {len(targets)} videos could not be drawn")


def _check_folders_empty(folders: Iterable[str]) -> None:
    for folder in map(Path, folders):
        if folder.is_dir() and any(folder.iterdir()):
            raise OutputError(f"output is not empty ({folder}): give a new folder")


def _make_key_folder(output: str, *, key: str) -> str:
    """The folder of a key's pictures, which its ending must not make a film."""
    root = Path(output).resolve()
    if not (root / key).resolve().is_relative_to(root):
        raise OutputError(f"key {key} leads out of {output}: draw it alone, by its name")
    return str(Path(output) / key) + os.sep


def _choose_stored_methods(available: list[str], names: Sequence[str], key: str) -> list[str]:
    for name in names:
        if name not in available:
            raise UsageError(f"{key} has no {name}; it has {', '.join(available)}")
    return list(names) or available


def _split_shard_key(text: str) -> tuple[str, str] | None:
    """``out::KEY`` as path and key."""
    path, separator, key = text.partition("::")
    is_shard = Path(path).exists() or Path(path).suffix.lower() in SHARD_ENDINGS
    return (path, key) if separator and is_shard and not Path(text).exists() else None


def _make_video_source(text: str) -> Source:
    if "://" in text:
        return Source(key=text, path=text, kind="url")
    path = Path(text).absolute()
    folder = path.is_dir()
    if not path.exists() or (folder and not list_numbered_images(str(path)).paths):
        reason = "is a folder without frames or shards" if folder else "no such file"
        raise NoInputError(f"no video ({text}): {reason}")
    reason = why_unreadable(str(path)) or ""
    if reason:
        raise InputError(f"{text}: {reason}")
    return Source(key=path.name, path=str(path), kind="frames" if folder else "file")


def _write_clip(clip: MomentSource, name: str, request: DrawRequest) -> None:
    """One clip to one output."""
    options, output = request.options, request.output
    painter = Painter(clip.tracks, options)
    single = find_output_kind(output) == ".png" and options.columns is None
    cache = MomentCache(clip, options.every, max_count=1 if single else None)
    if options.columns is not None or not (options.per_frame_scale or all(painter.fixed_bounds)):
        cache.measure_clip(painter)
    if options.columns is not None:
        moments = cache.pick_evenly(options.columns)
        if not moments:
            raise InputError(NO_WINDOWS)
        write_png(Path(output), painter.draw_grid(moments))
    elif find_output_kind(output) == ".html":
        _write_page(cache, painter, name, request)
    else:
        _write_film(cache, painter, request)
    for warning in clip.list_warnings():
        request.notify(f"warning: {warning}")


def _write_film(cache: "MomentCache", painter: Painter, request: DrawRequest) -> None:
    output, times = request.output, []
    with closing(cache.iter_moments()) as moments:
        first = next(moments, None)
        if first is None:
            raise InputError(NO_WINDOWS)
        rate = cache.choose_rate(request.options.fps)
        with open_film(output, rate) as film:
            for moment in chain([first], moments):
                film.add_picture(painter.draw_panels(moment))
                times.append(moment.time)
    time_error = _measure_time_error(times, rate)
    if time_error and request.options.fps is None and find_output_kind(output) in CODECS:
        request.notify(f"warning: {output}: {UNEVEN_TIMES.format(time_error)}")


def _measure_time_error(times: Sequence[float], rate: float) -> float:
    """How far pictures of one rate are from their times, where these differ by half a picture."""
    if all(abs((b - a) * rate - 1) <= 0.5 for a, b in pairwise(times)):
        return 0.0
    return max(abs(time - times[0] - i / rate) for i, time in enumerate(times))


def _write_page(cache: "MomentCache", painter: Painter, name: str, request: DrawRequest) -> None:
    output = request.output
    with closing(cache.iter_moments()) as moments:
        first = next(moments, None)
        if first is None:
            raise InputError(NO_WINDOWS)
        panels = painter.make_page_panels(framed=first.frame is not None)
        warned = False
        with Page(Path(output), name, panels, cache.choose_rate(painter.options.fps)) as page:
            for moment in chain([first], moments):
                page.add_moment(moment.number, moment.time, painter.draw_views(moment))
                if page.nbytes > LARGE_PAGE and not warned:
                    request.notify(f"warning: {output}: {PAGE_TOO_LARGE}")
                    warned = True
    request.notify(f"{output}: {page.nbytes / 1e6:.1f} MB, {page.count} pictures a panel")


class MomentCache:
    """The moments of a clip that are shown: kept if they are small, made again if not."""

    def __init__(self, clip: MomentSource, stride: int, max_count: int | None) -> None:
        self.clip = clip
        self.count = 0
        self._stride = stride
        self._max_count = max_count
        self._cached: list[Moment] | None = None

    def choose_rate(self, requested: float | None) -> float:
        return requested or self.clip.estimate_rate() / self._stride

    def iter_moments(self) -> Generator[Moment]:
        if self._cached is not None:
            yield from self._cached
            return
        with closing(self._iter_sampled()) as sampled:
            yield from islice(sampled, self._max_count)

    def _iter_sampled(self) -> Generator[Moment]:
        """Those that count for the scale, whether they are shown or not."""
        with closing(self.clip.iter_moments()) as moments:
            yield from islice(moments, 0, None, self._stride)

    def measure_clip(self, painter: Painter) -> None:
        cached: list[Moment] | None = []
        size = 0
        for moment in self._iter_sampled():
            painter.measure_moment(moment)
            self.count += 1
            if self._max_count is not None and self.count > self._max_count:
                continue
            size += moment.nbytes
            if size > KEPT_BYTES:
                cached = None
            elif cached is not None:
                cached.append(moment.copy())
        self._cached = cached

    def pick_evenly(self, columns: int) -> list[Moment]:
        """So many at equal distances, in the middle of equal parts; all where there are fewer."""
        columns = min(columns, self.count)
        indices = {int((i + 0.5) * self.count / columns) for i in range(columns)}
        return [moment for place, moment in enumerate(self.iter_moments()) if place in indices]

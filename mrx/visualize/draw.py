"""The work of ``mrx visualize``: decode → windows → method → render → film or page.

Unless every picture has its own scale or --max-flow fixes it, a first pass measures the whole clip,
so that all its pictures have one scale. Its moments are kept for the second pass if they are small,
and computed again otherwise.
"""

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain, islice, pairwise
from pathlib import Path

from mrx.errors import FormatError, InputError, NoInputError, OutputError, UsageError
from mrx.job import Job, Source
from mrx.pipeline.hardware import configure_process
from mrx.shards.layout import list_shards, split_shard_path
from mrx.shards.reader import Recording, Shards
from mrx.sources.numbered import list_numbered_images
from mrx.sources.scan import make_path_source, why_unreadable
from mrx.visualize.computed import ComputedMoments
from mrx.visualize.film import CODECS, find_output_kind, open_film, write_png
from mrx.visualize.moments import FrameRange, Moment, MomentSource
from mrx.visualize.page import Page
from mrx.visualize.painter import Painter
from mrx.visualize.picture_options import PictureOptions
from mrx.visualize.stored import StoredMoments

KEPT_BYTES = 256 * 2**20  # limit on the moments kept in memory between the passes
LARGE_PAGE = 100e6  # bytes
PAGE_TOO_LARGE = (
    f"the page exceeds {LARGE_PAGE / 1e6:.0f} MB and may be slow to send and open. Show less with "
    "--every, --frames or --scale"
)
UNEVEN_TIMES = (
    "frames are unevenly spaced, but a film has a fixed rate: it is off by up to {:.2f} s. An "
    ".html page shows each frame's time"
)
NO_WINDOWS = "nothing to show: no window fits into the requested frames"
SHARD_ENDINGS = (".h5", ".hdf5")


@dataclass(frozen=True)
class DrawRequest:
    """A request to draw an input.

    Attributes:
        output: a file name, a folder, or ``-`` for stdout
        frame_range: the frames in which windows may begin
        options: the look of the pictures
        notify: called with each message to the user
        kind: the kind of `output`, see `find_output_kind`
    """

    output: str
    frame_range: FrameRange
    options: PictureOptions
    notify: Callable[[str], None]
    kind: str = field(init=False)

    def __post_init__(self) -> None:
        # Computed once: creating the output folder would change the answer.
        object.__setattr__(self, "kind", find_output_kind(self.output))


def is_stored(text: str) -> bool:
    """Return True for a shard, a folder of shards, or a key of one."""
    name, key = split_shard_path(text)
    path = Path(name)
    if key:
        return True
    if path.is_dir():
        return bool(list_shards(path))
    return path.suffix.lower() in SHARD_ENDINGS


def check_output_differs(text: str, *, output: str) -> None:
    """Refuse an output that would overwrite the input, or join the frames of a folder.

    Raises:
        UsageError: the output is the input, or a .png in the input's folder of images
    """
    path, target = Path(split_shard_path(text)[0]), Path(output)
    if _is_same_file(path, target):
        raise UsageError(f"-o {output} is the input: give another name")
    # The next run would read the new .png as one of the frames.
    in_frame_folder = target.suffix.lower() == ".png" and _is_same_file(path, target.parent)
    if in_frame_folder and not list_shards(path):
        raise UsageError(f"-o {output} is among the frames of the input: give another folder")


def _is_same_file(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def visualize_video(path: str, job: Job, request: DrawRequest) -> None:
    """Compute and draw the maps of a video, a folder of numbered images or a URL."""
    source = _make_video_source(path)
    name = source.public_path if source.kind == "url" else source.key
    with configure_process(job.backend, threads=None):
        _write_clip(ComputedMoments(job, source, request.frame_range), name, request)


def visualize_shard(text: str, names: Sequence[str], request: DrawRequest) -> None:
    """Draw one key of a shard, or each key into its own folder.

    Args:
        text: a shard or a folder of shards, or one key of it as ``PATH::KEY``
        names: the methods to draw; empty draws all
        request: the output and the look

    Raises:
        NoInputError: the shard is missing or empty
        UsageError: the key is missing, or a single file is requested for several keys
        InputError: some of several keys could not be drawn
    """
    path, key = split_shard_path(text)
    if not Path(path).exists():
        raise NoInputError(f"no such shard ({path})")
    with Shards(path) as recordings:
        if key and key not in recordings:
            raise UsageError(f"no such key ({key}) in {path}; mrx ls {path} lists them")
        keys = [key] if key else list(recordings)
        if not keys:
            raise NoInputError(f"{path} has no videos")
        if len(keys) == 1:
            _draw_recording(recordings[keys[0]], names, request)
            return
        if request.kind:
            raise UsageError(
                f"{path} has {len(keys)} videos: name one, as in {path}::{keys[0]}, or give a "
                "folder as -o"
            )
        _draw_all_recordings(recordings, names, request)


def _draw_recording(recording: Recording, names: Sequence[str], request: DrawRequest) -> None:
    source = str(recording.attrs.get("source", ""))
    if source:
        # The source video is decoded again, so it must not be overwritten either.
        check_output_differs(source, output=request.output)
    method_names = _choose_stored_methods(list(recording), names, recording.key)
    _write_clip(StoredMoments(recording, method_names, request.frame_range), recording.key, request)


def _draw_all_recordings(recordings: Shards, names: Sequence[str], request: DrawRequest) -> None:
    """Draw each key into its own folder; report a key that fails and draw the others."""
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
    root = Path(output).resolve()
    # A shard from another program may hold any key, even ../../x.
    if not (root / key).resolve().is_relative_to(root):
        raise OutputError(
            f"key {key} is outside {output}: draw it alone, with PATH::KEY and a file as -o"
        )
    # The trailing slash keeps a key such as a.mp4 a folder, not a film.
    return str(Path(output) / key) + os.sep


def _choose_stored_methods(available: list[str], names: Sequence[str], key: str) -> list[str]:
    for name in names:
        if name not in available:
            raise UsageError(f"{key} has no maps of {name}; it has {', '.join(available)}")
    return list(names) or available


def _make_video_source(text: str) -> Source:
    source = make_path_source(text)
    if source.kind == "url":
        return source
    path, is_folder = Path(source.path), source.kind == "frames"
    if not path.exists() or (is_folder and not list_numbered_images(source.path).paths):
        reason = "a folder without frames or shards" if is_folder else "no such file"
        raise NoInputError(f"no video ({text}): {reason}")
    reason = why_unreadable(source.path) or ""
    if reason:
        raise InputError(f"{text}: {reason}")
    return replace(source, key=path.name)


def _write_clip(clip: MomentSource, name: str, request: DrawRequest) -> None:
    """Draw one clip into one output."""
    options = request.options
    painter = Painter(clip.tracks, options)
    is_single = request.kind == ".png" and options.columns is None
    cache = MomentCache(clip, options.every, max_count=1 if is_single else None)
    # A grid also needs the first pass to know how many moments it chooses from.
    if options.columns is not None or painter.needs_measuring:
        cache.measure_clip(painter)
    if options.columns is not None:
        moments = cache.pick_evenly(options.columns)
        if not moments:
            raise InputError(NO_WINDOWS)
        write_png(Path(request.output), painter.draw_grid(moments))
    elif request.kind == ".html":
        _write_page(cache, painter, name, request)
    else:
        _write_film(cache, painter, request)
    for warning in clip.list_warnings():
        request.notify(f"warning: {warning}")


def _write_film(cache: "MomentCache", painter: Painter, request: DrawRequest) -> None:
    output, times = request.output, []
    # Close the generator explicitly, so that decoding stops at once after an error.
    with closing(cache.iter_moments()) as moments:
        first = next(moments, None)
        if first is None:
            raise InputError(NO_WINDOWS)
        rate = cache.choose_rate(request.options.fps)
        with open_film(output, rate, kind=request.kind) as film:
            for moment in chain([first], moments):
                film.add_picture(painter.draw_panels(moment))
                times.append(moment.time)
    time_error = _measure_time_error(times, rate)
    if time_error and request.options.fps is None and request.kind in CODECS:
        request.notify(f"warning: {output}: {UNEVEN_TIMES.format(time_error)}")


def _measure_time_error(times: Sequence[float], rate: float) -> float:
    """Return the largest difference, in seconds, between a frame's time and when the film shows it.

    Steps that are off by up to half a picture count as even and give 0.
    """
    # times = [0, 0.1, 0.2, 0.7, 0.8], rate = 10 -> shown at 0, 0.1, 0.2, 0.3, 0.4 -> 0.4
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
    request.notify(f"{output}: {page.nbytes / 1e6:.1f} MB, {page.count} pictures per panel")


class MomentCache:
    """The moments to show: kept after the first pass if small, else computed again.

    Args:
        clip: the source of the moments
        stride: take every Nth moment
        max_count: show at most this many moments; all others only count for the scale

    Attributes:
        count: the number of moments measured by `measure_clip`; 0 before
    """

    def __init__(self, clip: MomentSource, stride: int, max_count: int | None) -> None:
        self.clip = clip
        self.count = 0
        self._stride = stride
        self._max_count = max_count
        self._cached: list[Moment] | None = None

    def choose_rate(self, requested: float | None) -> float:
        """Return `requested`, or the rate that keeps the video's speed."""
        return requested or self.clip.estimate_rate() / self._stride

    def iter_moments(self) -> Generator[Moment]:
        """Yield the moments to show."""
        if self._cached is not None:
            yield from self._cached
            return
        with closing(self._iter_sampled()) as sampled:
            yield from islice(sampled, self._max_count)

    def _iter_sampled(self) -> Generator[Moment]:
        """Yield every Nth moment, without the limit of `max_count`."""
        with closing(self.clip.iter_moments()) as moments:
            yield from islice(moments, 0, None, self._stride)

    def measure_clip(self, painter: Painter) -> None:
        """Run the first pass: measure all moments, and keep those to show."""
        cached: list[Moment] | None = []
        size = 0
        for moment in self._iter_sampled():
            painter.measure_moment(moment)
            self.count += 1
            if self._max_count is not None and self.count > self._max_count:
                continue
            size += moment.nbytes
            if size > KEPT_BYTES:
                cached = None  # but go on measuring
            elif cached is not None:
                cached.append(moment.copy())
        self._cached = cached

    def pick_evenly(self, columns: int) -> list[Moment]:
        """Return `columns` moments, each from the middle of an equal part; all if fewer exist."""
        # count = 16, columns = 4 -> moments 2, 6, 10, 14
        columns = min(columns, self.count)
        indices = {int((i + 0.5) * self.count / columns) for i in range(columns)}
        return [moment for index, moment in enumerate(self.iter_moments()) if index in indices]

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
from mrx.shards.layout import shards
from mrx.shards.reader import Recording, Shards
from mrx.sources.numbered import numbered_images
from mrx.sources.scan import problem
from mrx.visualize.film import CODECS, kind_of, open_film, write_png
from mrx.visualize.moments import Clip, Computed, Moment, Part, Stored
from mrx.visualize.page import Page
from mrx.visualize.painter import Look as Look
from mrx.visualize.painter import Painter

KEPT_BYTES = 256 * 2**20
LARGE_PAGE = 100e6  # bytes
TOO_LARGE = (
    f"the page is past {LARGE_PAGE / 1e6:.0f} MB, which is much to send and to open: show less by "
    "--every, --frames or --scale"
)
UNEVEN = (
    "the video's pictures are not evenly apart in time, the film's are: off by up to {:.2f} s; an "
    ".html tells the time of each"
)
NOTHING = "nothing to show: no window fits into the frames asked for"
SHARD_ENDINGS = (".h5", ".hdf5")


@dataclass(frozen=True)
class Showing:
    """What is drawn of an input, how, and where to.

    Attributes:
        output: a file's name, whose ending tells the kind, a folder, or ``-``
        part: the frames in which windows begin
        look: how the pictures look
        say: takes what the user should know
    """

    output: str
    part: Part
    look: Look
    say: Callable[[str], None]


def is_stored(text: str) -> bool:
    """Whether an input is a shard, a folder of them, or a key of one."""
    path = Path(text)
    if path.is_dir():
        return bool(shards(path))
    return path.suffix.lower() in SHARD_ENDINGS or bool(_keyed(text))


def check_input_is_no_output(text: str, *, output: str) -> None:
    """Refuse to write over what is read, or among the frames of a folder."""
    path, target = Path((_keyed(text) or (text, ""))[0]), Path(output)
    if _same(path, target):
        raise UsageError(f"-o {output} is the input: give another name")
    among = target.suffix.lower() == ".png" and _same(path, target.parent)
    if among and not shards(path):
        raise UsageError(f"-o {output} lies among the frames of the input: give another folder")


def _same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def visualize_video(path: str, job: Job, showing: Showing) -> None:
    """Draw a video, a folder of numbered images or a URL, computing the maps."""
    source = _source(path)
    name = source.public_path if source.kind == "url" else source.key
    _write(Computed(job, source, showing.part), name, showing)


def visualize_shard(text: str, names: Sequence[str], showing: Showing) -> None:
    """Draw what a shard holds: one key, or each in a folder of its own."""
    path, key = _keyed(text) or (text, "")
    if not Path(path).exists():
        raise NoInputError(f"no such shard ({path})")
    with Shards(path) as held:
        if key and key not in held:
            raise UsageError(f"no such key ({key}) in {path}; mrx ls {path} lists them")
        keys = [key] if key else list(held)
        if not keys:
            raise NoInputError(f"{path} holds no videos")
        if len(keys) == 1:
            _draw(held[keys[0]], names, showing)
            return
        if kind_of(showing.output):
            raise UsageError(
                f"{path} holds {len(keys)} videos: name one, as in {path}::{keys[0]}, or give a "
                "folder as -o"
            )
        _draw_all(held, names, showing)


def _draw(recording: Recording, names: Sequence[str], showing: Showing) -> None:
    """One key of a shard."""
    if source := str(recording.attrs.get("source", "")):
        check_input_is_no_output(source, output=showing.output)
    chosen = _chosen(list(recording), names, recording.key)
    _write(Stored(recording, chosen, showing.part), recording.key, showing)


def _draw_all(held: Shards, names: Sequence[str], showing: Showing) -> None:
    """Each key in a folder of its own; one that fails does not end the others."""
    targets = {key: _folder(showing.output, key=key) for key in held}
    _check_empty(targets.values())
    failed = 0
    for key, target in targets.items():
        try:
            _draw(held[key], names, replace(showing, output=target))
        except (InputError, UsageError, FormatError) as error:
            failed += 1
            showing.say(f"failed: {key}: {error}")
    if failed:
        raise InputError(f"{failed} of {len(targets)} videos could not be drawn")


def _check_empty(folders: Iterable[str]) -> None:
    for folder in map(Path, folders):
        if folder.is_dir() and any(folder.iterdir()):
            raise OutputError(f"output is not empty ({folder}): give a new folder")


def _folder(output: str, *, key: str) -> str:
    """The folder of a key's pictures, which its ending must not make a film."""
    root = Path(output).resolve()
    if not (root / key).resolve().is_relative_to(root):
        raise OutputError(f"key {key} leads out of {output}: draw it alone, by its name")
    return str(Path(output) / key) + os.sep


def _chosen(there: list[str], names: Sequence[str], key: str) -> list[str]:
    for name in names:
        if name not in there:
            raise UsageError(f"{key} has no {name}; it has {', '.join(there)}")
    return list(names) or there


def _keyed(text: str) -> tuple[str, str] | None:
    """``out::KEY`` as path and key."""
    path, mark, key = text.partition("::")
    meant = Path(path).exists() or Path(path).suffix.lower() in SHARD_ENDINGS
    return (path, key) if mark and meant and not Path(text).exists() else None


def _source(text: str) -> Source:
    if "://" in text:
        return Source(key=text, path=text, kind="url")
    path = Path(text).absolute()
    folder = path.is_dir()
    if not path.exists() or (folder and not numbered_images(str(path)).paths):
        reason = "is a folder without frames or shards" if folder else "no such file"
        raise NoInputError(f"no video ({text}): {reason}")
    reason = problem(str(path)) or ""
    if reason:
        raise InputError(f"{text}: {reason}")
    return Source(key=path.name, path=str(path), kind="frames" if folder else "file")


def _write(clip: Clip, name: str, showing: Showing) -> None:
    """One clip to one output."""
    look, output = showing.look, showing.output
    painter = Painter(clip.tracks, look)
    single = kind_of(output) == ".png" and look.columns is None
    shown = _Shown(clip, look.every, most=1 if single else None)
    if look.columns is not None or not (look.per_frame_scale or all(painter.fixed)):
        shown.measure(painter)
    if look.columns is not None:
        moments = shown.spread(look.columns)
        if not moments:
            raise InputError(NOTHING)
        write_png(Path(output), painter.grid(moments))
    elif kind_of(output) == ".html":
        _page(shown, painter, name, showing)
    else:
        _film(shown, painter, showing)
    for warning in clip.warnings():
        showing.say(f"warning: {warning}")


def _film(shown: "_Shown", painter: Painter, showing: Showing) -> None:
    output, times = showing.output, []
    with closing(shown.moments()) as moments:
        first = next(moments, None)
        if first is None:
            raise InputError(NOTHING)
        rate = shown.rate(showing.look.fps)
        with open_film(output, rate) as film:
            for moment in chain([first], moments):
                film.put(painter.panels(moment))
                times.append(moment.time)
    off = _seconds_off(times, rate)
    if off and showing.look.fps is None and kind_of(output) in CODECS:
        showing.say(f"warning: {output}: {UNEVEN.format(off)}")


def _seconds_off(times: Sequence[float], rate: float) -> float:
    """How far pictures of one rate are from their times, where these differ by half a picture."""
    if all(abs((b - a) * rate - 1) <= 0.5 for a, b in pairwise(times)):
        return 0.0
    return max(abs(time - times[0] - i / rate) for i, time in enumerate(times))


def _page(shown: "_Shown", painter: Painter, name: str, showing: Showing) -> None:
    output = showing.output
    with closing(shown.moments()) as moments:
        first = next(moments, None)
        if first is None:
            raise InputError(NOTHING)
        panels = painter.page_panels(framed=first.frame is not None)
        warned = False
        with Page(Path(output), name, panels, shown.rate(painter.look.fps)) as page:
            for moment in chain([first], moments):
                page.put(moment.number, moment.time, painter.panes(moment))
                if page.nbytes > LARGE_PAGE and not warned:
                    showing.say(f"warning: {output}: {TOO_LARGE}")
                    warned = True
    showing.say(f"{output}: {page.nbytes / 1e6:.1f} MB, {page.count} pictures a panel")


class _Shown:
    """The moments of a clip that are shown: kept if they are small, made again if not."""

    def __init__(self, clip: Clip, every: int, most: int | None) -> None:
        self.clip = clip
        self.count = 0
        self._every = every
        self._most = most
        self._kept: list[Moment] | None = None

    def rate(self, asked: float | None) -> float:
        return asked or self.clip.rate() / self._every

    def moments(self) -> Generator[Moment]:
        if self._kept is not None:
            yield from self._kept
            return
        with closing(self._all()) as every:
            yield from islice(every, self._most)

    def _all(self) -> Generator[Moment]:
        """Those that count for the scale, whether they are shown or not."""
        with closing(self.clip.moments()) as every:
            yield from islice(every, 0, None, self._every)

    def measure(self, painter: Painter) -> None:
        kept: list[Moment] | None = []
        size = 0
        for moment in self._all():
            painter.measure(moment)
            self.count += 1
            if self._most is not None and self.count > self._most:
                continue
            size += moment.nbytes
            if size > KEPT_BYTES:
                kept = None
            elif kept is not None:
                kept.append(moment.copy())
        self._kept = kept

    def spread(self, columns: int) -> list[Moment]:
        """So many at equal distances, in the middle of equal parts; all where there are fewer."""
        columns = min(columns, self.count)
        places = {int((i + 0.5) * self.count / columns) for i in range(columns)}
        return [moment for place, moment in enumerate(self.moments()) if place in places]

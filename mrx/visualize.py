"""decode → windows → method → render → film or page: what ``mrx visualize`` does.

A first pass measures the whole clip, so that one scale serves all its pictures; what it computed
is kept for the second where that is little, and computed again where it is not.
"""

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path

from mrx.errors import InputError, NoInputError, OutputError, UsageError
from mrx.job import Job, Source
from mrx.painter import Look as Look
from mrx.painter import Painter
from mrx.preview import Clip, Computed, Moment, Part, Stored
from mrx.sinks.film import kind_of, open_film, write_png
from mrx.sinks.layout import shards
from mrx.sinks.page import Page
from mrx.sinks.reader import Shards
from mrx.sources import numbered_images, problem

KEPT_BYTES = 256 * 2**20
LARGE_PAGE = 100e6  # bytes
TOO_LARGE = (
    f"the page is past {LARGE_PAGE / 1e6:.0f} MB, which is much to send and to open: show less by "
    "--every, --frames or --scale"
)
NOTHING = "nothing to show: no window fits into the frames asked for"
SHARD_ENDINGS = (".h5", ".hdf5")


def is_stored(text: str) -> bool:
    """Whether an input is a shard, a folder of them, or a key of one."""
    path = Path(text)
    if path.is_dir():
        return bool(shards(path))
    return path.suffix.lower() in SHARD_ENDINGS or (not path.exists() and bool(_keyed(text)))


def check_input_is_no_output(text: str, output: str) -> None:
    """Refuse to write over what is read."""
    path, target = Path(text.partition("::")[0]), Path(output)
    if path.exists() and target.exists() and path.samefile(target):
        raise UsageError(f"-o {output} is the input: give another name")


def visualize_video(
    path: str, job: Job, part: Part, look: Look, say: Callable[[str], None]
) -> None:
    """Draw a video, a folder of numbered images or a URL, computing the maps."""
    source = _source(path)
    name = source.public_path if source.kind == "url" else source.key
    _write(Computed(job, source, part), name, job.output, look, say)


def visualize_shard(
    text: str,
    output: str,
    names: Sequence[str],
    part: Part,
    look: Look,
    say: Callable[[str], None],
) -> None:
    """Draw what a shard holds: one key, or each in a folder of its own."""
    path, key = _keyed(text) or (text, "")
    if not Path(path).exists():
        raise NoInputError(f"no such shard ({path})")
    with Shards(path) as held:
        if key and key not in held:
            raise UsageError(f"no such key ({key}) in {path}; mrx ls {path} lists them")
        keys = [key] if key else list(held)
        if len(keys) > 1 and kind_of(output):
            raise UsageError(
                f"{path} holds {len(keys)} videos: name one, as in {path}::{keys[0]}, or give a "
                "folder as -o"
            )
        for one in keys:
            clip = Stored(held[one], _chosen(list(held[one]), names, one), part)
            target = _folder(output, one) if len(keys) > 1 else output
            _write(clip, one, target, look, say)


def _folder(output: str, key: str) -> str:
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
    return (path, key) if mark and not Path(text).exists() and Path(path).exists() else None


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


def _write(clip: Clip, name: str, output: str, look: Look, say: Callable[[str], None]) -> None:
    """One clip to one output."""
    painter = Painter(clip.tracks, look)
    single = kind_of(output) == ".png" and look.columns is None
    shown = _Shown(clip, look.every, most=1 if single else None)
    if look.columns is not None or not look.per_frame_scale:
        shown.measure(painter)
    if look.columns is not None:
        moments = shown.spread(look.columns)
        if not moments:
            raise InputError(NOTHING)
        write_png(Path(output), painter.grid(moments))
    elif kind_of(output) == ".html":
        _page(shown, painter, output, name, say)
    else:
        _film(shown, painter, output, look)
    for warning in clip.warnings():
        say(f"warning: {warning}")


def _film(shown: "_Shown", painter: Painter, output: str, look: Look) -> None:
    with closing(shown.moments()) as moments:
        first = next(moments, None)
        if first is None:
            raise InputError(NOTHING)
        with open_film(output, shown.rate(look.fps)) as film:
            film.put(painter.panels(first))
            for moment in moments:
                film.put(painter.panels(moment))


def _page(
    shown: "_Shown", painter: Painter, output: str, name: str, say: Callable[[str], None]
) -> None:
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
                    say(f"warning: {output}: {TOO_LARGE}")
                    warned = True
    say(f"{output}: {page.nbytes / 1e6:.1f} MB, {page.count} pictures a panel")


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
        with closing(self.clip.moments()) as every:
            yield from islice(islice(every, 0, None, self._every), self._most)

    def measure(self, painter: Painter) -> None:
        kept: list[Moment] | None = []
        size = 0
        for moment in self.moments():
            painter.measure(moment)
            self.count += 1
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

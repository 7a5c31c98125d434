"""decode → windows → method → render → film: what ``mrx visualize`` does.

A first pass measures the whole clip, so that one scale serves all its pictures; what it computed
is kept for the second where that is little, and computed again where it is not.
"""

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mrx import render
from mrx.errors import InputError, NoInputError, OutputError, UsageError
from mrx.job import Job, Source
from mrx.preview import Clip, Computed, Moment, Part, Stored, Track
from mrx.render.choose import choose_style
from mrx.sinks.film import kind_of, open_film, write_png
from mrx.sinks.layout import shards
from mrx.sinks.reader import Shards
from mrx.sources import numbered_images, problem

KEPT_BYTES = 256 * 2**20
NOTHING = "nothing to show: no window fits into the frames asked for"
SEAM = 2  # white pixels between panels
SHARD_ENDINGS = (".h5", ".hdf5")
Picture = render.Picture


@dataclass(frozen=True)
class Look:
    """How the pictures look.

    Attributes:
        style: of `mrx.render`; ``side-by-side`` is each method's own
        max_flow: pixels of full color, instead of what the first pass finds
        per_frame_scale: each picture has its own scale
        legend: what the colors mean, below the panels
        label: nothing, the methods' names, or with the parameters that are not the default
        scale: how many times larger than the frames
        alone: leave out the frame beside the panels
        every: show one window of so many
        fps: pictures a second; None is as fast as it was filmed
        columns: a grid of so many moments instead of a film
    """

    style: str = "side-by-side"
    max_flow: float | None = None
    per_frame_scale: bool = False
    legend: bool = False
    label: str = "names"
    scale: float = 1.0
    alone: bool = False
    every: int = 1
    fps: float | None = None
    columns: int | None = None


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
    _write(Computed(job, _source(path), part), job.output, look, say)


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
            _write(clip, target, look, say)


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


def _write(clip: Clip, output: str, look: Look, say: Callable[[str], None]) -> None:
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
    else:
        _film(shown, painter, output, look)
    for warning in clip.warnings():
        say(f"warning: {warning}")


def _film(shown: "_Shown", painter: "Painter", output: str, look: Look) -> None:
    with closing(shown.moments()) as moments:
        first = next(moments, None)
        if first is None:
            raise InputError(NOTHING)
        with open_film(output, look.fps or shown.clip.rate() / look.every) as film:
            film.put(painter.panels(first))
            for moment in moments:
                film.put(painter.panels(moment))


class _Shown:
    """The moments of a clip that are shown: kept if they are small, made again if not."""

    def __init__(self, clip: Clip, every: int, most: int | None) -> None:
        self.clip = clip
        self.count = 0
        self._every = every
        self._most = most
        self._kept: list[Moment] | None = None

    def moments(self) -> Generator[Moment]:
        if self._kept is not None:
            yield from self._kept
            return
        with closing(self.clip.moments()) as every:
            yield from islice(islice(every, 0, None, self._every), self._most)

    def measure(self, painter: "Painter") -> None:
        kept: list[Moment] | None = []
        size = 0
        for moment in self.moments():
            painter.measure(moment)
            self.count += 1
            size += moment.nbytes
            if size > KEPT_BYTES:
                kept = None
            elif kept is not None:
                kept.append(moment if self._every == 1 else moment.copy())
        self._kept = kept

    def spread(self, columns: int) -> list[Moment]:
        """So many at equal distances, in the middle of equal parts; all where there are fewer."""
        columns = min(columns, self.count)
        places = {int((i + 0.5) * self.count / columns) for i in range(columns)}
        return [moment for place, moment in enumerate(self.moments()) if place in places]


class Painter:
    """Moments to pictures, with one scale for all of them.

    Args:
        tracks: the methods
        look: how pictures look

    Raises:
        UsageError: a style does not fit a method, or `max_flow` none of them
    """

    def __init__(self, tracks: Sequence[Track], look: Look) -> None:
        self.tracks = tracks
        self.look = look
        chosen: Any = look.style
        self.own: Any = {"side-by-side": "auto"}.get(chosen, chosen)
        kinds = [render.kind_of(track.channels, track.units) for track in tracks]
        for track, kind in zip(tracks, kinds, strict=True):
            try:
                choose_style(kind, self.own)
            except UsageError as error:
                raise UsageError(f"{track.name}: {error}") from error
        if look.max_flow is not None and "displacement" not in kinds:
            names = ", ".join(track.name for track in tracks)
            raise UsageError(f"--max-flow {look.max_flow:g}: no displacements among {names}")
        self.fixed = [look.max_flow if kind == "displacement" else None for kind in kinds]
        self.scales = [render.new_scale(t.channels, units=t.units, style=self.own) for t in tracks]
        self._legends: list[Picture] | None = None

    def measure(self, moment: Moment) -> None:
        """Let a moment count for the scale of all."""
        for track, scale, maps in zip(self.tracks, self.scales, moment.maps, strict=True):
            scale.add(render.measure(maps, track.channels, units=track.units, style=self.own))

    def panels(self, moment: Moment) -> Picture:
        """The frame at the left, and a column for each method, its legend at its foot."""
        columns = [self._parts(i, maps, moment) for i, maps in enumerate(moment.maps)]
        if self.look.legend:
            for column, legend in zip(columns, self._all_legends(), strict=True):
                column.append(legend)
        if moment.frame is not None and not self.look.alone:
            columns.insert(0, [self._sized(render.frame_to_rgb(moment.frame), cv2.INTER_AREA)])
        rows: list[list[Picture | None]] = [
            [column[row] if row < len(column) else None for column in columns]
            for row in range(max(map(len, columns)))
        ]
        alone = len(rows) == len(columns) == 1
        return render.grid(rows, margin=0 if alone else SEAM)

    def grid(self, moments: Sequence[Moment]) -> Picture:
        """Frames on top, a row for each part of each method, time from left to right."""
        rows: list[list[Picture | None]] = []
        names: list[str] = []
        if moments[0].frame is not None and not self.look.alone:
            frames = [m.frame for m in moments]
            rows.append([None if f is None else self._sized(f, cv2.INTER_AREA) for f in frames])
            names.append("frame")
        legends = self._all_legends() if self.look.legend else []
        for i, track in enumerate(self.tracks):
            columns = [self._parts(i, m.maps[i], m, named=False) for m in moments]
            for part, row in enumerate(zip(*columns, strict=True)):
                legend = [legends[i]] if legends and not part else []
                rows.append([*row, *legend])
                names.append(self._text(track, part, "\n"))
        titles = [f"{m.time:.2f} s" for m in moments] + ([""] if legends else [])
        labeled = self.look.label != "none"
        return render.grid(
            rows, names=names if labeled else (), titles=titles if labeled else (), margin=4
        )

    def _parts(self, i: int, maps: Any, moment: Moment, *, named: bool = True) -> list[Picture]:
        """The pictures of a method's map, in order."""
        track = self.tracks[i]
        scale = None if self.look.per_frame_scale else self.fixed[i] or self.scales[i].bound
        scale = self.fixed[i] or scale
        pictures = []
        found = render.parts(track.channels, units=track.units, style=self.own)
        for number, part in enumerate(found):
            style, channels = self._style(track, part), track.channels[part]
            under = moment.frame
            if under is None and style in ("overlay", "quiver"):
                under = np.full((*maps.shape[1:], 3), 255, np.uint8)
            if under is None:
                under = np.empty((*maps.shape[1:], 3), np.uint8)
            arrows = style == "quiver"  # drawn at the final size, as long as the legend's
            if arrows:
                under = self._sized(under, cv2.INTER_AREA)
            drawn = render.picture(
                maps[part], channels, units=track.units, style=style, scale=scale, frame=under
            )
            sized = drawn if arrows else self._sized(drawn, cv2.INTER_AREA)
            text = self._text(track, number, " ") if named else ""
            pictures.append(render.label(sized, text) if self.look.label != "none" else sized)
        return pictures

    def _style(self, track: Track, part: slice) -> Any:
        """The style asked for, but a method's further parts that it does not fit keep their own."""
        kind = render.kind_of(track.channels[part.start :], track.units)
        return self.own if self.own in render.STYLES[kind] else "auto"

    def _text(self, track: Track, part: int, between: str) -> str:
        """What a panel is called."""
        found = render.parts(track.channels, units=track.units, style=self.own)
        words = [track.name]
        if len(found) > 1:
            words = [f"{track.name} {' '.join(track.channels[found[part]])}"]
        if self.look.label == "parameters" and not part:
            words += [f"{name}={value}" for name, value in track.parameters.items()]
        return between.join(words)

    def _all_legends(self) -> list[Picture]:
        if self._legends is None:
            self._legends = [
                render.legend(t.channels, units=t.units, style=self.own, scale=fixed or scale)
                for t, fixed, scale in zip(self.tracks, self.fixed, self.scales, strict=True)
            ]
        return self._legends

    def _sized(self, picture: Any, smaller: int) -> Picture:
        """A picture at the size asked for."""
        factor = self.look.scale
        if factor == 1:
            return np.asarray(picture)
        height, width = (max(1, round(side * factor)) for side in picture.shape[:2])
        how = smaller if factor < 1 else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(picture, (width, height), interpolation=how), np.uint8)

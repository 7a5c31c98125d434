"""Moments to pictures, with one scale for all of them: panels side by side, a grid, or a page's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mrx import render
from mrx.errors import UsageError
from mrx.visualize.film import LARGEST
from mrx.visualize.moments import Moment, Track
from mrx.visualize.page import Pane, Panel

OVER_FRAMES = ("overlay", "quiver")  # the styles that draw over the frame
SEAM = 2  # white pixels between panels
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
            if self.own not in ("auto", *render.STYLES[kind]):
                styles = ", ".join(("side-by-side", *render.STYLES[kind]))
                raise UsageError(
                    f"--style {look.style}: {track.name} has no such style; it has {styles}"
                )
        if look.max_flow is not None and "displacement" not in kinds:
            names = ", ".join(track.name for track in tracks)
            raise UsageError(f"--max-flow {look.max_flow:g}: no displacements among {names}")
        self.fixed = [look.max_flow if kind == "displacement" else None for kind in kinds]
        self.scales = [render.new_scale(t.channels, units=t.units, style=self.own) for t in tracks]
        self._legends: dict[tuple[int, bool], list[Picture | None]] = {}

    def measure(self, moment: Moment) -> None:
        """Let a moment count for the scale of all."""
        for track, scale, maps in zip(self.tracks, self.scales, moment.maps, strict=True):
            scale.add(render.measure(maps, track.channels, units=track.units, style=self.own))

    def panels(self, moment: Moment) -> Picture:
        """The frame at the left, and a column for each method, each legend below its pictures."""
        counts = [len(self._found(track)) for track in self.tracks]
        self._check_size(moment, rows=max(counts), columns=len(counts) + self._framed(moment))
        columns: list[list[Picture]] = []
        for i in range(len(self.tracks)):
            parts = self._parts(i, moment, self._texts(i, " "))
            pairs = zip(parts, self._keys(i, last=True), strict=True)
            columns.append([one for pair in pairs for one in pair if one is not None])
        if self._framed(moment):
            columns.insert(0, [self._photo(moment)])
        rows: list[list[Picture | None]] = [
            [column[row] if row < len(column) else None for column in columns]
            for row in range(max(map(len, columns)))
        ]
        alone = len(rows) == len(columns) == 1
        return render.grid(rows, margin=0 if alone else SEAM)

    def grid(self, moments: Sequence[Moment]) -> Picture:
        """Frames on top, a row for each part of each method, time from left to right.

        A map that began before its column's time, as those of slower methods do, tells its own.
        """
        count = sum(len(self._found(track)) for track in self.tracks)
        self._check_size(moments[0], rows=count + self._framed(moments[0]), columns=len(moments))
        rows: list[list[Picture | None]] = []
        names: list[str] = []
        if self._framed(moments[0]):
            rows.append([self._photo(m) for m in moments])
            names.append("frame")
        for i, track in enumerate(self.tracks):
            found = len(self._found(track))
            columns = [self._parts(i, m, [self._held(i, m)] * found) for m in moments]
            legends = self._keys(i, last=False)
            for part, row in enumerate(zip(*columns, strict=True)):
                rows.append([*row, legends[part]] if self.look.legend else [*row])
            names += self._texts(i, "\n")
        titles = [f"{m.time:.2f} s" for m in moments] + ([""] if self.look.legend else [])
        labeled = self.look.label != "none"
        return render.grid(
            rows, names=names if labeled else (), titles=titles if labeled else (), margin=4
        )

    def page_panels(self, *, framed: bool) -> tuple[Panel, ...]:
        """The panels of a page: the frame, and one for each part of each method."""
        titled = self.look.label != "none"
        panels = [Panel("video", titled=titled)] if framed and not self.look.alone else []
        for i, track in enumerate(self.tracks):
            panels += [self._panel(i, number=number) for number in range(len(self._found(track)))]
        return tuple(panels)

    def _panel(self, i: int, *, number: int) -> Panel:
        """The panel of one part of a method."""
        track, bound = self.tracks[i], self._bound(i)
        part = self._found(track)[number]
        channels, style = track.channels[part], self._style(track, part)
        confidence = render.kind_of(channels, track.units) == "confidence"
        legend = None
        if bound or confidence:
            legend = render.legend(channels, units=track.units, style=style, scale=bound or 1)
        several = " ".join(self._several(track, number))
        return Panel(
            track.name,
            tuple(filter(None, [several, *self._unusual(track, number)])),
            titled=self.look.label != "none",
            channels=channels,
            units="" if confidence else track.units,
            legend=legend,
            measured=style == "quiver",
        )

    def panes(self, moment: Moment) -> list[Pane]:
        """What the panels of a page show."""
        self._check_size(moment, rows=1, columns=1)
        number, size = moment.number, moment.size
        found = []
        if self._framed(moment):
            picture = self._photo(moment)
            found.append(Pane(picture, size, (number, number), photo=True))
        for i, (maps, window) in enumerate(zip(moment.maps, moment.windows, strict=True)):
            for part in self._found(self.tracks[i]):
                drawn = self._drawn(i, part, moment)
                photo = self._is_photo(i, part, moment)
                full = self._full(i, part, maps)
                found.append(Pane(drawn, size, window, photo=photo, values=maps[part], full=full))
        return found

    def _framed(self, moment: Moment) -> bool:
        """Whether the frame stands beside the panels."""
        return moment.frame is not None and not self.look.alone

    def _photo(self, moment: Moment) -> Picture:
        """The frame at the size asked for, white where there is none."""
        frame: Any = moment.frame
        if frame is None:
            frame = np.full((*moment.size, 3), 255, np.uint8)
        return self._sized(render.frame_to_rgb(frame), photo=True)

    def _check_size(self, moment: Moment, *, rows: int, columns: int) -> None:
        """Refuse, before it is drawn, a picture of so many panels that is too large."""
        tall, wide = (self._length(side) for side in moment.size)
        height, width = rows * tall, columns * wide
        if max(height, width) > LARGEST:
            raise UsageError(
                f"--scale {self.look.scale:g}: a picture of {width}x{height} is too large, a side "
                f"has at most {LARGEST} pixels"
            )

    def _parts(self, i: int, moment: Moment, texts: Sequence[str]) -> list[Picture]:
        """The pictures of a method's map, in order, with these labels."""
        drawn = [self._drawn(i, part, moment) for part in self._found(self.tracks[i])]
        if self.look.label == "none":
            return drawn
        return [render.label(one, text) for one, text in zip(drawn, texts, strict=True)]

    def _drawn(self, i: int, part: slice, moment: Moment) -> Picture:
        """One part of a method's map at its final size."""
        track, under = self.tracks[i], moment.frame
        style = self._style(track, part)
        if under is None:
            under = np.full((*moment.size, 3), 255, np.uint8)
        arrows = style == "quiver"  # drawn at the final size, as long as the legend's
        if arrows:
            under = self._sized(under, photo=True)
        drawn = render.picture(
            moment.maps[i][part],
            track.channels[part],
            units=track.units,
            style=style,
            scale=self._bound(i),
            frame=under,
        )
        return drawn if arrows else self._sized(drawn, photo=self._is_photo(i, part, moment))

    def _is_photo(self, i: int, part: slice, moment: Moment) -> bool:
        """Whether a part is drawn over the frame."""
        return moment.frame is not None and self._style(self.tracks[i], part) in OVER_FRAMES

    def _full(self, i: int, part: slice, maps: Any) -> float:
        """The strength of full color in a picture."""
        track = self.tracks[i]
        channels, units = track.channels[part], track.units
        if render.kind_of(channels, units) == "confidence":
            return 1.0
        own = render.new_scale(channels, units=units, style=self.own)
        bound = self._bound(i)
        if bound is None:
            own.add(render.measure(maps[part], channels, units=units, style=self.own))
        return bound or own.bound

    def _bound(self, i: int) -> float | None:
        """The magnitude of full color, or None where each picture has its own."""
        return self.fixed[i] or (None if self.look.per_frame_scale else self.scales[i].bound)

    def _found(self, track: Track) -> list[slice]:
        """The channels of each of a method's pictures."""
        return render.parts(track.channels, units=track.units, style=self.own)

    def _style(self, track: Track, part: slice) -> Any:
        """The style asked for, but a method's further parts that it does not fit keep their own."""
        kind = render.kind_of(track.channels[part.start :], track.units)
        return self.own if self.own in render.STYLES[kind] else "auto"

    def _texts(self, i: int, between: str) -> list[str]:
        """What the panels of a method are called."""
        track, texts = self.tracks[i], []
        for number in range(len(self._found(track))):
            name = " ".join([track.name, *self._several(track, number)])
            texts.append(between.join([name, *self._unusual(track, number)]))
        return texts

    def _held(self, i: int, moment: Moment) -> str:
        """The time of a map whose window does not begin at the moment."""
        same = moment.windows[i][0] == moment.number
        return "" if same else f"{moment.starts[i]:.2f} s"

    def _several(self, track: Track, part: int) -> list[str]:
        """The channels that tell a method's panels apart."""
        found = self._found(track)
        return list(track.channels[found[part]]) if len(found) > 1 else []

    def _unusual(self, track: Track, part: int) -> list[str]:
        """The parameters that stand on a method's first panel."""
        shown = self.look.label == "parameters" and not part
        return [f"{name}={value}" for name, value in track.parameters.items()] if shown else []

    def _keys(self, i: int, *, last: bool) -> list[Picture | None]:
        """The legends asked for, at the first or the last of a method's parts that share one."""
        if (i, last) not in self._legends:
            track, found = self.tracks[i], self._found(self.tracks[i])
            kinds = [render.kind_of(track.channels[part], track.units) for part in found]
            before = [*kinds[1:], ""] if last else ["", *kinds[:-1]]
            self._legends[i, last] = [
                self._legend(i, part) if self.look.legend and kind != other else None
                for part, kind, other in zip(found, kinds, before, strict=True)
            ]
        return self._legends[i, last]

    def _legend(self, i: int, part: slice) -> Picture:
        """What the colors of a part mean."""
        track = self.tracks[i]
        scale = self.fixed[i] or self.scales[i]
        style = self._style(track, part)
        return render.legend(track.channels[part], units=track.units, style=style, scale=scale)

    def _length(self, side: int) -> int:
        """Pixels of a side at the size asked for."""
        return max(1, round(side * self.look.scale))

    def _sized(self, picture: Any, *, photo: bool) -> Picture:
        """A picture at the size asked for; a drawing that grows gets no color between its own."""
        factor = self.look.scale
        if factor == 1:
            return np.asarray(picture)
        height, width = map(self._length, picture.shape[:2])
        larger = cv2.INTER_CUBIC if photo else cv2.INTER_NEAREST
        how = cv2.INTER_AREA if factor < 1 else larger
        return np.asarray(cv2.resize(picture, (width, height), interpolation=how), np.uint8)

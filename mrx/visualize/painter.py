"""Moments to pictures, with one scale for all of them: panels side by side, a grid, or a page's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mrx import render
from mrx.errors import UsageError
from mrx.visualize.film import MAX_SIDE
from mrx.visualize.moments import MethodTrack, Moment
from mrx.visualize.page import PagePanel, PanelView

OVERLAY_STYLES = ("overlay", "quiver")  # the styles that draw over the frame
SEAM = 2  # white pixels between panels
Picture = render.Picture


@dataclass(frozen=True)
class PictureOptions:
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
        options: how pictures look

    Raises:
        UsageError: a style does not fit a method, or `max_flow` none of them
    """

    def __init__(self, tracks: Sequence[MethodTrack], options: PictureOptions) -> None:
        self.tracks = tracks
        self.options = options
        chosen: Any = options.style
        self.style: Any = {"side-by-side": "auto"}.get(chosen, chosen)
        kinds = [render.kind_of(track.channels, track.units) for track in tracks]
        for track, kind in zip(tracks, kinds, strict=True):
            if self.style not in ("auto", *render.STYLES[kind]):
                styles = ", ".join(("side-by-side", *render.STYLES[kind]))
                raise UsageError(
                    f"--style {options.style}: {track.name} has no such style; it has {styles}"
                )
        if options.max_flow is not None and "displacement" not in kinds:
            names = ", ".join(track.name for track in tracks)
            raise UsageError(f"--max-flow {options.max_flow:g}: no displacements among {names}")
        self.fixed_bounds = [options.max_flow if kind == "displacement" else None for kind in kinds]
        self.scales = [
            render.new_scale(t.channels, units=t.units, style=self.style) for t in tracks
        ]
        self._legends: dict[tuple[int, bool], list[Picture | None]] = {}

    def measure_moment(self, moment: Moment) -> None:
        """Let a moment count for the scale of all."""
        for track, scale, maps in zip(self.tracks, self.scales, moment.maps, strict=True):
            scale.add(render.measure(maps, track.channels, units=track.units, style=self.style))

    def draw_panels(self, moment: Moment) -> Picture:
        """The frame at the left, and a column for each method, each legend below its pictures."""
        counts = [len(self._split_channels(track)) for track in self.tracks]
        self._check_picture_size(
            moment, rows=max(counts), columns=len(counts) + self._shows_frame(moment)
        )
        columns: list[list[Picture]] = []
        for i in range(len(self.tracks)):
            parts = self._draw_parts(i, moment, self._make_labels(i, " "))
            pairs = zip(parts, self._draw_legends(i, last=True), strict=True)
            columns.append([one for pair in pairs for one in pair if one is not None])
        if self._shows_frame(moment):
            columns.insert(0, [self._draw_frame(moment)])
        rows: list[list[Picture | None]] = [
            [column[row] if row < len(column) else None for column in columns]
            for row in range(max(map(len, columns)))
        ]
        alone = len(rows) == len(columns) == 1
        return render.grid(rows, margin=0 if alone else SEAM)

    def draw_grid(self, moments: Sequence[Moment]) -> Picture:
        """Frames on top, a row for each part of each method, time from left to right.

        A map that began before its column's time, as those of slower methods do, tells its own.
        """
        count = sum(len(self._split_channels(track)) for track in self.tracks)
        self._check_picture_size(
            moments[0], rows=count + self._shows_frame(moments[0]), columns=len(moments)
        )
        rows: list[list[Picture | None]] = []
        names: list[str] = []
        if self._shows_frame(moments[0]):
            rows.append([self._draw_frame(m) for m in moments])
            names.append("frame")
        for i, track in enumerate(self.tracks):
            part_count = len(self._split_channels(track))
            columns = [
                self._draw_parts(i, m, [self._label_time(i, m)] * part_count) for m in moments
            ]
            legends = self._draw_legends(i, last=False)
            for part, row in enumerate(zip(*columns, strict=True)):
                rows.append([*row, legends[part]] if self.options.legend else [*row])
            names += self._make_labels(i, "\n")
        titles = [f"{m.time:.2f} s" for m in moments] + ([""] if self.options.legend else [])
        labeled = self.options.label != "none"
        return render.grid(
            rows, names=names if labeled else (), titles=titles if labeled else (), margin=4
        )

    def make_page_panels(self, *, framed: bool) -> tuple[PagePanel, ...]:
        """The panels of a page: the frame, and one for each part of each method."""
        titled = self.options.label != "none"
        panels = (
            [PagePanel("video", shows_name=titled)] if framed and not self.options.alone else []
        )
        for i, track in enumerate(self.tracks):
            panels += [
                self._make_panel(i, number=number)
                for number in range(len(self._split_channels(track)))
            ]
        return tuple(panels)

    def _make_panel(self, index: int, *, number: int) -> PagePanel:
        """The panel of one part of a method."""
        track, bound = self.tracks[index], self._find_bound(index)
        part = self._split_channels(track)[number]
        channels, style = track.channels[part], self._choose_style(track, part)
        confidence = render.kind_of(channels, track.units) == "confidence"
        legend = None
        if bound or confidence:
            legend = render.legend(channels, units=track.units, style=style, scale=bound or 1)
        channel_names = " ".join(self._name_channels(track, number))
        return PagePanel(
            track.name,
            tuple(filter(None, [channel_names, *self._list_parameters(track, number)])),
            shows_name=self.options.label != "none",
            channels=channels,
            units="" if confidence else track.units,
            legend=legend,
            legend_has_scale=style == "quiver",
        )

    def draw_views(self, moment: Moment) -> list[PanelView]:
        """What the panels of a page show."""
        self._check_picture_size(moment, rows=1, columns=1)
        number, size = moment.number, moment.size
        views = []
        if self._shows_frame(moment):
            picture = self._draw_frame(moment)
            views.append(PanelView(picture, size, (number, number), is_photo=True))
        for i, (maps, window) in enumerate(zip(moment.maps, moment.windows, strict=True)):
            for part in self._split_channels(self.tracks[i]):
                drawn = self._draw_part(i, part, moment)
                photo = self._is_photo(i, part, moment)
                full = self._find_full_strength(i, part, maps)
                views.append(
                    PanelView(
                        drawn, size, window, is_photo=photo, values=maps[part], full_strength=full
                    )
                )
        return views

    def _shows_frame(self, moment: Moment) -> bool:
        """Whether the frame stands beside the panels."""
        return moment.frame is not None and not self.options.alone

    def _draw_frame(self, moment: Moment) -> Picture:
        """The frame at the size asked for, white where there is none."""
        frame: Any = moment.frame
        if frame is None:
            frame = np.full((*moment.size, 3), 255, np.uint8)
        return self._resize_picture(render.frame_to_rgb(frame), photo=True)

    def _check_picture_size(self, moment: Moment, *, rows: int, columns: int) -> None:
        """Refuse, before it is drawn, a picture of so many panels that is too large."""
        tall, wide = (self._scale_side(side) for side in moment.size)
        height, width = rows * tall, columns * wide
        if max(height, width) > MAX_SIDE:
            raise UsageError(
                f"--scale {self.options.scale:g}: a picture of {width}x{height} is too large, a side "
                f"has at most {MAX_SIDE} pixels"
            )

    def _draw_parts(self, index: int, moment: Moment, texts: Sequence[str]) -> list[Picture]:
        """The pictures of a method's map, in order, with these labels."""
        drawn = [
            self._draw_part(index, part, moment)
            for part in self._split_channels(self.tracks[index])
        ]
        if self.options.label == "none":
            return drawn
        return [render.label(one, text) for one, text in zip(drawn, texts, strict=True)]

    def _draw_part(self, index: int, part: slice, moment: Moment) -> Picture:
        """One part of a method's map at its final size."""
        track, background = self.tracks[index], moment.frame
        style = self._choose_style(track, part)
        if background is None:
            background = np.full((*moment.size, 3), 255, np.uint8)
        arrows = style == "quiver"  # drawn at the final size, as long as the legend's
        if arrows:
            background = self._resize_picture(background, photo=True)
        drawn = render.picture(
            moment.maps[index][part],
            track.channels[part],
            units=track.units,
            style=style,
            scale=self._find_bound(index),
            frame=background,
        )
        return (
            drawn
            if arrows
            else self._resize_picture(drawn, photo=self._is_photo(index, part, moment))
        )

    def _is_photo(self, index: int, part: slice, moment: Moment) -> bool:
        """Whether a part is drawn over the frame."""
        return (
            moment.frame is not None
            and self._choose_style(self.tracks[index], part) in OVERLAY_STYLES
        )

    def _find_full_strength(self, index: int, part: slice, maps: Any) -> float:
        """The strength of full color in a picture."""
        track = self.tracks[index]
        channels, units = track.channels[part], track.units
        if render.kind_of(channels, units) == "confidence":
            return 1.0
        scale = render.new_scale(channels, units=units, style=self.style)
        bound = self._find_bound(index)
        if bound is None:
            scale.add(render.measure(maps[part], channels, units=units, style=self.style))
        return bound or scale.bound

    def _find_bound(self, index: int) -> float | None:
        """The magnitude of full color, or None where each picture has its own."""
        return self.fixed_bounds[index] or (
            None if self.options.per_frame_scale else self.scales[index].bound
        )

    def _split_channels(self, track: MethodTrack) -> list[slice]:
        """The channels of each of a method's pictures."""
        return render.parts(track.channels, units=track.units, style=self.style)

    def _choose_style(self, track: MethodTrack, part: slice) -> Any:
        """The style asked for, but a method's further parts that it does not fit keep their own."""
        kind = render.kind_of(track.channels[part.start :], track.units)
        return self.style if self.style in render.STYLES[kind] else "auto"

    def _make_labels(self, index: int, separator: str) -> list[str]:
        """What the panels of a method are called."""
        track, texts = self.tracks[index], []
        for number in range(len(self._split_channels(track))):
            name = " ".join([track.name, *self._name_channels(track, number)])
            texts.append(separator.join([name, *self._list_parameters(track, number)]))
        return texts

    def _label_time(self, index: int, moment: Moment) -> str:
        """The time of a map whose window does not begin at the moment."""
        same = moment.windows[index][0] == moment.number
        return "" if same else f"{moment.starts[index]:.2f} s"

    def _name_channels(self, track: MethodTrack, part: int) -> list[str]:
        """The channels that tell a method's panels apart."""
        found = self._split_channels(track)
        return list(track.channels[found[part]]) if len(found) > 1 else []

    def _list_parameters(self, track: MethodTrack, part: int) -> list[str]:
        """The parameters that stand on a method's first panel."""
        shown = self.options.label == "parameters" and not part
        return [f"{name}={value}" for name, value in track.parameters.items()] if shown else []

    def _draw_legends(self, index: int, *, last: bool) -> list[Picture | None]:
        """The legends asked for, at the first or the last of a method's parts that share one."""
        if (index, last) not in self._legends:
            track, found = self.tracks[index], self._split_channels(self.tracks[index])
            kinds = [render.kind_of(track.channels[part], track.units) for part in found]
            neighbors = [*kinds[1:], ""] if last else ["", *kinds[:-1]]
            self._legends[index, last] = [
                self._draw_legend(index, part) if self.options.legend and kind != other else None
                for part, kind, other in zip(found, kinds, neighbors, strict=True)
            ]
        return self._legends[index, last]

    def _draw_legend(self, index: int, part: slice) -> Picture:
        """What the colors of a part mean."""
        track = self.tracks[index]
        scale = self.fixed_bounds[index] or self.scales[index]
        style = self._choose_style(track, part)
        return render.legend(track.channels[part], units=track.units, style=style, scale=scale)

    def _scale_side(self, side: int) -> int:
        """Pixels of a side at the size asked for."""
        return max(1, round(side * self.options.scale))

    def _resize_picture(self, picture: Any, *, photo: bool) -> Picture:
        """A picture at the size asked for; a drawing that grows gets no color between its own."""
        factor = self.options.scale
        if factor == 1:
            return np.asarray(picture)
        height, width = map(self._scale_side, picture.shape[:2])
        enlarging = cv2.INTER_CUBIC if photo else cv2.INTER_NEAREST
        interpolation = cv2.INTER_AREA if factor < 1 else enlarging
        return np.asarray(
            cv2.resize(picture, (width, height), interpolation=interpolation), np.uint8
        )

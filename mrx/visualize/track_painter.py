"""Drawing one method: the parts of its maps and their legends, at the final size."""

from collections.abc import Sequence

from mrx import render
from mrx.render import Picture
from mrx.visualize.moments import Moment
from mrx.visualize.page import PagePanel, PanelView
from mrx.visualize.picture_size import PictureSizer, make_background
from mrx.visualize.track_style import MapPart, TrackStyle

OVERLAY_STYLES = ("overlay", "quiver")  # the styles that draw over the frame


class TrackPainter:
    """Draws the maps and legends of one method.

    Args:
        style: the method's parts, styles, scale and labels
        index: the method's position in a moment
        sizer: the size of the pictures
    """

    def __init__(self, style: TrackStyle, index: int, sizer: PictureSizer) -> None:
        self.style = style
        self.track, self.parts, self.options = style.track, style.parts, style.options
        self._index = index
        self._sizer = sizer
        self._legends: dict[bool, list[Picture | None]] = {}

    def measure_moment(self, moment: Moment) -> None:
        """Include a moment in the scale."""
        self.style.measure_maps(moment.maps[self._index])

    def draw_column(self, moment: Moment) -> list[Picture]:
        """Draw the parts of a moment's map, with the legend of several below the last of them."""
        pictures = self._draw_parts(moment, self.style.make_labels(" "))
        legends = self.draw_legends(last=True)
        stacked = [pair for pairs in zip(pictures, legends, strict=True) for pair in pairs]
        return [picture for picture in stacked if picture is not None]

    def draw_rows(self, moments: Sequence[Moment]) -> list[list[Picture | None]]:
        """Draw a row of moments for each part; with `legend`, the legend ends the row."""
        columns = [
            self._draw_parts(moment, [self._label_start_time(moment)] * len(self.parts))
            for moment in moments
        ]
        rows: list[list[Picture | None]] = [[*row] for row in zip(*columns, strict=True)]
        if self.options.legend:
            for row, legend in zip(rows, self.draw_legends(last=False), strict=True):
                row.append(legend)
        return rows

    def draw_legends(self, *, last: bool) -> list[Picture | None]:
        """Return a legend or None for each part; neighbors of one kind share a legend.

        Args:
            last: the last of such neighbors has the legend, instead of the first
        """
        # kinds = [change, change, confidence] -> [None, legend, legend] if `last`,
        # else [legend, None, legend]
        if last not in self._legends:
            kinds: list[str] = [part.kind for part in self.parts]
            neighbors = [*kinds[1:], ""] if last else ["", *kinds[:-1]]
            self._legends[last] = [
                self._draw_legend(part) if self.options.legend and kind != neighbor else None
                for part, kind, neighbor in zip(self.parts, kinds, neighbors, strict=True)
            ]
        return self._legends[last]

    def make_page_panels(self) -> list[PagePanel]:
        """Describe the panel of each part on a page."""
        return [self._make_page_panel(part) for part in self.parts]

    def draw_views(self, moment: Moment) -> list[PanelView]:
        """Draw the panel of each part on a page, with the values behind it."""
        maps, window = moment.maps[self._index], moment.windows[self._index]
        return [
            PanelView(
                self._draw_part(part, moment),
                moment.size,
                window,
                is_photo=_is_drawn_over_frame(part, moment),
                values=maps[part.index],
                full_strength=self.style.find_full_strength(part, maps),
            )
            for part in self.parts
        ]

    def _draw_parts(self, moment: Moment, labels: Sequence[str]) -> list[Picture]:
        pictures = [self._draw_part(part, moment) for part in self.parts]
        if self.options.label == "none":
            return pictures
        return [render.label(*labeled) for labeled in zip(pictures, labels, strict=True)]

    def _draw_part(self, part: MapPart, moment: Moment) -> Picture:
        background = make_background(moment)
        has_arrows = part.style == "quiver"
        if has_arrows:
            # Arrows are drawn at the final size, or their length would not be the legend's.
            background = self._sizer.resize_picture(background, is_photo=True)
        picture = render.picture(
            moment.maps[self._index][part.index],
            part.channels,
            units=self.track.units,
            style=part.style,
            scale=self.style.find_bound(),
            frame=background,
        )
        if has_arrows:
            return picture
        is_photo = _is_drawn_over_frame(part, moment)
        return self._sizer.resize_picture(picture, is_photo=is_photo)

    def _draw_legend(self, part: MapPart) -> Picture:
        scale = self.style.fixed_bound or self.style.scale
        return render.legend(part.channels, units=self.track.units, style=part.style, scale=scale)

    def _make_page_panel(self, part: MapPart) -> PagePanel:
        bound, is_confidence = self.style.find_bound(), part.kind == "confidence"
        legend = None
        if bound or is_confidence:  # without a common bound, colors mean another value each time
            legend = render.legend(
                part.channels, units=self.track.units, style=part.style, scale=bound or 1
            )
        details = [part.channel_label, *part.parameter_labels]
        return PagePanel(
            self.track.name,
            tuple(filter(None, details)),
            shows_name=self.options.label != "none",
            channels=part.channels,
            units="" if is_confidence else self.track.units,
            legend=legend,
            legend_has_scale=part.style == "quiver",
        )

    def _label_start_time(self, moment: Moment) -> str:
        """Return the start time of the map's window if it began before the moment."""
        begins_here = moment.windows[self._index][0] == moment.number
        return "" if begins_here else f"{moment.starts[self._index]:.2f} s"


def _is_drawn_over_frame(part: MapPart, moment: Moment) -> bool:
    return moment.frame is not None and part.style in OVERLAY_STYLES

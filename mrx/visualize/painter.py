"""The layout of pictures: panels side by side, a grid over time, or the panels of a page."""

from collections.abc import Sequence

from mrx import render
from mrx.errors import UsageError
from mrx.render import Picture
from mrx.visualize.moments import MethodTrack, Moment
from mrx.visualize.page import PagePanel, PanelView
from mrx.visualize.picture_options import PictureOptions
from mrx.visualize.picture_size import PictureSizer
from mrx.visualize.track_painter import TrackPainter
from mrx.visualize.track_style import TrackStyle

SEAM = 2  # white pixels between panels
GRID_SEAM = 4  # white pixels between the pictures of a grid


class Painter:
    """Lays out the pictures of moments, with one scale per method for the whole clip.

    Args:
        tracks: the methods
        options: the look of the pictures

    Raises:
        UsageError: a method lacks the style, or `max_flow` is given without displacements
    """

    def __init__(self, tracks: Sequence[MethodTrack], options: PictureOptions) -> None:
        self.options = options
        self.sizer = PictureSizer(options.scale)
        styles = [TrackStyle(track, options) for track in tracks]
        if options.max_flow is not None and all(s.kind != "displacement" for s in styles):
            names = ", ".join(track.name for track in tracks)
            raise UsageError(f"--max-flow {options.max_flow:g}: no displacements among {names}")
        self.track_painters = [
            TrackPainter(style, index, self.sizer) for index, style in enumerate(styles)
        ]

    @property
    def needs_measuring(self) -> bool:
        """True if the scale depends on the clip, so that all moments have to be measured first."""
        has_fixed_bounds = all(painter.style.fixed_bound for painter in self.track_painters)
        return not (self.options.per_frame_scale or has_fixed_bounds)

    def measure_moment(self, moment: Moment) -> None:
        """Include a moment in the scales."""
        for painter in self.track_painters:
            painter.measure_moment(moment)

    def draw_panels(self, moment: Moment) -> Picture:
        """Draw the frame on the left and a column for each method, legends below the maps."""
        counts = [len(painter.parts) for painter in self.track_painters]
        shows_frame = self._shows_frame(moment)
        self.sizer.check_size(moment, rows=max(counts), columns=len(counts) + shows_frame)
        columns = [painter.draw_column(moment) for painter in self.track_painters]
        if shows_frame:
            columns.insert(0, [self.sizer.draw_frame(moment)])
        rows: list[list[Picture | None]] = [
            [column[row] if row < len(column) else None for column in columns]
            for row in range(max(map(len, columns)))
        ]
        is_single = len(rows) == len(columns) == 1
        return render.grid(rows, margin=0 if is_single else SEAM)

    def draw_grid(self, moments: Sequence[Moment]) -> Picture:
        """Draw frames on top and a row for each part of each method, time from left to right.

        A map whose window began before its column's time, as with slower methods, is labeled with
        its own time.
        """
        part_count = sum(len(painter.parts) for painter in self.track_painters)
        shows_frame = self._shows_frame(moments[0])
        self.sizer.check_size(moments[0], rows=part_count + shows_frame, columns=len(moments))
        rows: list[list[Picture | None]] = []
        names: list[str] = []
        if shows_frame:
            rows.append([self.sizer.draw_frame(moment) for moment in moments])
            names.append("frame")
        for painter in self.track_painters:
            rows += painter.draw_rows(moments)
            names += painter.style.make_labels("\n")
        titles = [f"{moment.time:.2f} s" for moment in moments]
        if self.options.legend:
            titles.append("")
        if self.options.label == "none":
            names, titles = [], []
        return render.grid(rows, names=names, titles=titles, margin=GRID_SEAM)

    def make_page_panels(self, *, framed: bool) -> tuple[PagePanel, ...]:
        """Describe the panels of a page: the frame if `framed`, and each part of each method."""
        panels: list[PagePanel] = []
        if framed and not self.options.alone:
            panels.append(PagePanel("video", shows_name=self.options.label != "none"))
        for painter in self.track_painters:
            panels += painter.make_page_panels()
        return tuple(panels)

    def draw_views(self, moment: Moment) -> list[PanelView]:
        """Draw the panels of a page at a moment, in the order of `make_page_panels`."""
        self.sizer.check_size(moment, rows=1, columns=1)
        views: list[PanelView] = []
        if self._shows_frame(moment):
            frame, window = self.sizer.draw_frame(moment), (moment.number, moment.number)
            views.append(PanelView(frame, moment.size, window, is_photo=True))
        for painter in self.track_painters:
            views += painter.draw_views(moment)
        return views

    def _shows_frame(self, moment: Moment) -> bool:
        return moment.frame is not None and not self.options.alone

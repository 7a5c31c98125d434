"""An HTML page to browse a clip: pictures, and the values behind them for the pointer.

``page.html`` beside this file is the page without its data. Each moment is a block of JSON in it,
so that neither the writer nor the browser holds more than a few unpacked moments.
"""

import base64
import html
import json
import zlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mrx.errors import OutputError, UsageError
from mrx.render import Picture
from mrx.visualize.film import (
    MAX_SIDE,
    check_output_folder,
    make_unfinished_path,
    make_write_error,
)

MIN_STEPS = 300  # steps of stored values from 0 to the strength of full color, at least
UNKNOWN_CODE = -32768
UNKNOWN_FLOW = 1e9  # marks unknown flow, as Middlebury does
PHOTO_QUALITY = 85  # of photographs, in WebP
LOSSLESS_QUALITY = 101  # of drawings, whose colors stand for values
JsonRecord = dict[str, Any]


@dataclass(frozen=True)
class PagePanel:
    """The parts of a panel that are the same at all times.

    Attributes:
        name: the method's name, or ``video``
        details: channels and parameters, one line each
        shows_name: show the name above the panel; screen readers get it in any case
        channels: the names of its values' channels; empty for a panel without values
        units: the values' units, or empty
        legend: the meaning of the colors, or None if it changes from picture to picture
        legend_has_scale: lengths in the legend are those in the picture, as of arrows
    """

    name: str
    details: tuple[str, ...] = ()
    shows_name: bool = True
    channels: tuple[str, ...] = ()
    units: str = ""
    legend: Picture | None = None
    legend_has_scale: bool = False


@dataclass(frozen=True)
class PanelView:
    """The contents of a panel at one time.

    Attributes:
        size: height and width of the frame, in whose pixels the pointer's place is shown
        window: the first and last frame that the map was made from; a view with the same window
            as the one before it in its panel is stored once
        is_photo: the picture is a photograph or is drawn over one, and may be compressed with
            small losses
        full_strength: the magnitude of full color, which sets the precision of stored values

    Shape:
        - picture: ``(H, W, 3)`` uint8
        - values: ``(C, H', W')``, or None for a panel without values
    """

    picture: Picture
    size: tuple[int, int]
    window: tuple[int, int]
    is_photo: bool = False
    values: NDArray[np.float32] | None = None
    full_strength: float = 1.0


class Page(AbstractContextManager["Page"]):
    """Takes moments in order; after the ``with`` block the page is complete or absent.

    Args:
        path: the page's file
        title: the heading
        panels: the panels from left to right
        rate: moments per second when played

    Attributes:
        nbytes: the bytes written so far
        count: the moments written so far
    """

    def __init__(self, path: Path, title: str, panels: tuple[PagePanel, ...], rate: float) -> None:
        check_output_folder(path)
        self.path = path
        self.title = title
        self.panels = panels
        self.rate = rate
        self.nbytes = 0
        self.count = 0
        self._file: Any = None
        self._stored_views: list[tuple[int, PanelView]] = []
        template = resources.files("mrx.visualize").joinpath("page.html").read_text("utf-8")
        self._head, self._foot = template.split("<!-- data -->")

    def __enter__(self) -> "Page":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._file is not None:
                if kind is None:
                    self._write_text(self._foot)
                self._file.close()
                if kind is None:
                    make_unfinished_path(self.path).replace(self.path)
        except OSError as failure:
            raise make_write_error(self.path, failure) from failure
        finally:
            make_unfinished_path(self.path).unlink(missing_ok=True)

    def add_moment(self, number: int, time: float, views: list[PanelView]) -> None:
        """Add a moment.

        Args:
            number: the frame's number
            time: the frame's time in seconds
            views: one for each panel
        """
        try:
            if self._file is None:
                self._file = make_unfinished_path(self.path).open("w", encoding="utf-8")
                self._write_text(self._head.replace("<!-- title -->", html.escape(self.title)))
                self._write_block("about", self._describe_panels(views))
                self._stored_views = [(0, view) for view in views]
            records = [
                self._make_record(view, panel_index=index, number=number, time=time)
                for index, view in enumerate(views)
            ]
            self._write_block("moment", records)
        except OSError as error:
            raise make_write_error(self.path, error) from error
        self.count += 1

    def _describe_panels(self, views: list[PanelView]) -> JsonRecord:
        panels = [
            {
                "name": panel.name,
                "details": panel.details,
                "titled": panel.shows_name,
                "channels": panel.channels,
                "units": panel.units,
                "legend": _encode_legend(panel),
                "size": view.size,
                "picture": view.picture.shape[:2],
            }
            for panel, view in zip(self.panels, views, strict=True)
        ]
        return {"rate": self.rate, "panels": panels}

    def _make_record(
        self, view: PanelView, *, panel_index: int, number: int, time: float
    ) -> JsonRecord:
        """Make a view's JSON, with references to equal data of an earlier moment."""
        # A number instead of a picture or values is the index of the moment that has them.
        stored_at, stored = self._stored_views[panel_index]
        is_stored = self.count > stored_at and stored.window == view.window
        if not is_stored:
            self._stored_views[panel_index] = self.count, view
        values: Any = None
        if view.values is not None:
            values = stored_at if is_stored else _encode_values(view.values, view)
        picture: Any = stored_at
        # A photo changes with the frame, even if the map drawn over it is the same.
        if view.is_photo or not is_stored:
            picture = encode_webp(
                view.picture, PHOTO_QUALITY if view.is_photo else LOSSLESS_QUALITY
            )
        return {
            "number": number,
            "time": round(time, 6),
            "window": view.window,
            "picture": picture,
            "values": values,
        }

    def _write_block(self, kind: str, data: Any) -> None:
        # Without "<", no text in the data can close the script element.
        text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
        self._write_text(f'<script type="application/json" class="{kind}">{text}</script>\n')

    def _write_text(self, text: str) -> None:
        self._file.write(text)
        self.nbytes += len(text.encode())


def encode_webp(picture: Picture, quality: int) -> str:
    """Encode a picture as WebP in a ``data:`` URL; a quality above 100 is lossless.

    Raises:
        UsageError: a side is longer than WebP allows
        OutputError: OpenCV cannot encode it
    """
    height, width = picture.shape[:2]
    if max(height, width) > MAX_SIDE:
        raise UsageError(f"a picture of {width}x{height} is too large: give a smaller --scale")
    options = [cv2.IMWRITE_WEBP_QUALITY, quality]
    done, data = cv2.imencode(".webp", np.ascontiguousarray(picture[..., ::-1]), options)
    if not done:
        raise OutputError(f"OpenCV cannot encode a WebP of {width}x{height}")
    return f"data:image/webp;base64,{base64.b64encode(data.tobytes()).decode()}"


def quantize_values(
    values: NDArray[np.float32], full_strength: float
) -> tuple[NDArray[np.int16], float]:
    """Return values as whole numbers of steps, and the step.

    The step is a power of ten, 300 to 3000 times finer than `full_strength`, and coarser if the
    largest value needs it. Unknown values (NaN, infinity, and 1e9 or more) become `UNKNOWN_CODE`.
    """
    # full_strength = 5: 5 / 300 = 0.0167 -> step 0.01, so that 1.234 -> 123
    known = np.abs(values) < UNKNOWN_FLOW
    largest = float(np.abs(values, where=known, out=np.zeros(values.shape)).max())
    fine, coarse = np.floor(np.log10(full_strength / MIN_STEPS)), -np.inf
    if largest > 0:
        coarse = np.ceil(np.log10(largest / -(UNKNOWN_CODE + 1)))
    step = float(10 ** max(fine, coarse))
    whole = np.rint(np.where(known, values, 0) / step)
    return np.where(known, whole, UNKNOWN_CODE).astype(np.int16), step


def _encode_values(values: NDArray[np.float32], view: PanelView) -> JsonRecord:
    """Compress values to JSON: the low bytes of all numbers, then the high bytes."""
    # High bytes vary slowly, and zlib packs them well if they are side by side.
    codes, step = quantize_values(_thin_values(values, *view.picture.shape[:2]), view.full_strength)
    byte_planes = np.ascontiguousarray(codes, "<i2").view(np.uint8).reshape(-1, 2).T
    data = base64.b64encode(zlib.compress(byte_planes.tobytes())).decode()
    return {"step": step, "size": codes.shape[1:], "codes": data}


def _thin_values(values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Keep one value per pixel of a picture that is smaller than the map, from its center."""
    tall, wide = values.shape[-2:]
    if height >= tall and width >= wide:
        return values
    rows, columns = _find_center_cells(height, cells=tall), _find_center_cells(width, cells=wide)
    return values[..., rows[:, None], columns]


def _find_center_cells(pixels: int, *, cells: int) -> NDArray[np.intp]:
    # pixels = 2, cells = 6 -> centers at 1.5 and 4.5 cells -> [1, 4]
    return (2 * np.arange(pixels) + 1) * cells // (2 * pixels)


def _encode_legend(panel: PagePanel) -> JsonRecord | None:
    if panel.legend is None:
        return None
    width = panel.legend.shape[1]
    return {
        "url": encode_webp(panel.legend, LOSSLESS_QUALITY),
        "width": width,
        "measured": panel.legend_has_scale,
    }

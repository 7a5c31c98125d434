"""One page of HTML to look through a clip: pictures, and the values behind them for the pointer.

``page.html`` beside this file is the page without its data. What is shown at one time is a block
of JSON in it, so that neither writing nor reading holds more than a few of them unpacked.
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
from mrx.visualize.film import (
    MAX_SIDE,
    Picture,
    check_output_folder,
    make_unfinished_path,
    make_write_error,
)

MIN_STEPS = 300  # at least so many steps of values up to the strength of full color
UNKNOWN_CODE = -32768
UNKNOWN_FLOW = 1e9  # marks unknown flow, as Middlebury does
PHOTO_QUALITY = 85  # of photographs, in WebP
LOSSLESS_QUALITY = 101  # of drawings: their colors are meant
JsonRecord = dict[str, Any]


@dataclass(frozen=True)
class PagePanel:
    """What stays the same in a panel.

    Attributes:
        name: what it shows
        details: more about that, a line each
        shows_name: whether the name can be read above it, and not only heard
        channels: the names of its values
        units: of its values, or nothing
        legend: what the colors mean, if that holds for the whole clip
        legend_has_scale: the legend has the scale of the picture, as arrows do
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
    """What a panel shows at one time.

    Attributes:
        size: height and width of the frame, whose pixels the pointer counts
        window: the first and the last frame that it was made from; what has the window of the
            pane before it is not stored again
        is_photo: its picture is, or is drawn over, a photograph: compressed with a little loss
        full_strength: the strength of full color, which says how finely values are stored

    Shape:
        - picture: ``(H, W, 3)`` uint8
        - values: ``(C, H', W')``, or None where the picture says all
    """

    picture: Picture
    size: tuple[int, int]
    window: tuple[int, int]
    is_photo: bool = False
    values: NDArray[np.float32] | None = None
    full_strength: float = 1.0


class Page(AbstractContextManager["Page"]):
    """Takes what is shown time by time; on leaving, the page is whole or not there.

    Args:
        path: of the page
        title: on top of it
        panels: from left to right
        rate: times a second, when played

    Attributes:
        nbytes: how large it is so far
        count: how many times it holds
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
        """Add what is shown at the frame of this number and time, a pane for each panel."""
        try:
            if self._file is None:
                self._file = make_unfinished_path(self.path).open("w", encoding="utf-8")
                self._write_text(self._head.replace("<!-- title -->", html.escape(self.title)))
                self._write_block("about", self._describe_panels(views))
                self._stored_views = [(0, pane) for pane in views]
            records = [
                self._make_record(pane, panel_index=place, number=number, time=time)
                for place, pane in enumerate(views)
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
                "size": pane.size,
                "picture": pane.picture.shape[:2],
            }
            for panel, pane in zip(self.panels, views, strict=True)
        ]
        return {"rate": self.rate, "panels": panels}

    def _make_record(
        self, view: PanelView, *, panel_index: int, number: int, time: float
    ) -> JsonRecord:
        """A pane as JSON; a number stands for what an earlier moment holds."""
        stored_at, stored = self._stored_views[panel_index]
        same = self.count > stored_at and stored.window == view.window
        if not same:
            self._stored_views[panel_index] = self.count, view
        values: Any = None
        if view.values is not None:
            values = stored_at if same else _encode_values(view.values, view)
        picture: Any = stored_at
        if view.is_photo or not same:
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
        """Data as JSON that no text in it can end before its time."""
        text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
        self._write_text(f'<script type="application/json" class="{kind}">{text}</script>\n')

    def _write_text(self, text: str) -> None:
        self._file.write(text)
        self.nbytes += len(text.encode())


def encode_webp(picture: Picture, quality: int) -> str:
    """A picture as a ``data:`` URL of WebP; lossless for a quality above 100."""
    height, width = picture.shape[:2]
    if max(height, width) > MAX_SIDE:
        raise UsageError(f"a picture of {width}x{height} is too large: use a smaller --scale")
    options = [cv2.IMWRITE_WEBP_QUALITY, quality]
    done, data = cv2.imencode(".webp", np.ascontiguousarray(picture[..., ::-1]), options)
    if not done:
        raise OutputError(f"OpenCV makes no WebP of a picture of {width}x{height}")
    return f"data:image/webp;base64,{base64.b64encode(data.tobytes()).decode()}"


def quantize_values(
    values: NDArray[np.float32], full_strength: float
) -> tuple[NDArray[np.int16], float]:
    """Values as whole steps, and the step: a decimal place, so that what is read is as it is.

    It is 300 to 3000 times finer than `full_strength`, and coarser where the largest value needs it. What
    is unknown (NaN, infinity, and 1e9 or more) becomes `UNKNOWN_CODE`.
    """
    known = np.abs(values) < UNKNOWN_FLOW
    largest = float(np.abs(values, where=known, out=np.zeros(values.shape)).max())
    fine, coarse = np.floor(np.log10(full_strength / MIN_STEPS)), -np.inf
    if largest > 0:
        coarse = np.ceil(np.log10(largest / -(UNKNOWN_CODE + 1)))
    step = float(10 ** max(fine, coarse))
    whole = np.rint(np.where(known, values, 0) / step)
    return np.where(known, whole, UNKNOWN_CODE).astype(np.int16), step


def _encode_values(values: NDArray[np.float32], view: PanelView) -> JsonRecord:
    """Values as JSON: of every number the lower byte, then of every number the higher."""
    codes, step = quantize_values(_thin_values(values, *view.picture.shape[:2]), view.full_strength)
    byte_planes = np.ascontiguousarray(codes, "<i2").view(np.uint8).reshape(-1, 2).T
    data = base64.b64encode(zlib.compress(byte_planes.tobytes())).decode()
    return {"step": step, "size": codes.shape[1:], "codes": data}


def _thin_values(values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """The values in the middle of the pixels of a picture that is smaller than the map."""
    tall, wide = values.shape[-2:]
    if height >= tall and width >= wide:
        return values
    rows, columns = _find_cell_middles(height, cells=tall), _find_cell_middles(width, cells=wide)
    return values[..., rows[:, None], columns]


def _find_cell_middles(pixels: int, *, cells: int) -> NDArray[np.intp]:
    return (2 * np.arange(pixels) + 1) * cells // (2 * pixels)


def _encode_legend(panel: PagePanel) -> JsonRecord | None:
    """A panel's legend as JSON."""
    if panel.legend is None:
        return None
    width = panel.legend.shape[1]
    return {
        "url": encode_webp(panel.legend, LOSSLESS_QUALITY),
        "width": width,
        "measured": panel.legend_has_scale,
    }

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
from mrx.visualize.film import LARGEST, Picture, check_place, unfinished, unusable

STEPS = 300  # at least so many steps of values up to the strength of full color
UNKNOWN = -32768
MOST = 1e9  # marks unknown flow, as Middlebury does
QUALITY = 85  # of photographs, in WebP
EXACT = 101  # of drawings: their colors are meant
Record = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """What stays the same in a panel.

    Attributes:
        name: what it shows
        details: more about that, a line each
        titled: whether the name can be read above it, and not only heard
        channels: the names of its values
        units: of its values, or nothing
        legend: what the colors mean, if that holds for the whole clip
        measured: the legend has the scale of the picture, as arrows do
    """

    name: str
    details: tuple[str, ...] = ()
    titled: bool = True
    channels: tuple[str, ...] = ()
    units: str = ""
    legend: Picture | None = None
    measured: bool = False


@dataclass(frozen=True)
class Pane:
    """What a panel shows at one time.

    Attributes:
        size: height and width of the frame, whose pixels the pointer counts
        window: the first and the last frame that it was made from; what has the window of the
            pane before it is not stored again
        photo: its picture is, or is drawn over, a photograph: compressed with a little loss
        full: the strength of full color, which says how finely values are stored

    Shape:
        - picture: ``(H, W, 3)`` uint8
        - values: ``(C, H', W')``, or None where the picture says all
    """

    picture: Picture
    size: tuple[int, int]
    window: tuple[int, int]
    photo: bool = False
    values: NDArray[np.float32] | None = None
    full: float = 1.0


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

    def __init__(self, path: Path, title: str, panels: tuple[Panel, ...], rate: float) -> None:
        check_place(path)
        self.path = path
        self.title = title
        self.panels = panels
        self.rate = rate
        self.nbytes = 0
        self.count = 0
        self._file: Any = None
        self._before: list[tuple[int, Pane]] = []
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
                    self._write(self._foot)
                self._file.close()
                if kind is None:
                    unfinished(self.path).replace(self.path)
        except OSError as failure:
            raise unusable(self.path, failure) from failure
        finally:
            unfinished(self.path).unlink(missing_ok=True)

    def put(self, number: int, time: float, panes: list[Pane]) -> None:
        """Add what is shown at the frame of this number and time, a pane for each panel."""
        try:
            if self._file is None:
                self._file = unfinished(self.path).open("w", encoding="utf-8")
                self._write(self._head.replace("<!-- title -->", html.escape(self.title)))
                self._block("about", self._about(panes))
                self._before = [(0, pane) for pane in panes]
            records = [
                self._record(pane, place=place, number=number, time=time)
                for place, pane in enumerate(panes)
            ]
            self._block("moment", records)
        except OSError as error:
            raise unusable(self.path, error) from error
        self.count += 1

    def _about(self, panes: list[Pane]) -> Record:
        panels = [
            {
                "name": panel.name,
                "details": panel.details,
                "titled": panel.titled,
                "channels": panel.channels,
                "units": panel.units,
                "legend": _drawn(panel),
                "size": pane.size,
                "picture": pane.picture.shape[:2],
            }
            for panel, pane in zip(self.panels, panes, strict=True)
        ]
        return {"rate": self.rate, "panels": panels}

    def _record(self, pane: Pane, *, place: int, number: int, time: float) -> Record:
        """A pane as JSON; a number stands for what an earlier moment holds."""
        held, before = self._before[place]
        same = self.count > held and before.window == pane.window
        if not same:
            self._before[place] = self.count, pane
        values: Any = None
        if pane.values is not None:
            values = held if same else _values(pane.values, pane)
        picture: Any = held
        if pane.photo or not same:
            picture = coded(pane.picture, QUALITY if pane.photo else EXACT)
        return {
            "number": number,
            "time": round(time, 6),
            "window": pane.window,
            "picture": picture,
            "values": values,
        }

    def _block(self, kind: str, data: Any) -> None:
        """Data as JSON that no text in it can end before its time."""
        text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
        self._write(f'<script type="application/json" class="{kind}">{text}</script>\n')

    def _write(self, text: str) -> None:
        self._file.write(text)
        self.nbytes += len(text.encode())


def coded(picture: Picture, quality: int) -> str:
    """A picture as a ``data:`` URL of WebP; lossless for a quality above 100."""
    height, width = picture.shape[:2]
    if max(height, width) > LARGEST:
        raise UsageError(f"a picture of {width}x{height} is too large: use a smaller --scale")
    options = [cv2.IMWRITE_WEBP_QUALITY, quality]
    done, data = cv2.imencode(".webp", np.ascontiguousarray(picture[..., ::-1]), options)
    if not done:
        raise OutputError(f"OpenCV makes no WebP of a picture of {width}x{height}")
    return f"data:image/webp;base64,{base64.b64encode(data.tobytes()).decode()}"


def quantized(values: NDArray[np.float32], full: float) -> tuple[NDArray[np.int16], float]:
    """Values as whole steps, and the step: a decimal place, so that what is read is as it is.

    It is 300 to 3000 times finer than `full`, and coarser where the largest value needs it. What
    is unknown (NaN, infinity, and 1e9 or more) becomes `UNKNOWN`.
    """
    here = np.abs(values) < MOST
    largest = float(np.abs(values, where=here, out=np.zeros(values.shape)).max())
    fine, coarse = np.floor(np.log10(full / STEPS)), -np.inf
    if largest > 0:
        coarse = np.ceil(np.log10(largest / -(UNKNOWN + 1)))
    step = float(10 ** max(fine, coarse))
    whole = np.rint(np.where(here, values, 0) / step)
    return np.where(here, whole, UNKNOWN).astype(np.int16), step


def _values(values: NDArray[np.float32], pane: Pane) -> Record:
    """Values as JSON: of every number the lower byte, then of every number the higher."""
    codes, step = quantized(_thinned(values, *pane.picture.shape[:2]), pane.full)
    parts = np.ascontiguousarray(codes, "<i2").view(np.uint8).reshape(-1, 2).T
    data = base64.b64encode(zlib.compress(parts.tobytes())).decode()
    return {"step": step, "size": codes.shape[1:], "codes": data}


def _thinned(values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """The values in the middle of the pixels of a picture that is smaller than the map."""
    tall, wide = values.shape[-2:]
    if height >= tall and width >= wide:
        return values
    rows, columns = _middles(height, cells=tall), _middles(width, cells=wide)
    return values[..., rows[:, None], columns]


def _middles(pixels: int, *, cells: int) -> NDArray[np.intp]:
    return (2 * np.arange(pixels) + 1) * cells // (2 * pixels)


def _drawn(panel: Panel) -> Record | None:
    """A panel's legend as JSON."""
    if panel.legend is None:
        return None
    width = panel.legend.shape[1]
    return {"url": coded(panel.legend, EXACT), "width": width, "measured": panel.measured}

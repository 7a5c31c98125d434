"""Pictures as a film, one picture, numbered pictures or a stream: by the output's name."""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import av
import cv2
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

from mrx.errors import MissingError, OutputError, UsageError

Picture = NDArray[np.uint8]
LARGEST = 16383  # pixels of a side, in every codec used here


class Film(AbstractContextManager["Film"], Protocol):
    """Takes the pictures one after the other; on leaving, the output is whole or not there."""

    def put(self, picture: Picture) -> None:
        """Add a picture ``(H, W, 3)`` uint8; all have the size of the first."""
        ...


@dataclass(frozen=True)
class Codec:
    """How a kind of film is coded."""

    format: str
    encoder: str
    pixels: str
    options: Mapping[str, str] = field(default_factory=dict)
    container: Mapping[str, str] = field(default_factory=dict)


_H264 = {"crf": "18", "preset": "veryfast"}
_VP9 = {"crf": "28", "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1"}
CODECS = {
    ".mp4": Codec("mp4", "libx264", "yuv420p", _H264, {"movflags": "faststart"}),
    ".webm": Codec("webm", "libvpx-vp9", "yuv420p", _VP9),
    ".gif": Codec("gif", "gif", "pal8"),
    "-": Codec("matroska", "libx264", "yuv420p", {**_H264, "tune": "zerolatency"}),
}
ENDINGS = (*CODECS, ".png")


def kind_of(output: str) -> str:
    """The ending that says what to write, ``-`` for a stream, or nothing for a folder."""
    if output == "-":
        return "-"
    ending = Path(output).suffix.lower()
    if output.endswith(os.sep) or Path(output).is_dir() or not ending:
        return ""
    if ending not in ENDINGS:
        known = ", ".join(e for e in ENDINGS if e != "-")
        raise UsageError(
            f"bad output ({output}): give a name in {known}, a folder, or - for stdout"
        )
    return ending


def open_film(output: str, rate: float, *, stdout: BinaryIO | None = None) -> Film:
    """The writer for this output.

    Args:
        output: ``.mp4`` (H.264), ``.webm`` (VP9), ``.gif``, ``.png`` (the first picture), a folder
            for numbered PNGs, or ``-`` for Matroska with H.264 on stdout
        rate: pictures a second
        stdout: where ``-`` writes, if not on standard output
    """
    kind = kind_of(output)
    if kind == "-":
        return Coded(stdout or sys.stdout.buffer, CODECS[kind], rate)
    if kind == ".png":
        return Single(Path(output))
    if not kind:
        return Numbered(Path(output))
    return Coded(Path(output), CODECS[kind], rate)


class Single:
    """The first picture, as a PNG."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done = False
        _check_place(path)

    def __enter__(self) -> "Single":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def put(self, picture: Picture) -> None:
        """Write the first picture; no other."""
        if not self._done:
            write_png(self.path, picture)
        self._done = True


class Numbered:
    """A folder of PNGs, numbered from 0."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise OutputError(f"output is not empty ({folder}): give a new folder")
        except OSError as error:
            raise _unusable(folder, error) from error

    def __enter__(self) -> "Numbered":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def put(self, picture: Picture) -> None:
        """Write the next picture."""
        write_png(self.folder / f"{self._count:06d}.png", picture)
        self._count += 1


class Coded:
    """A coded film, in a file that gets its name when it is whole, or in a stream.

    Sides of an odd length are made even, as yuv420p needs: the last row or column stands twice.
    """

    def __init__(self, target: Path | BinaryIO, codec: Codec, rate: float) -> None:
        if codec.encoder not in av.codecs_available:
            raise MissingError(f"this PyAV has no encoder {codec.encoder}: pip install av")
        self.path = target if isinstance(target, Path) else None
        self.codec = codec
        self.rate = Fraction(rate).limit_denominator(1001)
        self._count = 0
        self._even = codec.pixels == "yuv420p"
        self._file: Any = target
        if isinstance(target, Path):
            _check_place(target)
            self._file = str(_unfinished(target))
        else:
            self._file = _Stream(target)
        self._container: Any = None
        self._stream: Any = None
        self._palette: Callable[[Any], Any] | None = None

    def __enter__(self) -> "Coded":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as failure:
            if self.path is None:
                raise
            raise _unusable(self.path, failure) from failure
        finally:
            if kind is not None and self._container is not None:
                with suppress(OSError, ValueError):
                    self._container.close()
            if self.path is not None:
                _unfinished(self.path).unlink(missing_ok=True)

    def put(self, picture: Picture) -> None:
        """Code the next picture."""
        if self._even:
            height, width = picture.shape[:2]
            down, right = height % 2, width % 2
            picture = np.pad(picture, ((0, down), (0, right), (0, 0)), mode="edge")
        try:
            if self._container is None:
                self._open(*picture.shape[:2])
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = self._count, 1 / self.rate
            self._count += 1
            coded = self._stream.encode(self._palette(frame) if self._palette else frame)
            self._container.mux(coded)
            self._check()
        except OSError as error:
            if self.path is None:
                raise
            raise _unusable(self.path, error) from error

    def _open(self, height: int, width: int) -> None:
        if max(height, width) > LARGEST:
            raise UsageError(f"a film of {width}x{height} is too large: use a smaller --scale")
        codec = self.codec
        self._container = av.open(
            self._file, "w", format=codec.format, options=dict(codec.container)
        )
        stream = self._container.add_stream(
            codec.encoder, rate=self.rate, options=dict(codec.options)
        )
        stream.width, stream.height, stream.pix_fmt = width, height, codec.pixels
        stream.codec_context.time_base = 1 / self.rate
        if codec.pixels == "pal8":
            self._palette = _palette(width, height, 1 / self.rate)
        self._stream = stream

    def _finish(self) -> None:
        if self._container is None:
            return
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._check()
        if self.path is not None:
            _unfinished(self.path).replace(self.path)

    def _check(self) -> None:
        if isinstance(self._file, _Stream):
            self._file.check()


class _Stream:
    """What PyAV may do with a pipe: write, and nothing else."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        """Pass on what there is at once; what fails is kept, as FFmpeg would hide its cause."""
        try:
            if self.failure is None:
                self._target.write(data)
                self._target.flush()
        except OSError as error:
            self.failure = error
        return len(data)

    def check(self) -> None:
        """Raise what failed."""
        if self.failure is not None:
            raise self.failure


def _palette(width: int, height: int, time_base: Fraction) -> Callable[[Any], Any]:
    """Give each frame the 256 colors that suit it best."""

    def convert(frame: Any) -> Any:
        # A graph that has ended a frame's palette takes no other: one for each frame.
        graph, rgb = Graph(), av.VideoFormat("rgb24")
        source = graph.add_buffer(width=width, height=height, format=rgb, time_base=time_base)
        split, make = graph.add("split"), graph.add("palettegen", "reserve_transparent=0")
        use, sink = graph.add("paletteuse", "dither=none"), graph.add("buffersink")
        source.link_to(split)
        split.link_to(make, 0, 0)
        split.link_to(use, 1, 0)
        make.link_to(use, 0, 1)
        use.link_to(sink)
        graph.configure()
        pts = frame.pts
        graph.push(frame)
        graph.push(None)
        made = graph.pull()
        made.pts, made.time_base = pts, time_base
        return made

    return convert


def write_png(path: Path, picture: Picture) -> None:
    """Write a picture ``(H, W, 3)`` RGB; never a half of it."""
    _check_place(path)
    _, data = cv2.imencode(".png", picture[..., ::-1])
    unfinished = _unfinished(path)
    try:
        unfinished.write_bytes(data.tobytes())
        unfinished.replace(path)
    except OSError as error:
        raise _unusable(path, error) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}.unfinished{path.suffix}")


def _check_place(path: Path) -> None:
    if not path.parent.is_dir():
        raise OutputError(f"bad output ({path}): there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"bad output ({path}): {path.parent} is not writable")


def _unusable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write ({path}): {error.strerror or error}")

"""Writers of pictures: a film, one PNG, numbered PNGs or a stream, by the output's name."""

import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from mrx.errors import MissingError, OutputError, ShapeError, UsageError
from mrx.render import Picture
from mrx.visualize.palette import Palette

MAX_SIDE = 16383  # pixels per side that every codec used here can store
BT709, SRGB = 1, 13  # codes of H.273: BT.709 primaries, and the transfer function of sRGB


class Film(AbstractContextManager["Film"], Protocol):
    """Takes pictures in order; after the ``with`` block the output is complete or absent."""

    def add_picture(self, picture: Picture) -> None:
        """Add a picture ``(H, W, 3)`` uint8 of the size of the first."""
        ...


@dataclass(frozen=True)
class FilmCodec:
    """The container, encoder and options of one kind of film."""

    format: str
    encoder: str
    pixel_format: str
    max_rate: int = 1000  # pictures per second
    encoder_options: Mapping[str, str] = field(default_factory=dict)
    container_options: Mapping[str, str] = field(default_factory=dict)


def _make_yuv_codec(
    container_format: str, *, encoder: str, options: Mapping[str, str], **container: str
) -> FilmCodec:
    return FilmCodec(
        container_format, encoder, "yuv420p", encoder_options=options, container_options=container
    )


# subq 1 saves a quarter of the work for a sixth more bytes.
_H264 = {"crf": "18", "preset": "veryfast", "subq": "1"}
_VP9 = {"crf": "28", "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1"}
CODECS = {
    ".mp4": _make_yuv_codec("mp4", encoder="libx264", options=_H264, movflags="faststart"),
    ".webm": _make_yuv_codec("webm", encoder="libvpx-vp9", options=_VP9),
    ".gif": FilmCodec("gif", "gif", "pal8", max_rate=50),  # browsers slow down faster GIFs
    "-": _make_yuv_codec(
        "matroska",
        encoder="libx264",
        options={**_H264, "tune": "zerolatency"},
        cluster_time_limit="200",
    ),
}
OUTPUT_ENDINGS = (*CODECS, ".png", ".html")


def find_output_kind(output: str) -> str:
    """Return the output's file ending, ``-`` for stdout, or an empty text for a folder.

    Raises:
        UsageError: no file of this ending can be written
    """
    if output == "-":
        return "-"
    ending = Path(output).suffix.lower()
    if output.endswith(os.sep) or Path(output).is_dir() or not ending:
        return ""
    if ending not in OUTPUT_ENDINGS:
        known = ", ".join(e for e in OUTPUT_ENDINGS if e != "-")
        raise UsageError(
            f"bad output ({output}): give a name in {known}, a folder ({output}/), or - for stdout"
        )
    return ending


def open_film(output: str, rate: float, *, kind: str, stdout: BinaryIO | None = None) -> Film:
    """Open the writer for an output.

    Args:
        output: ``.mp4`` (H.264), ``.webm`` (VP9), ``.gif``, ``.png`` (the first picture), a folder
            for numbered PNGs, or ``-`` for Matroska with H.264 on stdout
        rate: pictures per second
        kind: what `find_output_kind` returned for `output`
        stdout: the stream that ``-`` writes to; None is standard output

    Raises:
        UsageError: `output` is a page, or the film's format does not allow `rate`
        OutputError: the output cannot be written
    """
    if kind == ".html":
        raise UsageError(f"{output} is a page, not a film: mrx.visualize.page writes it")
    if kind == "-":
        return EncodedFilm(stdout or sys.stdout.buffer, CODECS[kind], rate)
    if kind == ".png":
        return SinglePng(Path(output))
    if not kind:
        return NumberedPngs(Path(output))
    return EncodedFilm(Path(output), CODECS[kind], rate)


class SinglePng:
    """Writes the first picture as a PNG and ignores the others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written = False
        check_output_folder(path)

    def __enter__(self) -> "SinglePng":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def add_picture(self, picture: Picture) -> None:
        """Write the first picture; ignore any other."""
        if not self._written:
            write_png(self.path, picture)
        self._written = True


class NumberedPngs:
    """Writes a folder of PNGs, numbered from 0; removes them after an error."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        self._is_new_folder = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise OutputError(f"output is not empty ({folder}): give a new folder")
        except OSError as error:
            raise make_write_error(folder, error) from error

    def __enter__(self) -> "NumberedPngs":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for number in range(self._count):
                self._make_path(number).unlink(missing_ok=True)
            with suppress(OSError):
                if self._is_new_folder:
                    self.folder.rmdir()

    def add_picture(self, picture: Picture) -> None:
        """Write the next picture."""
        write_png(self._make_path(self._count), picture)
        self._count += 1

    def _make_path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.png"


class EncodedFilm:
    """Encodes a film into a file, which gets its name when it is complete, or into a stream.

    yuv420p needs even sides: the last row or column of an odd side is repeated. Colors are
    converted to BT.709 and tagged as such.
    """

    def __init__(self, target: Path | BinaryIO, codec: FilmCodec, rate: float) -> None:
        if codec.encoder not in av.codecs_available:
            raise MissingError(f"no encoder {codec.encoder} in this PyAV: pip install av")
        self.path = target if isinstance(target, Path) else None
        self.codec = codec
        self.rate = _rate_to_fraction(rate, codec)
        self._count = 0
        self._size: tuple[int, ...] = ()
        self._file: Any = target
        if isinstance(target, Path):
            check_output_folder(target)
            self._file = str(make_unfinished_path(target))
        else:
            self._file = _PipeWriter(target)
        self._container: Any = None
        self._stream: Any = None
        self._palette = Palette() if codec.pixel_format == "pal8" else None
        self._reformatter = VideoReformatter()

    def __enter__(self) -> "EncodedFilm":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish_file()
        except BrokenPipeError:
            raise
        except OSError as failure:
            raise make_write_error(self.path or "-", failure) from failure
        finally:
            if self._container is not None:
                with suppress(OSError, ValueError):
                    self._container.close()
            if self.path is not None:
                make_unfinished_path(self.path).unlink(missing_ok=True)

    def add_picture(self, picture: Picture) -> None:
        """Encode the next picture."""
        if self._container is not None and picture.shape != self._size:
            raise ShapeError(f"pictures of a film have one size {self._size}, got {picture.shape}")
        try:
            if self._container is None:
                self._open_container(picture)
            frame = self._make_frame(picture)
            frame.pts, frame.time_base = self._count, 1 / self.rate
            self._count += 1
            self._container.mux(self._stream.encode(frame))
            self._check_pipe()
        except BrokenPipeError:
            # The reader closed the pipe, which is no failed write: the command exits as by SIGPIPE.
            raise
        except OSError as error:
            raise make_write_error(self.path or "-", error) from error

    def _open_container(self, picture: Picture) -> None:
        height, width = picture.shape[:2]
        if max(height, width) > MAX_SIDE:
            raise UsageError(f"a film of {width}x{height} is too large: give a smaller --scale")
        codec, self._size = self.codec, picture.shape
        self._container = av.open(
            self._file, "w", format=codec.format, options=dict(codec.container_options)
        )
        stream = self._container.add_stream(
            codec.encoder, rate=self.rate, options=dict(codec.encoder_options)
        )
        stream.width, stream.height, stream.pix_fmt = width, height, codec.pixel_format
        stream.codec_context.time_base = 1 / self.rate
        if self._palette is None:
            stream.width, stream.height = width + width % 2, height + height % 2
            _tag_colors(stream.codec_context)
        self._stream = stream

    def _make_frame(self, picture: Picture) -> Any:
        """Convert a picture to the encoder's pixel format."""
        if self._palette is not None:
            indices = self._palette.index_picture(picture)
            colors = np.insert(self._palette.colors, 0, 255, axis=1)  # alpha first, opaque
            indexed: Any = (indices, colors)
            return av.VideoFrame.from_ndarray(indexed, format="pal8")
        frame = av.VideoFrame.from_ndarray(_pad_to_even(picture), format="rgb24")
        return self._reformatter.reformat(
            frame,
            format=self.codec.pixel_format,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )

    def _finish_file(self) -> None:
        if self._container is None:
            return
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._check_pipe()
        if self.path is not None:
            make_unfinished_path(self.path).replace(self.path)

    def _check_pipe(self) -> None:
        if isinstance(self._file, _PipeWriter):
            self._file.raise_failure()


def _rate_to_fraction(rate: float, codec: FilmCodec) -> Fraction:
    """Convert pictures per second to a fraction that containers can store."""
    fraction = Fraction(rate).limit_denominator(1001)
    if not 0 < fraction <= codec.max_rate:
        raise UsageError(
            f"bad rate ({rate:.5g} pictures per second): {codec.format} allows more than 0 and at "
            f"most {codec.max_rate}. Choose with --fps or --every"
        )
    return fraction


def _pad_to_even(picture: Picture) -> Picture:
    down, right = (side % 2 for side in picture.shape[:2])
    if down or right:
        picture = np.pad(picture, ((0, down), (0, right), (0, 0)), mode="edge")
    return np.ascontiguousarray(picture)


def _tag_colors(context: Any) -> None:
    # Without tags a player guesses the color space by the film's size, and may guess wrong.
    context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
    context.color_primaries, context.color_trc = BT709, SRGB


class _PipeWriter:
    """A pipe for PyAV that can only be written to."""

    def __init__(self, target: BinaryIO) -> None:
        # Unbuffered: after a broken pipe, buffered bytes would fail again when Python exits.
        self._target = getattr(target, "raw", target)
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write all data; keep the error of a failed write for `raise_failure`."""
        # An error raised here would go through FFmpeg, which hides its cause.
        try:
            unsent = memoryview(data)
            while unsent and self.failure is None:
                unsent = unsent[self._target.write(unsent) :]
        except OSError as error:
            self.failure = error
        return len(data)

    def raise_failure(self) -> None:
        """Raise the error of an earlier `write`."""
        if self.failure is not None:
            raise self.failure


def write_png(path: Path, picture: Picture) -> None:
    """Write a picture ``(H, W, 3)`` RGB as a complete file or not at all."""
    check_output_folder(path)
    done, data = cv2.imencode(".png", picture[..., ::-1])
    if not done:
        raise OutputError(f"cannot write ({path}): OpenCV cannot encode a PNG of {picture.shape}")
    temporary = make_unfinished_path(path)
    try:
        temporary.write_bytes(data.tobytes())
        temporary.replace(path)
    except OSError as error:
        raise make_write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def make_unfinished_path(path: Path) -> Path:
    """Return the path that a file is written to until it is complete."""
    return path.with_name(f".{path.stem}.{os.getpid()}.unfinished{path.suffix}")


def check_output_folder(path: Path) -> None:
    """Refuse an output whose folder is missing or not writable.

    Raises:
        OutputError: the folder is missing or not writable
    """
    if not path.parent.is_dir():
        raise OutputError(f"bad output ({path}): no such folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"bad output ({path}): {path.parent} is not writable")


def make_write_error(path: Path | str, error: OSError) -> OutputError:
    """Make the error for a failed write."""
    return OutputError(f"cannot write ({path}): {error.strerror or error}")

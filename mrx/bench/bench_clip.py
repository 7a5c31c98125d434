"""The clip of a benchmark: a generated texture, or a video of the user's."""

from dataclasses import dataclass
from pathlib import Path

from mrx.bench.bench_records import DEFAULT_FRAME_SIZE, BenchOptions
from mrx.bench.texture_clip import write_texture_clip
from mrx.decode import Video
from mrx.errors import UsageError
from mrx.job import Decoding, Source
from mrx.sources.scan import make_path_source, why_unreadable


@dataclass(frozen=True)
class BenchClip:
    """A clip, and the frames that it gives.

    Attributes:
        source: the file or URL
        decoding: the options to read it with
        size: (width, height) of the frames after scaling
        num_frames: number of frames
    """

    source: Source
    decoding: Decoding
    size: tuple[int, int]
    num_frames: int

    @property
    def description(self) -> str:
        """Name and size of the file, which tell clips apart wherever they are stored."""
        size = "" if self.source.size is None else f", {self.source.size} bytes"
        return Path(self.source.public_path).name + size


def prepare_clip(options: BenchOptions, folder: Path) -> BenchClip:
    """Open the clip that the options name, or generate one in `folder`.

    Raises:
        UsageError: The clip is missing, unreadable or a folder.
        DecodeError: It has no decodable frame.
    """
    if options.clip is None:
        return _generate_clip(options, folder / "clip.mp4")
    source = _make_clip_source(options.clip)
    decoding = Decoding(size=options.size)
    video = Video(source, decoding)
    # Counted by decoding: headers may be wrong, and rates are per frame.
    num_frames = video.count_frames()
    _, height, width, _ = next(video.read_frames())["rgb"].data.shape
    return BenchClip(source, decoding, (width, height), num_frames)


def _generate_clip(options: BenchOptions, path: Path) -> BenchClip:
    size = options.size or DEFAULT_FRAME_SIZE
    write_texture_clip(path, options.frames, size)
    return BenchClip(_make_clip_source(str(path)), Decoding(size=size), size, options.frames)


def _make_clip_source(path: str) -> Source:
    source = make_path_source(path, key="0")
    if source.kind == "url":
        return source
    # Bare decoding reads one container; a folder of images has none.
    problem = "it is a folder" if source.kind == "frames" else why_unreadable(source.path)
    if problem:
        raise UsageError(f"cannot measure on {path}: {problem}. Give a video as --input")
    return source

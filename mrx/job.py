"""The settings of a run, its sources, and the row that records the result of one.

Plain values without heavy imports: the parent process makes them and sends them to the workers.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mrx.checks import (
    check_positive_integers,
    check_positive_numbers,
    check_record_choices,
    is_positive_integer,
)
from mrx.errors import UsageError

_URL_CREDENTIALS = re.compile(r"://[^/@]*@")
DEFAULT_OUTPUT = "mrx-out"
MAX_DECODE_THREADS = 16  # per worker, unless more are asked for
BackendChoice = Literal["auto", "numba", "opencv", "torch"]
DamagePolicy = Literal["skip", "stop", "fail"]
TailPolicy = Literal["drop", "repeat"]
RowStatus = Literal["ok", "skipped", "failed", "planned"]


@dataclass(frozen=True, slots=True)
class Source:
    """One input video.

    Attributes:
        key: Its name in shards and lists, unique in a run: see ``mrx.sources.keys``.
        path: Absolute path as ``os.fsdecode`` gives it, links kept; or a URL.
        kind: A file, a folder of numbered images, or a URL.
        start: Start time, in seconds after the video's first frame.
        end: End time, in seconds after the video's first frame.
        label: Its class, printable.
        size: Size in bytes; None for folders and URLs.
        mtime: Time of the last change; None for URLs.
        problem: Reason why it cannot be opened, as far as a scan can tell.
        missing: Nothing of this name exists. A broken link exists.
        fingerprint: 16 hexadecimal digits that change with the names, sizes and times of the images
            of a folder; None for files and URLs.
        methods: Methods to compute; empty for all of the job. The others have their maps already.
    """

    key: str
    path: str
    kind: Literal["file", "frames", "url"] = "file"
    start: float | None = None
    end: float | None = None
    label: str | None = None
    size: int | None = None
    mtime: float | None = None
    problem: str | None = None
    missing: bool = False
    fingerprint: str | None = None
    methods: tuple[str, ...] = ()

    @property
    def public_path(self) -> str:
        """The path without the user and password of a URL, for lists and shards."""
        return _URL_CREDENTIALS.sub("://", self.path) if self.kind == "url" else self.path

    @property
    def stored_path(self) -> str:
        """The public path as shards hold it: see `restore_path`."""
        # HDF5 stores text as UTF-8, which has no code for undecodable bytes of a file name.
        return self.public_path.encode("utf-8", "backslashreplace").decode()

    @property
    def stamp(self) -> tuple[float | str, ...]:
        """Size, mtime, start, end and fingerprint, to detect a changed video: see `make_stamp`."""
        return make_stamp(self)


@dataclass(frozen=True)
class DoneMaps:
    """Maps of one method of a video that a shard holds.

    Attributes:
        stamp: of the source that they were made from; see `Source.stamp`
        source: its path; see `Source.stored_path`
    """

    stamp: tuple[float | str, ...]
    source: str


@dataclass(frozen=True)
class Decoding:
    """Settings for reading frames: their size, rate and range.

    Attributes:
        short_side: length in pixels to which the shorter side is reduced; None keeps the size
        size: (width, height) as displayed, instead of `short_side`
        upscale: let `short_side` enlarge small videos too
        fps: rate at which frames are taken by timestamp; None takes every frame
        start, end: time range in seconds after the first frame: see `combine_range`
        rotate: apply the display matrix
        on_error: at damaged data, go on (`skip`), end the video there (`stop`) or fail it (`fail`)
        image_fps: frame rate assumed for folders of images
        max_pixels: largest frame accepted, before or after resizing
        decoder: decoder for files: PyAV, or an NVIDIA GPU through torchcodec
    """

    short_side: int | None = 256
    size: tuple[int, int] | None = None
    upscale: bool = False
    fps: float | None = None
    start: float | None = None
    end: float | None = None
    rotate: bool = True
    on_error: DamagePolicy = "skip"
    image_fps: float = 25.0
    max_pixels: int = 8192 * 8192
    decoder: Literal["pyav", "nvdec"] = "pyav"

    def __post_init__(self) -> None:
        check_record_choices(self)
        check_positive_integers(self, "short_side", "max_pixels")
        check_positive_numbers(self, "fps", "image_fps")
        sides = [1, 1] if self.size is None else list(self.size)
        if len(sides) != 2 or not all(map(is_positive_integer, sides)):
            raise UsageError(f"size must be a width and a height in whole pixels, not {self.size}")
        start = 0.0 if self.start is None else self.start
        if not 0 <= start < math.inf:
            raise UsageError(f"start must be a finite number, 0 or more, not {start:g}")
        if self.end is not None and not start < self.end < math.inf:
            raise UsageError(f"end must be a finite number above start={start:g}, not {self.end:g}")

    def combine_range(
        self, start: float | None, end: float | None
    ) -> tuple[float | None, float | None]:
        """Return the start and end of a source; the settings' values replace those it lacks."""
        return self.start if start is None else start, self.end if end is None else end


@dataclass(frozen=True)
class Windowing:
    """Settings for cutting frames into windows.

    Attributes:
        step: frames from one window to the next; None is the method's own step
        dilation: frames from one frame of a window to the next; None is the method's own dilation
        segments: N windows, at the centers of N equal parts of the video, instead of all windows;
            for methods that match across segments (`ms`), unless a dilation is given, the N-1 pairs
            of adjacent centers
        tail: drop an incomplete last window, or complete it by repeating the last frame
    """

    step: int | None = None
    dilation: int | None = None
    segments: int | None = None
    tail: TailPolicy = "drop"

    def __post_init__(self) -> None:
        check_record_choices(self)
        check_positive_integers(self, "step", "dilation", "segments")


@dataclass(frozen=True)
class Storage:
    """Settings for storing maps. In all types, value = raw * scale + offset.

    Attributes:
        dtype: type of the stored numbers; auto is q16 for displacements in pixels, else float16
        bound: largest absolute value that integers can store; None is the method's own
        tolerance: largest error of a stored value, in the method's units; the maps are compressed
            with a loss up to it. None stores what `dtype` says
        compression: filter of the maps; auto compresses those that cost far more to compute
        videos_per_shard: number of videos at which a shard is full
        shard_size: number of bytes at which a shard is full
    """

    dtype: Literal["auto", "float16", "float32", "q16", "uint8"] = "auto"
    bound: float | None = None
    tolerance: float | None = None
    compression: Literal["auto", "none", "gzip", "lzf", "blosc", "blosc2"] = "auto"
    videos_per_shard: int = 500
    shard_size: int = 2 * 1024**3

    def __post_init__(self) -> None:
        check_record_choices(self)
        check_positive_numbers(self, "bound", "tolerance")
        check_positive_integers(self, "videos_per_shard", "shard_size")
        if self.tolerance is not None:
            self._check_tolerance()

    def _check_tolerance(self) -> None:
        """Refuse options that contradict a tolerance, which decides the type and the filter."""
        if self.dtype not in ("auto", "float32"):
            raise UsageError(
                f"tolerance stores float32 with a bounded error, so dtype {self.dtype} does not "
                "fit: give one of them"
            )
        if self.compression != "auto":
            raise UsageError(
                f"tolerance has its own compression, so compression {self.compression} does not "
                "fit: give one of them"
            )


@dataclass(frozen=True)
class Job:
    """All settings of a run.

    Attributes:
        output: the output folder
        methods: names of the methods to compute
        parameters: method → name → value as text
        weights: method → path of a checkpoint
        stack: value of the parameter `stack`, for all methods that have it
        devices: devices to compute on; several get a worker process each
        batch: windows computed at once; None chooses by device
        decode_threads: videos each worker decodes concurrently; 0 runs the stages in sequence, None
            chooses by device
        backend: kernels on the CPU, see `mrx.kernels.choose_backend`; torch also turns off Triton's
            kernels on a GPU
        share: (index, count) of this job among those that share the inputs; None takes all inputs
        overwrite: remove the shards and manifests in the output folder first
        dry_run: only estimate the sizes; write nothing
    """

    output: str
    methods: tuple[str, ...] = ("mbpm",)
    parameters: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    stack: int | None = None
    decoding: Decoding = Decoding()
    windowing: Windowing = Windowing()
    storage: Storage = Storage()
    devices: tuple[str, ...] = ("auto",)
    batch: int | None = None
    decode_threads: int | None = None
    backend: BackendChoice = "auto"
    share: tuple[int, int] | None = None
    overwrite: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not self.output.strip() or re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", self.output):
            raise UsageError(f"bad output ({self.output}): give a local folder")
        if not self.methods:
            raise UsageError("no method: give at least one")
        if len(set(self.methods)) < len(self.methods):
            raise UsageError(f"duplicate method ({', '.join(self.methods)}): give each method once")
        check_record_choices(self)
        check_positive_integers(self, "batch")
        if self.decode_threads is not None and self.decode_threads < 0:
            raise UsageError(f"decode_threads must be 0 or more, not {self.decode_threads}")
        if not self.devices or len(set(self.devices)) < len(self.devices):
            raise UsageError(
                f"bad devices ({', '.join(self.devices)}): give one or more, each once"
            )
        for field_name, by_method in (("parameters", self.parameters), ("weights", self.weights)):
            for name in by_method:
                if name not in self.methods:
                    known = ", ".join(self.methods)
                    raise UsageError(
                        f"{field_name} for {name}: it is not among the methods ({known})"
                    )

    @property
    def share_name(self) -> str:
        """The share in file names: ``3of8``, or empty without shares."""
        return f"{self.share[0]}of{self.share[1]}" if self.share else ""

    def collect_settings(self, method_settings: Mapping[str, Any]) -> dict[str, Any]:
        """Collect all settings that affect the numbers in the output.

        Runs may share an output folder only if these settings agree.

        Args:
            method_settings: method → its parameters, windows and storage
        """
        decoding = {k: v for k, v in asdict(self.decoding).items() if k != "max_pixels"}
        # No entry means the default decoder.
        if self.decoding.decoder == "pyav":
            del decoding["decoder"]
        # Every method has its own values of these, and its own storage, in `method_settings`.
        per_method = ("step", "dilation")
        windowing = {k: v for k, v in asdict(self.windowing).items() if k not in per_method}
        settings = {**decoding, **windowing}
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in settings.items()}
        return {"methods": dict(method_settings), **plain}


@dataclass(frozen=True)
class ManifestRow:
    """The result of one input; one line of the manifest.

    Attributes:
        key, path, size, mtime, start, end, fingerprint: Of the source, see `Source`.
        status: The way it ended; planned in a dry run.
        reason: Cause of a status other than ok.
        frames: Number of frames that were selected.
        duration: Seconds of the video that were selected; 0 if it was not extracted.
        n_out: Method → number of maps.
        bytes: Bytes that its maps take in the shard.
        seconds: Seconds from its beginning to its end.
        warnings: Oddities that did not fail it.
        traceback: Of an unexpected error.
        run: The number of the run that wrote it. Of two manifests' rows the higher one counts.
        methods: The methods that it is about.
    """

    key: str
    status: RowStatus
    reason: str = ""
    path: str = ""
    size: int | None = None
    mtime: float | None = None
    start: float | None = None
    end: float | None = None
    frames: int = 0
    duration: float = 0.0
    n_out: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    traceback: str = ""
    fingerprint: str | None = None
    run: int = 0
    methods: tuple[str, ...] = ()

    @classmethod
    def of_source(cls, source: Source, status: RowStatus, **facts: Any) -> "ManifestRow":
        """Return the row of a source that ended with this status, with further facts about it."""
        names = ("key", "size", "mtime", "start", "end", "fingerprint", "methods")
        shared = {name: getattr(source, name) for name in names}
        return cls(**{**shared, "path": source.public_path, "status": status, **facts})

    @property
    def stamp(self) -> tuple[float | str, ...]:
        """The stamp of the source as it was when the row was written: see `make_stamp`."""
        return make_stamp(self)

    def to_json(self) -> str:
        """Return the row as one line of JSON, in ASCII so that any name survives any log."""
        return json.dumps(asdict(self), ensure_ascii=True)

    @classmethod
    def from_json(cls, line: str) -> "ManifestRow":
        """Parse a line written by `to_json`."""
        values = json.loads(line)
        names = {"warnings": tuple(values["warnings"]), "methods": tuple(values.get("methods", ()))}
        return cls(**{**values, **names, "run": int(values.get("run", 0))})


def restore_path(stored: str) -> str:
    r"""Return the path that a shard holds as `Source.stored_path`.

    >>> restore_path("/a/caf\\udce9.mp4") == os.fsdecode(b"/a/caf\xe9.mp4")
    True
    """
    return re.sub(r"\\udc([89a-f][0-9a-f])", lambda m: chr(0xDC00 + int(m[1], 16)), stored)


def make_stamp(facts: Source | ManifestRow) -> tuple[float | str, ...]:
    """Return what identifies a version of a source; -1 or "" stands for an unknown value.

    >>> make_stamp(Source("a.mp4", "/a.mp4", size=10, mtime=2.5))
    (10.0, 2.5, -1.0, -1.0, '')
    """
    numbers = (facts.size, facts.mtime, facts.start, facts.end)
    known_numbers = (-1.0 if number is None else float(number) for number in numbers)
    return *known_numbers, facts.fingerprint or ""


@dataclass(frozen=True)
class WorkerTimes:
    """The busy times of a worker's stages.

    Attributes:
        device: the device it computed on
        threads: number of decode threads; 0 ran the stages in sequence
        seconds: time from its readiness until its last shard was sealed
        busy: stage → busy seconds, summed over the stage's threads
    """

    device: str
    threads: int
    seconds: float
    busy: Mapping[str, float]


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

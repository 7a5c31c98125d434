"""The settings of a run, its sources, and the row that records the result of one.

Plain values without heavy imports: the parent process makes them and sends them to the workers.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mrx.checks import (
    check_positive_integers,
    check_positive_numbers,
    check_record_choices,
    is_positive_integer,
)
from mrx.errors import OutputError, UsageError

_URL_CREDENTIALS = re.compile(r"://[^/@]*@")
DEFAULT_OUTPUT = "mrx-out"
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

    @property
    def public_path(self) -> str:
        """The path without the user and password of a URL, for lists and shards."""
        return _URL_CREDENTIALS.sub("://", self.path) if self.kind == "url" else self.path

    @property
    def stamp(self) -> tuple[float, ...]:
        """Size, mtime, start and end, to detect a changed video; -1 for unknown values."""
        identity = (self.size, self.mtime, self.start, self.end)
        return tuple(-1.0 if fact is None else float(fact) for fact in identity)


@dataclass(frozen=True)
class Decoding:
    """Settings for reading frames: their size, rate and range.

    Attributes:
        short_side: length in pixels to which the shorter side is reduced; None keeps the size
        size: (width, height) as displayed, instead of `short_side`
        upscale: let `short_side` enlarge small videos too
        fps: rate at which frames are taken by timestamp; None takes every frame
        start, end: time range in seconds after the first frame; a source's own range has priority
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
    on_error: Literal["skip", "stop", "fail"] = "skip"
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
    tail: Literal["drop", "repeat"] = "drop"

    def __post_init__(self) -> None:
        check_record_choices(self)
        check_positive_integers(self, "step", "dilation", "segments")


@dataclass(frozen=True)
class Storage:
    """Settings for storing maps. In all types, value = raw * scale + offset."""

    dtype: Literal["float16", "float32", "q16", "uint8"] = "float16"
    bound: float | None = None
    compression: Literal["auto", "none", "gzip", "lzf", "blosc"] = "auto"
    videos_per_shard: int = 500
    shard_size: int = 2 * 1024**3

    def __post_init__(self) -> None:
        check_record_choices(self)
        check_positive_numbers(self, "bound")
        check_positive_integers(self, "videos_per_shard", "shard_size")


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
        backend: kernels on the CPU; see `mrx.kernels.choose_backend`
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
    backend: str = "auto"
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
            method_settings: method → its parameters and windows
        """
        decoding = {k: v for k, v in asdict(self.decoding).items() if k != "max_pixels"}
        # No entry means the default decoder.
        if self.decoding.decoder == "pyav":
            del decoding["decoder"]
        # Every method has its own values of these, in `method_settings`.
        per_method = ("step", "dilation")
        windowing = {k: v for k, v in asdict(self.windowing).items() if k not in per_method}
        stores_integers = self.storage.dtype in ("q16", "uint8")
        storage = {
            "dtype": self.storage.dtype,
            "bound": self.storage.bound if stores_integers else None,
        }
        all_settings = {**decoding, **windowing, **storage}
        settings = {
            name: list(v) if isinstance(v, tuple) else v for name, v in all_settings.items()
        }
        return {"methods": dict(method_settings), **settings}


def hash_settings(settings: Mapping[str, Any]) -> str:
    """Hash a run's settings into 16 hexadecimal digits, independent of their order."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings into one level of dotted names.

    >>> flatten_settings({"methods": {"mbpm": {"sigma": 1.1}}, "fps": None})
    {'mbpm.sigma': 1.1, 'fps': None}
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        dotted = "" if name == "methods" else f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= flatten_settings(value, f"{dotted}." if dotted else "")
        else:
            flat[dotted] = value
    return flat


def describe_difference(existing: Mapping[str, Any], requested: Mapping[str, Any]) -> str:
    """List the settings that differ, as in ``made with step=2, asked for step=1``."""
    old, new = flatten_settings(existing), flatten_settings(requested)
    if sorted(existing["methods"]) != sorted(requested["methods"]):
        old = {"method": ",".join(existing["methods"])}
        new = {"method": ",".join(requested["methods"])}
    names = [n for n in sorted(old.keys() | new.keys()) if old.get(n) != new.get(n)]
    return f"made with {_join_settings(old, names)}, asked for {_join_settings(new, names)}"


def _join_settings(settings: Mapping[str, Any], names: Sequence[str]) -> str:
    values = ("default" if settings.get(name) is None else settings[name] for name in names)
    return ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))


def make_mismatch_error(
    folder: Path, existing: Mapping[str, Any], requested: Mapping[str, Any]
) -> OutputError:
    """Return the error for an output folder that was made with other settings."""
    difference = describe_difference(existing, requested)
    return OutputError(
        f"output exists with other parameters ({folder}): {difference}. "
        "Use another -o or --overwrite"
    )


@dataclass(frozen=True)
class ManifestRow:
    """The result of one input; one line of the manifest."""

    key: str
    status: RowStatus
    reason: str = ""
    path: str = ""
    size: int | None = None
    mtime: float | None = None
    start: float | None = None
    end: float | None = None
    frames: int = 0
    n_out: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    traceback: str = ""

    def to_json(self) -> str:
        """Return the row as one line of JSON, in ASCII so that any name survives any log."""
        return json.dumps(asdict(self), ensure_ascii=True)

    @classmethod
    def from_json(cls, line: str) -> "ManifestRow":
        """Parse a line written by `to_json`."""
        values = json.loads(line)
        return cls(**{**values, "warnings": tuple(values["warnings"])})


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

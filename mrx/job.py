"""What a run was asked to do, with which sources, and the row that tells how one ended.

Plain values without a heavy import: the parent process makes them, workers receive them.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
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
RowStatus = Literal["ok", "skipped", "failed", "planned"]


@dataclass(frozen=True, slots=True)
class Source:
    """One video as the user named it, or as a scan found it.

    Attributes:
        key: What it is called in shards and lists, unique in a run: see ``mrx.sources.keys``.
        path: Absolute path as ``os.fsdecode`` gives it, links kept; or a URL.
        kind: A file, a folder of numbered images, or a URL.
        start: Where to begin, in seconds after the video's first frame.
        end: Where to stop, likewise.
        label: Its class, printable.
        size: Bytes, of files only.
        mtime: Time of the last change, of files and folders.
        problem: Why it cannot even be opened.
        missing: There is nothing of this name (a link that leads nowhere is something).
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
        """The path as lists and shards may show it: a URL without user and password."""
        return _URL_CREDENTIALS.sub("://", self.path) if self.kind == "url" else self.path

    @property
    def stamp(self) -> tuple[float, ...]:
        """What tells whether the video behind the key is still the same; -1 for what is unknown."""
        identity = (self.size, self.mtime, self.start, self.end)
        return tuple(-1.0 if fact is None else float(fact) for fact in identity)


@dataclass(frozen=True)
class Decoding:
    """How frames are read: what is kept, and at which size.

    Attributes:
        short_side: the shorter side is scaled down to this; None keeps the video's size
        size: (width, height) as displayed, instead of `short_side`
        upscale: let `short_side` enlarge small videos too
        fps: take frames by timestamp at this rate; None takes every frame
        start, end: seconds after the first frame; a source's own range goes before
        rotate: apply the display matrix
        on_error: at damage go on (`skip`), end the video there (`stop`) or give it up (`fail`)
        image_fps: the rate of a folder of images, which carries none
        max_pixels: a frame, read or resized, with more pixels than this is refused
        decoder: what reads files: PyAV, or an NVIDIA GPU through torchcodec
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
            raise UsageError(f"size is a width and a height in whole pixels, not {self.size}")
        start = 0.0 if self.start is None else self.start
        if not 0 <= start < math.inf:
            raise UsageError(f"start is a finite number of at least 0, not {start:g}")
        if self.end is not None and not start < self.end < math.inf:
            raise UsageError(f"end is a finite number after start={start:g}, not {self.end:g}")


@dataclass(frozen=True)
class Windowing:
    """Which windows the user asked for; None leaves the method's own step and dilation.

    Attributes:
        step: frames from one window to the next
        dilation: frames from one frame of a window to the next
        segments: this many windows, one at the centre of each equal part, instead of all; without a
            dilation, for methods that match across segments (`ms`), those of neighbouring centres
        tail: drop a last window that the video is too short for, or repeat its last frame
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
    """How maps are stored; value = raw * scale + offset, whatever the type."""

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
    """A whole run: the methods, the way in, and the way out.

    Attributes:
        stack: the parameter of that name, for those of the methods that have it
        devices: where methods compute; a worker process for each where there are several
        batch: windows computed at once; None leaves it to the device
        decode_threads: videos that a worker decodes at once beside its computing; 0 is one after
            another, None leaves it to the device
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
    share: tuple[int, int] | None = None
    overwrite: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not self.output.strip() or re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", self.output):
            raise UsageError(f"bad output ({self.output}): give a folder of this machine")
        if not self.methods:
            raise UsageError("no method: give at least one")
        if len(set(self.methods)) < len(self.methods):
            raise UsageError(f"a method is named twice: {', '.join(self.methods)}")
        check_positive_integers(self, "batch")
        if self.decode_threads is not None and self.decode_threads < 0:
            raise UsageError(f"decode_threads is at least 0, not {self.decode_threads}")
        if not self.devices or len(set(self.devices)) < len(self.devices):
            raise UsageError(f"devices are at least one, each once: {', '.join(self.devices)}")
        for field_name, by_method in (("parameters", self.parameters), ("weights", self.weights)):
            for name in by_method:
                if name not in self.methods:
                    known = ", ".join(self.methods)
                    raise UsageError(
                        f"{field_name} for {name}: it is not among the methods ({known})"
                    )

    @property
    def share_name(self) -> str:
        """What the files of this share carry in their names: nothing, or ``3of8``."""
        return f"{self.share[0]}of{self.share[1]}" if self.share else ""

    def collect_settings(self, method_settings: Mapping[str, Any]) -> dict[str, Any]:
        """All that decides the numbers in the output, given each method's parameters and windows.

        Two runs may share an output folder only where these agree.
        """
        decoding = {k: v for k, v in asdict(self.decoding).items() if k != "max_pixels"}
        if self.decoding.decoder == "pyav":
            del decoding["decoder"]  # the usual one goes without saying
        per_method = ("step", "dilation")  # each method has its own
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
    """A short name for a run's settings."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names.

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
    """The settings that differ, for a person: ``made with step=2, asked for step=1``."""
    old, new = flatten_settings(existing), flatten_settings(requested)
    if sorted(existing["methods"]) != sorted(requested["methods"]):
        old = {"method": ",".join(existing["methods"])}
        new = {"method": ",".join(requested["methods"])}
    names = [n for n in sorted(old.keys() | new.keys()) if old.get(n) != new.get(n)]
    made_with, asked_for = (
        ", ".join(f"{n}={'default' if v.get(n) is None else v[n]}" for n in names)
        for v in (old, new)
    )
    return f"made with {made_with}, asked for {asked_for}"


def make_mismatch_error(
    folder: Path, existing: Mapping[str, Any], requested: Mapping[str, Any]
) -> OutputError:
    """The error for an output that other settings made."""
    return OutputError(
        f"output exists with other parameters ({folder}): {describe_difference(existing, requested)}. "
        "Use another -o or --overwrite"
    )


@dataclass(frozen=True)
class ManifestRow:
    """How one input ended; one line of the manifest."""

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
        """One line of JSON, pure ASCII, so that any name survives any log."""
        return json.dumps(asdict(self), ensure_ascii=True)

    @classmethod
    def from_json(cls, line: str) -> "ManifestRow":
        """The row that `to_json` wrote."""
        values = json.loads(line)
        return cls(**{**values, "warnings": tuple(values["warnings"])})


@dataclass(frozen=True)
class WorkerTimes:
    """Where a worker's time went.

    Attributes:
        device: where it computed
        threads: how many videos it decoded at once; 0 is one stage after another
        seconds: from when it was ready until its last shard was sealed
        busy: stage → seconds that it worked, over all its threads
    """

    device: str
    threads: int
    seconds: float
    busy: Mapping[str, float]


def count_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

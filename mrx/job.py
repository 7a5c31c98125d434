"""What a run was asked to do, and the row that tells how an input ended.

Plain values without a heavy import: the parent process makes them, workers receive them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mrx.errors import OutputError, UsageError

Status = Literal["ok", "skipped", "failed", "planned"]


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


@dataclass(frozen=True)
class Windowing:
    """Which windows the user asked for; None leaves the method's own step.

    Attributes:
        step: frames from one window to the next
        dilation: frames from one frame of a window to the next
        segments: this many windows, one at the centre of each equal part, instead of all
        tail: drop a last window that the video is too short for, or repeat its last frame
    """

    step: int | None = None
    dilation: int = 1
    segments: int | None = None
    tail: Literal["drop", "repeat"] = "drop"


@dataclass(frozen=True)
class Storage:
    """How maps are stored; value = raw * scale + offset, whatever the type."""

    dtype: Literal["float16", "float32", "q16", "uint8"] = "float16"
    bound: float | None = None
    compression: Literal["auto", "none", "gzip", "lzf", "blosc"] = "auto"
    videos_per_shard: int = 500
    shard_size: int = 2 * 1024**3


@dataclass(frozen=True)
class Job:
    """A whole run: the methods, the way in, and the way out."""

    output: str
    methods: tuple[str, ...] = ("mbpm",)
    parameters: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    decoding: Decoding = Decoding()
    windowing: Windowing = Windowing()
    storage: Storage = Storage()
    device: str = "auto"
    share: tuple[int, int] | None = None
    overwrite: bool = False
    dry_run: bool = False

    @property
    def share_name(self) -> str:
        """What the files of this share carry in their names: nothing, or ``3of8``."""
        return f"{self.share[0]}of{self.share[1]}" if self.share else ""

    def settings(self, methods: Mapping[str, Any]) -> dict[str, Any]:
        """All that decides the numbers in the output, given each method's full parameters.

        Two runs may share an output folder only where these agree.
        """
        decoding = {k: v for k, v in asdict(self.decoding).items() if k != "max_pixels"}
        storage = {"dtype": self.storage.dtype, "bound": self.storage.bound}
        every = {**decoding, **asdict(self.windowing), **storage}
        settings = {name: list(v) if isinstance(v, tuple) else v for name, v in every.items()}
        return {"methods": dict(methods), **settings}


def settings_hash(settings: Mapping[str, Any]) -> str:
    """A short name for a run's settings."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names.

    >>> flatten({"methods": {"mbpm": {"sigma": 1.1}}, "fps": None})
    {'mbpm.sigma': 1.1, 'fps': None}
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        dotted = "" if name == "methods" else f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{dotted}." if dotted else "")
        else:
            flat[dotted] = value
    return flat


def difference(made: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The settings that differ, for a person: ``made with step=2, asked for step=1``."""
    old, new = flatten(made), flatten(asked)
    if sorted(made["methods"]) != sorted(asked["methods"]):
        old = {"method": ",".join(made["methods"])}
        new = {"method": ",".join(asked["methods"])}
    names = [n for n in sorted(old.keys() | new.keys()) if old.get(n) != new.get(n)]
    made_with, asked_for = (
        ", ".join(f"{n}={'default' if v.get(n) is None else v[n]}" for n in names)
        for v in (old, new)
    )
    return f"made with {made_with}, asked for {asked_for}"


def mismatch(folder: Path, made: Mapping[str, Any], asked: Mapping[str, Any]) -> OutputError:
    """The error for an output that other settings made."""
    return OutputError(
        f"output exists with other parameters ({folder}): {difference(made, asked)}. "
        "Use another -o or --overwrite"
    )


@dataclass(frozen=True)
class Row:
    """How one input ended; one line of the manifest."""

    key: str
    status: Status
    reason: str = ""
    path: str = ""
    size: int | None = None
    mtime: float | None = None
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
    def from_json(cls, line: str) -> "Row":
        """The row that `to_json` wrote."""
        values = json.loads(line)
        return cls(**{**values, "warnings": tuple(values["warnings"])})


def parse_size(text: str) -> tuple[int, int]:
    """``340x256`` to (340, 256): width, then height."""
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise UsageError(f"bad size ({text}): give width x height in pixels, as in 340x256")
    return int(width), int(height)


def parse_bytes(text: str) -> int:
    """``2GiB``, ``500MB`` or a plain number to bytes.

    >>> parse_bytes("2GiB"), parse_bytes("1.5kB")
    (2147483648, 1500)
    """
    units = {"": 1, "b": 1}
    for power, letter in enumerate("kmgt", start=1):
        units |= {f"{letter}b": 1000**power, f"{letter}ib": 1024**power, letter: 1024**power}
    number = text.strip().rstrip("BbIiKkMmGgTt")
    unit = text.strip()[len(number) :].lower()
    try:
        return int(float(number) * units[unit])
    except (KeyError, ValueError) as error:
        raise UsageError(f"bad size ({text}): give a number of bytes, as in 2GiB") from error

"""What a benchmark was asked, and what it found; as JSON, and back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

BENCH_FORMAT = 1
BenchPart = Literal["kernel", "decode", "whole"]


@dataclass(frozen=True)
class BenchOptions:
    """What to measure.

    Attributes:
        parameters, weights, stack: of the methods, as in `mrx.job.Job`
        size: (width, height) of the frames; None is 340x256, or what `extract` makes of the clip
        frames: length of the clip that is made where none is given
        batches: windows at once, for the kernels alone
        decode_threads: as in `mrx.job.Job`
        clip: a path or URL; None makes a clip
        repeats: measurements of each row, at most
    """

    methods: tuple[str, ...]
    parameters: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    stack: int | None = None
    size: tuple[int, int] | None = None
    frames: int = 64
    batches: tuple[int, ...] = (1, 8, 32)
    device: str = "auto"
    decode_threads: int | None = None
    clip: str | None = None
    repeats: int = 10


@dataclass(frozen=True)
class BenchRow:
    """One thing that was measured several times over.

    Attributes:
        name: tells it from all other rows
        unit: what is counted: maps or frames
        samples: how often it was measured
        p25, p50, p75, p95: seconds for one of the unit, from the fastest quarter on
        more: what else is known of it, by name
    """

    name: str
    method: str
    part: BenchPart
    unit: Literal["maps", "frames"]
    samples: int
    p25: float
    p50: float
    p75: float
    p95: float
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        """How many of the unit a second, in the median."""
        return 1 / self.p50

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the rate among them."""
        fields = {name: value for name, value in asdict(self).items() if name != "more"}
        return {**fields, "per_second": self.per_second, **self.more}


@dataclass(frozen=True)
class BenchResult:
    """A whole benchmark.

    Attributes:
        settings: all that a rate depends on, but for the machine
        machine: where it was measured: device, cores, load, versions
    """

    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    rows: Sequence[BenchRow]

    def to_json(self, **more: Any) -> str:
        """One JSON object, and what else belongs into it."""
        rows = [row.to_dict() for row in self.rows]
        head = {"mrx_bench": BENCH_FORMAT, "settings": self.settings, "machine": self.machine}
        return json.dumps({**head, "rows": rows, **more})


def quantile(values: Sequence[float], fraction: float) -> float:
    """The value that a share of the values lies below, between neighbours by interpolation.

    >>> quantile([3.0, 1.0, 2.0], 0.5), quantile([1.0, 2.0], 0.25)
    (2.0, 1.25)
    """
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def compute_percentiles(values: Sequence[float]) -> dict[str, float]:
    """Quartiles, and the value that one in twenty is above."""
    return {f"p{percent}": quantile(values, percent / 100) for percent in (25, 50, 75, 95)}

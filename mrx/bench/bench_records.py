"""Options and results of a benchmark, and their JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

BENCH_FORMAT = 1
DEFAULT_FRAME_SIZE = (340, 256)
BenchPart = Literal["kernel", "decode", "whole"]


@dataclass(frozen=True)
class BenchOptions:
    """Options of a benchmark.

    Attributes:
        methods: names of the methods, measured one after another
        parameters, weights, stack: of the methods, as in `mrx.job.Job`
        size: (width, height) of the frames; None is `DEFAULT_FRAME_SIZE`, or as `extract`
            scales `clip`
        frames: length of the generated clip
        batches: batch sizes of the kernel measurements
        device: the device that methods compute on
        decode_threads: as in `mrx.job.Job`
        clip: a path or URL; None generates a clip
        repeats: measurements per row, at most
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
    """Percentiles of one quantity that was measured repeatedly.

    Attributes:
        name: unique among the rows
        method: name of the method
        part: the kernel alone, decoding alone, or the whole pipeline
        unit: the unit that is counted
        samples: number of measurements
        p25, p50, p75, p95: percentiles of the seconds per unit; p25 is the faster quartile
        more: further facts by name
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
        """The median rate, in units per second."""
        return 1 / self.p50

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain values, with its rate."""
        fields = {name: value for name, value in asdict(self).items() if name != "more"}
        return {**fields, "per_second": self.per_second, **self.more}


@dataclass(frozen=True)
class BenchResult:
    """The outcome of a benchmark.

    Attributes:
        settings: everything that rates depend on, except the machine
        machine: device, cores, load and versions
        rows: the measurements
    """

    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    rows: Sequence[BenchRow]

    def to_json(self, **more: Any) -> str:
        """Return one JSON object, with the fields of `more` added."""
        rows = [row.to_dict() for row in self.rows]
        head = {"mrx_bench": BENCH_FORMAT, "settings": self.settings, "machine": self.machine}
        return json.dumps({**head, "rows": rows, **more})


def quantile(values: Sequence[float], fraction: float) -> float:
    """Return the quantile of a fraction in 0..1, interpolated between neighbors.

    >>> quantile([3.0, 1.0, 2.0], 0.5), quantile([1.0, 2.0], 0.25)
    (2.0, 1.25)
    """
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def compute_percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return the quartiles and the 95th percentile, as the fields of a `BenchRow`."""
    return {f"p{percent}": quantile(values, percent / 100) for percent in (25, 50, 75, 95)}

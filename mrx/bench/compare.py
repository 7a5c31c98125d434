"""A benchmark beside an earlier one: which rows have become slower than noise explains."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrx.bench.bench_records import BENCH_FORMAT, BenchRow
from mrx.errors import UsageError
from mrx.job import describe_difference


@dataclass(frozen=True)
class RowComparison:
    """A row beside that of the base.

    Attributes:
        ratio: rate over the base's rate, of the medians; below 1 is slower
        slower: whether even the faster quartile is slower than the base's median by the tolerance
    """

    name: str
    ratio: float
    slower: bool


@dataclass(frozen=True)
class BaseResult:
    """An earlier benchmark, as `mrx bench --json` printed it.

    Attributes:
        medians: seconds for one of the unit, by the name of the row
    """

    path: str
    settings: Mapping[str, Any]
    medians: Mapping[str, float]

    @classmethod
    def read_json(cls, path: str) -> "BaseResult":
        """Read a file; refuses what no benchmark has written."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["mrx_bench"] != BENCH_FORMAT:
                raise UsageError(
                    f"bad base ({path}): format {content['mrx_bench']}, this mrx reads {BENCH_FORMAT}. "
                    "Measure it anew"
                )
            medians = {str(row["name"]): float(row["p50"]) for row in content["rows"]}
            settings = {**content["settings"], "methods": dict(content["settings"]["methods"])}
        except OSError as error:
            raise UsageError(f"cannot read the base ({path}): {error.strerror or error}") from error
        except (ValueError, LookupError, TypeError) as error:
            raise UsageError(
                f"bad base ({path}): not what mrx bench --json prints. Write one with "
                "mrx bench --json > base.json"
            ) from error
        if not all(0 < median < math.inf for median in medians.values()):
            raise UsageError(f"bad base ({path}): a median that is no time. Measure it anew")
        return cls(path, settings, medians)

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuse a base that other settings made; methods that one alone has do not count."""
        common = sorted(self.settings["methods"].keys() & settings["methods"].keys())
        if not common:
            made, asked = (", ".join(found["methods"]) for found in (self.settings, settings))
            raise UsageError(f"base has other methods ({self.path}): {made}, asked for {asked}")
        old, new = (
            {**found, "methods": {name: found["methods"][name] for name in common}}
            for found in (self.settings, settings)
        )
        if old != new:
            raise UsageError(
                f"base was made with other settings ({self.path}): {describe_difference(old, new)}. "
                "Give the same options, or measure a base with these"
            )

    def compare_rows(self, rows: Sequence[BenchRow], *, tolerance: float) -> list[RowComparison]:
        """The rows that both have; slower means by more than `tolerance` of the base's time."""
        comparisons = []
        for row in rows:
            if row.name in self.medians:
                base_seconds = self.medians[row.name]
                slower = row.p25 > base_seconds * (1 + tolerance)
                comparisons.append(RowComparison(row.name, base_seconds / row.p50, slower))
        return comparisons

"""Comparison of a benchmark with an earlier one: rows that are slower than noise explains."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrx.bench.bench_records import BENCH_FORMAT, BenchRow
from mrx.errors import UsageError
from mrx.settings import describe_difference


@dataclass(frozen=True)
class RowComparison:
    """A row compared with the same row of the base.

    Attributes:
        ratio: median rate divided by the base's median rate; below 1 is slower
        slower: True if even the faster quartile is slower than the base's median by more than
            the tolerance
    """

    name: str
    ratio: float
    slower: bool


@dataclass(frozen=True)
class BaseResult:
    """An earlier benchmark to compare with.

    Attributes:
        path: the file that it was read from
        settings: as in `mrx.bench.bench_records.BenchResult`
        medians: row name → seconds per unit
    """

    path: str
    settings: Mapping[str, Any]
    medians: Mapping[str, float]

    @classmethod
    def read_json(cls, path: str) -> "BaseResult":
        """Read the output of `mrx bench --json`.

        Raises:
            UsageError: The file is unreadable, or not such an output.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["mrx_bench"] != BENCH_FORMAT:
                raise UsageError(
                    f"bad base ({path}): its format is {content['mrx_bench']}, this mrx reads "
                    f"{BENCH_FORMAT}. Measure it again"
                )
            medians = {str(row["name"]): float(row["p50"]) for row in content["rows"]}
            settings = {**content["settings"], "methods": dict(content["settings"]["methods"])}
        except OSError as error:
            raise UsageError(
                f"cannot read the base ({path}): {error.strerror or error}. Name another file"
            ) from error
        except (ValueError, LookupError, TypeError) as error:
            raise UsageError(
                f"bad base ({path}): not the output of mrx bench --json. Write one with "
                "mrx bench --json > base.json"
            ) from error
        if not all(0 < median < math.inf for median in medians.values()):
            raise UsageError(
                f"bad base ({path}): a median is not a positive number. Measure it again"
            )
        return cls(path, settings, medians)

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raise `UsageError` if the base has other settings than these.

        Methods that only one side has are ignored, as long as both have one in common.
        """
        common = sorted(self.settings["methods"].keys() & settings["methods"].keys())
        if not common:
            names, asked = (", ".join(side["methods"]) for side in (self.settings, settings))
            raise UsageError(
                f"base has other methods ({self.path}): {names}, asked for {asked}. "
                "Name one of its methods, or measure a base with these"
            )
        old, new = (_keep_methods(side, common) for side in (self.settings, settings))
        if old != new:
            raise UsageError(
                f"base has other settings ({self.path}): {describe_difference(old, new)}. "
                "Give the same options, or measure a base with these"
            )

    def compare_rows(self, rows: Sequence[BenchRow], *, tolerance: float) -> list[RowComparison]:
        """Compare the rows that both have.

        Args:
            rows: the present rows
            tolerance: accepted slowdown, as a fraction of the base's median time
        """
        comparisons = []
        for row in rows:
            if row.name in self.medians:
                base_seconds = self.medians[row.name]
                # Even the faster quartile must be slower, so that noise alone does not count.
                slower = row.p25 > base_seconds * (1 + tolerance)
                comparisons.append(RowComparison(row.name, base_seconds / row.p50, slower))
        return comparisons


def _keep_methods(settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {**settings, "methods": {name: settings["methods"][name] for name in names}}

"""A benchmark beside an earlier one: which rows have become slower than noise explains."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrx.bench.bench_records import FORMAT, Row
from mrx.errors import UsageError
from mrx.job import difference


@dataclass(frozen=True)
class Compared:
    """A row beside that of the base.

    Attributes:
        ratio: rate over the base's rate, of the medians; below 1 is slower
        slower: whether even the faster quartile is slower than the base's median by the tolerance
    """

    name: str
    ratio: float
    slower: bool


@dataclass(frozen=True)
class Base:
    """An earlier benchmark, as `mrx bench --json` printed it.

    Attributes:
        medians: seconds for one of the unit, by the name of the row
    """

    path: str
    settings: Mapping[str, Any]
    medians: Mapping[str, float]

    @classmethod
    def read(cls, path: str) -> "Base":
        """Read a file; refuses what no benchmark has written."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            if found["mrx_bench"] != FORMAT:
                raise UsageError(
                    f"bad base ({path}): format {found['mrx_bench']}, this mrx reads {FORMAT}. "
                    "Measure it anew"
                )
            medians = {str(row["name"]): float(row["p50"]) for row in found["rows"]}
            settings = {**found["settings"], "methods": dict(found["settings"]["methods"])}
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

    def check(self, settings: Mapping[str, Any]) -> None:
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
                f"base was made with other settings ({self.path}): {difference(old, new)}. "
                "Give the same options, or measure a base with these"
            )

    def compare(self, rows: Sequence[Row], *, tolerance: float) -> list[Compared]:
        """The rows that both have; slower means by more than `tolerance` of the base's time."""
        compared = []
        for row in rows:
            if row.name in self.medians:
                base = self.medians[row.name]
                slower = row.p25 > base * (1 + tolerance)
                compared.append(Compared(row.name, base / row.p50, slower))
        return compared

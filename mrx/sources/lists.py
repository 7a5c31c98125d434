"""Readers of video lists: text, NUL-separated or CSV."""

import csv
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mrx.errors import UsageError
from mrx.job import Decoding
from mrx.sources.keys import escape_key, printable


@dataclass(frozen=True)
class ListRow:
    """The columns of a list other than the path."""

    key: str = ""
    start: float | None = None
    end: float | None = None
    label: str | None = None


EMPTY_ROW = ListRow()


def read_list(
    name: str,
    *,
    nul_separated: bool = False,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
) -> list[tuple[str, ListRow]]:
    """Read a text list or, if the name ends in ``.csv``, a CSV with a header.

    Args:
        name: The path of the list.
        nul_separated: Paths are separated by NUL bytes, not by newlines (text lists only).
        decoding: Settings whose start and end hold for the rows that lack one.

    Returns:
        The literal paths, each with its other columns.

    Raises:
        UsageError: the list cannot be read or parsed, or the range of a row is empty
    """
    try:
        if name.lower().endswith(".csv"):
            return list(_read_csv_rows(name, decoding))
        with Path(name).open("rb") as stream:
            return [
                (line, EMPTY_ROW)
                for line in split_list_lines(stream.read(), name, nul_separated=nul_separated)
            ]
    except OSError as error:
        raise UsageError(
            f"cannot read the list ({printable(name)}): {str(error.strerror).lower()}."
            " To name a video that begins with @, write ./@…"
        ) from error


def split_list_lines(data: bytes, name: str, *, nul_separated: bool = False) -> Iterator[str]:
    """Yield the paths of a text list: one per line except ``#`` comments, or separated by NUL."""
    if nul_separated:
        return (os.fsdecode(path) for path in data.split(b"\0") if path)
    if b"\0" in data:
        raise UsageError(
            f"bad list ({printable(name)}): it contains a NUL byte. Use --null for a list separated"
            " by NUL, and save a list in UTF-16 as UTF-8"
        )
    # Only \n and \r\n end a line: a lone \r may be part of a file name.
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    paths = (line.removesuffix(b"\r") for line in lines if line.strip())
    return (os.fsdecode(path) for path in paths if not path.startswith(b"#"))


def _read_csv_rows(name: str, decoding: Decoding) -> Iterator[tuple[str, ListRow]]:
    with Path(name).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.reader(stream)
        header = [cell.strip().lower() for cell in next(reader, [])]
        if "path" not in header:
            columns = printable(", ".join(header)) or "nothing"
            raise UsageError(
                f"bad list ({printable(name)}): no column path in the first line, which has"
                f" {columns}. Begin it with path,key,start,end,label"
            )
        try:
            for cells in filter(None, reader):
                where = f"{printable(name)}, line {reader.line_num}"
                if len(cells) > len(header):
                    raise UsageError(
                        f"bad list ({where}): {len(cells)} cells for {len(header)} columns."
                        ' Put "…" around a path that contains a comma'
                    )
                path, row = _parse_csv_row(dict(zip(header, cells, strict=False)), where)
                _check_range(row, decoding, where)
                yield path, row
        except csv.Error as error:
            raise UsageError(
                f"bad list ({printable(name)}, line {reader.line_num}): {error}. Save it as CSV"
            ) from error


def _parse_csv_row(cells: dict[str, str], where: str) -> tuple[str, ListRow]:
    if not cells.get("path"):
        raise UsageError(f"bad list ({where}): the path is empty. Fill it in or delete the line")
    start, end = _parse_seconds(cells, "start", where), _parse_seconds(cells, "end", where)
    key = cells.get("key")
    return cells["path"], ListRow(escape_key(key) if key else "", start, end, cells.get("label"))


def _check_range(row: ListRow, decoding: Decoding, where: str) -> None:
    start, end = decoding.combine_range(row.start, row.end)
    if end is None or (start or 0.0) < end:
        return
    # The reader finds only the row's own values in the list.
    start_origin = " of --start" if row.start is None and start is not None else ""
    end_origin = " of --end" if row.end is None else ""
    raise UsageError(
        f"bad list ({where}): start {start or 0.0:g}{start_origin} is not before end"
        f" {end:g}{end_origin}. Both are seconds after the first frame"
    )


def _parse_seconds(cells: dict[str, str], column: str, where: str) -> float | None:
    text = cells.get(column, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if 0 <= value < math.inf:
        return value
    raise UsageError(f"bad list ({where}): {column} is {printable(text)}. Give seconds, 0 or more")

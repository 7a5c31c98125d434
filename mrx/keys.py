"""What videos are called: in the lists that users write, and in every shard, row and log.

A key is a relative path made safe: printable, valid UTF-8, with ``/`` between its parts. How it is
escaped and how jobs share the keys are part of the shard format: a change makes done work undone.
"""

# ruff: noqa: PTH100, PTH119, PTH122
# Paths are str here for the reasons that mrx.sources has.

import csv
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import unquote, urlsplit
from zlib import crc32

from mrx.errors import UsageError

# A fixed set, not str.isprintable: that one grows with each Python, and keys would change with it.
# Controls, line separators, marks that reorder text, the byte order mark, undecodable bytes.
_CONTROLS = r"\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_UNPRINTABLE = re.compile(f"[{_CONTROLS}]")
_UNSAFE = re.compile(rf"[%\\{_CONTROLS}]")
_DOTS = re.compile(r"(?<![^/])\.\.?(?![^/])")  # a whole part that is "." or ".."
_EMPTY_PARTS = re.compile(r"(?<![^/])/|/\Z")  # a slash with nothing before it, or nothing after it
_RUN = re.compile(r"([^0-9]*)([0-9]*)")
_SHARD = re.compile(r"(-?[0-9]{1,18})/(-?[0-9]{1,18})")

# (index, count, first index, step) in the order in which `auto` asks for them
_JOB_VARIABLES = (
    (
        "SLURM_ARRAY_TASK_ID",
        "SLURM_ARRAY_TASK_COUNT",
        "SLURM_ARRAY_TASK_MIN",
        "SLURM_ARRAY_TASK_STEP",
    ),
    ("RANK", "WORLD_SIZE", "", ""),
    ("SLURM_PROCID", "SLURM_NTASKS", "", ""),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "", ""),
)


class Keyed(Protocol):
    """Anything that has a key."""

    @property
    def key(self) -> str:
        """The key, escaped."""


K = TypeVar("K", bound=Keyed)
NaturalKey = tuple[tuple[tuple[str, int, str], ...], str]


@dataclass(frozen=True)
class ListRow:
    """What a list says about a path beside the path."""

    key: str = ""
    start: float | None = None
    end: float | None = None
    label: str | None = None


PLAIN = ListRow()


def escape_key(text: str) -> str:
    r"""Make a path safe as a key; what differs before differs after.

    Percent-escaped, as the bytes of their UTF-8: ``%``, the backslash, control characters, bytes
    that are not UTF-8 (lone surrogates in ``text``), the dots of parts that are ``.`` or ``..``,
    and slashes beside an empty part. Undoing the percents gives back the path's bytes.

    Examples:
        >>> escape_key("day 1/100%.mp4"), escape_key("../a//b"), escape_key("new\nline.mp4")
        ('day 1/100%25.mp4', '%2E%2E/a/%2Fb', 'new%0Aline.mp4')
    """
    if not text:
        raise UsageError("bad key (): it is empty. Give each video a name")
    safe = _DOTS.sub(_percents, _UNSAFE.sub(_percents, text))
    return _EMPTY_PARTS.sub("%2F", safe)


def make_key(path: str, base: str, *, stem: bool = False, folder: bool = False) -> str:
    """The key of an absolute path: relative to ``base``, or its name without the ending.

    Args:
        path: Absolute and normal, as ``os.path.abspath`` makes it.
        base: An absolute folder.
        stem: Take the name alone, without its ending.
        folder: It is a folder's name, which has no ending.
    """
    if stem:
        name = os.path.basename(path)
        return escape_key(name if folder else os.path.splitext(name)[0])
    inside = base.rstrip(os.sep) + os.sep
    if not f"{path}{os.sep}".startswith(inside):
        raise UsageError(
            f"input outside the root ({shown(path)}): keys are relative to {shown(base)}."
            " Use a --root that holds it, or leave --root away"
        )
    return escape_key(path[len(inside) :].replace(os.sep, "/") or ".")


def url_place(url: str) -> str:
    """Host and path of a URL, plain; passwords, queries and fragments have no place in keys."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"bad URL ({shown(url)}): {error}. Use scheme://host/path") from error
    host = parts.netloc.rpartition("@")[2]
    return (host + unquote(parts.path, errors="surrogateescape")).strip("/")


def common_folder(folders: Collection[str]) -> str:
    """The deepest folder that holds all of these absolute folders."""
    return os.path.commonpath(folders) if folders else os.path.abspath(os.curdir)


def group_name(key: str) -> str:
    """The one-part name of a key's HDF5 group; ``%`` never stands raw in a key, so no two meet."""
    return key.replace("/", "%2F")


def shown(text: str) -> str:
    """Any text on one printable line: for messages and labels, where ``%`` may stay."""
    return _UNPRINTABLE.sub(_percents, text)


def natural(text: str) -> NaturalKey:
    """Sort key in which numbers count as numbers: 9 before 10, and no two texts are equal.

    Examples:
        >>> sorted(["v10", "v9", "v09", "a"], key=natural)
        ['a', 'v09', 'v9', 'v10']
    """
    runs = ((word, digits.lstrip("0")) for word, digits in _RUN.findall(text))
    return tuple((word, len(digits), digits) for word, digits in runs), text


def split(sources: Iterable[K], index: int, count: int) -> list[K]:
    """The share of job ``index`` of ``count``: by the key's checksum, never by its place."""
    return [source for source in sources if crc32(source.key.encode()) % count == index]


def parse_shard(text: str, environ: Mapping[str, str]) -> tuple[int, int]:
    """Read ``i/N``, or take both from the job's environment variables for ``auto``.

    Args:
        text: ``i/N`` with i counted from 0, or ``auto``.
        environ: Usually ``os.environ``.

    Returns:
        The index and the count.
    """
    if text == "auto":
        return _shard_of_job(environ)
    numbers = _SHARD.fullmatch(text)
    if not numbers:
        raise UsageError(f"bad shard ({shown(text)}): not i/N. Use two numbers as in 0/8, or auto")
    return _checked_shard(int(numbers[1]), int(numbers[2]), text)


def read_list(name: str, *, null: bool = False) -> list[tuple[str, ListRow]]:
    """Read a text list or, by its ending, a CSV with a header.

    Args:
        name: The list's own path.
        null: Paths are separated by NUL bytes instead of line ends (text lists only).

    Returns:
        The literal paths, and what else the list says about each.
    """
    try:
        if name.lower().endswith(".csv"):
            return list(_csv_rows(name))
        with Path(name).open("rb") as stream:
            return [(line, PLAIN) for line in read_lines(stream.read(), name, null=null)]
    except OSError as error:
        raise UsageError(
            f"cannot read the list ({shown(name)}): {str(error.strerror).lower()}."
            " A video whose name begins with @ is named ./@…"
        ) from error


def read_lines(data: bytes, name: str, *, null: bool = False) -> Iterator[str]:
    """Paths of a text list: one a line, ``#`` begins a comment; or anything between NUL bytes."""
    if null:
        return (os.fsdecode(path) for path in data.split(b"\0") if path)
    if b"\0" in data:
        raise UsageError(
            f"bad list ({shown(name)}): it holds a NUL byte. A list separated by NUL needs --null,"
            " one in UTF-16 must be saved as UTF-8"
        )
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    paths = (line.removesuffix(b"\r") for line in lines if line.strip())
    return (os.fsdecode(path) for path in paths if not path.startswith(b"#"))


def _shard_of_job(environ: Mapping[str, str]) -> tuple[int, int]:
    for names in _JOB_VARIABLES:
        if names[0] in environ and names[1] in environ:
            break
    else:
        wanted = ", ".join(f"{index} with {count}" for index, count, *_ in _JOB_VARIABLES)
        raise UsageError(f"bad shard (auto): none of {wanted} is set. Use i/N as in 0/8")
    said = ", ".join(f"{name}={environ[name]}" for name in names if name in environ)
    try:
        index, count = int(environ[names[0]]), int(environ[names[1]])
        first, step = int(environ.get(names[2], "0")), int(environ.get(names[3], "1"))
    except ValueError as error:
        raise UsageError(f"bad shard (auto): {said}: not a number. Use i/N as in 0/8") from error
    return _checked_shard((index - first) // max(step, 1), count, f"auto: {said}")


def _checked_shard(index: int, count: int, said: str) -> tuple[int, int]:
    if count < 1:
        raise UsageError(f"bad shard ({said}): it needs at least one shard. Use i/N as in 0/8")
    if not 0 <= index < count:
        uses = f"0/{count} … {count - 1}/{count}" if count > 1 else "0/1"
        raise UsageError(f"bad shard ({said}): the index counts from 0. Use {uses}")
    return index, count


def _percents(match: re.Match[str]) -> str:
    try:
        data = match[0].encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that no byte of a file name stands for
        data = match[0].encode("utf-8", "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in data)


def _csv_rows(name: str) -> Iterator[tuple[str, ListRow]]:
    with Path(name).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.reader(stream)
        header = [cell.strip().lower() for cell in next(reader, [])]
        if "path" not in header:
            raise UsageError(
                f"bad list ({shown(name)}): no column path in its first line, which has"
                f" {shown(', '.join(header)) or 'nothing'}. Begin it with path,key,start,end,label"
            )
        try:
            for cells in filter(None, reader):
                where = f"{shown(name)}, line {reader.line_num}"
                if len(cells) > len(header):
                    raise UsageError(
                        f"bad list ({where}): {len(cells)} cells under {len(header)} columns."
                        ' Put "…" around a path that holds a comma'
                    )
                yield _csv_row(dict(zip(header, cells, strict=False)), where)
        except csv.Error as error:
            raise UsageError(
                f"bad list ({shown(name)}, line {reader.line_num}): {error}. Save it as CSV"
            ) from error


def _csv_row(cells: dict[str, str], where: str) -> tuple[str, ListRow]:
    if not cells.get("path"):
        raise UsageError(f"bad list ({where}): the path is empty. Fill it or delete the line")
    start, end = _seconds(cells, "start", where), _seconds(cells, "end", where)
    if end is not None and (start or 0.0) >= end:
        raise UsageError(
            f"bad list ({where}): start {start or 0.0:g} is not before end {end:g}."
            " Both are seconds after the first frame"
        )
    key = cells.get("key")
    return cells["path"], ListRow(escape_key(key) if key else "", start, end, cells.get("label"))


def _seconds(cells: dict[str, str], column: str, where: str) -> float | None:
    text = cells.get(column, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if 0 <= value < math.inf:
        return value
    raise UsageError(f"bad list ({where}): {column} is {shown(text)}. Give seconds, 0 or more")

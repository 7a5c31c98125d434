"""What videos are called: in the lists that users write, and in every shard, row and log.

A key is a relative path made safe: printable, valid UTF-8, with ``/`` between its parts. How it is
escaped and how jobs share the keys are part of the shard format: a change makes done work undone.
"""

# ruff: noqa: PTH100, PTH119, PTH122
# Paths are str here for the reasons that mrx.sources has.

import os
import re
from collections.abc import Collection
from urllib.parse import unquote, urlsplit

from mrx.errors import UsageError

# A fixed set, not str.isprintable: that one grows with each Python, and keys would change with it.
# Controls, line separators, marks that reorder text, the byte order mark, undecodable bytes.
_CONTROLS = r"\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_UNPRINTABLE = re.compile(f"[{_CONTROLS}]")
_UNSAFE = re.compile(rf"[%\\{_CONTROLS}]")
_DOT_PARTS = re.compile(r"(?<![^/])\.\.?(?![^/])")  # a whole part that is "." or ".."
_EMPTY_PARTS = re.compile(r"(?<![^/])/|/\Z")  # a slash with nothing before it, or nothing after it
_WORD_AND_DIGITS = re.compile(r"([^0-9]*)([0-9]*)")


NaturalKey = tuple[tuple[tuple[str, int, str], ...], str]


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
    safe = _DOT_PARTS.sub(_percent_escape, _UNSAFE.sub(_percent_escape, text))
    return _EMPTY_PARTS.sub("%2F", safe)


def make_key(path: str, base: str, *, use_stem: bool = False, is_folder: bool = False) -> str:
    """The key of an absolute path: relative to ``base``, or its name without the ending.

    Args:
        path: Absolute and normal, as ``os.path.abspath`` makes it.
        base: An absolute folder.
        use_stem: Take the name alone, without its ending.
        is_folder: It is a folder's name, which has no ending.
    """
    if use_stem:
        name = os.path.basename(path)
        return escape_key(name if is_folder else os.path.splitext(name)[0])
    prefix = base.rstrip(os.sep) + os.sep
    if not f"{path}{os.sep}".startswith(prefix):
        raise UsageError(
            f"input outside the root ({printable(path)}): keys are relative to {printable(base)}."
            " Use a --root that holds it, or leave --root away"
        )
    return escape_key(path[len(prefix) :].replace(os.sep, "/") or ".")


def simplify_url(url: str) -> str:
    """Host and path of a URL, plain; passwords, queries and fragments have no place in keys."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"bad URL ({printable(url)}): {error}. Use scheme://host/path") from error
    host = parts.netloc.rpartition("@")[2]
    return (host + unquote(parts.path, errors="surrogateescape")).strip("/")


def find_common_folder(folders: Collection[str]) -> str:
    """The deepest folder that holds all of these absolute folders."""
    return os.path.commonpath(folders) if folders else os.path.abspath(os.curdir)


def printable(text: str) -> str:
    """Any text on one printable line: for messages and labels, where ``%`` may stay."""
    return _UNPRINTABLE.sub(_percent_escape, text)


def natural_sort_key(text: str) -> NaturalKey:
    """Sort key in which numbers count as numbers: 9 before 10, and no two texts are equal.

    Examples:
        >>> sorted(["v10", "v9", "v09", "a"], key=natural_sort_key)
        ['a', 'v09', 'v9', 'v10']
    """
    runs = ((word, digits.lstrip("0")) for word, digits in _WORD_AND_DIGITS.findall(text))
    return tuple((word, len(digits), digits) for word, digits in runs), text


def _percent_escape(match: re.Match[str]) -> str:
    try:
        data = match[0].encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that no byte of a file name stands for
        data = match[0].encode("utf-8", "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in data)

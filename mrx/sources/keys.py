"""Keys: the names of videos in lists, shards, manifest rows and logs.

A key is a relative path made safe: printable, valid UTF-8, with ``/`` between its parts. The
escaping and the distribution of keys to jobs are part of the shard format: if they changed, videos
that are done would be extracted again.
"""

# ruff: noqa: PTH100, PTH119, PTH122
# Paths are str for the reasons that mrx.sources.scan has.

import os
import re
from collections.abc import Collection
from urllib.parse import unquote, urlsplit

from mrx.errors import UsageError

# Control characters, line separators, marks that reorder text, the byte order mark, undecodable
# bytes. str.isprintable would change with the Unicode version of Python, and keys with it.
_CONTROLS = r"\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_UNPRINTABLE = re.compile(f"[{_CONTROLS}]")
_UNSAFE = re.compile(rf"[%\\{_CONTROLS}]")
_DOT_PARTS = re.compile(r"(?<![^/])\.\.?(?![^/])")  # a whole part that is "." or ".."
_EMPTY_PARTS = re.compile(r"(?<![^/])/|/\Z")  # a slash at the start, after a slash, or at the end
_WORD_AND_DIGITS = re.compile(r"([^0-9]*)([0-9]*)")


NaturalKey = tuple[tuple[tuple[str, int, str], ...], str]


def escape_key(text: str) -> str:
    r"""Escape a path for use as a key. Distinct paths give distinct keys.

    These are percent-escaped, byte by byte in UTF-8: ``%``, the backslash, control characters,
    bytes that are not UTF-8 (lone surrogates in ``text``), the dots of the parts ``.`` and ``..``,
    and slashes beside an empty part. Unescaping gives back the path's bytes.

    Examples:
        >>> escape_key("day 1/100%.mp4"), escape_key("../a//b"), escape_key("new\nline.mp4")
        ('day 1/100%25.mp4', '%2E%2E/a/%2Fb', 'new%0Aline.mp4')
    """
    if not text:
        raise UsageError("bad key (): a key must not be empty. Give each video a name")
    safe = _DOT_PARTS.sub(_percent_escape, _UNSAFE.sub(_percent_escape, text))
    return _EMPTY_PARTS.sub("%2F", safe)


def make_key(path: str, base: str, *, use_stem: bool = False, is_folder: bool = False) -> str:
    """Return the key of an absolute path: its path relative to ``base``, or its bare name.

    Args:
        path: Absolute and normalized path, as ``os.path.abspath`` returns it.
        base: An absolute folder.
        use_stem: Use the file name alone, without extension.
        is_folder: The path is a folder, whose name has no extension.

    Raises:
        UsageError: the path is outside ``base``
    """
    if use_stem:
        name = os.path.basename(path)
        return escape_key(name if is_folder else os.path.splitext(name)[0])
    prefix = base.rstrip(os.sep) + os.sep
    if not f"{path}{os.sep}".startswith(prefix):
        raise UsageError(
            f"input outside the root ({printable(path)}): keys are relative to {printable(base)}."
            " Use a --root that contains it, or no --root"
        )
    return escape_key(path[len(prefix) :].replace(os.sep, "/") or ".")


def simplify_url(url: str) -> str:
    """Return host and path of a URL, unescaped, without its user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"bad URL ({printable(url)}): {error}. Use scheme://host/path") from error
    host = parts.netloc.rpartition("@")[2]
    return (host + unquote(parts.path, errors="surrogateescape")).strip("/")


def find_common_folder(folders: Collection[str]) -> str:
    """Return the deepest folder that contains all these absolute folders."""
    return os.path.commonpath(folders) if folders else os.path.abspath(os.curdir)


def printable(text: str) -> str:
    """Escape text to one printable line, for messages and labels. Keeps ``%``, unlike a key."""
    return _UNPRINTABLE.sub(_percent_escape, text)


def natural_sort_key(text: str) -> NaturalKey:
    """Return a sort key with digits compared as numbers (9 before 10), distinct for each text.

    Examples:
        >>> sorted(["v10", "v9", "v09", "a"], key=natural_sort_key)
        ['a', 'v09', 'v9', 'v10']
    """
    # Without leading zeros, longer numbers are larger, and equally long ones compare as text. The
    # text itself breaks ties such as "v9" and "v09".
    runs = ((word, digits.lstrip("0")) for word, digits in _WORD_AND_DIGITS.findall(text))
    return tuple((word, len(digits), digits) for word, digits in runs), text


def _percent_escape(match: re.Match[str]) -> str:
    try:
        data = match[0].encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Only U+DC80..U+DCFF stand for bytes of a file name; other lone surrogates come from text.
        data = match[0].encode("utf-8", "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in data)

"""Distribution of the videos to the jobs of an array, by key, so that all jobs agree."""

import re
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar
from zlib import crc32

from mrx.errors import UsageError
from mrx.sources.keys import printable

_SHARD_PATTERN = re.compile(r"(-?[0-9]{1,18})/(-?[0-9]{1,18})")

# Variables of (index, count, first index, step); `auto` takes the first group that is set.
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


class KeyedItem(Protocol):
    """An item with a key."""

    @property
    def key(self) -> str:
        """The key, escaped."""


K = TypeVar("K", bound=KeyedItem)


def select_share(sources: Iterable[K], index: int, count: int) -> list[K]:
    """Return the sources of job ``index`` of ``count``."""
    # By a checksum of the key, not by position: jobs whose scans find different files still agree
    # on every key. `hash` would differ between processes.
    return [source for source in sources if crc32(source.key.encode()) % count == index]


def parse_shard(text: str, environ: Mapping[str, str]) -> tuple[int, int]:
    """Parse ``i/N``, or read both numbers from the job's environment for ``auto``.

    Args:
        text: ``i/N`` with i counted from 0, or ``auto``.
        environ: Environment variables, usually ``os.environ``.

    Returns:
        The index and the count.

    Raises:
        UsageError: ``text`` or the environment gives no valid index and count
    """
    if text == "auto":
        return _read_job_shard(environ)
    numbers = _SHARD_PATTERN.fullmatch(text)
    if not numbers:
        raise UsageError(
            f"bad shard ({printable(text)}): not i/N. Use two numbers as in 0/8, or auto"
        )
    return _check_shard_numbers(int(numbers[1]), int(numbers[2]), text)


def _read_job_shard(environ: Mapping[str, str]) -> tuple[int, int]:
    for names in _JOB_VARIABLES:
        if names[0] in environ and names[1] in environ:
            break
    else:
        wanted = ", ".join(f"{index} with {count}" for index, count, *_ in _JOB_VARIABLES)
        raise UsageError(f"bad shard (auto): none of {wanted} is set. Use i/N as in 0/8")
    variables_text = ", ".join(f"{name}={environ[name]}" for name in names if name in environ)
    try:
        index, count = int(environ[names[0]]), int(environ[names[1]])
        first, step = int(environ.get(names[2], "0")), int(environ.get(names[3], "1"))
    except ValueError as error:
        raise UsageError(
            f"bad shard (auto): {variables_text}: not a number. Use i/N as in 0/8"
        ) from error
    # --array=2-14:4 has the indices 2, 6, 10, 14 -> 0, 1, 2, 3
    return _check_shard_numbers((index - first) // max(step, 1), count, f"auto: {variables_text}")


def _check_shard_numbers(index: int, count: int, given_text: str) -> tuple[int, int]:
    if count < 1:
        raise UsageError(f"bad shard ({given_text}): N must be at least 1. Use i/N as in 0/8")
    if not 0 <= index < count:
        choices = f"0/{count} … {count - 1}/{count}" if count > 1 else "0/1"
        raise UsageError(f"bad shard ({given_text}): the index counts from 0. Use {choices}")
    return index, count

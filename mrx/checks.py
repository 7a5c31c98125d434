"""Small checks of arguments, for every layer."""

import math
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mrx.errors import UsageError


def check_choice(name: str, value: str, kind: Any) -> None:
    """Refuse a value that is none of a `Literal`'s choices.

    >>> check_choice("scale", "paper", Literal["released", "paper"])
    """
    if value not in get_args(kind):
        raise ValueError(f"{name}={value}: choose from {', '.join(get_args(kind))}")


def check_choices(record: Any) -> None:
    """Refuse a value that is none of its `Literal`'s choices."""
    for name, kind in get_type_hints(type(record)).items():
        value = getattr(record, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise UsageError(f"{name} is one of {', '.join(get_args(kind))}, not {value}")


def check_whole(record: Any, *names: str) -> None:
    """Refuse a named field that is no whole number of at least 1."""
    for name, value in _given(record, names):
        if not is_whole(value):
            raise UsageError(f"{name} is a whole number of at least 1, not {value}")


def check_positive(record: Any, *names: str) -> None:
    """Refuse a named field that is no finite number above 0."""
    for name, value in _given(record, names):
        if not (isinstance(value, int | float) and 0 < value < math.inf):
            raise UsageError(f"{name} is a finite number above 0, not {value}")


def _given(record: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """The named values, but for None where it may stand."""
    kinds = get_type_hints(type(record))
    for name in names:
        value = getattr(record, name)
        if value is not None or type(None) not in get_args(kinds[name]):
            yield name, value


def is_whole(value: Any) -> bool:
    """Tell whether a value is a whole number of at least 1."""
    return isinstance(value, int) and value >= 1

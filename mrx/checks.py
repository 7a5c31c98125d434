"""Small checks of arguments, for every layer."""

import math
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mrx.errors import UsageError


def check_choice(name: str, value: str, literal: Any) -> None:
    """Refuse a value that is none of a `Literal`'s choices.

    >>> check_choice("scale", "paper", Literal["released", "paper"])
    """
    if value not in get_args(literal):
        raise ValueError(f"{name}={value}: choose from {', '.join(get_args(literal))}")


def check_record_choices(record: Any) -> None:
    """Refuse a value that is none of its `Literal`'s choices."""
    for name, annotation in get_type_hints(type(record)).items():
        value = getattr(record, name)
        if get_origin(annotation) is Literal and value not in get_args(annotation):
            raise UsageError(f"{name} is one of {', '.join(get_args(annotation))}, not {value}")


def check_positive_integers(record: Any, *names: str) -> None:
    """Refuse a named field that is no whole number of at least 1."""
    for name, value in _iterate_set_values(record, names):
        if not is_positive_integer(value):
            raise UsageError(f"{name} is a whole number of at least 1, not {value}")


def check_positive_numbers(record: Any, *names: str) -> None:
    """Refuse a named field that is no finite number above 0."""
    for name, value in _iterate_set_values(record, names):
        if not (isinstance(value, int | float) and 0 < value < math.inf):
            raise UsageError(f"{name} is a finite number above 0, not {value}")


def _iterate_set_values(record: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """The named values, but for None where it may stand."""
    annotations = get_type_hints(type(record))
    for name in names:
        value = getattr(record, name)
        if value is not None or type(None) not in get_args(annotations[name]):
            yield name, value


def is_positive_integer(value: Any) -> bool:
    """Tell whether a value is a whole number of at least 1."""
    return isinstance(value, int) and value >= 1

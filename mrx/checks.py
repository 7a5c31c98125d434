"""Small argument checks for every layer."""

import math
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mrx.errors import UsageError


def check_choice(name: str, value: str, literal: Any) -> None:
    """Raise a ValueError unless the value is one of a `Literal`'s choices.

    >>> check_choice("scale", "paper", Literal["released", "paper"])
    """
    if value not in get_args(literal):
        raise ValueError(f"{name}={value}: choose from {', '.join(get_args(literal))}")


def check_record_choices(record: Any) -> None:
    """Raise a UsageError unless each `Literal` field of a record holds one of its choices."""
    for name, annotation in get_type_hints(type(record)).items():
        value = getattr(record, name)
        if get_origin(annotation) is Literal and value not in get_args(annotation):
            raise UsageError(
                f"{name} must be one of {', '.join(get_args(annotation))}, not {value}"
            )


def list_choices(record_class: type, field_name: str) -> tuple[str, ...]:
    """Return the choices of a field that is annotated with a `Literal`."""
    return get_args(get_type_hints(record_class)[field_name])


def check_positive_integers(record: Any, *names: str) -> None:
    """Raise a UsageError unless the named fields are positive integers, or None where allowed."""
    for name, value in _iterate_set_values(record, names):
        if not is_positive_integer(value):
            raise UsageError(f"{name} must be a positive integer, not {value}")


def check_positive_numbers(record: Any, *names: str) -> None:
    """Raise a UsageError unless the named fields are finite and above 0, or None where allowed."""
    for name, value in _iterate_set_values(record, names):
        if not (isinstance(value, int | float) and 0 < value < math.inf):
            raise UsageError(f"{name} must be a finite number above 0, not {value}")


def _iterate_set_values(record: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the named fields and their values, except for None in an optional field."""
    annotations = get_type_hints(type(record))
    for name in names:
        value = getattr(record, name)
        if value is not None or type(None) not in get_args(annotations[name]):
            yield name, value


def is_positive_integer(value: Any) -> bool:
    """Return True for an int of at least 1."""
    return isinstance(value, int) and value >= 1

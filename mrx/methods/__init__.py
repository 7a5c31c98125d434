"""Motion representations by name. `find_method` imports a method's module, and with it torch."""

import importlib
from collections.abc import Iterable
from importlib import metadata
from typing import TYPE_CHECKING

from mrx.errors import UsageError
from mrx.methods.table import ENTRY_POINT_GROUP, METHOD_MODULES

if TYPE_CHECKING:
    from mrx.methods.spec import Method

__all__ = ["check_method_name", "choose_methods", "find_method", "list_method_names"]


def list_method_names() -> list[str]:
    """List the methods of this package, then those that other packages offer."""
    entry_names = metadata.entry_points(group=ENTRY_POINT_GROUP).names
    return [*METHOD_MODULES, *sorted(entry_names - METHOD_MODULES.keys())]


def check_method_name(name: str) -> None:
    """Check that a method exists, without importing it.

    Raises:
        UsageError: no package offers the name
    """
    # Entry points are read from disk: ask for them only if the name is not one of ours.
    if name not in METHOD_MODULES and name not in list_method_names():
        raise UsageError(f"no method {name}: choose from {', '.join(list_method_names())}")


def choose_methods(names: Iterable[str]) -> tuple[str, ...]:
    """Check names of methods and remove duplicates, keeping the order.

    Raises:
        UsageError: no package offers one of the names

    >>> choose_methods(["pa", "mbpm", "pa"])
    ('pa', 'mbpm')
    """
    chosen = tuple(dict.fromkeys(names))
    for name in chosen:
        check_method_name(name)
    return chosen


def find_method(name: str) -> "Method":
    """Import a method of this package, or else of another package that offers the name.

    Raises:
        UsageError: no package offers the name, or its entry point is not a `Method`
    """
    from mrx.methods.spec import Method

    check_method_name(name)
    is_ours = name in METHOD_MODULES
    method = (
        importlib.import_module(METHOD_MODULES[name]).METHOD
        if is_ours
        else _load_offered_method(name)
    )
    if not isinstance(method, Method):
        raise UsageError(f"method {name}: its entry point gives {method!r}, not a Method")
    return method


def _load_offered_method(name: str) -> object:
    """Load the entry point of the first package that offers the name."""
    offers = metadata.entry_points(group=ENTRY_POINT_GROUP)
    offer = next(iter(offers.select(name=name)))
    try:
        return offer.load()
    except Exception as error:  # a stranger's module, which may raise anything
        raise UsageError(f"method {name}: {offer.value} does not load: {error}") from error

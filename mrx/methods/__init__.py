"""Motion representations by name. A method's module, and with it torch, is imported when found."""

import importlib
from importlib import metadata
from typing import TYPE_CHECKING

from mrx.errors import UsageError
from mrx.methods.table import ENTRY_POINTS, MODULES

if TYPE_CHECKING:
    from mrx.methods.spec import Method

__all__ = ["check", "find", "names"]


def names() -> list[str]:
    """The methods of this package, then those that other packages offer."""
    offered = metadata.entry_points(group=ENTRY_POINTS).names
    return [*MODULES, *sorted(offered - MODULES.keys())]


def check(name: str) -> None:
    """Refuse a name that nobody offers, without importing any method."""
    if name not in MODULES and name not in names():
        raise UsageError(f"no method {name}: choose from {', '.join(names())}")


def find(name: str) -> "Method":
    """The method called so: one of ours, else one that another package offers.

    Raises:
        UsageError: nobody offers it, or what is offered is not a `Method`
    """
    from mrx.methods.spec import Method

    check(name)
    ours = name in MODULES
    method = importlib.import_module(MODULES[name]).METHOD if ours else _offered(name)
    if not isinstance(method, Method):
        raise UsageError(f"method {name}: its entry point gives {method!r}, not a Method")
    return method


def _offered(name: str) -> object:
    """What the first package that offers the name gives for it."""
    offers = metadata.entry_points(group=ENTRY_POINTS)
    offer = next(iter(offers.select(name=name)))
    try:
        return offer.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"method {name}: {offer.value} does not load: {error}") from error

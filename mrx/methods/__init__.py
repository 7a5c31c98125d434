"""Motion representations by name. A method's module, and with it torch, is imported when found."""

import importlib
from importlib import metadata
from typing import TYPE_CHECKING

from mrx.errors import UsageError
from mrx.methods.table import ENTRY_POINT_GROUP, METHOD_MODULES

if TYPE_CHECKING:
    from mrx.methods.spec import Method

__all__ = ["check_method_name", "find_method", "list_method_names"]


def list_method_names() -> list[str]:
    """The methods of this package, then those that other packages offer."""
    entry_names = metadata.entry_points(group=ENTRY_POINT_GROUP).names
    return [*METHOD_MODULES, *sorted(entry_names - METHOD_MODULES.keys())]


def check_method_name(name: str) -> None:
    """Refuse a name that nobody offers, without importing any method."""
    if name not in METHOD_MODULES and name not in list_method_names():
        raise UsageError(f"no method {name}: choose from {', '.join(list_method_names())}")


def find_method(name: str) -> "Method":
    """The method called so: one of ours, else one that another package offers.

    Raises:
        UsageError: nobody offers it, or what is offered is not a `Method`
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
    """What the first package that offers the name gives for it."""
    offers = metadata.entry_points(group=ENTRY_POINT_GROUP)
    offer = next(iter(offers.select(name=name)))
    try:
        return offer.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"method {name}: {offer.value} does not load: {error}") from error

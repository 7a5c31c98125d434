"""The settings that decide the numbers in an output: their hash, and how two of them differ."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrx.errors import OutputError


def hash_settings(settings: Mapping[str, Any]) -> str:
    """Hash a run's settings into 16 hexadecimal digits, independent of their order."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings into one level of dotted names.

    >>> flatten_settings({"methods": {"mbpm": {"sigma": 1.1}}, "fps": None})
    {'mbpm.sigma': 1.1, 'fps': None}
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        dotted = "" if name == "methods" else f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= flatten_settings(value, f"{dotted}." if dotted else "")
        else:
            flat[dotted] = value
    return flat


def describe_difference(existing: Mapping[str, Any], requested: Mapping[str, Any]) -> str:
    """List the settings that differ, as in ``made with step=2, asked for step=1``."""
    shared = existing["methods"].keys() & requested["methods"].keys()
    old, new = (
        flatten_settings({**settings, "methods": {m: settings["methods"][m] for m in shared}})
        for settings in (existing, requested)
    )
    if old == new:
        old = {"method": ",".join(existing["methods"])}
        new = {"method": ",".join(requested["methods"])}
    # Weights that are not given are missing, as is a parameter that a later version has.
    names = [
        name
        for name in sorted(old.keys() | new.keys())
        if (name in old, old.get(name)) != (name in new, new.get(name))
    ]
    return (
        f"made with {_join_settings(old, new, names)}, asked for {_join_settings(new, old, names)}"
    )


def _join_settings(
    settings: Mapping[str, Any], others: Mapping[str, Any], names: Sequence[str]
) -> str:
    values = []
    for name in names:
        value = settings.get(name)
        is_unknown = name not in settings and others[name] is None
        values.append("no such parameter" if is_unknown else "default" if value is None else value)
    return ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))


def are_compatible(existing: Mapping[str, Any], requested: Mapping[str, Any]) -> bool:
    """Tell whether maps of both settings may lie in one folder.

    All that methods share must agree, and each method that both have. Other methods may differ.
    """
    shared = existing["methods"].keys() & requested["methods"].keys()
    return all(existing["methods"][m] == requested["methods"][m] for m in shared) and {
        k: v for k, v in existing.items() if k != "methods"
    } == {k: v for k, v in requested.items() if k != "methods"}


def make_mismatch_error(
    folder: Path, existing: Mapping[str, Any], requested: Mapping[str, Any]
) -> OutputError:
    """Return the error for an output folder that was made with other settings."""
    difference = describe_difference(existing, requested)
    return OutputError(
        f"output exists with other parameters ({folder}): {difference}. "
        "Use another -o or --overwrite"
    )

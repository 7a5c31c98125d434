"""``mrx methods``: list the methods, or the parameters of one."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import click

from mrx.errors import UsageError


@click.command("methods")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def methods_command(name: str | None, as_json: bool) -> None:
    """List the methods, or the parameters of the method NAME."""
    from mrx import methods as known

    rows = [describe_method(name)] if name else list(_describe_all(known.list_method_names()))
    if as_json:
        click.echo(json.dumps(rows[0] if name else rows))
    elif name:
        _print_method(rows[0])
    else:
        for row in rows:
            click.echo(f"{row['name']:<14} {row['window']:<32} {row['summary']}")


def _describe_all(names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Describe methods; one of another package that does not load is a line on stderr."""
    for name in names:
        try:
            yield describe_method(name)
        except Exception as error:  # noqa: BLE001 - of another package, which may raise anything
            reason = error if isinstance(error, UsageError) else f"method {name}: {error!r}"
            click.echo(f"warning: {reason}", err=True)


def describe_method(name: str) -> dict[str, Any]:
    """Describe a method in plain values."""
    from mrx import methods as known

    method = known.find_method(name)
    parameters = {key: p.default for key, p in method.list_parameters().items()}
    module = method.build_module(parameters)
    color = "RGB" if module.color == "rgb" else "gray"
    maps = len(module.channels)
    apart = "" if module.dilation == 1 else f" {module.dilation} apart"
    return {
        "name": name,
        "summary": method.summary,
        "window": f"{module.length} {color} frames{apart}, step {module.step} -> {maps}",
        "length": module.length,
        "step": module.step,
        "dilation": module.dilation,
        "color": module.color,
        "channels": list(module.channels),
        "units": module.units,
        "bound": module.bound,
        "cost": method.cost,
        "version": method.version,
        "parameters": parameters,
        "paper": method.paper,
    }


def _print_method(row: dict[str, Any]) -> None:
    click.echo(f"{row['name']}: {row['summary']}")
    click.echo(f"  {row['window']} channels ({', '.join(row['channels'])}), {row['units']}")
    click.echo(f"  {row['paper']}")
    for key, value in row["parameters"].items():
        click.echo(f"  -p {key}={value}")

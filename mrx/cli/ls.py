"""``mrx ls``: what shards hold, and what failed or was skipped."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mrx.errors import NoInputError, UsageError

COLUMNS = (
    *("key", "status", "method", "n_out", "channels", "height", "width", "fps", "duration"),
    *("label", "reason", "source", "shard"),
)


@click.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--json", "form", flag_value="json", help="One JSON array.")
@click.option("--jsonl", "form", flag_value="jsonl", help="One JSON object a line.")
@click.option("--csv", "form", flag_value="csv", help="Comma-separated, with a header.")
@click.option("--status", type=click.Choice(["ok", "failed", "skipped"]), help="Only these.")
@click.option("--where", multiple=True, metavar="NAME=VALUE", help="Only rows with this value.")
def ls(
    paths: tuple[str, ...], form: str | None, status: str | None, where: tuple[str, ...]
) -> None:
    """List what the shards or output folders PATHS hold, a row for each video and method.

    A folder's rows come with those that failed or were skipped. SHARD.h5::KEY shows one video
    with all its attributes. - reads paths from stdin.
    """
    wanted = dict(_condition(text) for text in where) | ({"status": status} if status else {})
    if any("::" in path for path in paths):
        for path in paths:
            _show(path)
        return
    named = [line for p in paths for line in (sys.stdin.read().splitlines() if p == "-" else [p])]
    rows = (row for path in named for row in list_rows(Path(path)))
    chosen = (r for r in rows if all(str(r.get(k)) == v for k, v in wanted.items()))
    _print(chosen, form)


def list_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a shard, or of an output folder with its manifests."""
    from mrx.manifest import manifests, read_rows
    from mrx.sinks.layout import shards
    from mrx.sinks.reader import Shards

    if not path.exists():
        raise NoInputError(f"nothing to list: {path} does not exist")
    held: set[str] = set()
    if path.is_file() or shards(path):
        with Shards(path) as found:
            held = set(found)
            for row in found.rows():
                yield {"status": "ok", **row}
    for manifest in manifests(path) if path.is_dir() else []:
        for ended in read_rows(manifest)[1].values():
            if ended.status in ("failed", "skipped") and ended.key not in held:
                facts = {"key": ended.key, "status": ended.status, "reason": ended.reason}
                yield {**facts, "source": ended.path}


def _print(rows: Iterator[dict[str, Any]], form: str | None) -> None:
    if form == "json":
        click.echo(json.dumps(list(rows)))
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        for row in rows:
            click.echo(json.dumps(row) if form == "jsonl" else _line(row))


def _line(row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return f"{row['status']:<8} {row['key']}  {row['reason']}"
    shape = "x".join(str(row[n]) for n in ("n_out", "channels", "height", "width"))
    facts = f"{row['method']:<14} {shape:<18} {row['fps']:6.2f} fps {row['duration']:8.2f} s"
    return f"ok       {facts}  {row['key']}"


def _show(path: str) -> None:
    """One video: its attributes, and each method's with statistics."""
    from mrx.sinks.reader import Shards

    file, _, key = path.partition("::")
    with Shards(Path(file)) as shards:
        if key not in shards:
            raise UsageError(f"no such key ({key}) in {file}; mrx ls {file} lists them")
        recording = shards[key]
        facts = {
            **_plain(recording.attrs),
            "methods": {
                name: {
                    "shape": list(maps.shape),
                    "dtype": str(maps.dataset.dtype),
                    **_plain(maps.attrs),
                }
                for name, maps in recording.items()
            },
        }
    click.echo(json.dumps(facts, indent=2))


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.tolist() if hasattr(value, "tolist") else value
        for name, value in attributes.items()
    }


def _condition(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or name not in COLUMNS:
        raise UsageError(f"bad --where ({text}): give NAME=VALUE with one of {', '.join(COLUMNS)}")
    return name, value

"""``mrx ls``: list the videos in shards, and those that failed or were skipped."""

import csv
import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from mrx.cli.options import loudness_options
from mrx.errors import NoInputError, UsageError
from mrx.job import ManifestRow

COLUMNS = (
    *("key", "status", "method", "n_out", "channels", "height", "width", "fps", "duration"),
    *("label", "reason", "source", "shard"),
)


@click.command("ls")
@click.argument("paths", nargs=-1, required=True)
@click.option("--json", "form", flag_value="json", help="Print one JSON array.")
@click.option("--jsonl", "form", flag_value="jsonl", help="Print one JSON object per line.")
@click.option("--csv", "form", flag_value="csv", help="Print comma-separated values with a header.")
@click.option(
    "--status", type=click.Choice(["ok", "failed", "skipped"]), help="List only this status."
)
@click.option(
    "--where", multiple=True, metavar="NAME=VALUE", help="List only rows with this value."
)
@loudness_options
def ls_command(
    paths: tuple[str, ...], form: str | None, status: str | None, where: tuple[str, ...]
) -> None:
    """List the videos in the shards or output folders PATHS, a row per video and method.

    For a folder, also list the inputs that failed or were skipped. PATH::KEY prints one video with
    all its attributes. - reads paths from stdin.
    """
    from mrx.shards.layout import split_shard_path

    wanted = dict(_parse_condition(text) for text in where) | ({"status": status} if status else {})
    videos = [split_shard_path(path) for path in paths]
    if any(key for _, key in videos):
        for path, key in videos:
            _print_video(path, key)
        return
    named = [line for p in paths for line in (sys.stdin.read().splitlines() if p == "-" else [p])]
    rows = (row for path in named for row in list_rows(Path(path)))
    chosen = (r for r in rows if all(str(r.get(k)) == v for k, v in wanted.items()))
    _print_rows(chosen, form)


def list_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a shard, or of an output folder and its manifests."""
    from mrx.shards.layout import STAMP_NAMES, list_shards
    from mrx.shards.reader import Shards

    if not path.exists():
        raise NoInputError(f"nothing to list: {path} does not exist")
    stamps: dict[tuple[str, str], tuple[float | str, ...]] = {}
    if path.is_file() or list_shards(path):
        with Shards(path) as contents:
            for row in contents.rows():
                stamps[row["key"], row["method"]] = tuple(row[name] for name in STAMP_NAMES)
                yield {"status": "ok", **row}
    for ended in _read_last_rows(path) if path.is_dir() else []:
        # A row of an earlier state of a video is outdated by maps of each of its methods.
        is_outdated = ended.methods and all(
            stamps.get((ended.key, method)) == ended.stamp for method in ended.methods
        )
        if ended.status in ("failed", "skipped") and not is_outdated:
            facts = {"key": ended.key, "status": ended.status, "method": ",".join(ended.methods)}
            yield {**facts, "reason": ended.reason, "source": ended.path}


def _read_last_rows(folder: Path) -> Iterable[ManifestRow]:
    """Return the last row of each key; of two manifests the row of the later run counts."""
    from mrx.manifest import list_manifests, merge_rows, read_rows

    return merge_rows(read_rows(path)[1] for path in list_manifests(folder)).values()


def _print_rows(rows: Iterator[dict[str, Any]], form: str | None) -> None:
    if form == "json":
        click.echo(json.dumps([_to_plain_values(row) for row in rows]))
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        for row in rows:
            line = json.dumps(_to_plain_values(row)) if form == "jsonl" else _format_row(row)
            click.echo(line)


def _format_row(row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return f"{row['status']:<8} {row['key']}  {row['reason']}"
    shape = "x".join(str(row[n]) for n in ("n_out", "channels", "height", "width"))
    facts = f"{row['method']:<14} {shape:<18} {row['fps']:6.2f} fps {row['duration']:8.2f} s"
    return f"ok       {facts}  {row['key']}"


def _print_video(path: str, key: str) -> None:
    """Print the attributes of one video and of each of its methods."""
    from mrx.shards.reader import Shards

    with Shards(Path(path)) as shards:
        if key not in shards:
            raise UsageError(f"no such key ({key}) in {path}; mrx ls {path} lists them")
        recording = shards[key]
        facts = {
            **_to_plain_values(recording.attrs),
            "methods": {
                name: {
                    "shape": list(maps.shape),
                    "dtype": str(maps.dataset.dtype),
                    **_to_plain_values(maps.attrs),
                }
                for name, maps in recording.items()
            },
        }
    click.echo(json.dumps(facts, indent=2))


def _to_plain_values(attributes: dict[str, Any]) -> dict[str, Any]:
    """Convert attributes to what JSON has: lists for arrays, and null for NaN and infinity."""
    return {name: _to_plain_value(value) for name, value in attributes.items()}


def _to_plain_value(value: Any) -> Any:
    plain = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(plain, list):
        return [_to_plain_value(entry) for entry in plain]
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _parse_condition(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or name not in COLUMNS:
        raise UsageError(f"bad --where ({text}): give NAME=VALUE with one of {', '.join(COLUMNS)}")
    return name, value

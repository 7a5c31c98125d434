"""``mrx verify``: check that shards are whole."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from mrx.cli.options import loudness_options
from mrx.errors import NoInputError, OutputError, UsageError


@click.command("verify")
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "--repair",
    is_flag=True,
    help="Keep the whole videos of broken shards in new ones, and set the broken files aside.",
)
@click.option("--jsonl", is_flag=True, help="Print problems as JSON, one per line.")
@loudness_options
@click.pass_context
def verify_command(ctx: click.Context, paths: tuple[str, ...], repair: bool, jsonl: bool) -> None:
    """Read every map in the shards or output folders PATHS, and print all problems.

    Checks structure, counts, the checksum of every chunk, NaN and infinity, and that the shards
    hold all videos of the manifest. Exits with 1 if there are problems.
    """
    from mrx.shards.repair import is_repairable
    from mrx.shards.verify import check_output

    for path in map(Path, paths):
        if not path.exists():
            raise NoInputError(f"nothing to verify: {path} does not exist")
        if repair and not path.is_dir() and not is_repairable(path):
            raise UsageError(
                f"not a shard ({path}): --repair takes shard-*.h5, .tmp-*.h5 and broken-*.h5"
            )
    quiet = ctx.find_root().params["quiet"]
    problems = 0
    for path in map(Path, paths):
        # Of these a whole one has no problem, and belongs into a shard all the same.
        is_leftover = path.is_file() and not path.name.startswith("shard-")
        broken: dict[Path, None] = {path: None} if is_leftover else {}
        for problem in check_output(path):
            problems += 1
            click.echo(json.dumps(asdict(problem)) if jsonl else str(problem))
            shard = Path(problem.shard)
            if is_repairable(shard):
                broken[shard] = None
        for shard in broken if repair else []:
            problems += _repair_shard(shard, quiet=quiet)
    if not quiet:
        click.echo(f"{problems or 'no'} problems", err=True)
    sys.exit(1 if problems else 0)


def _repair_shard(shard: Path, *, quiet: bool) -> int:
    """Repair a shard, and return the number of errors: one must not keep others from repair."""
    from mrx.shards.repair import repair_shard

    try:
        result = repair_shard(shard)
    except OutputError as error:
        click.echo(f"not repaired: {error}", err=True)
        return 1
    if not quiet:
        kept, lost = len(result.saved), len(result.lost)
        text = f"repaired {shard}: kept {kept} videos, {lost} to extract again"
        click.echo(f"{text}{': ' if result.lost else ''}{', '.join(result.lost)}", err=True)
        if result.aside:
            click.echo(f"set aside {result.aside}", err=True)
    return 0

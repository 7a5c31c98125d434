"""``mrx verify``: check that shards are whole."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from mrx.cli.options import loudness_options
from mrx.errors import NoInputError, UsageError


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
    from mrx.shards.layout import SHARD_NAME
    from mrx.shards.verify import check_output

    for path in map(Path, paths):
        if not path.exists():
            raise NoInputError(f"nothing to verify: {path} does not exist")
        if repair and not path.is_dir() and not SHARD_NAME.fullmatch(path.name):
            raise UsageError(f"not a shard ({path}): --repair takes shard-00000.h5 and its like")
    quiet = ctx.find_root().params["quiet"]
    problems = 0
    for path in map(Path, paths):
        broken: dict[Path, None] = {}
        for problem in check_output(path):
            problems += 1
            click.echo(json.dumps(asdict(problem)) if jsonl else str(problem))
            shard = Path(problem.shard)
            if shard.is_file() and SHARD_NAME.fullmatch(shard.name):
                broken[shard] = None
        for shard in broken if repair else []:
            _repair_shard(shard, quiet=quiet)
    if not quiet:
        click.echo(f"{problems or 'no'} problems", err=True)
    sys.exit(1 if problems else 0)


def _repair_shard(shard: Path, *, quiet: bool) -> None:
    from mrx.shards.repair import repair_shard

    kept, lost = repair_shard(shard)
    if not quiet:
        text = f"repaired {shard}: kept {len(kept)} videos, {len(lost)} to extract again"
        click.echo(text, err=True)

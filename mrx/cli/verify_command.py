"""``mrx verify``: prove that shards are whole."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from mrx.cli import options as read
from mrx.errors import NoInputError, UsageError


@click.command()
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "--repair",
    is_flag=True,
    help="Keep the good videos of broken shards, set the bad files aside.",
)
@click.option("--jsonl", is_flag=True, help="Problems as JSON, one a line.")
@read.loudness_options
@click.pass_context
def verify(ctx: click.Context, paths: tuple[str, ...], repair: bool, jsonl: bool) -> None:
    """Read every map of the shards or output folders PATHS and tell what is wrong.

    Checks the structure, the counts, every chunk's checksum, NaN and infinity, and that all
    videos of the manifest are there. Exit code 1 where there is a problem.
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
        text = f"repaired {shard}: {len(kept)} videos kept, {len(lost)} to be made again"
        click.echo(text, err=True)

"""``mrx verify``: prove that shards are whole."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from mrx.errors import NoInputError


@click.command()
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "--repair",
    is_flag=True,
    help="Keep the good videos of broken shards, set the bad files aside.",
)
@click.option("--jsonl", is_flag=True, help="Problems as JSON, one a line.")
@click.pass_context
def verify(ctx: click.Context, paths: tuple[str, ...], repair: bool, jsonl: bool) -> None:
    """Read every map of the shards or output folders PATHS and tell what is wrong.

    Checks the structure, the counts, every chunk's checksum, NaN and infinity, and that all
    videos of the manifest are there. Exit code 1 where there is a problem.
    """
    from mrx.sinks.rescue import repair as rescue
    from mrx.sinks.verify import check

    problems = 0
    for path in map(Path, paths):
        if not path.exists():
            raise NoInputError(f"nothing to verify: {path} does not exist")
        broken: dict[str, None] = {}
        for problem in check(path):
            problems += 1
            click.echo(json.dumps(asdict(problem)) if jsonl else str(problem))
            if Path(problem.shard).is_file():
                broken[problem.shard] = None
        for shard in broken if repair else []:
            kept, lost = rescue(Path(shard))
            click.echo(
                f"repaired {shard}: {len(kept)} videos kept, {len(lost)} to be made again", err=True
            )
    if not ctx.find_root().params["quiet"]:
        click.echo(f"{problems or 'no'} problems", err=True)
    sys.exit(1 if problems else 0)

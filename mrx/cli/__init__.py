"""The `mrx` command. Heavy packages are imported inside the bodies of commands only."""

import logging
import os
import signal
import sys
import traceback
from importlib import import_module
from typing import Any

import click

from mrx.errors import MrxError
from mrx.version import __version__

COMMANDS = {
    "extract": "Extract motion representations from videos into HDF5 shards.",
    "visualize": "Draw the motion of a video or a shard beside its frames.",
    "methods": "List the methods, or the parameters of one.",
    "ls": "List the videos in shards, and those that failed or were skipped.",
    "verify": "Check that shards are whole; --repair sets broken ones aside.",
    "bench": "Measure the speed of methods; --compare finds regressions.",
    "doctor": "Print versions, devices and the kernels in use.",
    "completion": "Print the completion script of a shell.",
}


class CommandGroup(click.Group):
    """Imports each command from its own file when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(
            import_module(f"mrx.cli.{cmd_name}_command"), f"{cmd_name}_command"
        )
        command.short_help = COMMANDS[cmd_name]
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                parameter.envvar = name_variable(cmd_name, parameter)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command list without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Print an error as one line and exit with its code; -vv adds the traceback."""
        try:
            return super().invoke(ctx)
        except MrxError as error:
            exit_with_error(error, ctx.params.get("verbose", 0))
        except KeyboardInterrupt:
            # A run has its own handlers. This is before one, as while a list is read from stdin.
            click.echo("stopped by SIGINT", err=True)
            sys.exit(128 + signal.SIGINT)
        except BrokenPipeError:
            # The reader of stdout has gone, and a later flush would raise again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)


def name_variable(command: str, option: click.Option) -> str:
    """Return the environment variable of an option, after its longest name.

    >>> name_variable("extract", click.Option(["-m", "--method", "methods"]))
    'MRX_EXTRACT_METHOD'
    """
    name = max(option.opts, key=len).lstrip("-")
    return f"mrx_{command}_{name}".replace("-", "_").upper()


def exit_with_error(error: MrxError, verbose: int) -> None:
    """Print an error as one line and exit with its code."""
    if verbose > 1:
        click.echo(getattr(error, "traceback", "") or traceback.format_exc(), err=True)
    click.echo(f"error: {error}", err=True)
    sys.exit(error.exit_code)


def describe_versions() -> str:
    """Return the versions of the packages that decide the numbers, without importing them."""
    from importlib.metadata import PackageNotFoundError, version

    def find_version(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "missing"

    return ", ".join(f"{name} {find_version(name)}" for name in ("torch", "av", "h5py", "numpy"))


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"mrx {__version__} ({describe_versions()})")
        ctx.exit()


@click.group(
    cls=CommandGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "show_default": True,
    },
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the versions of mrx, torch, av, h5py and numpy.",
)
@click.option(
    "-v", "--verbose", count=True, envvar="MRX_VERBOSE", help="Print more; -vv adds tracebacks."
)
@click.option("-q", "--quiet", is_flag=True, envvar="MRX_QUIET", help="Print errors only.")
def main(verbose: int, quiet: bool) -> None:
    """Extract motion representations from videos.

    \b
      mrx extract --method mbpm videos/ -o out/
      mrx ls out/
      mrx verify out/

    Exit codes: 0 success, 1 some inputs failed, 2 wrong usage, 3 no input matched, 4 output
    unusable, 5 device or package missing, 130 and 143 stopped by a signal.
    Environment variables set options, as in MRX_EXTRACT_WORKERS=4. Blanks separate several values:
    MRX_EXTRACT_METHOD="mbpm pa".
    """  # noqa: D301 - click wants the character, not a backslash
    logging.basicConfig(level=logging.DEBUG if verbose > 1 else logging.WARNING)

"""The `mrx` command. Nothing heavy is imported above a command's body."""

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
    "visualize": "Draw the motion of a video, or of a shard, beside its frames.",
    "methods": "List the methods, or one with its parameters.",
    "ls": "List what shards hold, and what failed or was skipped.",
    "verify": "Prove that shards are whole; --repair sets aside what is not.",
    "bench": "Measure how fast methods are here; --compare finds what became slower.",
    "doctor": "Tell versions, devices and which fast paths are used.",
    "completion": "Print the shell's completion script.",
}


class CommandGroup(click.Group):
    """The commands, each in a file of its own, imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"mrx.cli.{cmd_name}_command"), cmd_name)
        command.short_help = COMMANDS[cmd_name]
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                parameter.envvar = name_variable(cmd_name, parameter)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Turn an error into one line and its exit code; the traceback only with -vv."""
        try:
            return super().invoke(ctx)
        except MrxError as error:
            exit_with_error(error, ctx.params.get("verbose", 0))
        except KeyboardInterrupt:
            # A run has handlers of its own; this is before it, as while a list is read from stdin.
            click.echo("stopped by SIGINT", err=True)
            sys.exit(128 + signal.SIGINT)
        except BrokenPipeError:
            # Whoever read our output has had enough; there is nobody left to tell.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)


def name_variable(command: str, option: click.Option) -> str:
    """The environment variable of a command's option: its longest name, as the user types it."""
    name = max(option.opts, key=len).lstrip("-")
    return f"mrx_{command}_{name}".replace("-", "_").upper()


def exit_with_error(error: MrxError, verbose: int) -> None:
    """Say an error in one line and end."""
    if verbose > 1:
        click.echo(getattr(error, "traceback", "") or traceback.format_exc(), err=True)
    click.echo(f"error: {error}", err=True)
    sys.exit(error.exit_code)


def describe_versions() -> str:
    """The versions that decide the numbers, without importing anything."""
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
    help="Versions of mrx, torch, av, h5py and numpy.",
)
@click.option(
    "-v", "--verbose", count=True, envvar="MRX_VERBOSE", help="Say more; -vv adds tracebacks."
)
@click.option("-q", "--quiet", is_flag=True, envvar="MRX_QUIET", help="Say nothing but errors.")
def main(verbose: int, quiet: bool) -> None:
    """Videos in, motion representations out.

    \b
      mrx extract --method mbpm videos/ -o out/
      mrx ls out/
      mrx verify out/

    Exit codes: 0 all well, 1 some inputs failed, 2 usage, 3 no input matched, 4 output unusable,
    5 device or package missing, 130 and 143 stopped by a signal.
    Every option of a command can be set in the environment: MRX_EXTRACT_WORKERS=4. Several values
    are separated by blanks: MRX_EXTRACT_METHOD="mbpm pa".
    """  # noqa: D301 - click wants the character, not a backslash
    logging.basicConfig(level=logging.DEBUG if verbose > 1 else logging.WARNING)

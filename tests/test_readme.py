"""Tests that mrx does as the README says."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mrx import cli, errors

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPT = (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def title(block):
    """A block's first line that does something, for the test's name."""
    lines = (
        line for line in block.splitlines() if line and not line.startswith(("import", "from"))
    )
    return next(lines)[:50]


def is_setup(line):
    return line.startswith("python3 -m venv ")


SETUP = [line for block in blocks("sh") for line in block.splitlines() if is_setup(line)]
SHELL = [block for block in blocks("sh") if not is_setup(block)]


def table(header):
    """The rows under a table's header, as lists of cells."""
    found = re.search(rf"^{re.escape(header)}\n\|[-| ]+\|\n((?:\|.*\n)+)", README, re.M)
    assert found, f"no table {header}"
    rows = found[1].splitlines()
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows]


def run(command, folder):
    """Run a text of commands in a folder, where `mrx` is this interpreter's."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which the first command has been given."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "examples").symlink_to(ROOT / "examples")
    extract = SETUP[0].rpartition("&& ")[2]
    assert extract.startswith(".venv/bin/mrx extract ")
    run(extract.removeprefix(".venv/bin/"), folder)
    return folder


def test_there_are_two_set_up_commands_and_ci_gives_just_those():
    given = re.findall(r'^(?:first|second)="(.*)"$', SCRIPT, re.M)
    assert len(SETUP) == 2
    assert given == SETUP


def test_the_first_command_extracts_mbpm_from_the_example_clips(place):
    rows = run("mrx ls mrx-out --jsonl", place).stdout.splitlines()
    assert [json.loads(row)["method"] for row in rows] == ["mbpm"] * 4


@pytest.mark.slow
@pytest.mark.parametrize("block", SHELL, ids=title)
def test_a_shell_block_runs(block, place):
    run(block, place)


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"), ids=title)
def test_a_python_block_runs(block, place):
    run(f"{shlex.quote(sys.executable)} -W error -c {shlex.quote(block)}", place)


@pytest.mark.parametrize("line", re.findall(r"`(mrx [^`\n]+)`", README))
def test_a_command_in_the_text_has_a_name_and_options_that_exist(line):
    name, *words = shlex.split(line)[1:]
    if name.isupper() or name.startswith("-"):
        return
    command = cli.main.get_command(click.Context(cli.main), name)
    assert command, f"no command {name}"
    known = {text for parameter in command.params for text in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("-")} <= known


def test_options_in_the_text_exist():
    context = click.Context(cli.main)
    commands = [cli.main.get_command(context, name) for name in cli.COMMANDS]
    known = {text for command in commands for p in command.params for text in p.opts}
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S)
    named = set(re.findall(r"`(--[a-z][a-z-]*)", prose))
    assert named
    assert named <= known | {"--help"}


def test_the_table_of_methods_equals_the_output_of_mrx_methods():
    rows = json.loads(CliRunner().invoke(cli.main, ["methods", "--json"]).stdout)
    printed = [[row["name"], row["window"], row["summary"]] for row in rows]
    assert table("| name | window | what it is |") == printed


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_is_mentioned_and_has_help(name):
    command = cli.main.get_command(click.Context(cli.main), name)
    assert f"mrx {name}" in README
    assert command.help
    silent = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert not silent


def test_the_table_of_exit_codes_is_that_of_the_errors():
    rows = table("| exit code | meaning | in Python |")
    every = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    codes = {str(error.exit_code) for error in every.values()}
    assert [code for code, _, _ in rows] == ["0", *sorted(codes), "130, 143"]
    named = {code: name for code, _, name in rows if name in every}
    assert named == {str(every[name].exit_code): name for name in named.values()}
    assert len(named) == len(codes - {"1"})


def test_the_table_of_types_is_the_choice_of_the_command():
    command = cli.main.get_command(click.Context(cli.main), "extract")
    choice = next(p.type for p in command.params if p.name == "dtype")
    assert [name for name, _ in table("| `--dtype` | stored as |")] == list(choice.choices)


def test_links_lead_to_existing_files():
    for text in ("README.md", "examples/README.md"):
        folder = (ROOT / text).parent
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / text).read_text()):
            assert (folder / target).exists(), f"{text}: {target}"


def test_the_readme_has_100_to_260_lines():
    assert 100 <= README.count("\n") <= 260


def test_the_changelog_begins_with_the_unreleased_changes():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "Unreleased"

"""Run the `mrx` command in this process or in a new one, and read its output."""

import json
import os
import subprocess
import sys

import h5py
from click.testing import CliRunner

import mrx as library
from mrx.cli import main


def mrx(*arguments, **options):
    """Run the command in this process, without worker processes unless the arguments set them."""
    words = [str(a) for a in arguments]
    if words[0] == "extract" and "--workers" not in words:
        words += ["--workers", "0"]
    ran = CliRunner().invoke(main, words, catch_exceptions=False, **options)
    ran.code = ran.exit_code
    return ran


def run_process(*arguments, stdin=b"", environment=None, **options):
    """Run the command in a new process, and wait for it to end."""
    command = [sys.executable, "-m", "mrx", *(os.fspath(a) for a in arguments)]
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        env={**os.environ, **(environment or {})},
        check=False,
        timeout=300,
        **options,
    )


def start_process(*arguments, environment=None, **options):
    """Start the command in a new process, and return while it runs."""
    command = [sys.executable, "-m", "mrx", *(os.fspath(a) for a in arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        **options,
    )


def read_summary(ran):
    """Parse the JSON summary that a run with ``--json`` printed."""
    return json.loads(ran.stdout)


def read_rows(ran):
    """Parse the JSON rows that a run with ``--jsonl`` printed."""
    return [json.loads(line) for line in ran.stdout.splitlines()]


def read_manifest(folder):
    """Read the rows of the manifest in an output folder, by key."""
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    return {line["key"]: line for line in lines if "key" in line}


def read_contents(out):
    """Read the maps, frame indices and attributes of every video in the shards of a run."""
    found = {}
    with library.open(out) as shards:
        for key, recording in shards.items():
            attributes = {n: str(v) for n, v in recording.attrs.items()}
            for name, maps in recording.items():
                facts = json.dumps({n: str(v) for n, v in maps.attrs.items()}, sort_keys=True)
                found[key, name] = (maps[:].tobytes(), maps.items.tobytes(), facts, attributes)
    return found


def read_keys(out):
    """Read the keys of all shards in a folder, sorted; a duplicate is listed each time."""
    keys = []
    for path in sorted(out.glob("shard-*.h5")):
        with h5py.File(path) as file:
            keys += [key.decode() for key in file["index"]["key"]]
    return sorted(keys)

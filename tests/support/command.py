"""The `mrx` command: in this process, and as a process of its own."""

import json
import os
import subprocess
import sys

import h5py
from click.testing import CliRunner

import mrx as library
from mrx.cli import main


def mrx(*arguments, **options):
    """Run in this process; work is done in it too unless the arguments say otherwise."""
    words = [str(a) for a in arguments]
    if words[0] == "extract" and "--workers" not in words:
        words += ["--workers", "0"]
    ran = CliRunner().invoke(main, words, catch_exceptions=False, **options)
    ran.code = ran.exit_code
    return ran


def process(*arguments, stdin=b"", environment=None, **options):
    """Run as a process of its own."""
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


def start(*arguments, environment=None, **options):
    """Start a process and leave it running."""
    command = [sys.executable, "-m", "mrx", *(os.fspath(a) for a in arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        **options,
    )


def summary(ran):
    """The JSON summary that a run with --json printed."""
    return json.loads(ran.stdout)


def rows(ran):
    """The JSON rows that a run with --jsonl printed."""
    return [json.loads(line) for line in ran.stdout.splitlines()]


def manifest(folder):
    """The rows of an output folder's manifest, by key."""
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    return {line["key"]: line for line in lines if "key" in line}


def contents(out):
    """All that a run's shards hold, but for when and where it was made."""
    found = {}
    with library.open(out) as shards:
        for key, recording in shards.items():
            attributes = {n: str(v) for n, v in recording.attrs.items()}
            for name, maps in recording.items():
                facts = json.dumps({n: str(v) for n, v in maps.attrs.items()}, sort_keys=True)
                found[key, name] = (maps[:].tobytes(), maps.items.tobytes(), facts, attributes)
    return found


def all_keys(out):
    """Every key of every shard of a folder, as often as it stands there."""
    keys = []
    for path in sorted(out.glob("shard-*.h5")):
        with h5py.File(path) as file:
            keys += [key.decode() for key in file["index"]["key"]]
    return sorted(keys)

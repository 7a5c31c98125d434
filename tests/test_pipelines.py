"""The shell pipelines that must work, as their users type them."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from support import videos
from support.command import run_process

import mrx as library

pytestmark = pytest.mark.slow

NAMES = ("a.mp4", "b c.mp4", "d/a.mp4", "[x]*.mp4")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with videos/, and an `mrx` on the PATH of its shell."""
    root = tmp_path_factory.mktemp("pipelines")
    (root / "videos" / "d").mkdir(parents=True)
    for i, name in enumerate(NAMES):
        videos.write_clip(root / "videos" / name, 9 + i, seed=i)
    (root / "bin").mkdir()
    script = root / "bin" / "mrx"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mrx "$@"\n')
    script.chmod(0o755)
    return root


@pytest.fixture
def shell(place, tmp_path):
    """Run a line of bash in the folder; `out` is a fresh output."""

    def run(line):
        environment = {
            **os.environ,
            "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
            "out": str(tmp_path / "out"),
            "MRX_EXTRACT_WORKERS": "1",
        }
        command = ["bash", "-o", "pipefail", "-c", line]
        return subprocess.run(
            command, cwd=place, env=environment, capture_output=True, text=True, check=False
        )

    return run


def keys(out):
    with library.open(out) as shards:
        return sorted(shards)


def test_a_folder_twice_resumes_and_does_nothing(shell, tmp_path):
    first = shell('mrx extract -m mbpm videos/ -o "$out"')
    assert (first.returncode, first.stdout) == (0, "")
    again = shell('mrx extract -m mbpm videos/ -o "$out"')
    assert (again.returncode, again.stdout) == (0, "")
    assert "4 of 4 videos are done already, 0 left" in again.stderr
    assert keys(tmp_path / "out") == sorted(NAMES)


def test_names_can_be_piped_from_find_print0(shell, tmp_path):
    ran = shell("find videos -name '*.mp4' -print0 | mrx extract -0 -m mbpm - -o \"$out\"")
    assert (ran.returncode, ran.stdout) == (0, "")
    assert keys(tmp_path / "out") == sorted(NAMES)


@pytest.mark.skipif(not shutil.which("jq"), reason="jq is not installed")
def test_ls_can_be_piped_into_jq(shell):
    ran = shell(
        'mrx extract videos -o "$out" && mrx ls "$out" --jsonl | jq -r "select(.n_out<4).key"'
    )
    assert sorted(ran.stdout.splitlines()) == ["a.mp4", "b c.mp4", "d/a.mp4"]


def test_a_list_on_stdin_and_the_failed_afterwards(shell, tmp_path):
    (tmp_path / "bad.mp4").write_text("no video")
    ran = shell(
        f"(find videos -name 'a.mp4'; echo {tmp_path}/bad.mp4) > {tmp_path}/list.txt\n"
        f'mrx extract - -m mbpm -o "$out" < {tmp_path}/list.txt'
        ' || mrx ls "$out" --status failed --jsonl'
    )
    (failed,) = [json.loads(line) for line in ran.stdout.splitlines()]
    assert failed["source"] == f"{tmp_path}/bad.mp4"
    assert ran.returncode == 0


def test_shares_side_by_side(shell, tmp_path):
    ran = shell(
        f"find videos -name '*.mp4' > {tmp_path}/all.txt\n"
        f'printf "0\\n1\\n" | xargs -P2 -I% mrx extract -m mbpm @{tmp_path}/all.txt'
        ' -o "$out" --shard %/2'
    )
    assert ran.returncode == 0, ran.stderr
    assert keys(tmp_path / "out") == sorted(NAMES)
    assert shell(f'mrx extract @{tmp_path}/all.txt -o "$out" --shard 2/2').returncode == 2


def test_a_job_array(shell, tmp_path):
    ran = shell(
        f"find videos -name '*.mp4' > {tmp_path}/all.txt\n"
        "export SLURM_ARRAY_TASK_COUNT=2\n"
        f"for i in 0 1; do SLURM_ARRAY_TASK_ID=$i mrx extract @{tmp_path}/all.txt"
        ' -o "$out" --shard auto || exit; done'
    )
    assert ran.returncode == 0, ran.stderr
    assert keys(tmp_path / "out") == sorted(NAMES)


def test_print_path_into_the_next_command(shell):
    ran = shell('mrx extract videos -o "$out" --print path | mrx ls - --json')
    assert ran.returncode == 0
    assert sorted(row["key"] for row in json.loads(ran.stdout)) == sorted(NAMES)


def test_an_empty_share_succeeds(place, tmp_path):
    ran = run_process(
        "extract", place / "videos" / "a.mp4", "-o", tmp_path / "out", "--shard", "0/9"
    )
    other = run_process(
        "extract", place / "videos" / "a.mp4", "-o", tmp_path / "out", "--shard", "1/9"
    )
    assert (ran.returncode, other.returncode) == (0, 0)


def test_mrx_runs_as_a_module(place):
    ran = subprocess.run(
        [sys.executable, "-m", "mrx", "--version"], capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith("mrx ")

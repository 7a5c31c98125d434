"""Outputs that cannot be used: full, not writable, locked. One clear line, and nothing is lost."""

import os
import resource
import signal
import subprocess
import sys

import pytest
from support import videos
from support.command import mrx, run_process

import mrx as library


@pytest.fixture
def clips(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for i in range(6):
        videos.write_clip(folder / f"{i}.mp4", 30, seed=i)
    return folder


def limited(bytes_):
    """Run before the command: no file may grow beyond this."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_file_size_limit_keeps_finished_videos(clips, tmp_path, workers):
    out = tmp_path / "out"
    words = ("extract", clips, "-o", out, "--workers", workers)
    ran = run_process(*words, preexec_fn=limited(1_000_000))
    told = ran.stderr.decode()
    assert ran.returncode == 4, told
    assert "no space left, or a file-size limit" in told
    assert "Finished videos are kept" in told
    assert "Traceback" not in told
    again = run_process(*words)
    assert again.returncode == 0, again.stderr
    assert b"before)" in again.stderr
    with library.open(out) as shards:
        assert len(list(shards.rows())) == 6
    assert run_process("verify", out).returncode == 0
    assert not list(out.glob(".tmp-*"))


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be made by root only")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_keeps_finished_videos(clips, small_disk, tmp_path):
    words = ("extract", clips, "-o", small_disk / "out", "--workers", "1")
    ran = run_process(*words)
    assert ran.returncode == 4, ran.stderr
    assert b"no space left" in ran.stderr
    assert b"Traceback" not in ran.stderr
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    again = run_process(*words)
    assert again.returncode == 0, again.stderr
    with library.open(small_disk / "out") as shards:
        assert len(list(shards.rows())) == 6
    assert run_process("verify", small_disk / "out").returncode == 0


@pytest.mark.parametrize("place", ["/proc/mrx-out", "/dev/null/out"])
def test_an_output_that_cannot_be_made_is_reported(clips, place):
    ran = mrx("extract", clips, "-o", place)
    assert ran.code == 4
    assert ran.stderr.startswith(f"error: cannot write ({place})")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_without_permission_is_reported(clips, tmp_path):
    (tmp_path / "out").mkdir(mode=0o555)
    ran = mrx("extract", clips, "-o", tmp_path / "out")
    assert ran.code == 4
    assert "Permission denied" in ran.stderr


def test_double_verbose_prints_a_traceback(clips):
    ran = mrx("-vv", "extract", clips, "-o", "/proc/mrx-out")
    assert "Traceback" in ran.stderr
    assert ran.code == 4


def test_ls_into_a_closed_pipe_ends_by_sigpipe(clips, tmp_path):
    run_process("extract", clips, "-o", tmp_path / "out")
    command = f"set -o pipefail; {sys.executable} -m mrx ls {tmp_path / 'out'} --jsonl | true"
    ran = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ran.returncode, ran.stderr) == (128 + signal.SIGPIPE, "")

"""kill -9 of workers and parents, again and again: in the end all is as if nothing had happened."""

import random
import time

import pytest
from support import trouble, videos
from support.command import read_contents, read_keys, run_process, start_process
from support.trouble import list_workers

CLIPS = 30
KILLS = 6
SECONDS = 3.5  # of a run's start and work, in which the kill falls


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill") / "videos"
    folder.mkdir()
    for i in range(CLIPS):
        videos.write_clip(folder / f"{i:02}.mp4", 40 + i, height=48, width=64, seed=i)
    return folder


@pytest.mark.slow
def test_kills_at_random_lose_and_duplicate_no_video(clips, tmp_path):
    environment = {**trouble.install_package(tmp_path / "site"), "MRX_BACKEND": "opencv"}
    methods = ("-m", "trouble", "-p", "trouble.slow=0.02", "-m", "dynamic-image")

    rotating = ("--videos-per-shard", "7")

    def words(out):
        return ("extract", clips, "-o", out, *methods, "--workers", "2", "--no-resize", *rotating)

    undisturbed = run_process(*words(tmp_path / "whole"), environment=environment)
    assert undisturbed.returncode == 0, undisturbed.stderr
    expected = read_contents(tmp_path / "whole")

    chance = random.Random(20)
    kills, turn = 0, 0
    while kills < KILLS:
        turn += 1
        out = tmp_path / f"out{turn}"
        while True:
            running = start_process(*words(out), environment=environment)
            kills += _kill(running, chance) if kills < KILLS else 0
            told = running.communicate(timeout=120)[1].decode()
            assert running.returncode in (0, -9), told
            if running.returncode == 0:
                break
        assert read_contents(out) == expected
        assert read_keys(out) == sorted(key for key, _ in expected)
        assert run_process("verify", out).returncode == 0
        assert not list(out.glob(".tmp-*"))


def _kill(running, chance):
    """Kill the parent or one of its workers at a random moment; whether anything was killed."""
    time.sleep(chance.uniform(0.1, SECONDS))
    workers = list_workers(running)
    if running.poll() is not None:
        return 0
    if workers and chance.random() < 0.5:
        trouble.kill_process(chance.choice(workers))
    else:
        running.kill()
    return 1

"""Runs of shares that are killed: the next run saves their videos at once, whatever its share."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from support import trouble
from support.command import read_keys, run_process, start_process
from support.trouble import GOOD

from mrx.shards.layout import read_host_name

pytestmark = pytest.mark.slow
KEYS = [f"{i:02}.mp4" for i in range(16)]


@pytest.fixture
def environment(tmp_path):
    return trouble.install_package(tmp_path / "site")


@pytest.fixture
def words(tmp_path):
    (tmp_path / "videos").mkdir()
    for key in KEYS:
        trouble.write_clip(tmp_path / "videos" / key, GOOD, frames=20)
    shared = ("-m", "trouble", "-p", "slow=0.05", "--no-resize", "--workers", "1")
    return ["extract", tmp_path / "videos", "-o", tmp_path / "out", *shared]


@pytest.fixture
def out(tmp_path, words, environment):
    """Make a folder in which both of two shares were killed, each with a finished video."""
    running = [
        start_process(*words, "--jsonl", "--shard", f"{i}/2", environment=environment)
        for i in range(2)
    ]
    # Each by a thread of its own: one may finish while another still starts.
    with ThreadPoolExecutor() as threads:
        assert all(threads.map(kill_after_first_row, running))
    assert len(list((tmp_path / "out").glob(".tmp-*.journal"))) == 2
    return tmp_path / "out"


def kill_after_first_row(process):
    """Kill a run when its first video has ended; return the row."""
    row = process.stdout.readline()
    process.kill()
    process.communicate()
    return row


def assert_finished(out):
    assert read_keys(out) == KEYS
    assert not list(out.glob(".tmp-*"))
    assert not list(out.glob(".rescue-*"))
    assert run_process("verify", out).returncode == 0


def test_a_run_without_shares_saves_the_videos_of_all_shares(words, out, environment):
    ran = run_process(*words, environment=environment)
    assert ran.returncode == 0
    assert b"videos from a killed run" in ran.stderr
    assert_finished(out)


def test_copies_of_a_killed_salvage_go_with_any_share(words, out, environment):
    for share in ("all", "0of2", "0of3"):
        for ending in ("h5", "journal"):
            (out / f".rescue-{share}-{read_host_name()}-1-00ff.{ending}").touch()
    assert run_process(*words, "--shard", "0/3", environment=environment).returncode == 0
    assert not list(out.glob(".rescue-*"))


def test_shares_of_another_count_save_each_leftover_once(words, out, environment):
    running = [
        start_process(*words, "--shard", f"{i}/3", environment=environment) for i in range(3)
    ]
    told = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], told
    assert any(b"videos from a killed run" in text for text in told)
    assert_finished(out)

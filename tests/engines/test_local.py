"""Worker processes that die, hang or are stopped; the run goes on, and nothing is lost."""

import os
import signal
import subprocess
import sys
import time

import pytest
from support import trouble
from support.command import read_keys, read_manifest, read_rows, run_process, start_process
from support.trouble import BREAK, GOOD, HANG, KILL, RAISE, list_workers, wait_until

import mrx
from mrx.shards.layout import read_index

pytestmark = pytest.mark.slow


@pytest.fixture
def environment(tmp_path):
    return trouble.install_package(tmp_path / "site")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "videos").mkdir()
    return tmp_path / "videos"


def extract(folder, out, environment, *options, workers="2"):
    words = ("extract", folder, "-o", out, "-m", "trouble", "--no-resize", "--workers", workers)
    return run_process(*words, "--jsonl", *options, environment=environment)


def outcomes(ran):
    return {row["key"]: (row["status"], row["reason"]) for row in read_rows(ran)}


def test_a_video_that_kills_workers_fails_and_the_others_finish(folder, tmp_path, environment):
    for i in range(4):
        trouble.write_clip(folder / f"good{i}.mp4", GOOD)
    trouble.write_clip(folder / "bad.mp4", KILL)
    ran = extract(folder, tmp_path / "out", environment)
    assert ran.returncode == 1
    ended = outcomes(ran)
    assert ended.pop("bad.mp4") == ("failed", "worker died (signal 11)")
    assert set(ended.values()) == {("ok", "")}
    assert len(ended) == 4
    assert len(mrx.open(tmp_path / "out")) == 4
    assert run_process("verify", tmp_path / "out").returncode == 0


def test_videos_beside_one_that_kills_its_worker_are_retried(folder, tmp_path, environment):
    for i in range(5):
        trouble.write_clip(folder / f"good{i}.mp4", GOOD)
    trouble.write_clip(folder / "bad.mp4", KILL)
    options = ("--decode-threads", "3", "-p", "slow=0.02")
    ended = outcomes(extract(folder, tmp_path / "out", environment, *options, workers="1"))
    assert ended.pop("bad.mp4") == ("failed", "worker died (signal 11)")
    assert set(ended.values()) == {("ok", "")}
    assert read_keys(tmp_path / "out") == [f"good{i}.mp4" for i in range(5)]


def test_a_permanent_device_fault_fails_only_its_own_video(folder, tmp_path, environment):
    for i in range(4):
        trouble.write_clip(folder / f"good{i}.mp4", GOOD)
    trouble.write_clip(folder / "breaks.mp4", BREAK)
    ran = extract(folder, tmp_path / "out", environment)
    ended = outcomes(ran)
    reason = "the device failed in compute: CUDA error: unspecified launch failure"
    assert ended.pop("breaks.mp4") == ("failed", reason)
    assert set(ended.values()) == {("ok", "")}
    assert read_keys(tmp_path / "out") == [f"good{i}.mp4" for i in range(4)]


def test_a_worker_that_dies_once_costs_its_video_a_retry_only(folder, tmp_path, environment):
    trouble.write_clip(folder / "bad.mp4", KILL)
    ran = extract(
        folder, tmp_path / "out", environment, "-p", f"once={tmp_path / 'died'}", workers="1"
    )
    assert (ran.returncode, outcomes(ran)) == (0, {"bad.mp4": ("ok", "")})


def test_videos_finished_before_a_worker_died_are_kept(folder, tmp_path, environment):
    for i in range(5):
        trouble.write_clip(folder / f"a{i}.mp4", GOOD)
    trouble.write_clip(folder / "b.mp4", KILL)
    ran = extract(folder, tmp_path / "out", environment, workers="1")
    assert [r["key"] for r in read_rows(ran)] == [*(f"a{i}.mp4" for i in range(5)), "b.mp4"]
    with mrx.open(tmp_path / "out") as shards:
        assert len(list(shards.rows())) == 5


def test_a_video_that_hangs_is_given_up_after_its_time(folder, tmp_path, environment):
    trouble.write_clip(folder / "good.mp4", GOOD)
    trouble.write_clip(folder / "hang.mp4", HANG)
    ran = extract(folder, tmp_path / "out", environment, "--timeout", "3")
    assert outcomes(ran) == {
        "good.mp4": ("ok", ""),
        "hang.mp4": ("failed", "timeout: took longer than 3 s"),
    }


def test_a_bug_in_a_method_puts_its_traceback_in_the_manifest(folder, tmp_path, environment):
    trouble.write_clip(folder / "bug.mp4", RAISE)
    trouble.write_clip(folder / "good.mp4", GOOD)
    ran = extract(folder, tmp_path / "out", environment)
    assert outcomes(ran)["bug.mp4"] == (
        "failed",
        "internal error in compute: RuntimeError: a bug in a method",
    )
    assert b"Traceback" not in ran.stderr
    assert "RuntimeError" in read_manifest(tmp_path / "out")["bug.mp4"]["traceback"]


@pytest.mark.parametrize(("stop_signal", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_signal_closes_the_shards_and_the_next_run_finishes(
    folder, tmp_path, environment, stop_signal, code, workers
):
    for i in range(12):
        trouble.write_clip(folder / f"{i:02}.mp4", GOOD, frames=60)
    words = ["extract", folder, "-o", tmp_path / "out", "-m", "trouble", "-p", "slow=0.05"]
    words += ["--workers", workers, "--no-resize"]
    running = start_process(*words, "--jsonl", environment=environment)
    running.stdout.readline()
    running.send_signal(stop_signal)
    stderr = running.communicate(timeout=60)[1].decode()
    assert running.returncode == code
    assert "not reached" in stderr
    assert not list((tmp_path / "out").glob(".tmp-*"))
    done = len(mrx.open(tmp_path / "out"))
    assert 1 <= done < 12
    again = run_process(*words, environment=environment)
    assert again.returncode == 0
    assert f"12 ok ({done} before)" in again.stderr.decode()
    with mrx.open(tmp_path / "out") as shards:
        assert len(list(shards.rows())) == 12


def test_a_second_signal_ends_at_once(folder, tmp_path, environment):
    trouble.write_clip(folder / "hang.mp4", HANG)
    running = start_process(
        *("extract", folder, "-o", tmp_path / "out", "-m", "trouble", "--workers", "1"),
        environment=environment,
    )
    wait_until(lambda: list((tmp_path / "out").glob(".tmp-*")))
    began = time.monotonic()
    running.send_signal(signal.SIGINT)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=30)
    assert running.returncode == 130
    assert time.monotonic() - began < 5


LIBRARY_CALL = """
import sys, mrx
if __name__ == "__main__":
    try:
        mrx.extract(sys.argv[1], sys.argv[2], method="trouble", workers=int(sys.argv[3]),
            parameters={"trouble": {"slow": 0.05, "once": sys.argv[4]}})
    except KeyboardInterrupt:
        print("interrupted")
    print("still here")
"""


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("signals", [1, 2])
def test_a_library_call_raises_keyboard_interrupt(folder, tmp_path, environment, workers, signals):
    # Two signals are for a run that hangs, which a worker process does here.
    level, mark = GOOD if signals == 1 else HANG, tmp_path / "hangs"
    for i in range(12):
        trouble.write_clip(folder / f"{i:02}.mp4", level, frames=60)
    running = subprocess.Popen(
        [sys.executable, "-c", LIBRARY_CALL, folder, tmp_path / "out", workers, mark],
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    manifest = tmp_path / "out" / "manifest.jsonl"
    if signals == 1:
        wait_until(lambda: manifest.is_file() and b"ok" in manifest.read_bytes())
    else:
        wait_until(mark.exists)
    for _ in range(signals):
        running.send_signal(signal.SIGINT)
        time.sleep(0.5)
    assert running.communicate(timeout=60)[0].decode() == "interrupted\nstill here\n"
    assert running.returncode == 0
    if signals == 1:
        assert not list((tmp_path / "out").glob(".tmp-*"))
        assert 1 <= len(mrx.open(tmp_path / "out")) < 12


def test_workers_end_when_their_parent_is_killed(folder, tmp_path, environment):
    trouble.write_clip(folder / "hang.mp4", HANG)
    running = start_process(
        *("extract", folder, "-o", tmp_path / "out", "-m", "trouble", "--workers", "1"),
        environment=environment,
    )
    wait_until(lambda: list((tmp_path / "out").glob(".tmp-*")))
    (worker,) = list_workers(running)
    running.kill()
    running.communicate()
    wait_until(lambda: not _alive(worker), seconds=5)


def _alive(number):
    try:
        with open(f"/proc/{number}/stat") as state:  # noqa: PTH123 - /proc
            return state.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_second_run_on_the_same_output_is_refused(folder, tmp_path, environment):
    trouble.write_clip(folder / "hang.mp4", HANG)
    running = start_process(
        *("extract", folder, "-o", tmp_path / "out", "-m", "trouble", "--workers", "0"),
        environment=environment,
    )
    wait_until(lambda: list((tmp_path / "out").glob(".tmp-*")))
    second = extract(folder, tmp_path / "out", environment)
    running.kill()
    running.communicate()
    assert second.returncode == 4
    assert b"output is being written by another run" in second.stderr


def test_progress_is_silent_without_a_terminal(folder, tmp_path, environment):
    trouble.write_clip(folder / "good.mp4", GOOD)
    ran = extract(folder, tmp_path / "out", environment)
    assert len(ran.stderr.decode().splitlines()) == 1


def test_shards_of_processes_on_one_folder_never_collide(folder, tmp_path, environment):
    for i in range(8):
        trouble.write_clip(folder / f"{i}.mp4", GOOD)
    words = ["extract", folder, "-o", tmp_path / "out", "-m", "trouble", "--workers", "1"]
    running = [
        start_process(*words, "--shard", f"{i}/3", environment=environment) for i in range(3)
    ]
    assert [shard.wait(timeout=60) for shard in running] == [0, 0, 0]
    for shard in running:
        shard.communicate()
    assert read_keys(tmp_path / "out") == [f"{i}.mp4" for i in range(8)]


@pytest.mark.parametrize("videos_per_shard", ["1", "2"])
@pytest.mark.parametrize("point", trouble.KILL_POINTS)
def test_a_worker_killed_between_two_shards_doubles_nothing(
    folder, tmp_path, environment, point, videos_per_shard
):
    keys = [f"{i}.mp4" for i in range(6)]
    for key in keys:
        trouble.write_clip(folder / key, GOOD)
    marker = tmp_path / "killed"
    environment |= {"TROUBLE_KILL": f"{point},2,{marker}"}
    options = ("--videos-per-shard", videos_per_shard)
    ran = extract(folder, tmp_path / "out", environment, *options, workers="1")
    assert (ran.returncode, marker.exists()) == (0, True), ran.stderr
    assert b"6 ok, 0 skipped, 0 failed" in ran.stderr
    ended = sorted((row["key"], row["status"]) for row in read_rows(ran))
    assert ended == [(key, "ok") for key in keys]
    assert read_keys(tmp_path / "out") == keys
    assert run_process("verify", tmp_path / "out").returncode == 0


def test_a_video_safe_at_its_workers_second_death_is_ok(folder, tmp_path, environment):
    trouble.write_clip(folder / "bad.mp4", KILL)
    environment |= {"TROUBLE_KILL": f"record,1,{tmp_path / 'killed'}"}
    options = ("-p", f"once={tmp_path / 'died'}")
    ran = extract(folder, tmp_path / "out", environment, *options, workers="1")
    assert (ran.returncode, outcomes(ran)) == (0, {"bad.mp4": ("ok", "")})
    assert (tmp_path / "killed").exists()
    assert read_keys(tmp_path / "out") == ["bad.mp4"]


def test_workers_that_are_killed_while_they_start_are_replaced(folder, tmp_path, environment):
    for i in range(4):
        trouble.write_clip(folder / f"{i}.mp4", GOOD)
    words = ["extract", folder, "-o", tmp_path / "out", "-m", "trouble", "--workers", "2"]
    running = start_process(*words, "--overwrite", environment=environment)
    trouble.kill_process(
        min(wait_until(lambda: list_workers(running)[1:] and list_workers(running)))
    )
    stderr = running.communicate(timeout=60)[1].decode()
    assert (running.returncode, "4 ok, 0 skipped, 0 failed" in stderr) == (0, True), stderr
    assert read_keys(tmp_path / "out") == [f"{i}.mp4" for i in range(4)]


def test_a_signal_to_the_whole_group_closes_the_shards_too(folder, tmp_path, environment):
    for i in range(12):
        trouble.write_clip(folder / f"{i:02}.mp4", GOOD, frames=60)
    words = ["extract", folder, "-o", tmp_path / "out", "-m", "trouble", "-p", "slow=0.05"]
    running = start_process(
        *words, "--workers", "2", "--jsonl", environment=environment, start_new_session=True
    )
    running.stdout.readline()
    os.killpg(running.pid, signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 143
    assert not list((tmp_path / "out").glob(".tmp-*"))
    assert len(read_keys(tmp_path / "out")) >= 1


@pytest.mark.parametrize("workers", ["0", "2"])
def test_shards_carry_the_number_of_their_run(folder, tmp_path, environment, workers):
    numbers = []
    for run in range(2):
        for i in range(2):
            trouble.write_clip(folder / f"{run}{i}.mp4", GOOD)
        extract(folder, tmp_path / "out", environment, workers=workers)
        shards = (tmp_path / "out").glob("shard-*.h5")
        numbers.append({read_index(path).run for path in shards})
    assert numbers == [{1}, {1, 2}]

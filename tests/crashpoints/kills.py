"""Kill real runs at random moments and cut off their disk, and hold the next run to its promises.

    python tests/crashpoints/kills.py [--kills 200] [--cuts 50] [--seed 1] [--folder DIR]

A kill is SIGKILL to the parent, to a worker or to the whole group, or SIGTERM, SIGINT or twice
SIGINT to the parent, each in turn. A cut is a limit on the size of files (``ulimit -f``), or a
small tmpfs where mounting is permitted. After each the same extraction runs again, without limits
and in this process; then all videos must be there, as in a run that nothing disturbed.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from replay import count_double_rows, list_leftovers  # noqa: E402
from support import trouble, videos  # noqa: E402
from support.command import read_contents, read_manifest, run_process, start_process  # noqa: E402

import mrx  # noqa: E402
from mrx.job import Decoding, Storage  # noqa: E402
from mrx.shards.verify import check_output  # noqa: E402

CLIPS = 12
SLOW = 0.02  # seconds of a batch
KINDS = ("parent", "worker", "group", "SIGTERM", "SIGINT", "double SIGINT")
START_SECONDS, WORK_SECONDS = 2.0, 1.5  # in which the kill falls; every fourth at the start
PATIENCE = 300  # seconds until a run hangs
FULL = b"no space left, or a file-size limit"
BLOCK = 1024  # bytes of a unit of ``ulimit -f``


class KilledRuns:
    """Runs of one command, and what came of them.

    Args:
        root: a folder for videos and outputs
        seed: of the moments

    Attributes:
        outcomes: how often each exit code came, by kind
        broken: a line for each broken promise
    """

    def __init__(self, root, seed):
        self.root = root
        self.random = random.Random(seed)
        self.outcomes = Counter()
        self.broken = []
        self.site = root / "site"
        self.environment = trouble.install_package(self.site)
        self.environment["MRX_BACKEND"] = "opencv"
        self.clips = root / "videos"
        self.clips.mkdir()
        for i in range(CLIPS):
            frames = 20 + 3 * i
            videos.write_clip(self.clips / f"{i:02}.mp4", frames, height=48, width=64, seed=i)
        whole = root / "whole"
        assert self._extract(whole).exit_code == 0
        self.expected = read_contents(whole)
        self.largest = max(path.stat().st_size for path in whole.glob("shard-*.h5"))
        self.size = sum(path.stat().st_size for path in whole.iterdir())

    def _words(self, out):
        methods = ("-m", "trouble", "-p", f"trouble.slow={SLOW}", "-m", "dynamic-image")
        options = ("--workers", "2", "--no-resize", "--videos-per-shard", "4")
        return ("extract", self.clips, "-o", out, *methods, *options)

    def _extract(self, out):
        """Do as the command does, in this process."""
        with trouble.find_package_in(self.site):
            return mrx.extract(
                self.clips,
                out,
                method=["trouble", "dynamic-image"],
                parameters={"trouble": {"slow": SLOW}},
                decoding=Decoding(short_side=None),
                storage=Storage(videos_per_shard=4),
                backend="opencv",
            )

    def kill_run(self, number):
        """Start a run, kill it in a way that the number chooses, and let another complete it.

        Returns:
            1 if the run was killed, 0 if it or its workers had ended before
        """
        kind, out = KINDS[number % len(KINDS)], self.root / f"kill{number}"
        running = start_process(
            *self._words(out), environment=self.environment, start_new_session=True
        )
        if number // len(KINDS) % 4 == 0:
            time.sleep(self.random.uniform(0.1, START_SECONDS))
        else:
            _wait_for_work(running, out)
            time.sleep(self.random.uniform(0.0, WORK_SECONDS))
        was_running = running.poll() is None and _send(kind, running, self.random)
        text = running.communicate(timeout=PATIENCE)[1].decode()
        self.outcomes[kind, running.returncode] += 1
        if "Traceback" in text:
            self.broken.append(f"{kind} {number}: {text[-1500:]}")
        self._complete(f"{kind} {number}", out)
        return int(was_running)

    def cut_run(self, number, mount=None):
        """Run with little room for files, and let a run with enough room complete it."""
        out = self.root / f"cut{number}"
        if mount is None:
            blocks = self.random.randint(1, self.largest // BLOCK)
            ran = self._run_limited(out, blocks)
            kind = f"ulimit -f {blocks}"
        else:
            kind = f"tmpfs of {self._mount(out, mount)} bytes"
            ran = run_process(*self._words(out), environment=self.environment)
        self.outcomes["cut", ran.returncode] += 1
        if ran.returncode not in (0, 4) or b"Traceback" in ran.stderr:
            self.broken.append(f"{kind}: exit code {ran.returncode}: {ran.stderr[-1500:]}")
        if ran.returncode == 4 and FULL not in ran.stderr:
            self.broken.append(f"{kind}: says {ran.stderr[-300:]}")
        if mount:
            subprocess.run(["mount", "-o", "remount,size=1g", out], check=True)
        try:
            self._complete(kind, out)
        finally:
            if mount:
                subprocess.run(["umount", out], check=True)

    def _run_limited(self, out, blocks):
        # SIGXFSZ is ignored by Python, so that a write past the limit is an error.
        words = [sys.executable, "-m", "mrx", *map(os.fspath, self._words(out))]
        command = ["bash", "-c", f'ulimit -f {blocks}; exec "$@"', "bash", *words]
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            command, capture_output=True, env=environment, timeout=PATIENCE, check=False
        )

    def _mount(self, out, mount):
        out.mkdir()
        size = self.random.randint(16 * 1024, self.size)
        subprocess.run([*mount, "-o", f"size={size}", "tmpfs", out], check=True)
        return size

    def _complete(self, name, out):
        """Run the command again, and note what is not as promised."""
        try:
            summary = self._extract(out)
        except Exception as error:  # noqa: BLE001 - told with the others
            self.broken.append(f"{name}: then {type(error).__name__}: {error}")
            return
        if summary.exit_code or summary.ok != CLIPS:
            self.broken.append(f"{name}: then {summary}")
        if (found := read_contents(out)) != self.expected:
            missing = sorted(self.expected.keys() ^ found.keys())
            self.broken.append(f"{name}: other maps, or not these videos: {missing}")
        if doubled := count_double_rows(out):
            self.broken.append(f"{name}: {doubled} rows twice")
        if left := list_leftovers(out):
            self.broken.append(f"{name}: leftovers {left}")
        rows = read_manifest(out)
        done = {key for key, row in rows.items() if row["status"] == "ok"}
        if done != {key for key, _ in self.expected}:
            self.broken.append(f"{name}: the manifest has ok rows of {sorted(done)} only")
        if problems := [str(problem) for problem in check_output(out)]:
            self.broken.append(f"{name}: verify finds {problems}")


def _wait_for_work(running, out):
    """Wait until a worker has begun a shard, or the run has ended."""
    deadline = time.monotonic() + PATIENCE
    while running.poll() is None and not list(out.glob(".tmp-*")):
        assert time.monotonic() < deadline, f"no work within {PATIENCE} s"
        time.sleep(0.01)


def _send(kind, running, chance):
    """Send the signal of a kind; return False if there is no worker to send it to."""
    if kind == "worker":
        workers = trouble.list_workers(running)
        if workers:
            trouble.kill_process(chance.choice(workers))
        return bool(workers)
    if kind == "group":
        os.killpg(running.pid, signal.SIGKILL)
    elif kind == "parent":
        running.kill()
    elif kind == "SIGTERM":
        running.send_signal(signal.SIGTERM)
    else:
        running.send_signal(signal.SIGINT)
        if kind == "double SIGINT":
            time.sleep(chance.uniform(0.0, 0.3))
            running.send_signal(signal.SIGINT)
    return True


def find_mount_command(folder):
    """Return the command that mounts a tmpfs, or None where it is not permitted."""
    place, command = folder / "mounted", ["mount", "-t", "tmpfs"]
    place.mkdir()
    try:
        subprocess.run([*command, "tmpfs", place], check=True, capture_output=True)
        subprocess.run(["umount", place], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return command


def disturb_runs(root, *, kills, cuts, seed):
    """Kill and cut off runs; return the `KilledRuns`."""
    runs = KilledRuns(root, seed)
    number = killed = 0
    while killed < kills:
        killed += runs.kill_run(number)
        number += 1
        if number % 20 == 0:
            print(f"{killed} kills, {len(runs.broken)} broken promises", flush=True)
    mount = find_mount_command(root)
    for number in range(cuts):
        runs.cut_run(number, mount if number % 2 else None)
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", help="where to write")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        runs = disturb_runs(Path(folder), kills=options.kills, cuts=options.cuts, seed=options.seed)
        print("tmpfs:", "mounted" if find_mount_command(Path(folder) / "videos") else "not mounted")
    for (kind, code), count in sorted(runs.outcomes.items()):
        print(f"{kind}: exit code {code} {count} times")
    print("\n".join(runs.broken))
    print(
        f"{options.kills} kills and {options.cuts} cuts in {time.monotonic() - began:.0f} s: "
        f"{len(runs.broken)} broken promises"
    )
    sys.exit(1 if runs.broken else 0)


if __name__ == "__main__":
    main()

"""Provide a method that crashes, hangs or fails, as a bad video or a broken device might.

The brightness of a video selects the effect, so that one run can hold good and bad videos. `mrx`
finds the method through an entry point, as it finds the methods of any other package.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from support import videos

KILL, HANG, RAISE, BREAK, GOOD = 250, 5, 200, 40, 100
MODULE = '''
import os, signal, time
from pathlib import Path
from mrx.methods.spec import Method, Representation

class Trouble(Representation):
    """Die, hang or fail, by brightness."""

    def __init__(self, slow: float = 0.0, once: str = ""):
        super().__init__()
        self.length, self.step, self.channels, self.bound = 2, 2, ("level",), 255.0
        self.slow, self.once = slow, once

    def forward(self, clip):
        return clip.float().mean((1, 2), keepdim=False)[:, None]

    def extract(self, frames):
        time.sleep(self.slow)
        level = frames[:, :, :, ::8, ::8].float().mean()
        first = not self.once or not Path(self.once).exists()
        if self.once and level > 225:
            Path(self.once).touch()
        if level > 225 and first:
            os.kill(os.getpid(), signal.SIGSEGV)
        if level < 20:
            if self.once:
                Path(self.once).touch()
            time.sleep(600)
        if 180 < level < 220:
            raise RuntimeError("a bug in a method")
        if 30 < level < 50:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return self(frames)

METHOD = Method("trouble", Trouble, "crashes, hangs or fails on request", "none", "light")
if "TROUBLE_KILL" in os.environ:
    import trouble_kill
'''
# Patches the worker, not the parent, which imports the methods too. The first worker to reach the
# point for the nth time kills itself there; the marker keeps its successors alive.
KILL_MODULE = """
import multiprocessing, os, signal
from pathlib import Path
from mrx.shards.journal import Journal

point, turn, marker = os.environ["TROUBLE_KILL"].split(",", 2)
turns_left = int(turn)

def die():
    global turns_left
    turns_left -= 1
    if turns_left or Path(marker).exists():
        return
    Path(marker).touch()
    os.kill(os.getpid(), signal.SIGKILL)

def kill_around(owner, name, when):
    work = getattr(owner, name)
    def act(*args, **options):
        if when == "before":
            die()
        result = work(*args, **options)
        if when == "after":
            die()
        return result
    setattr(owner, name, act)

POINTS = {
    "record": (Journal, "append_record", "after"),
    "name": (Path, "hardlink_to", "after"),
    "unlink": (Journal, "remove", "before"),
    "publish": (Journal, "remove", "after"),
}
if multiprocessing.parent_process():
    kill_around(*POINTS[point])
"""
KILL_POINTS = ("record", "name", "unlink", "publish")


def install_package(folder):
    """Write the package to a folder, and return the environment in which `mrx` finds it."""
    information = folder / "trouble-1.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: trouble\nVersion: 1\n")
    (information / "entry_points.txt").write_text(
        "[mrx.methods]\ntrouble = trouble_method:METHOD\n"
    )
    (folder / "trouble_method.py").write_text(MODULE)
    (folder / "trouble_kill.py").write_text(KILL_MODULE)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


@contextlib.contextmanager
def find_package_in(folder):
    """Let this process find the package too, for a while."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("trouble_method", None)


def write_clip(path, level, frames=10):
    """Write a video of one brightness."""
    return videos.write_video(path, [np.full((48, 64, 3), level, np.uint8)] * frames)


def list_workers(process):
    """List the process ids of the workers of a running command."""
    tasks = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        candidates = [int(number) for number in tasks.read_text().split()]
        return [n for n in candidates if b"spawn_main" in Path(f"/proc/{n}/cmdline").read_bytes()]
    except FileNotFoundError:
        return []


def wait_until(condition, seconds=30):
    """Wait until a condition about another process is true, and return its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"did not happen within {seconds} s")


def kill_process(number):
    """Kill a process, if it still runs."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, signal.SIGKILL)

"""A method of another package that does to its process what a bad video might.

What it does is told by how bright the video is, so that one run may hold good and bad ones. It is
found by `mrx` through an entry point, as any other package's method would be.
"""

import contextlib
import os
import signal
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
            time.sleep(600)
        if 180 < level < 220:
            raise RuntimeError("a bug in a method")
        if 30 < level < 50:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return self(frames)

METHOD = Method("trouble", Trouble, "does what a bad video might", "none", "light")
'''


def install(folder):
    """Put the package where `mrx` finds it; the environment that processes need."""
    information = folder / "trouble-1.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: trouble\nVersion: 1\n")
    (information / "entry_points.txt").write_text(
        "[mrx.methods]\ntrouble = trouble_method:METHOD\n"
    )
    (folder / "trouble_method.py").write_text(MODULE)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def clip(path, level, frames=10):
    """A video of one brightness."""
    return videos.write(path, [np.full((48, 64, 3), level, np.uint8)] * frames)


def children(process):
    """The process numbers of a running command's workers."""
    tasks = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        candidates = [int(number) for number in tasks.read_text().split()]
        return [n for n in candidates if b"spawn_main" in Path(f"/proc/{n}/cmdline").read_bytes()]
    except FileNotFoundError:
        return []


def until(condition, seconds=30):
    """Wait for something that happens in another process."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"did not happen within {seconds} s")


def kill(number):
    """Kill a process, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, signal.SIGKILL)

"""Measure a folder of many videos: the plan of a resumed run, a listing, opening, and verifying.

The shards are written directly, with tiny maps, so that what is measured is what each video costs
beside its maps. `verify` is measured on a tenth of the shards and on all, for its growth. The first
three must take less than 5 s each for 10,000 videos.

    python tests/benchmarks/many_videos.py [--videos 10000] [--shard 500] [--folder DIR]
"""

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import mrx
from mrx.job import Job, Storage
from mrx.records import Motion
from mrx.shards.chunks import pack_motion
from mrx.shards.encoding import Encoding
from mrx.shards.layout import list_shards
from mrx.shards.resume import inspect_output
from mrx.shards.verify import check_output
from mrx.shards.writer import ShardWriter

SETTINGS = {"methods": {"mbpm": {"sigma": 1.1}}, "dtype": "float16"}
ATTRIBUTES = {"avg_fps": 25.0, "duration": 1.0, "source_size": 10, "source_mtime": 2.5}
METHOD = {"units": "a.u.", "channels": ["r"], "params_json": "{}"}
ITEMS = 4
MOST_SECONDS = 5.0


def write_folder(folder, videos, per_shard):
    """Write shards of videos of four tiny maps each."""
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(ITEMS, 1, 8, 8)))
    index = np.arange(ITEMS)[:, None] * 3 + [0, 2]
    motion = Motion(values.float(), index, index / 25)
    encoding = Encoding.from_storage(Storage(dtype="float16"), units="a.u.", bound=1.0)
    packed = pack_motion(motion, encoding, {})
    for first in range(0, videos, per_shard):
        writer = ShardWriter.for_job(Job(output=str(folder)), SETTINGS)
        for number in range(first, min(first + per_shard, videos)):
            entry = writer.begin_entry(f"{number % 100:02}/{number:06}.mp4")
            entry.create_dataset("mbpm", shape=packed.shape, encoding=encoding, filters={})
            entry.append_maps("mbpm", packed)
            attributes = {**ATTRIBUTES, "source": f"/videos/{number:06}.mp4"}
            entry.commit_video(attributes, {"mbpm": METHOD})
        writer.seal_shard()


def measure(name, work, limit=None):
    """Time a function, print it, and return its CPU seconds and its result."""
    began, cpu_began = time.perf_counter(), read_cpu_seconds()
    result = work()
    seconds, cpu = time.perf_counter() - began, read_cpu_seconds() - cpu_began
    bound = "" if limit is None else f"  (at most {limit:g}: {'ok' if seconds < limit else 'NO'})"
    print(f"{name:<32} {seconds:8.2f} s, {cpu:8.2f} s CPU{bound}", flush=True)
    return cpu, result


def read_cpu_seconds():
    """Return the CPU seconds of this process and of those that it has waited for."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def list_videos(folder):
    """Run the command, with its start."""
    ran = subprocess.run(
        [sys.executable, "-m", "mrx", "ls", folder], capture_output=True, check=True
    )
    return len(ran.stdout.splitlines())


def open_and_list(folder):
    """Open the folder, and list the keys."""
    with mrx.open(folder) as shards:
        return len(list(shards))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=10_000)
    parser.add_argument("--shard", type=int, default=500)
    parser.add_argument("--folder", help="where to write")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        folder, part = Path(root) / "all", Path(root) / "part"
        folder.mkdir()
        part.mkdir()
        measure("writing", lambda: write_folder(folder, options.videos, options.shard))
        shards = list_shards(folder)
        for path in shards[: max(1, len(shards) // 10)]:
            shutil.copy(path, part)
        size = sum(path.stat().st_size for path in shards)
        print(f"{options.videos} videos in {len(shards)} shards, {size / 1e6:.0f} MB")
        job = Job(output=str(folder))
        _, state = measure(
            "the plan of a resumed run", lambda: inspect_output(job, SETTINGS), MOST_SECONDS
        )
        _, listed = measure("mrx ls, with its start", lambda: list_videos(folder), MOST_SECONDS)
        _, opened = measure("mrx.open and its keys", lambda: open_and_list(folder), MOST_SECONDS)
        assert (len(state.done), opened) == (options.videos, options.videos)
        assert listed >= options.videos
        for name, place in (("verify of a tenth", part), ("verify of all", folder)):
            cpu, problems = measure(name, lambda place=place: list(check_output(place)))
            assert problems == []
            videos = options.videos * len(list_shards(place)) / len(shards)
            print(f"{'':<32} {cpu / videos * 1000:25.2f} ms CPU a video")


if __name__ == "__main__":
    main()

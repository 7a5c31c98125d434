"""Compare the cost of writing shards with that of another checkout, in turn, on maps of real clips.

Each turn is a process of its own with one of the two trees: it packs, writes, commits and seals the
maps of all clips, as a worker does, and tells its CPU time and the bytes of the shard. At last the
time is measured in which this tree saves the videos of a killed run.

    python tests/benchmarks/writer_cost.py --before DIR CLIP... [--repeats 5] [--folder DIR]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

STORED = (("float16", "none"), ("float16", "gzip"))
BATCH = 8
SHARDS = 6  # a turn
MOST_CPU, MOST_BYTES = 1.05, 1.02
SETTINGS = {"methods": {"mbpm": {}}, "dtype": "float16"}
ATTRIBUTES = {"avg_fps": 25.0, "duration": 10.0, "source_size": 10, "source_mtime": 2.5}
METHOD = {"units": "a.u.", "channels": ["r", "g", "b"], "params_json": "{}"}


def compute_maps(clips, folder):
    """Compute the maps of real clips, and store them as one array a clip."""
    import mrx
    from mrx.job import Storage

    storage = Storage(dtype="float32", compression="none")
    mrx.extract(clips, folder / "maps", method="mbpm", storage=storage)
    with mrx.open(folder / "maps") as shards:
        for i, recording in enumerate(shards.values()):
            np.save(folder / f"{i}.npy", recording["mbpm"][:])


def write_shard(folder, out, dtype, compression):
    """Write all clips to a shard; return the writer, unsealed, and the number of maps."""
    from mrx.job import Job, Storage
    from mrx.records import Motion
    from mrx.shards.chunks import pack_motion
    from mrx.shards.compression import dataset_options
    from mrx.shards.encoding import Encoding
    from mrx.shards.writer import ShardWriter

    encoding = Encoding.from_storage(Storage(dtype=dtype), units="a.u.", bound=1.0)
    filters = dataset_options(compression, cost="light")
    # The name before format 2 was that of the class.
    begin_shard = getattr(ShardWriter, "for_job", ShardWriter)
    writer = begin_shard(Job(output=str(out)), SETTINGS)
    count = 0
    for path in sorted(folder.glob("*.npy")):
        maps = torch.from_numpy(np.load(path, mmap_mode="c"))
        entry = writer.begin_entry(path.stem)
        entry.create_dataset("mbpm", shape=maps.shape[1:], encoding=encoding, filters=filters)
        for first in range(0, len(maps), BATCH):
            data = maps[first : first + BATCH]
            index = np.arange(first, first + len(data))[:, None] * 3 + [0, 2]
            entry.append_maps(
                "mbpm", pack_motion(Motion(data, index, index / 25), encoding, filters)
            )
        entry.commit_video(ATTRIBUTES, {"mbpm": METHOD})
        count += len(maps)
    return writer, count


def measure_turn(folder, dtype, compression):
    """Print the least CPU seconds and bytes of a map as JSON; load on the machine adds to them."""
    torch.set_num_threads(1)
    results = []
    for _ in range(SHARDS):
        with tempfile.TemporaryDirectory(dir=folder) as out:
            began = time.process_time()
            writer, count = write_shard(folder, Path(out), dtype, compression)
            size = writer.seal_shard().stat().st_size
            results.append((time.process_time() - began) / count)
    print(json.dumps([min(results), size / count]))


def measure_salvage(folder, dtype, compression):
    """Print the time in which the videos of a killed run become a shard."""
    from mrx.shards.contents import read_known_videos
    from mrx.shards.repair import salvage_leftover

    with tempfile.TemporaryDirectory(dir=folder) as out:
        writer, count = write_shard(folder, Path(out), dtype, compression)
        size = writer.path.stat().st_size
        writer.abandon_shard()
        began, cpu_began = time.perf_counter(), time.process_time()
        saved = salvage_leftover(writer.path, "", read_known_videos([])).saved
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    print(
        f"salvage of {len(saved)} videos, {count} maps, {size / 1e6:.0f} MB as {dtype} "
        f"{compression}: {seconds:.2f} s, {cpu:.2f} s CPU, {size / cpu / 1e6:.0f} MB per CPU second"
    )


def run_turn(tree, folder, dtype, compression):
    """Measure one tree in a process of its own."""
    command = [sys.executable, __file__, "--turn", folder, "--stored", dtype, compression]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    ran = subprocess.run(command, capture_output=True, check=True, env=environment, text=True)
    return json.loads(ran.stdout)


def compare_trees(before, folder, repeats):
    """Measure both trees in turn, and print the ratios of this one to the other."""
    now = Path(__file__).parents[2]
    for dtype, compression in STORED:
        pairs = []
        for _ in range(repeats):
            pairs.append([run_turn(t, folder, dtype, compression) for t in (before, now)])
        old, new = (statistics.median(pair[i][0] for pair in pairs) * 1000 for i in (0, 1))
        ratios = sorted(pair[1][0] / pair[0][0] for pair in pairs)
        cpu, size = statistics.median(ratios), pairs[0][1][1] / pairs[0][0][1]
        print(
            f"{dtype} {compression}: {old:.3f} and {new:.3f} ms CPU a map, {cpu:.3f} times "
            f"({ratios[0]:.3f}..{ratios[-1]:.3f}), at most {MOST_CPU}; "
            f"{pairs[0][0][1] / 1000:.1f} and {pairs[0][1][1] / 1000:.1f} kB a map, "
            f"{size:.4f} times, at most {MOST_BYTES}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="*")
    parser.add_argument("--before", type=Path, help="the checkout to compare with")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where to write, as /dev/shm or a disk")
    parser.add_argument("--turn", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--stored", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        measure_turn(options.turn, *options.stored)
        return
    if not (options.before and options.clips):
        parser.error("give --before and clips")
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        compute_maps(options.clips, Path(root))
        compare_trees(options.before, Path(root), options.repeats)
        for stored in STORED:
            measure_salvage(Path(root), *stored)


if __name__ == "__main__":
    main()

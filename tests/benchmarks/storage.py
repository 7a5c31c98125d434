"""Maps into HDF5: filters inside the library against chunks made outside of its lock.

The plain way gives values to a dataset (``dataset[...] = values``), whose filters then compress and
sum them inside the library, where one thread at a time may be. `mrx.shards.chunks` makes the bytes
of each chunk itself, and the library only stores them. Both encode alike, hold one map a chunk with
a checksum, and are read back and compared before anything is timed. In turn, several times: one
thread that packs and writes, then two that pack beside one that writes. The CPU time of that writer
alone bounds the rate, whatever the number of packers.

    python tests/benchmarks/storage.py [--maps 64] [--repeats 5] [--folder DIR]
"""

import argparse
import os
import platform
import queue
import statistics
import tempfile
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import torch

from mrx import kernels
from mrx.job import Storage
from mrx.records import Motion
from mrx.shards.chunks import pack_motion
from mrx.shards.compression import dataset_options
from mrx.shards.encoding import Encoding, ValueStatistics, encode_maps
from mrx.shards.writer import MethodDataset

STORED = (("float16", "none"), ("float16", "gzip"), ("uint8", "gzip"), ("q16", "gzip"))
SHAPES = {"2x256x340": (2, 256, 340), "3x256x340": (3, 256, 340)}
BATCH = 8
PACKERS = 2
WAITING = 4  # batches before the writer


def field(count, shape, seed=0):
    """Smooth motion with a little noise, in pixels; not as easy to compress as a drawing."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, shape[0], 9, 12, generator=generator) * 4
    smooth = torch.nn.functional.interpolate(coarse, shape[1:], mode="bicubic")
    return smooth + torch.randn(smooth.shape, generator=generator) * 0.02


def batches(maps):
    """Maps as a method gives them, a few at a time, each with its place."""
    for begin in range(0, len(maps), BATCH):
        data = maps[begin : begin + BATCH]
        places = np.arange(begin, begin + len(data))
        yield Motion(data, np.stack([places, places + 1], 1), np.zeros((len(data), 2)))


class Plain:
    """Values into a dataset, filters in the library."""

    def __init__(self, file, shape, encoding, chosen):
        self.encoding = encoding
        self.dataset = file.create_dataset(
            "maps",
            (0, *shape),
            encoding.dtype,
            maxshape=(None, *shape),
            chunks=(1, *shape),
            fletcher32=True,
            **chosen,
        )

    def prepare(self, motion):
        return encode_maps(motion.data, self.encoding, ValueStatistics())

    def write(self, raw):
        before = len(self.dataset)
        self.dataset.resize(before + len(raw), axis=0)
        self.dataset[before:] = raw


class Packs:
    """Chunks made first, as `mrx extract` does."""

    def __init__(self, file, shape, encoding, chosen):
        self.encoding, self.chosen = encoding, chosen
        self.series = MethodDataset(file, "maps", shape, encoding, chosen)

    def prepare(self, motion):
        return pack_motion(motion, self.encoding, self.chosen)

    def write(self, packed):
        self.series.append_maps(packed)


def alone(way, maps):
    for motion in batches(maps):
        way.write(way.prepare(motion))


def beside(way, maps):
    """Threads that prepare, and this one, which writes in the order of their coming."""
    todo, ready = queue.SimpleQueue(), queue.Queue(WAITING)
    for motion in batches(maps):
        todo.put(motion)
    count = todo.qsize()

    def work():
        torch.set_num_threads(1)
        while True:
            try:
                motion = todo.get_nowait()
            except queue.Empty:
                return
            ready.put(way.prepare(motion))

    threads = [threading.Thread(target=work) for _ in range(PACKERS)]
    for thread in threads:
        thread.start()
    for _ in range(count):
        way.write(ready.get())
    for thread in threads:
        thread.join()


def store(kind, drive, maps, encoding, chosen, path):
    """Seconds of writing all maps into a new file: wall, CPU, and CPU of this thread."""
    path.unlink(missing_ok=True)
    clocks = (time.perf_counter, time.process_time, time.thread_time)
    began = [clock() for clock in clocks]
    with h5py.File(path, "x") as file:
        drive(kind(file, tuple(maps.shape[1:]), encoding, chosen), maps)
    return [clock() - start for clock, start in zip(clocks, began, strict=True)]


def check(maps, encoding, chosen, paths):
    """Both files hold the same numbers, checksums included in the reading; their sizes."""
    for kind, path in paths.items():
        store(kind, alone, maps, encoding, chosen, path)
    with h5py.File(paths[Plain]) as first, h5py.File(paths[Packs]) as second:
        assert first["maps"].dtype == second["maps"].dtype
        assert np.array_equal(first["maps"][:], second["maps"][:])
    return [path.stat().st_size for path in paths.values()]


def measure(maps, dtype, compression, folder, repeats):
    encoding = Encoding.from_storage(Storage(dtype=dtype), units="px", bound=20.0)
    chosen = dataset_options(compression, cost="heavy")
    paths = {Plain: folder / "plain.h5", Packs: folder / "packs.h5"}
    sizes = check(maps, encoding, chosen, paths)
    taken = {(kind, drive): [] for drive in (alone, beside) for kind in paths}
    for kind, drive in taken:  # threads and caches
        store(kind, drive, maps, encoding, chosen, paths[kind])
    for _ in range(repeats):
        for (kind, drive), times in taken.items():
            times.append(store(kind, drive, maps, encoding, chosen, paths[kind]))
    return sizes, taken


def tell(name, count, sizes, taken):
    for drive, words in ((alone, "1 thread"), (beside, f"{PACKERS} pack, 1 writes")):
        rows = []
        for kind in (Plain, Packs):
            wall, cpu, _ = zip(*taken[kind, drive], strict=True)
            rows += [count / statistics.median(wall), statistics.median(cpu) / count * 1000]
        pairs = list(zip(taken[Plain, drive], taken[Packs, drive], strict=True))
        faster, cheaper = (statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1))
        spread = sorted(a[0] / b[0] for a, b in pairs)
        print(
            f"{name:<24} {words:<18} {rows[0]:9.0f} {rows[2]:9.0f}  {faster:5.2f} "
            f"({spread[0]:.2f}..{spread[-1]:.2f})  {rows[1]:7.2f} {rows[3]:7.2f}  {cheaper:5.2f}",
            flush=True,
        )
    own = [statistics.median(t[2] for t in taken[kind, beside]) / count for kind in (Plain, Packs)]
    plain, packs = (size / count / 1000 for size in sizes)
    print(
        f"{'':<24} the writer: {own[0] * 1000:.2f} and {own[1] * 1000:.2f} ms CPU a map, at most "
        f"{1 / own[0]:.0f} and {1 / own[1]:.0f} maps/s ({own[0] / own[1]:.1f} times); "
        f"kB a map: {plain:.1f} and {packs:.1f}, read back equal",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where to write, as /dev/shm or a disk")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}; h5py {h5py.__version__}, "
        f"HDF5 {h5py.version.hdf5_version}, numpy {np.__version__}, torch {torch.__version__}; "
        f"kernels {kernels.list_backends()}"
    )
    if kernels.choose_backend() != "numba":
        print("without numba the chunks are made in the library here too: expect ratios of 1")
    print(
        f"{'maps, stored as':<24} {'':<18} {'plain/s':>9} {'packed/s':>9}  {'ratio':<18}"
        f"{'CPU ms a map':>16}  ratio"
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for shape, sides in SHAPES.items():
            maps = field(options.maps, sides)
            for dtype, compression in STORED:
                found = measure(maps, dtype, compression, Path(folder), options.repeats)
                tell(f"{shape} {dtype} {compression}", options.maps, *found)


if __name__ == "__main__":
    main()

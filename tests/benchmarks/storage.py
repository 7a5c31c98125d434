"""Compare two ways to write maps to HDF5: filters in the library, and chunks made outside of it.

The plain way assigns values to a dataset (``dataset[...] = values``), whose filters then compress
and sum them inside the library, under its global lock. `mrx.shards.chunks` makes the bytes of each
chunk itself, and the library only stores them. Both use the same encoding and one map a chunk with
a checksum, and are read back and compared before the timing. Both are timed several times in turn,
first with one thread that packs and writes, then with two that pack and one that writes. The CPU
time of that writer limits the rate for any number of packers.

    python tests/benchmarks/storage.py [--maps 64] [--repeats 5] [--folder DIR]

With clips it prints instead what each store costs for their maps at the default size: GB an hour of
video, and CPU ms to encode, compress and write a map, and to read and decode it.

    python tests/benchmarks/storage.py --clips a.mp4 b.mkv c.mp4 [--maps 24] [--repeats 3]
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

from mrx import kernels, methods
from mrx.decode.video import open_video
from mrx.job import Storage
from mrx.records import Motion
from mrx.shards.chunks import pack_motion
from mrx.shards.compression import dataset_options
from mrx.shards.encoding import Encoding, ValueStatistics, decode_maps, encode_maps
from mrx.shards.writer import MethodDataset
from mrx.windows.plan import WindowRule, count_windows
from mrx.windows.stack import WindowStacker

STORED = (("float16", "none"), ("float16", "gzip"), ("uint8", "gzip"), ("q16", "gzip"))
SHAPES = {"2x256x340": (2, 256, 340), "3x256x340": (3, 256, 340)}
TOLERANCES = {"tvl1": (0.05, 0.1), "mbpm": (4.0, 8.0)}
PLAIN_STORES = (
    *(("float16", c) for c in ("none", "gzip", "blosc", "blosc2")),
    *(("q16", c) for c in ("none", "gzip", "blosc", "blosc2")),
    *(("uint8", c) for c in ("none", "gzip")),
)
BATCH = 8
PACKERS = 2
WAITING = 4  # batches before the writer


def make_field(count, shape, seed=0):
    """Make smooth motion in pixels with a little noise, so that it compresses like real maps."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, shape[0], 9, 12, generator=generator) * 4
    smooth = torch.nn.functional.interpolate(coarse, shape[1:], mode="bicubic")
    return smooth + torch.randn(smooth.shape, generator=generator) * 0.02


def split_batches(maps):
    """Split maps into small batches with their frame indices, as a method gives them."""
    for begin in range(0, len(maps), BATCH):
        data = maps[begin : begin + BATCH]
        places = np.arange(begin, begin + len(data))
        yield Motion(data, np.stack([places, places + 1], 1), np.zeros((len(data), 2)))


class PlainWriter:
    """Write values to a dataset, with filters in the library."""

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


class ChunkWriter:
    """Write chunks that are made first, as `mrx extract` does."""

    def __init__(self, file, shape, encoding, chosen):
        self.encoding, self.chosen = encoding, chosen
        self.series = MethodDataset(file, "maps", shape, encoding, chosen)

    def prepare(self, motion):
        return pack_motion(motion, self.encoding, self.chosen)

    def write(self, packed):
        self.series.append_maps(packed)


def write_alone(way, maps):
    """Prepare and write each batch in this thread."""
    for motion in split_batches(maps):
        way.write(way.prepare(motion))


def write_beside(way, maps):
    """Prepare batches in threads, and write them in this one in their order of arrival."""
    todo, ready = queue.SimpleQueue(), queue.Queue(WAITING)
    for motion in split_batches(maps):
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


def store_maps(kind, drive, maps, encoding, chosen, path):
    """Write all maps to a new file; return wall, CPU and CPU seconds of this thread."""
    path.unlink(missing_ok=True)
    clocks = (time.perf_counter, time.process_time, time.thread_time)
    began = [clock() for clock in clocks]
    with h5py.File(path, "x") as file:
        drive(kind(file, tuple(maps.shape[1:]), encoding, chosen), maps)
    return [clock() - start for clock, start in zip(clocks, began, strict=True)]


def check_equal(maps, encoding, chosen, paths):
    """Assert that both files hold the same values, with valid checksums; return their sizes."""
    for kind, path in paths.items():
        store_maps(kind, write_alone, maps, encoding, chosen, path)
    with h5py.File(paths[PlainWriter]) as first, h5py.File(paths[ChunkWriter]) as second:
        assert first["maps"].dtype == second["maps"].dtype
        assert np.array_equal(first["maps"][:], second["maps"][:])
    return [path.stat().st_size for path in paths.values()]


def measure_encoding(maps, dtype, compression, folder, repeats):
    """Measure the file sizes and the times of both ways with one encoding."""
    encoding = Encoding.from_storage(Storage(dtype=dtype), units="px", bound=20.0)
    chosen = dataset_options(compression, cost="heavy")
    paths = {PlainWriter: folder / "plain.h5", ChunkWriter: folder / "packs.h5"}
    sizes = check_equal(maps, encoding, chosen, paths)
    taken = {(kind, drive): [] for drive in (write_alone, write_beside) for kind in paths}
    for kind, drive in taken:  # threads and caches
        store_maps(kind, drive, maps, encoding, chosen, paths[kind])
    for _ in range(repeats):
        for (kind, drive), times in taken.items():
            times.append(store_maps(kind, drive, maps, encoding, chosen, paths[kind]))
    return sizes, taken


def print_rates(name, count, sizes, taken):
    """Print the rates of both ways and their ratios."""
    for drive, words in ((write_alone, "1 thread"), (write_beside, f"{PACKERS} pack, 1 writes")):
        rows = []
        for kind in (PlainWriter, ChunkWriter):
            wall, cpu, _ = zip(*taken[kind, drive], strict=True)
            rows += [count / statistics.median(wall), statistics.median(cpu) / count * 1000]
        pairs = list(zip(taken[PlainWriter, drive], taken[ChunkWriter, drive], strict=True))
        faster, cheaper = (statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1))
        spread = sorted(a[0] / b[0] for a, b in pairs)
        print(
            f"{name:<24} {words:<18} {rows[0]:9.0f} {rows[2]:9.0f}  {faster:5.2f} "
            f"({spread[0]:.2f}..{spread[-1]:.2f})  {rows[1]:7.2f} {rows[3]:7.2f}  {cheaper:5.2f}",
            flush=True,
        )
    own = [
        statistics.median(t[2] for t in taken[kind, write_beside]) / count
        for kind in (PlainWriter, ChunkWriter)
    ]
    plain, packs = (size / count / 1000 for size in sizes)
    print(
        f"{'':<24} the writer: {own[0] * 1000:.2f} and {own[1] * 1000:.2f} ms CPU a map, at most "
        f"{1 / own[0]:.0f} and {1 / own[1]:.0f} maps/s ({own[0] / own[1]:.1f} times); "
        f"kB a map: {plain:.1f} and {packs:.1f}, read back equal",
        flush=True,
    )


def make_real_maps(path, method, count):
    """Return maps spread over a clip, and the number of maps that an hour of it has."""
    module = methods.find_method(method).build_module({})
    video = open_video(path)
    frames = video.count_frames()
    seconds = video.tally.to_attributes()["duration"]
    rule = WindowRule(length=module.length, step=module.step, dilation=module.dilation)
    per_hour = count_windows(frames, rule) / seconds * 3600
    spread = WindowRule(rule.length, rule.step, rule.dilation, segments=count)
    stacker = WindowStacker(spread, frames=frames)
    color, maps = module.color, []
    with torch.inference_mode():
        for chunk in video.read_frames([color], stacker.list_wanted_positions()):
            maps += [module.extract(c.data).float() for c in stacker.push_frames(chunk[color])]
    return torch.cat(maps).contiguous(), per_hour, module


def list_stores(method):
    """Yield the name and the settings of each store."""
    for dtype, compression in PLAIN_STORES:
        yield f"{dtype} {compression}", Storage(dtype=dtype, compression=compression)
    for tolerance in TOLERANCES[method]:
        yield f"tolerance {tolerance:g}", Storage(tolerance=tolerance)


def measure_store(maps, module, storage, repeats):
    """Return bytes, and the least CPU ms to write and to read a map, in a file in memory."""
    encoding = Encoding.from_storage(
        storage, units=module.units, bound=module.bound, channels=module.channels
    )
    filters = dataset_options(storage.compression, cost="heavy", tolerance=storage.tolerance)
    writing, reading = [], []
    for _ in range(repeats):
        with h5py.File("store", "w", driver="core", backing_store=False, rdcc_nbytes=0) as file:
            began = time.thread_time()
            series = MethodDataset(file, "maps", tuple(maps.shape[1:]), encoding, filters)
            for motion in split_batches(maps):
                series.append_maps(pack_motion(motion, encoding, filters))
            file.flush()
            written = time.thread_time()
            for i in range(len(maps)):
                decode_maps(series.dataset[i], scale=encoding.scale, offset=encoding.offset)
            reading.append(time.thread_time() - written)
            writing.append(written - began)
            size = series.dataset.id.get_storage_size()
    return size / len(maps), *(min(t) / len(maps) * 1000 for t in (writing, reading))


def print_stores(clips, count, repeats):
    """Print a row for each method and store: each clip's figures, and their means."""
    for method in TOLERANCES:
        real = [make_real_maps(path, method, count) for path in clips]
        print(f"{method}: GB an hour of {', '.join(Path(c).name for c in clips)}; mean; CPU ms")
        for name, storage in list_stores(method):
            found = [measure_store(maps, module, storage, repeats) for maps, _, module in real]
            hourly = [f[0] * r[1] / 1e9 for f, r in zip(found, real, strict=True)]
            write, read = (statistics.mean(f[i] for f in found) for i in (1, 2))
            print(
                f"  {name:<16} {'  '.join(f'{value:6.2f}' for value in hourly)}   mean "
                f"{statistics.mean(hourly):6.2f}   write {write:5.2f}  read {read:5.2f}",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where to write, as /dev/shm or a disk")
    parser.add_argument("--clips", nargs="+", help="print what each store costs for real maps")
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
    if options.clips:
        print_stores(options.clips, options.maps, options.repeats)
        return
    print(
        f"{'maps, stored as':<24} {'':<18} {'plain/s':>9} {'packed/s':>9}  {'ratio':<18}"
        f"{'CPU ms a map':>16}  ratio"
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for shape, sides in SHAPES.items():
            maps = make_field(options.maps, sides)
            for dtype, compression in STORED:
                found = measure_encoding(maps, dtype, compression, Path(folder), options.repeats)
                print_rates(f"{shape} {dtype} {compression}", options.maps, *found)


if __name__ == "__main__":
    main()

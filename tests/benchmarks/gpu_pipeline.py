"""The half of gpu.py that is no kernel: decoding by threads and processes, and the whole way.

Clips are made on the spot: a moving texture in H.264. Decoding is PyAV's with the conversion to RGB
in the shortest loop there is, by so many threads of one process, or by four processes of four. The
whole way is `mrx extract`'s, in one process, in turn with decoding alone by as many threads; its
shares tell how busy each stage was, decoding as the mean of its threads.
"""

import functools
import importlib
import multiprocessing
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mrx import methods

NEEDED = ("av", "h5py", "cv2")
SIZES = {"340x256": (340, 256), "1280x720": (1280, 720)}
THREADS = (1, 4, 8, 16)
PROCESSES = (4, 4)  # and the threads of each
MEMORY = Path("/dev/shm")
FRAMES, QUICK_FRAMES = 300, 12
HEAVY_SHARE = 4  # methods of flow get a clip so many times shorter
REPEATS = 3


def run(machine, report, *, frames=None, disk=None):
    """Rows of both parts; ratios to decoding by method, and ``threads``, the gain of 16 on 720p."""
    for package in NEEDED:
        try:
            importlib.import_module(package)
        except ImportError as error:
            report.row("pipeline", "all of it", skipped=str(error))
            return {}
    frames = frames or (QUICK_FRAMES if machine.quick else FRAMES)
    found = decoding(machine, report, frames)
    for kind, folder in (("memory", MEMORY), ("disk", disk)):
        if folder is not None and not folder.is_dir():
            report.row("whole way", kind, skipped=f"{folder} is not a folder here")
            continue
        for name in methods.list_method_names():
            if report.late("whole way"):
                return found
            ratio = whole_way(machine, report, name, kind=kind, folder=folder, frames=frames)
            if ratio is not None:
                found[name] = min(ratio, found.get(name, ratio))
    return found


def decoding(machine, report, frames):
    """Frames/s of decoding alone; what 16 threads gain over one at 720p."""
    from mrx.bench import clip

    gains = {}
    threads = THREADS[:2] if machine.quick else THREADS
    with tempfile.TemporaryDirectory() as scratch:
        for name, size in SIZES.items():
            if report.late("decoding"):
                return {}
            path = Path(scratch) / f"{name}.mp4"
            clip.write_texture_clip(path, frames, size)
            decode = functools.partial(clip.decode_clip, str(path), size, "rgb")
            decode()
            ways = {f"{n} threads": functools.partial(by_threads, decode, n) for n in threads}
            ways["4 processes of 4"] = functools.partial(by_processes, decode)
            taken = {way: [] for way in ways}
            for _ in range(1 if machine.quick else REPEATS):
                for way, measure in ways.items():
                    taken[way].append(measure())
            rates = {way: statistics.median(every) for way, every in taken.items()}
            for way, rate in rates.items():
                ratio = rate / rates["1 threads"]
                report.row("decoding", f"{name} {way}", frames_per_s=rate, to_one_thread=ratio)
                gains[name, way] = ratio
    gain = gains.get(("1280x720", "16 threads"))
    return {"threads": gain} if gain else {}


def by_threads(decode, count):
    """Frames/s where each of so many threads decodes the clip twice."""
    with ThreadPoolExecutor(count) as pool:
        began = time.perf_counter()
        frames = sum(pool.map(lambda _: decode(), range(2 * count)))
        return frames / (time.perf_counter() - began)


def by_processes(decode):
    """The same by processes, their start left out."""
    processes, threads = PROCESSES
    context = multiprocessing.get_context("spawn")
    begin, results = context.Barrier(processes), context.Queue()
    arguments = (decode, threads, begin, results)
    running = [context.Process(target=worker, args=arguments) for _ in range(processes)]
    for one in running:
        one.start()
    rates = [results.get() for _ in running]
    for one in running:
        one.join()
    return sum(rates)


def worker(decode, threads, begin, results):
    decode()
    begin.wait()
    results.put(by_threads(decode, threads))


def whole_way(machine, report, name, *, kind, folder, frames):
    """One method from clips to a shard in a folder; its ratio to decoding alone."""
    from mrx.bench.bench_records import BenchOptions
    from mrx.bench.measure import BenchRunner

    if methods.find_method(name).cost == "heavy":
        frames = max(frames // HEAVY_SHARE, 6)
    size = (64, 48) if machine.quick else SIZES["340x256"]
    asked = BenchOptions(
        (name,), size=size, frames=frames, batches=(), device=str(machine.device), repeats=REPEATS
    )
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        bench = BenchRunner(asked, Path(scratch))
        needed = space(bench)
        if shutil.disk_usage(scratch).free < needed:
            reason = f"{scratch} has no {needed / 1e6:.0f} MB free"
            report.row("whole way", f"{name} to {kind}", skipped=reason)
            return None
        (_, row) = bench.run().rows
    busy = {stage: f"{share:.0%}" for stage, share in row.more["busy"].items()}
    ratio = row.more["to_decoding"]["p50"]
    report.row(
        "whole way",
        f"{name} to {kind}",
        frames_per_s=row.per_second,
        to_decoding=ratio,
        mb_per_s=row.more["bytes_a_frame"] * row.per_second / 1e6,
        threads=row.more["decode_threads"],
        **busy,
        bottleneck=row.more["bottleneck"].partition(":")[0],
    )
    return ratio


def space(bench):
    """More bytes than one pass of the whole way writes."""
    (lane,) = bench.lanes
    width, height = bench.size
    channels, rows, columns = lane.module.output_shape(height, width)
    maps = max(1, 2 * bench.threads) * (bench.frames // lane.rule.step + 1)
    return maps * channels * rows * columns * lane.encoding.itemsize + 2**24

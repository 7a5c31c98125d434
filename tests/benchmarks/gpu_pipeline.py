"""Measure decoding and whole extraction for gpu.py.

The clips are generated: a moving texture in H.264. Decoding is a short loop over PyAV with the
conversion to RGB, in a number of threads of one process, or in four processes of four threads. The
extraction is that of `mrx extract` in one process, in turn with decoding alone by as many threads.
Its shares show the busy time of each stage; that of decoding is the mean of its threads.
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
HEAVY_SHARE = 4  # divides the clip length for methods of flow
REPEATS = 3


def run_pipeline(machine, report, *, frames=None, disk=None):
    """Report both parts; return the ratio to decoding by method, and the gain of 16 ``threads``."""
    for package in NEEDED:
        try:
            importlib.import_module(package)
        except ImportError as error:
            report.write_row("pipeline", "all of it", skipped=str(error))
            return {}
    frames = frames or (QUICK_FRAMES if machine.quick else FRAMES)
    found = measure_decoding(machine, report, frames)
    for kind, folder in (("memory", MEMORY), ("disk", disk)):
        if folder is not None and not folder.is_dir():
            report.write_row("whole way", kind, skipped=f"{folder} is not a folder here")
            continue
        for name in methods.list_method_names():
            if report.is_late("whole way"):
                return found
            ratio = measure_extraction(
                machine, report, name, kind=kind, folder=folder, frames=frames
            )
            if ratio is not None:
                found[name] = min(ratio, found.get(name, ratio))
    return found


def measure_decoding(machine, report, frames):
    """Report frames/s of decoding alone; return the gain of 16 threads over one at 720p."""
    from mrx.bench import texture_clip

    gains = {}
    threads = THREADS[:2] if machine.quick else THREADS
    with tempfile.TemporaryDirectory() as scratch:
        for name, size in SIZES.items():
            if report.is_late("decoding"):
                return {}
            path = Path(scratch) / f"{name}.mp4"
            texture_clip.write_texture_clip(path, frames, size)
            decode = functools.partial(texture_clip.decode_clip, str(path), size, "rgb")
            decode()
            ways = {
                f"{n} threads": functools.partial(decode_by_threads, decode, n) for n in threads
            }
            ways["4 processes of 4"] = functools.partial(decode_by_processes, decode)
            taken = {way: [] for way in ways}
            for _ in range(1 if machine.quick else REPEATS):
                for way, measure in ways.items():
                    taken[way].append(measure())
            rates = {way: statistics.median(every) for way, every in taken.items()}
            for way, rate in rates.items():
                ratio = rate / rates["1 threads"]
                report.write_row(
                    "decoding", f"{name} {way}", frames_per_s=rate, to_one_thread=ratio
                )
                gains[name, way] = ratio
    gain = gains.get(("1280x720", "16 threads"))
    return {"threads": gain} if gain else {}


def decode_by_threads(decode, count):
    """Measure frames/s of a number of threads that decode the clip twice each."""
    with ThreadPoolExecutor(count) as pool:
        began = time.perf_counter()
        frames = sum(pool.map(lambda _: decode(), range(2 * count)))
        return frames / (time.perf_counter() - began)


def decode_by_processes(decode):
    """Measure frames/s of several processes of several threads, without their start."""
    processes, threads = PROCESSES
    context = multiprocessing.get_context("spawn")
    begin, results = context.Barrier(processes), context.Queue()
    arguments = (decode, threads, begin, results)
    running = [context.Process(target=run_worker, args=arguments) for _ in range(processes)]
    for one in running:
        one.start()
    rates = [results.get() for _ in running]
    for one in running:
        one.join()
    return sum(rates)


def run_worker(decode, threads, begin, results):
    """Measure the threads of one process, after all processes are ready."""
    decode()
    begin.wait()
    results.put(decode_by_threads(decode, threads))


def measure_extraction(machine, report, name, *, kind, folder, frames):
    """Report the extraction by one method to a folder; return its ratio to decoding alone."""
    from mrx.bench.bench_records import BenchOptions
    from mrx.bench.measure import BenchRunner
    from mrx.pipeline.hardware import configure_process

    if methods.find_method(name).cost == "heavy":
        frames = max(frames // HEAVY_SHARE, 6)
    size = (64, 48) if machine.quick else SIZES["340x256"]
    asked = BenchOptions(
        (name,), size=size, frames=frames, batches=(), device=str(machine.device), repeats=REPEATS
    )
    with tempfile.TemporaryDirectory(dir=folder) as scratch, configure_process():
        bench = BenchRunner(asked, Path(scratch))
        needed = estimate_space(bench)
        if shutil.disk_usage(scratch).free < needed:
            reason = f"{scratch} has no {needed / 1e6:.0f} MB free"
            report.write_row("whole way", f"{name} to {kind}", skipped=reason)
            return None
        (_, row) = bench.run().rows
    busy = {stage: f"{share:.0%}" for stage, share in row.more["busy"].items()}
    ratio = row.more["to_decoding"]["p50"]
    report.write_row(
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


def estimate_space(bench):
    """Estimate an upper bound of the bytes that one pass of the extraction writes."""
    (method_run,) = bench.method_runs
    width, height = bench.clip.size
    channels, rows, columns = method_run.module.output_shape(height, width)
    maps = max(1, 2 * bench.threads) * (bench.clip.num_frames // method_run.rule.step + 1)
    return maps * channels * rows * columns * method_run.encoding.itemsize + 2**24

"""The library interface: `extract` writes shards, as the command line does; `open` reads them."""

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrx import methods
from mrx.engines.run import Limits, Summary, run_job
from mrx.engines.run import Listener as Listener
from mrx.errors import UsageError
from mrx.job import DEFAULT_OUTPUT, BackendChoice, Decoding, Job, Storage, Windowing
from mrx.shards.reader import Shards
from mrx.sources import scan

InputPaths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def extract(
    inputs: InputPaths,
    output: str | os.PathLike[str] = DEFAULT_OUTPUT,
    *,
    method: str | Sequence[str] = Job.methods,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    weights: Mapping[str, str] | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
    windowing: Windowing = Windowing(),  # noqa: B008 - frozen
    storage: Storage = Storage(),  # noqa: B008 - frozen
    device: str | Sequence[str] = Job.devices,
    workers: int | None = 0,
    batch: int | None = None,
    decode_threads: int | None = None,
    backend: BackendChoice = Job.backend,
    overwrite: bool = False,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    listener: Listener | None = None,
) -> Summary:
    """Extract motion representations into the shards of a folder, as ``mrx extract`` does.

    Videos already in the output folder are not extracted again. A video that cannot be read raises
    no error: the summary counts it and the folder's manifest gives the reason.

    Args:
        inputs: files, folders, globs, lists (``@list.txt``, ``list.csv``) or URLs
        output: the output folder
        method: one or more of ``mrx methods``; several methods share one decode
        parameters: method → keyword arguments of its constructor
        weights: method → path of a checkpoint
        decoding: frame size, time range and frame rate
        windowing: step, dilation and number of the windows
        storage: data type, bound, compression and shard sizes
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; several start a worker on each
        workers: number of worker processes; 0 works in this process, None starts one for each core
            or GPU. Each process imports the calling script, so guard its main part with
            ``if __name__ == "__main__"``
        batch: windows computed at once; None chooses by device
        decode_threads: videos each worker decodes concurrently; 0 runs the stages in sequence, None
            is 0 on a CPU
        backend: kernels on the CPU: ``auto``, ``numba``, ``opencv`` or ``torch``, which also turns
            off Triton's kernels on a GPU
        overwrite: remove the shards and manifests in the output folder first
        limits: timeout, number of failures to accept, and treatment of earlier failures
        listener: receives progress events

    Returns:
        the counts of ok, skipped and failed inputs, and the shards written

    Raises:
        UsageError: an option or parameter is invalid
        NoInputError: no input matched
        OutputError: the output folder cannot be used as it is
        MissingError: a device or an optional package is missing
        KeyboardInterrupt: at SIGINT, after closing the shards; at a second signal at once. A single
            SIGTERM closes the shards too, and is then raised again for the caller's handler

    Example:
        >>> summary = mrx.extract("videos/", "out/", method=["mbpm", "pa"])  # doctest: +SKIP
        >>> mrx.open("out/")["a.mp4"]["mbpm"][3:9].shape  # doctest: +SKIP
        (6, 3, 256, 340)
    """
    names = methods.choose_methods((method,) if isinstance(method, str) else method)
    job = Job(
        output=os.fsdecode(output),
        methods=names,
        parameters=_stringify_parameters(parameters or {}),
        weights=weights or {},
        decoding=decoding,
        windowing=windowing,
        storage=storage,
        devices=(device,) if isinstance(device, str) else tuple(device),
        batch=batch,
        decode_threads=decode_threads,
        backend=backend,
        overwrite=overwrite,
    )
    input_list = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
    scan_result = scan.find_sources([os.fsdecode(i) for i in input_list], decoding=decoding)
    summary = run_job(job, scan_result.sources, workers=workers, limits=limits, listener=listener)
    # The shards are closed and the caller's handlers are back.
    if summary.signal == signal.SIGINT:
        raise KeyboardInterrupt
    if summary.signal:
        signal.raise_signal(summary.signal)
    return summary


def _stringify_parameters(parameters: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Convert parameter values to text, the form in which the command line gives them."""
    for name, values in parameters.items():
        if not isinstance(values, Mapping):
            raise UsageError(
                f"bad parameters ({name}={values}): no method named. Group them by method, as in "
                "{'mbpm': {'sigma': 0.9}}"
            )
    return {m: {k: str(v) for k, v in values.items()} for m, values in parameters.items()}


def open(path: str | os.PathLike[str]) -> Shards:
    """Open a shard, or a folder of shards, for reading.

    Example:
        >>> with mrx.open("out/") as shards:  # doctest: +SKIP
        ...     flow = shards["a.mp4"]["tvl1"][:]  # float32 (N, 2, H, W), in pixels
    """
    return Shards(Path(path))

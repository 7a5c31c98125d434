"""The library's two doors: `extract` what the command line extracts, `open` what it wrote."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrx import methods
from mrx.engines.run import Limits, Summary, run_job
from mrx.engines.run import Listener as Listener
from mrx.errors import UsageError
from mrx.job import Decoding, Job, Storage, Windowing
from mrx.shards.reader import Shards
from mrx.sources import scan

InputPaths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def extract(
    inputs: InputPaths,
    output: str | os.PathLike[str] = "mrx-out",
    *,
    method: str | Sequence[str] = "mbpm",
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    weights: Mapping[str, str] | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
    windowing: Windowing = Windowing(),  # noqa: B008 - frozen
    storage: Storage = Storage(),  # noqa: B008 - frozen
    device: str | Sequence[str] = "auto",
    workers: int | None = 0,
    batch: int | None = None,
    decode_threads: int | None = None,
    overwrite: bool = False,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    listener: Listener | None = None,
) -> Summary:
    """Extract motion representations into the shards of a folder, as ``mrx extract`` does.

    What is done already is not done again. A video that cannot be read does not raise: it is
    counted in the summary and told in the folder's manifest.

    Args:
        inputs: files, folders, globs, lists (``@list.txt``, ``list.csv``) or URLs
        output: the folder
        method: one or more of ``mrx methods``; several share one decode
        parameters: method → its constructor's keywords
        weights: method → a checkpoint's path
        decoding: size, range, rate
        windowing: which windows
        storage: type, bound, compression, shard sizes
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; several for a worker on each
        workers: processes; 0 works in this one, None is one for each core or GPU. With processes,
            guard a script's main part by ``if __name__ == "__main__"``: each imports it
        batch: windows computed at once; None leaves it to the device
        decode_threads: videos that a worker decodes at once, beside computing; 0 is one stage after
            another, None is 0 on a CPU
        overwrite: remove what the folder holds
        limits: timeout, how many failures to bear, whether to try failed inputs again
        listener: told of every step

    Returns:
        how many inputs were ok, skipped and failed, and the shards written

    Example:
        >>> summary = mrx.extract("videos/", "out/", method=["mbpm", "pa"])  # doctest: +SKIP
        >>> mrx.open("out/")["a.mp4"]["mbpm"][3:9].shape  # doctest: +SKIP
        (6, 3, 256, 340)
    """
    names = (method,) if isinstance(method, str) else tuple(dict.fromkeys(method))
    for name in names:
        methods.check_method_name(name)
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
        overwrite=overwrite,
    )
    input_list = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
    scan_result = scan.find_sources([os.fsdecode(i) for i in input_list])
    return run_job(job, scan_result.sources, workers=workers, limits=limits, listener=listener)


def _stringify_parameters(parameters: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Each method's parameters as text, which is how the command line gives them."""
    for name, values in parameters.items():
        if not isinstance(values, Mapping):
            raise UsageError(
                f"bad parameters ({name}={values}): say of which method, as in "
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

"""``mrx extract``: videos to shards."""

import json
import math
import os
from dataclasses import asdict
from typing import Any

import click

from mrx import methods
from mrx.checks import list_choices
from mrx.cli.options import (
    decode_options,
    device_option,
    group_by_method,
    group_weights,
    input_options,
    loudness_options,
    make_decoding,
    make_storage,
    make_windowing,
    method_options,
    storage_options,
    window_options,
)
from mrx.cli.report import ProgressReport, format_summary, format_worker_times
from mrx.engines.bottleneck import compute_stage_shares, describe_bottleneck
from mrx.engines.run import Limits, Summary, run_job
from mrx.errors import UsageError
from mrx.job import DEFAULT_OUTPUT, MAX_DECODE_THREADS, Decoding, Job
from mrx.sources import scan
from mrx.sources.sharding import parse_shard, select_share


@click.command("extract")
@click.argument("inputs", nargs=-1, required=True)
@click.option(
    "-o", "--output", default=DEFAULT_OUTPUT, metavar="DIR", help="Folder to write shards to."
)
@method_options
@window_options
@decode_options
@storage_options
@input_options
@device_option
@click.option(
    "--devices",
    metavar="LIST",
    help="Compute on several GPUs, as in 0,1, with a worker process each.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    help="Windows to compute at once, halved when memory runs out.  [default: set by device]",
)
@click.option(
    "--decode-threads",
    type=click.IntRange(min=0),
    help="Videos each worker decodes concurrently; 0 runs the stages in sequence.  [default: 0 on "
    f"a CPU, else the worker's share of the cores, at most {MAX_DECODE_THREADS}]",
)
@click.option(
    "--backend",
    type=click.Choice(list_choices(Job, "backend")),
    default=Job.backend,
    help="CPU kernels of all methods; auto follows MRX_BACKEND, else takes the fastest installed. "
    "torch also turns off Triton's kernels on a GPU.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Worker processes; 0 works in this process.  [default: one per core, or per GPU]",
)
@click.option(
    "--shard",
    "share",
    metavar="i/N|auto",
    help="Extract only share i of N, counted from 0; auto reads SLURM's or torchrun's variables.",
)
@click.option(
    "--timeout",
    type=float,
    default=Limits.timeout,
    help="Fail a video after this many seconds; 0 waits forever.",
)
@click.option(
    "--max-failures",
    type=click.IntRange(min=0),
    help="Stop when more than this many inputs have failed.",
)
@click.option("--overwrite", is_flag=True, help="Delete the shards in the output folder first.")
@click.option("--retry-failed", is_flag=True, help="Retry inputs that failed in an earlier run.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print what would be extracted, with frames estimated from the headers and bytes from "
    "some windows of the first videos.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")
@click.option("--jsonl", is_flag=True, help="Print a JSON row on stdout as each input ends.")
@click.option(
    "--print",
    "printed",
    type=click.Choice(["path"]),
    help="Print the path of each finished shard on stdout.",
)
@click.option("--no-progress", is_flag=True, help="Hide the progress bar.")
@loudness_options
@click.pass_context
def extract_command(ctx: click.Context, /, inputs: tuple[str, ...], **options: Any) -> None:
    """Extract motion representations from INPUTS into HDF5 shards.

    INPUTS are files, folders (searched recursively), globs, @list.txt or list.csv, - for a list on
    stdin, folders of numbered images, or URLs. Repeat the command after a crash or with more
    videos: finished videos are not extracted again.
    """
    job = _make_extract_job(options)
    limits = Limits(
        timeout=_parse_timeout(options["timeout"]),
        max_failures=options["max_failures"],
        retry_failed=options["retry_failed"],
        missing_ok=options["missing_ok"],
    )
    scan_result = _find_sources(inputs, options, job.decoding)
    sources = select_share(scan_result.sources, *job.share) if job.share else scan_result.sources
    settings = ctx.find_root().params
    report = ProgressReport(
        verbose=settings["verbose"],
        quiet=settings["quiet"],
        progress=not options["no_progress"] and not job.dry_run,
        output=_choose_stdout_data(options),
    )
    try:
        summary = run_job(
            job,
            sources,
            workers=options["workers"],
            limits=limits,
            listener=report,
            owns_process=True,
        )
    finally:
        report.close()
    _print_summary(summary, scan_result, as_json=options["as_json"], loudness=settings)
    ctx.exit(summary.exit_code)


def _make_extract_job(options: dict[str, Any]) -> Job:
    names = methods.choose_methods(options["methods"])
    output = options["output"]
    if output.endswith((".h5", ".hdf5")) or os.path.isfile(output):  # noqa: PTH113 - a str stays one
        raise UsageError(f"bad output ({output}): give a folder; shards are numbered files in it")
    return Job(
        output=output,
        methods=names,
        parameters=group_by_method(options["params"], names, option="-p"),
        weights=group_weights(options["weights"], names),
        stack=options["stack"],
        decoding=make_decoding(options),
        windowing=make_windowing(options),
        storage=make_storage(options),
        devices=_list_devices(options["device"], options["devices"]),
        batch=options["batch"],
        decode_threads=options["decode_threads"],
        backend=options["backend"],
        share=parse_shard(options["share"], os.environ) if options["share"] else None,
        overwrite=options["overwrite"],
        dry_run=options["dry_run"],
    )


def _find_sources(
    inputs: tuple[str, ...], options: dict[str, Any], decoding: Decoding
) -> scan.ScanResult:
    return scan.find_sources(
        inputs,
        nul_separated=options["null"],
        root=options["root"],
        key=options["key"],
        extensions=_parse_endings(options["ext"]) or scan.VIDEO_EXTENSIONS,
        label_from_parent=options["label_from"] == "parent",
        decoding=decoding,
    )


def _parse_endings(text: str | None) -> list[str]:
    """``.mp4, MKV`` to the endings alone."""
    return [e for e in (word.strip().lower().lstrip(".") for word in (text or "").split(",")) if e]


def _parse_timeout(seconds: float) -> float | None:
    if not 0 <= seconds < math.inf:
        raise UsageError(f"--timeout is a finite number of seconds, or 0, not {seconds:g}")
    return seconds or None


def _choose_stdout_data(options: dict[str, Any]) -> Any:
    if options["jsonl"]:
        return "rows"
    if options["printed"]:
        return "paths"
    return "table" if options["dry_run"] and not options["as_json"] else "nothing"


def _list_devices(device: str, devices: str | None) -> tuple[str, ...]:
    """``0,1`` as the names of devices."""
    if devices is None:
        return (device,)
    if device != "auto":
        raise UsageError(f"--device {device} and --devices {devices}: give one of them")
    words = [word.strip() for word in devices.split(",") if word.strip()]
    return tuple(f"cuda:{word}" if word.isdigit() else word for word in words)


def _print_summary(
    summary: Summary, scan_result: scan.ScanResult, *, as_json: bool, loudness: dict[str, Any]
) -> None:
    if as_json:
        click.echo(json.dumps({**asdict(summary), **_collect_summary_extras(summary, scan_result)}))
    if loudness["quiet"]:
        return
    if scan_result.passed_over:
        counts = ", ".join(f"{count} {why}" for why, count in scan_result.passed_over.items())
        click.echo(f"passed over in folders: {counts}", err=True)
    if scan_result.duplicates:
        click.echo(f"ignored {scan_result.duplicates} duplicate inputs", err=True)
    if loudness["verbose"]:
        for line in format_worker_times(summary):
            click.echo(line, err=True)
    click.echo(format_summary(summary), err=True)


def _collect_summary_extras(summary: Summary, scan_result: scan.ScanResult) -> dict[str, Any]:
    """Collect the values that ``--json`` prints beside the fields of the summary."""
    return {
        "missed": summary.missed,
        "bytes_per_hour": summary.bytes_per_hour,
        "passed_over": scan_result.passed_over,
        "workers": [{**asdict(w), "busy": compute_stage_shares(w)} for w in summary.workers],
        "bottleneck": describe_bottleneck(summary.workers),
    }

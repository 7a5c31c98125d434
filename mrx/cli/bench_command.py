"""``mrx bench``: measure the speed of methods, and find regressions."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mrx import methods
from mrx.bench.bench_records import DEFAULT_FRAME_SIZE, BenchOptions
from mrx.cli.options import (
    device_option,
    group_by_method,
    group_weights,
    loudness_options,
    method_options,
    parse_size,
)
from mrx.errors import UsageError
from mrx.job import MAX_DECODE_THREADS

if TYPE_CHECKING:
    from mrx.bench.bench_records import BenchResult, BenchRow
    from mrx.bench.compare import RowComparison


@click.command("bench")
@method_options
@click.option(
    "--size",
    metavar="WxH",
    help=f"Frame size.  [default: {'x'.join(map(str, DEFAULT_FRAME_SIZE))}, or as extract scales "
    "--input]",
)
@click.option(
    "--frames",
    type=click.IntRange(min=1),
    help=f"Length of the generated clip; not for --input.  [default: {BenchOptions.frames}]",
)
@click.option(
    "--batch",
    default=",".join(map(str, BenchOptions.batches)),
    metavar="LIST",
    help="Batch sizes of the kernel measurements.",
)
@device_option
@click.option(
    "--decode-threads",
    type=click.IntRange(min=0),
    help="Videos decoded concurrently; the clip is used twice per thread.  [default: 0 on a CPU, "
    f"else the number of cores, at most {MAX_DECODE_THREADS}]",
)
@click.option(
    "--input", "clip", metavar="CLIP", help="Measure on this video instead of a generated one."
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=BenchOptions.repeats,
    help="Measurements per row; fewer, but at least 3, if they take more than 30 seconds.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, as --compare reads it."
)
@click.option(
    "--compare",
    "base",
    metavar="FILE",
    help="Compare medians with an earlier --json output; exit with 1 if a row is slower.",
)
@click.option(
    "--tolerance",
    default="10%",
    metavar="SHARE",
    help="Accepted slowdown against the base's median, as in 10% or 0.1. A row counts as slower "
    "only if its faster quartile (p25) exceeds this too, so that noise alone does not.",
)
@loudness_options
@click.pass_context
def bench_command(ctx: click.Context, /, **options: Any) -> None:
    """Measure methods: the kernel alone, decoding alone, and the whole pipeline.

    Each method is measured separately after a warm-up. The kernel runs on windows of random
    texture that are on the device already and share no frames. The pipeline goes from a clip to a
    shard in a temporary folder, in one process; /decoding is its rate divided by that of decoding
    and converting the clip with PyAV, measured alternately. GB/s and GFLOP/s count the bytes and
    operations that the formula needs.
    """
    from mrx.bench.compare import BaseResult
    from mrx.bench.measure import BenchRunner
    from mrx.pipeline.hardware import configure_process

    bench_options = _make_bench_options(options)
    tolerance = parse_tolerance(options["tolerance"])
    base = BaseResult.read_json(options["base"]) if options["base"] else None
    loud = ctx.find_root().params
    with tempfile.TemporaryDirectory(prefix="mrx-bench-") as scratch, configure_process():
        notify = _echo_to_stderr if loud["verbose"] else lambda text: None
        workbench = BenchRunner(bench_options, Path(scratch), notify)
        if base:
            base.check_settings(workbench.settings)
        result = workbench.run()
    compared = base.compare_rows(result.rows, tolerance=tolerance) if base else []
    if not loud["quiet"]:
        for line in describe_machine(result):
            _echo_to_stderr(line)
    if options["as_json"]:
        extra = {"compared": _list_comparisons(compared), "tolerance": tolerance} if base else {}
        click.echo(result.to_json(**extra))
    else:
        for line in format_table(result.rows, compared):
            click.echo(line)
    slow = [row for row in compared if row.slower]
    for row in slow:
        _echo_to_stderr(f"slower: {row.name} runs at {row.ratio:.2f} of the base's rate")
    ctx.exit(1 if slow else 0)


def _make_bench_options(options: dict[str, Any]) -> BenchOptions:
    names = methods.choose_methods(options["methods"])
    if options["clip"] and options["frames"]:
        raise UsageError("--frames is the length of the generated clip: leave it out with --input")
    return BenchOptions(
        methods=names,
        parameters=group_by_method(options["params"], names, option="-p"),
        weights=group_weights(options["weights"], names),
        stack=options["stack"],
        size=parse_size(options["size"]) if options["size"] else None,
        frames=options["frames"] or BenchOptions.frames,
        batches=parse_batches(options["batch"]),
        device=options["device"],
        decode_threads=options["decode_threads"],
        clip=options["clip"],
        repeats=options["repeats"],
    )


def parse_batches(text: str) -> tuple[int, ...]:
    """Parse batch sizes, without duplicates.

    >>> parse_batches("1, 8,8")
    (1, 8)
    """
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"0*[1-9][0-9]{0,5}", word) for word in words):
        raise UsageError(f"bad --batch ({text}): give whole numbers of at least 1, as in 1,8,32")
    return tuple(dict.fromkeys(map(int, words)))


def parse_tolerance(text: str) -> float:
    """Parse a percentage or a fraction.

    >>> parse_tolerance("10%"), parse_tolerance("0.25")
    (0.1, 0.25)
    """
    number = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    if not number:
        raise UsageError(f"bad --tolerance ({text}): give a share, as in 10% or 0.1")
    return float(number[1]) / (100 if number[2] else 1)


def describe_machine(result: "BenchResult") -> Iterator[str]:
    """Yield lines about the machine, with a warning if it was busy."""
    machine, load = result.machine, result.machine["load_before"]
    versions = ", ".join(f"{name} {text}" for name, text in machine["versions"].items())
    size, frames = "x".join(map(str, result.settings["size"])), result.settings["frames"]
    busy = "" if load is None else f", load average {load:.1f}"
    yield f"{machine['device']}, {machine['cores']} cores{busy}; {versions}"
    yield f"{frames} frames of {size}, input {result.settings['input']}"
    if load is not None and load > machine["cores"] / 2:
        yield "warning: the machine is busy with other work, rates are too low and uneven"


def format_table(rows: Sequence["BenchRow"], compared: Sequence["RowComparison"]) -> Iterator[str]:
    """Yield the lines of the table: rates with quartiles, times and the comparison."""
    name_width = max(len(row.name) for row in rows)
    comparisons = {one.name: f"{one.ratio:9.2f}{' slower' * one.slower}" for one in compared}
    head = (
        f"{'':<{name_width}}  {'a second':>9} {'quartiles':>20} {'':<6} {'ms p50':>8} {'ms p95':>8}"
    )
    yield head + f" {'GB/s':>7} {'GFLOP/s':>8} {'/decoding':>9}" + "  to base" * bool(compared)
    for row in rows:
        quartiles = f"{1 / row.p75:.1f}..{1 / row.p25:.1f}"
        rates = f"{1 / row.p50:9.1f} {quartiles:>20}"
        times = f"{row.p50 * 1000:8.3f} {row.p95 * 1000:8.3f}"
        line = f"{row.name:<{name_width}}  {rates} {row.unit:<6} {times} {_format_floor_cells(row)}"
        yield (line + comparisons.get(row.name, "")).rstrip()
        if row.part == "whole":
            busy = ", ".join(f"{stage} {share:.0%}" for stage, share in row.more["busy"].items())
            yield f"{'':<{name_width}}  busy: {busy}"
            yield f"{'':<{name_width}}  {row.more['bottleneck']}"


def _format_floor_cells(row: "BenchRow") -> str:
    """Format the last columns of a row: throughput, and the ratio to decoding."""
    floor, ratio = row.more.get("floor", {}), row.more.get("to_decoding", {})
    cells = [
        (floor.get("gb_per_s"), "7.2f", 7),
        (floor.get("gflop_per_s"), "8.2f", 8),
        (ratio.get("p50"), "9.3f", 9),
    ]
    return " ".join(" " * n if v is None else format(v, form) for v, form, n in cells)


def _list_comparisons(compared: Sequence["RowComparison"]) -> list[dict[str, Any]]:
    return [{"name": row.name, "ratio": row.ratio, "slower": row.slower} for row in compared]


def _echo_to_stderr(text: str) -> None:
    click.echo(text, err=True)

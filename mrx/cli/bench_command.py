"""``mrx bench``: how fast methods are here, and whether they have become slower."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mrx import methods
from mrx.cli import options as read
from mrx.cli.options import parse_size
from mrx.errors import UsageError

if TYPE_CHECKING:
    from mrx.bench.bench_records import BenchResult, BenchRow
    from mrx.bench.compare import RowComparison


@click.command()
@read.method_options
@click.option(
    "--size",
    metavar="WxH",
    help="Of the frames.  [default: 340x256, or what extract makes of --input]",
)
@click.option(
    "--frames",
    type=click.IntRange(min=1),
    help="Length of the clip that is made; all of --input is used.  [default: 64]",
)
@click.option(
    "--batch",
    default="1,8,32",
    metavar="LIST",
    help="Windows computed at once, for the kernels alone.",
)
@click.option(
    "--device", default="auto", metavar="auto|cpu|cuda:N|mps", help="Where methods compute."
)
@click.option(
    "--decode-threads",
    type=click.IntRange(min=0),
    help="Videos decoded at once beside computing; the clip is taken twice for each."
    "  [default: 0 on a CPU, the cores of a GPU]",
)
@click.option("--input", "clip", metavar="CLIP", help="Measure on this video, not on one made up.")
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=10,
    help="Measurements of each row; at least 3 of them, as many as 30 seconds allow.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for --compare.")
@click.option(
    "--compare",
    "base",
    metavar="FILE",
    help="Compare medians with what --json printed earlier; exit 1 where a row is slower.",
)
@click.option(
    "--tolerance",
    default="10%",
    metavar="SHARE",
    help="How much slower than the base's median a row may be; 10% is 0.1. Only a row whose faster "
    "quartile (p25) is slower by more than that counts, so that noise alone does not.",
)
@read.loudness_options
@click.pass_context
def bench(ctx: click.Context, /, **options: Any) -> None:
    """Measure methods: the kernel alone, bare decoding of a clip, and the whole way.

    Each method is measured on its own, after a warm-up. The kernel alone is the method on windows
    of random texture that lie on the device already and share no frames. The whole way goes from a
    clip to a shard in a temporary folder, in one process; /decoding is its rate over that of
    decoding and converting the clip by PyAV alone, measured in turn. GB/s and GFLOP/s count what
    the formula has to move and to compute.
    """
    from mrx.bench.compare import BaseResult
    from mrx.bench.measure import BenchRunner

    bench_options = _make_bench_options(options)
    tolerance = parse_tolerance(options["tolerance"])
    base = BaseResult.read_json(options["base"]) if options["base"] else None
    loud = ctx.find_root().params
    with tempfile.TemporaryDirectory(prefix="mrx-bench-") as scratch:
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


def _make_bench_options(options: dict[str, Any]) -> Any:
    from mrx.bench.bench_records import BenchOptions

    names = tuple(dict.fromkeys(options["methods"]))
    for name in names:
        methods.check_method_name(name)
    if options["clip"] and options["frames"]:
        raise UsageError("--frames is the length of the clip that is made: give no --input with it")
    return BenchOptions(
        methods=names,
        parameters=read.group_by_method(options["params"], names, option="-p"),
        weights=read.group_weights(options["weights"], names),
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
    """``1,8,32`` as numbers, each once.

    >>> parse_batches("1, 8,8")
    (1, 8)
    """
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"0*[1-9][0-9]{0,5}", word) for word in words):
        raise UsageError(f"bad --batch ({text}): give whole numbers of at least 1, as in 1,8,32")
    return tuple(dict.fromkeys(map(int, words)))


def parse_tolerance(text: str) -> float:
    """``10%`` or ``0.1`` as a share.

    >>> parse_tolerance("10%"), parse_tolerance("0.25")
    (0.1, 0.25)
    """
    number = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    if not number:
        raise UsageError(f"bad --tolerance ({text}): give a share, as in 10% or 0.1")
    return float(number[1]) / (100 if number[2] else 1)


def describe_machine(result: "BenchResult") -> Iterator[str]:
    """Where it was measured, and a warning where others were at work."""
    machine, load = result.machine, result.machine["load_before"]
    versions = ", ".join(f"{name} {text}" for name, text in machine["versions"].items())
    size, frames = "x".join(map(str, result.settings["size"])), result.settings["frames"]
    busy = "" if load is None else f", load average {load:.1f}"
    yield f"{machine['device']}, {machine['cores']} cores{busy}; {versions}"
    yield f"{frames} frames of {size}, input {result.settings['input']}"
    if load is not None and load > machine["cores"] / 2:
        yield "warning: the machine is busy with other work, so rates are too low and uneven"


def format_table(rows: Sequence["BenchRow"], compared: Sequence["RowComparison"]) -> Iterator[str]:
    """The rows for a person, with the rate's quartiles and what the base's comparison says."""
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
    """What is known of a row beside its times, in the table's last columns."""
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

"""``mrx visualize``: a video or a shard to a film, pictures or a grid."""

import math
import re
import sys
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from mrx import methods
from mrx.cli import options as read
from mrx.errors import UsageError
from mrx.job import Job

STYLES = ("side-by-side", "wheel", "hsv", "quiver", "magnitude", "signed", "overlay")
OF_VIDEOS = (
    *("params", "stack", "weights", "device", "step", "dilation", "tail", "start", "end"),
    *("short_side", "size", "no_resize", "upscale", "no_autorotate", "image_fps"),
)


@click.command()
@click.argument("source", metavar="INPUT")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE|DIR|-",
    help=".mp4 (H.264), .webm (VP9), .gif, .png (one picture), a folder of PNGs, or - for stdout.",
)
@read.method_options
@click.option(
    "--style",
    type=click.Choice(STYLES),
    default="side-by-side",
    help="How motion is drawn; side-by-side is each method's own, beside the frame.",
)
@click.option("--max-flow", default="auto", metavar="auto|PX", help="Displacement of full color.")
@click.option("--per-frame-scale", is_flag=True, help="A scale for each picture: it flickers.")
@click.option("--legend", is_flag=True, help="Show what the colors mean.")
@click.option(
    "--label",
    type=click.Choice(["none", "names", "parameters"]),
    default="names",
    help="What stands on the panels; parameters are those that are not the default.",
)
@click.option("--alone", is_flag=True, help="No frame beside the panels.")
@click.option(
    "--compare", is_flag=True, help="A grid in a .png: time to the right, a row for each method."
)
@click.option("--columns", type=click.IntRange(min=1), default=4, help="Of the grid of --compare.")
@click.option("--frames", metavar="A:B", help="Only windows that begin at frames A to B - 1.")
@click.option("--every", type=click.IntRange(min=1), default=1, help="One window of so many.")
@click.option(
    "--fps", "rate", type=float, help="Pictures a second of the film.  [default: as filmed]"
)
@click.option("--scale", type=float, default=1.0, help="How many times larger than the frames.")
@click.option(
    "--device", default="auto", metavar="auto|cpu|cuda:N|mps", help="Where methods compute."
)
@read.window_options
@read.decode_options
@read.loudness_options
@click.pass_context
def visualize(ctx: click.Context, /, source: str, output: str, **options: Any) -> None:
    """Draw the motion in INPUT beside its frames.

    INPUT is a video, a folder of numbered images or a URL, whose maps are computed; or a shard, a
    folder of shards, or one video of it as in out::KEY, whose maps are read. Every picture shows
    the first frame of a window; one scale, from a first pass, holds for the whole clip. Odd sides
    are made even in .mp4, .webm and -, by a last row or column that stands twice.
    """
    part, look = _part(options["frames"]), _look(options)
    _check_output(output, compare=options["compare"])
    from mrx import visualize as work

    work.check_input_is_no_output(source, output)
    say = _voice(ctx)
    if work.is_stored(source):
        names = options["methods"] if _given(ctx, "methods") else ()
        for name in OF_VIDEOS:
            if _given(ctx, name):
                option = {"params": "-p"}.get(name, f"--{name.replace('_', '-')}")
                raise UsageError(f"{option} does not fit {source}: its maps are computed already")
        work.visualize_shard(source, output, names, part, work.Look(**look), say)
    else:
        work.visualize_video(source, _job(output, options), part, work.Look(**look), say)


# A film has a rate of its own, and shows windows in order.
visualize.params = [p for p in visualize.params if p.name not in ("fps", "segments")]


def _given(ctx: click.Context, name: str) -> bool:
    usual = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    return ctx.get_parameter_source(name) not in usual


def _voice(ctx: click.Context) -> Callable[[str], None]:
    quiet = ctx.find_root().params.get("quiet")
    return lambda text: None if quiet else click.echo(text, err=True)


def _job(output: str, options: dict[str, Any]) -> Job:
    names = tuple(dict.fromkeys(options["methods"]))
    for name in names:
        methods.check(name)
    return Job(
        output=output,
        methods=names,
        parameters=read.by_method(options["params"], names, option="-p"),
        weights=read.weights_by_method(options["weights"], names),
        stack=options["stack"],
        decoding=read.decoding({**options, "fps": None}),
        windowing=read.windowing({**options, "segments": None}),
        device=options["device"],
    )


def _look(options: dict[str, Any]) -> dict[str, Any]:
    if options["legend"] and options["per_frame_scale"]:
        raise UsageError("--legend shows one scale: leave out --per-frame-scale")
    names = ("style", "per_frame_scale", "legend", "label", "alone", "every")
    return {
        **{name: options[name] for name in names},
        "scale": _number("--scale", options["scale"]),
        "fps": None if options["rate"] is None else _number("--fps", options["rate"]),
        "max_flow": None if options["max_flow"] == "auto" else _pixels(options["max_flow"]),
        "columns": options["columns"] if options["compare"] else None,
    }


def _number(option: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise UsageError(f"{option} is a finite number above 0, not {value:g}")
    return value


def _pixels(text: str) -> float:
    try:
        return _number("--max-flow", float(text))
    except ValueError as error:
        raise UsageError(f"bad --max-flow ({text}): give auto or pixels") from error


def _part(text: str | None) -> tuple[int, int | None]:
    """``10:20``, ``10:`` or ``:20`` to the two numbers."""
    if text is None:
        return 0, None
    match = re.fullmatch(r"([0-9]*):([0-9]*)", text)
    begin, end = (int(match[1] or 0), int(match[2]) if match[2] else None) if match else (0, 0)
    if end is not None and end <= begin:
        raise UsageError(f"bad --frames ({text}): give A:B with B above A, as in 10:20")
    return begin, end


def _check_output(output: str, *, compare: bool) -> None:
    if compare and not output.lower().endswith(".png"):
        raise UsageError(f"--compare makes one .png, not {output}")
    if output == "-" and sys.stdout.isatty():
        raise UsageError("-o - writes a film: pipe it to a player, as in | mpv -")

"""``mrx visualize``: draw a video or a shard as a film, pictures, a page or a grid."""

import math
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from click.core import ParameterSource

from mrx import methods
from mrx.checks import list_choices
from mrx.cli.options import (
    decode_options,
    device_option,
    group_by_method,
    group_weights,
    loudness_options,
    make_decoding,
    make_windowing,
    method_options,
    window_options,
)
from mrx.errors import UsageError
from mrx.job import Job
from mrx.visualize.picture_options import PictureOptions

VIDEO_OPTIONS = (
    *("params", "stack", "weights", "device", "step", "dilation", "tail", "start", "end"),
    *("short_side", "size", "no_resize", "upscale", "no_autorotate", "image_fps"),
)

METHOD_KERNEL_OPTIONS = ("kernels", "output", "scale", "methods", "params", "weights")
CHECKPOINT_KERNEL_OPTIONS = (
    *("kernels", "output", "scale", "weights"),
    *("layers", "channel", "per_frame_scale"),
)


@click.command("visualize")
@click.argument("source", metavar="[INPUT]", required=False)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE|DIR|-",
    help="File to write: .html (an interactive page), .mp4 (H.264), .webm (VP9), .gif, .png (one "
    "picture), a folder of PNGs, or - for stdout.",
)
@method_options
@click.option(
    "--style",
    type=click.Choice(list_choices(PictureOptions, "style")),
    default=PictureOptions.style,
    help="Drawing style; side-by-side draws each method in its own style beside the frame.",
)
@click.option(
    "--max-flow",
    default="auto",
    metavar="auto|PX",
    help="Displacement drawn in full color, in pixels.",
)
@click.option("--per-frame-scale", is_flag=True, help="Scale each picture or filter separately.")
@click.option("--legend", is_flag=True, help="Add a color legend; .html always has one.")
@click.option(
    "--label",
    type=click.Choice(list_choices(PictureOptions, "label")),
    default=PictureOptions.label,
    help="Panel labels: none, method names, or names with non-default parameters.",
)
@click.option("--alone", is_flag=True, help="Leave out the frame beside the panels.")
@click.option(
    "--compare", is_flag=True, help="Draw a grid in a .png: time to the right, a row per method."
)
@click.option(
    "--columns", type=click.IntRange(min=1), default=4, help="Columns of the --compare grid."
)
@click.option("--frames", metavar="A:B", help="Draw only windows that begin at frames A to B - 1.")
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=PictureOptions.every,
    help="Draw every Nth window.",
)
@click.option(
    "--fps",
    "rate",
    type=float,
    help="Pictures per second of the film.  [default: the video's rate]",
)
@click.option(
    "--scale",
    type=float,
    default=PictureOptions.scale,
    help="Enlarge the drawing by this factor.",
)
@device_option
@click.option(
    "--kernels",
    is_flag=True,
    help="Draw filters as a .png, without INPUT: the method's before and after --weights, or, "
    "without -m, the first layer of each --weights.",
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME",
    help="With --kernels: draw this convolution of the checkpoints.",
)
@click.option(
    "--channel",
    type=click.IntRange(min=0),
    help="With --kernels: draw one input channel of every filter, counted from 0.",
)
@window_options
@decode_options
@loudness_options
@click.pass_context
def visualize_command(
    ctx: click.Context, /, source: str | None, output: str, **options: Any
) -> None:
    """Draw the motion in INPUT beside its frames.

    INPUT is a video, a folder of numbered images or a URL, whose maps are computed; or a shard, a
    folder of shards, or one video of a shard as in out::KEY, whose maps are read. There is one
    picture per window of the method with the most windows, beside the window's first frame. The map
    of a slower method stays until its next window begins; a grid prints its own time. A first pass
    finds one scale for the whole clip. Films (.mp4, .webm, -) have even sides: an odd side repeats
    its last row or column. An .html file is one page that works offline: a scrubber moves all
    panels, and the pointer reads values.
    """
    ctx.with_resource(_unwind_on_sigterm())
    if _is_kernels_mode(ctx, source):
        _draw_kernels(ctx, output, options)
        return
    source = str(source)
    frame_range = _parse_frame_range(options["frames"])
    picture_options = _parse_picture_options(options)
    _check_output_kind(output, compare=options["compare"])
    _check_options_used(ctx, output)
    from mrx.visualize import draw

    draw.check_output_differs(source, output=output)
    request = draw.DrawRequest(output, frame_range, picture_options, _make_notifier(ctx))
    if draw.is_stored(source):
        names = options["methods"] if _is_given(ctx, "methods") else ()
        for name in VIDEO_OPTIONS:
            if _is_given(ctx, name):
                option = {"params": "-p"}.get(name, f"--{name.replace('_', '-')}")
                raise UsageError(f"{option} does not fit {source}: its maps are computed already")
        draw.visualize_shard(source, names, request)
    else:
        draw.visualize_video(source, _make_drawing_job(output, options), request)


# The --fps of this command is the rate of the film, and a film shows windows in order.
visualize_command.params = [
    p for p in visualize_command.params if p.name not in ("fps", "segments")
]


@contextmanager
def _unwind_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that no partial output remains."""

    def exit_on_signal(number: int, _: object) -> None:
        click.echo("stopped by SIGTERM", err=True)
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, exit_on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _is_kernels_mode(ctx: click.Context, source: str | None) -> bool:
    """Tell whether filters are to be drawn; refuse INPUT with --kernels, and neither."""
    kernels = bool(ctx.params["kernels"])
    if kernels and source is not None:
        raise UsageError(f"--kernels draws no INPUT: leave out {source}, or --kernels")
    if not kernels and source is None:
        raise UsageError("nothing to draw: give an INPUT, or --kernels")
    for name, option in (("layers", "--layer"), ("channel", "--channel")):
        if not kernels and _is_given(ctx, name):
            raise UsageError(f"{option} is for --kernels")
    return kernels


def _draw_kernels(ctx: click.Context, output: str, options: dict[str, Any]) -> None:
    names, files = methods.choose_methods(options["methods"]), options["weights"]
    checkpoints_only = bool(files) and not _is_given(ctx, "methods")
    accepted = CHECKPOINT_KERNEL_OPTIONS if checkpoints_only else METHOD_KERNEL_OPTIONS
    for option in ctx.command.params:
        name = str(option.name)
        if option.expose_value and name not in accepted and _is_given(ctx, name):
            subject = (
                "a checkpoint without -m" if checkpoints_only else f"the kernels of {names[0]}"
            )
            raise UsageError(f"{max(option.opts, key=len)} does not fit {subject}")
    if not output.lower().endswith(".png"):
        raise UsageError(f"--kernels makes one .png, not {output}")
    scale = _check_positive("--scale", options["scale"])
    if not checkpoints_only and (len(names) > 1 or len(files) > 1):
        raise UsageError("--kernels draws one method, with one --weights at most")
    from mrx.visualize import filters

    if checkpoints_only:
        selection = filters.LayerSelection(
            options["layers"], options["channel"], options["per_frame_scale"]
        )
        filters.draw_checkpoints(files, selection, output, scale)
    else:
        parameters = group_by_method(options["params"], names, option="-p")[names[0]]
        weights = group_weights(files, names).get(names[0])
        filters.draw_method_filters(names[0], parameters, weights, output, scale)


def _is_given(ctx: click.Context, name: str) -> bool:
    defaults = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    return ctx.get_parameter_source(name) not in defaults


def _make_notifier(ctx: click.Context) -> Callable[[str], None]:
    quiet = ctx.find_root().params.get("quiet")
    return lambda text: None if quiet else click.echo(text, err=True)


def _make_drawing_job(output: str, options: dict[str, Any]) -> Job:
    names = methods.choose_methods(options["methods"])
    return Job(
        output=output,
        methods=names,
        parameters=group_by_method(options["params"], names, option="-p"),
        weights=group_weights(options["weights"], names),
        stack=options["stack"],
        decoding=make_decoding({**options, "fps": None}),
        windowing=make_windowing({**options, "segments": None}),
        devices=(options["device"],),
    )


def _parse_picture_options(options: dict[str, Any]) -> PictureOptions:
    if options["legend"] and options["per_frame_scale"]:
        raise UsageError("--legend shows one scale: leave out --per-frame-scale")
    if options["max_flow"] != "auto" and options["per_frame_scale"]:
        raise UsageError("--max-flow is one scale for all: leave out --per-frame-scale")
    names = ("style", "per_frame_scale", "legend", "label", "alone", "every")
    return PictureOptions(
        **{name: options[name] for name in names},
        scale=_check_positive("--scale", options["scale"]),
        fps=None if options["rate"] is None else _check_positive("--fps", options["rate"]),
        max_flow=None if options["max_flow"] == "auto" else _parse_pixels(options["max_flow"]),
        columns=options["columns"] if options["compare"] else None,
    )


def _check_positive(option: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise UsageError(f"{option} is a finite number above 0, not {value:g}")
    return value


def _parse_pixels(text: str) -> float:
    try:
        return _check_positive("--max-flow", float(text))
    except ValueError as error:
        raise UsageError(f"bad --max-flow ({text}): give auto or pixels") from error


def _parse_frame_range(text: str | None) -> tuple[int, int | None]:
    """Parse a range of frames.

    >>> _parse_frame_range("10:20"), _parse_frame_range(":20"), _parse_frame_range("10:")
    ((10, 20), (0, 20), (10, None))
    """
    if text is None:
        return 0, None
    match = re.fullmatch(r"([0-9]*):([0-9]*)", text)
    begin, end = (int(match[1] or 0), int(match[2]) if match[2] else None) if match else (0, 0)
    if end is not None and end <= begin:
        raise UsageError(f"bad --frames ({text}): give A:B with B above A, as in 10:20")
    return begin, end


def _check_options_used(ctx: click.Context, output: str) -> None:
    """Refuse options without effect."""
    if _is_given(ctx, "columns") and not ctx.params["compare"]:
        raise UsageError("--columns is for --compare")
    if _is_given(ctx, "rate") and output.lower().endswith(".png"):
        raise UsageError(f"--fps is for films and pages, not for {output}")


def _check_output_kind(output: str, *, compare: bool) -> None:
    if compare and not output.lower().endswith(".png"):
        raise UsageError(f"--compare makes one .png, not {output}")
    if output == "-" and sys.stdout.isatty():
        raise UsageError("-o - writes a film: pipe it to a player, as in | mpv -")

"""Options that commands share, and the settings that their values make.

Defaults and choices are those of the settings classes in `mrx.job`.
"""

import logging
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, get_args

import click

from mrx.checks import list_choices
from mrx.errors import UsageError
from mrx.job import Decoding, Job, Storage, Windowing
from mrx.sources.scan import KeyStyle

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R = TypeVar("R")


def format_exact_bytes(count: int) -> str:
    """Write a number of bytes exactly, in the largest binary unit of which it is a multiple.

    >>> format_exact_bytes(1536 * 1024**2), format_exact_bytes(1000)
    ('1536MiB', '1000B')
    """
    for power, letter in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
        if count and count % 1024**power == 0:
            return f"{count // 1024**power}{letter}iB"
    return f"{count}B"


def combine_options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Combine options into one decorator; help lists them in the order given."""

    def decorate_command(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate_command


def _add_loudness(ctx: click.Context, option: click.Parameter, value: int) -> None:
    """Add to the value given before the command, where errors and reports read it."""
    settings = ctx.find_root().params
    settings[str(option.name)] = settings.get(str(option.name), 0) + value
    if settings.get("verbose", 0) > 1:
        logging.getLogger().setLevel(logging.DEBUG)


loudness_options = combine_options(
    click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=_add_loudness,
        help="Print more; -vv adds tracebacks.",
    ),
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_add_loudness,
        help="Print errors only.",
    ),
)

input_options = combine_options(
    click.option("-0", "--null", is_flag=True, help="The list on stdin is separated by NUL."),
    click.option(
        "--root",
        metavar="DIR",
        help="Make keys relative to this folder.  [default: the deepest folder of all inputs]",
    ),
    click.option(
        "--key",
        type=click.Choice(get_args(KeyStyle)),
        default=get_args(KeyStyle)[0],
        help="Name videos in the shards by relative path, or by file name without ending.",
    ),
    click.option(
        "--ext", metavar="LIST", help="File endings to look for in folders, as in mp4,mkv."
    ),
    click.option(
        "--label-from",
        type=click.Choice(["parent"]),
        help="Label each video with its folder's name.",
    ),
    click.option("--missing-ok", is_flag=True, help="Skip inputs that do not exist."),
)

method_options = combine_options(
    click.option(
        "-m",
        "--method",
        "methods",
        multiple=True,
        default=Job.methods,
        metavar="NAME",
        help="Method to compute, see mrx methods; repeat it to share one decode.",
    ),
    click.option(
        "-p",
        "--param",
        "params",
        multiple=True,
        metavar="NAME=VALUE",
        help="Set a method parameter; METHOD.NAME=VALUE sets it for one of several methods.",
    ),
    click.option(
        "--stack",
        type=int,
        help="Displacements per window of a flow method: N from N + 1 frames.  [default: 1]",
    ),
    click.option(
        "--weights",
        multiple=True,
        metavar="FILE",
        help="Load trained weights; METHOD=FILE with several methods.",
    ),
)

device_option = click.option(
    "--device",
    default=Job.devices[0],
    metavar="auto|cpu|cuda:N|mps",
    help="Device to compute on.",
)

window_options = combine_options(
    click.option(
        "--step",
        type=int,
        help="Frames from one window to the next.  [default: the method's own]",
    ),
    click.option(
        "--dilation",
        type=int,
        help="Frames from one frame of a window to the next; 1 takes adjacent frames.  [default: "
        "the method's own]",
    ),
    click.option(
        "--segments",
        type=int,
        help="Take N windows per video, at the centers of N equal parts; for ms, the N-1 pairs of "
        "adjacent centers.",
    ),
    click.option(
        "--tail",
        type=click.Choice(list_choices(Windowing, "tail")),
        default=Windowing.tail,
        help="Drop a last window that is too short, or fill it with its last frame.",
    ),
)

decode_options = combine_options(
    click.option(
        "--short-side",
        type=int,
        default=Decoding.short_side,
        help="Scale the shorter side down to this many pixels.",
    ),
    click.option("--size", metavar="WxH", help="Scale to this size, as displayed."),
    click.option("--no-resize", is_flag=True, help="Keep the size of each video."),
    click.option("--upscale", is_flag=True, help="Let --short-side enlarge small videos."),
    click.option(
        "--fps", type=float, help="Sample frames by timestamp at this rate.  [default: all frames]"
    ),
    click.option("--start", type=float, help="Start at this many seconds after the first frame."),
    click.option("--end", type=float, help="Stop at this many seconds after the first frame."),
    click.option("--no-autorotate", is_flag=True, help="Ignore the display rotation of videos."),
    click.option(
        "--image-fps",
        type=float,
        default=Decoding.image_fps,
        help="Frame rate of folders of images.",
    ),
    click.option(
        "--max-pixels",
        type=int,
        default=Decoding.max_pixels,
        help="Refuse frames with more pixels.",
    ),
    click.option(
        "--on-decode-error",
        type=click.Choice(list_choices(Decoding, "on_error")),
        default=Decoding.on_error,
        help="At damage, continue after it, end the video there, or fail the video.",
    ),
    click.option(
        "--decoder",
        type=click.Choice(list_choices(Decoding, "decoder")),
        default=Decoding.decoder,
        help="Decode with PyAV, or on the NVIDIA GPU that computes, by torchcodec (files only). "
        "Videos that nvdec decodes differently fail.",
    ),
)

storage_options = combine_options(
    click.option(
        "--dtype",
        type=click.Choice(list_choices(Storage, "dtype")),
        default=Storage.dtype,
        help="Stored number type; auto is q16 for displacements in pixels, else float16. Readers "
        "always return floats.",
    ),
    click.option(
        "--bound",
        default="auto",
        metavar="auto|FLOAT",
        help="Largest absolute value that uint8 and q16 can store.",
    ),
    click.option(
        "--tolerance",
        type=float,
        metavar="X",
        help="Compress with an error of at most X in every value, in pixels for displacements; "
        "needs hdf5plugin.",
    ),
    click.option(
        "--compression",
        type=click.Choice(list_choices(Storage, "compression")),
        default=Storage.compression,
        help="auto compresses maps that cost far more to compute than to compress, by gzip; blosc "
        "and blosc2 need hdf5plugin.",
    ),
    click.option(
        "--videos-per-shard",
        type=click.IntRange(min=1),
        default=Storage.videos_per_shard,
        help="Start a new shard after this many videos.",
    ),
    click.option(
        "--shard-size",
        default=format_exact_bytes(Storage.shard_size),
        help="Start a new shard after this many bytes.",
    ),
)


def name_option_errors(record: Callable[P, R]) -> Callable[P, R]:
    """Wrap a settings class so that its errors name the CLI option."""

    def make_record(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return record(*args, **kwargs)
        except UsageError as error:
            field, _, message = str(error).partition(" ")
            raise UsageError(f"--{field.replace('_', '-')} {message}") from error

    return make_record


def make_decoding(options: dict[str, Any]) -> Decoding:
    """Build the decoding settings from the options of a command."""
    return name_option_errors(Decoding)(
        short_side=None if options["no_resize"] else options["short_side"],
        size=parse_size(options["size"]) if options["size"] else None,
        upscale=options["upscale"],
        fps=options["fps"],
        start=options["start"],
        end=options["end"],
        rotate=not options["no_autorotate"],
        on_error=options["on_decode_error"],
        image_fps=options["image_fps"],
        max_pixels=options["max_pixels"],
        decoder=options["decoder"],
    )


def make_windowing(options: dict[str, Any]) -> Windowing:
    """Build the windowing settings from the options of a command."""
    return name_option_errors(Windowing)(
        step=options["step"],
        dilation=options["dilation"],
        segments=options["segments"],
        tail=options["tail"],
    )


def make_storage(options: dict[str, Any]) -> Storage:
    """Build the storage settings from the options of a command."""
    bound = options["bound"]
    try:
        number = None if bound == "auto" else float(bound)
    except ValueError as error:
        raise UsageError(f"bad --bound ({bound}): give auto or a number") from error
    return name_option_errors(Storage)(
        dtype=options["dtype"],
        bound=number,
        tolerance=options["tolerance"],
        compression=options["compression"],
        videos_per_shard=options["videos_per_shard"],
        shard_size=parse_bytes(options["shard_size"]),
    )


def group_by_method(
    texts: Sequence[str], methods: Sequence[str], *, option: str
) -> dict[str, dict[str, str]]:
    """Sort ``NAME=VALUE`` texts by method; ``METHOD.NAME=VALUE`` is for that method only.

    >>> group_by_method(["seed=1", "pa.seed=2"], ["ms", "pa"], option="-p")
    {'ms': {'seed': '1'}, 'pa': {'seed': '2'}}
    """
    values: dict[str, dict[str, str]] = {method: {} for method in methods}
    for text in texts:
        name, equals, value = text.partition("=")
        method, dot, own_name = name.partition(".")
        if not equals:
            raise UsageError(f"bad {option} ({text}): give NAME=VALUE")
        if dot and method not in values:
            raise UsageError(f"bad {option} ({text}): {method} is not among {', '.join(methods)}")
        for target in [method] if dot else methods:
            values[target][own_name if dot else name] = value
    return values


def group_weights(texts: Sequence[str], methods: Sequence[str]) -> dict[str, str]:
    """Sort weight files by method: ``FILE`` for a single method, else ``METHOD=FILE``."""
    files: dict[str, str] = {}
    for text in texts:
        method, _, path = text.partition("=")
        if method not in methods:
            # An equals sign may be part of the file's name.
            method, path = "", text
        if not method and len(methods) > 1:
            raise UsageError(
                f"ambiguous --weights ({text}): there are several methods, {', '.join(methods)}. "
                "Give METHOD=FILE"
            )
        files[method or methods[0]] = os.path.abspath(path)  # noqa: PTH100 - as typed, links kept
    return files


def parse_size(text: str) -> tuple[int, int]:
    """Parse a width and a height.

    >>> parse_size("340x256")
    (340, 256)
    """
    numbers = re.fullmatch(r"0*([1-9][0-9]{0,8})x0*([1-9][0-9]{0,8})", text.lower())
    if not numbers:
        raise UsageError(f"bad size ({text}): give width x height in pixels, as in 340x256")
    return int(numbers[1]), int(numbers[2])


def parse_bytes(text: str) -> int:
    """Parse a number of bytes, with or without a unit.

    >>> parse_bytes("2GiB"), parse_bytes("1.5kB")
    (2147483648, 1500)
    """
    units = {"": 1, "b": 1}
    for power, letter in enumerate("kmgt", start=1):
        units |= {f"{letter}b": 1000**power, f"{letter}ib": 1024**power, letter: 1024**power}
    number = text.strip().rstrip("BbIiKkMmGgTt")
    unit = text.strip()[len(number) :].lower()
    try:
        return int(float(number) * units[unit])
    except (KeyError, ValueError, OverflowError) as error:
        raise UsageError(f"bad size ({text}): give a number of bytes, as in 2GiB") from error

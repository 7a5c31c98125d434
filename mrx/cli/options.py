"""Options of commands: how text becomes the values of a job."""

import logging
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import click

from mrx.errors import UsageError
from mrx.job import Decoding, Storage, Windowing

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R = TypeVar("R")


def combine_options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, shown in the order given."""

    def decorate_command(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate_command


def _add_loudness(ctx: click.Context, option: click.Parameter, value: int) -> None:
    """Add to what was said before the command, where errors and reports look it up."""
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
        help="Say more; -vv adds tracebacks.",
    ),
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_add_loudness,
        help="Say nothing but errors.",
    ),
)

input_options = combine_options(
    click.option("-0", "--null", is_flag=True, help="The list on stdin is separated by NUL."),
    click.option(
        "--root",
        metavar="DIR",
        help="Keys are relative to this folder, not to the deepest one that holds all inputs.",
    ),
    click.option(
        "--key",
        type=click.Choice(["relpath", "stem"]),
        default="relpath",
        help="What a video is called in the shards.",
    ),
    click.option(
        "--ext", metavar="LIST", help="Endings that a folder's scan takes, as in mp4,mkv."
    ),
    click.option(
        "--label-from", type=click.Choice(["parent"]), help="A video's label is its folder's name."
    ),
    click.option(
        "--missing-ok", is_flag=True, help="Inputs that do not exist are skipped, not failed."
    ),
)

method_options = combine_options(
    click.option(
        "-m",
        "--method",
        "methods",
        multiple=True,
        default=["mbpm"],
        metavar="NAME",
        help="See mrx methods; repeat it to compute several in one decode.",
    ),
    click.option(
        "-p",
        "--param",
        "params",
        multiple=True,
        metavar="NAME=VALUE",
        help="A parameter of the method; METHOD.NAME=VALUE where several have it.",
    ),
    click.option(
        "--stack",
        type=int,
        help="Displacements a window, for methods of flow: N of N + 1 frames.  [default: 1]",
    ),
    click.option(
        "--weights",
        multiple=True,
        metavar="FILE",
        help="A checkpoint; METHOD=FILE with several methods.",
    ),
)

window_options = combine_options(
    click.option(
        "--step", type=int, help="Frames from one window to the next.  [default: the method's own]"
    ),
    click.option(
        "--dilation",
        type=int,
        help="Frames from one frame of a window to the next, 1 for neighbours.  [default: the "
        "method's own]",
    ),
    click.option(
        "--segments",
        type=int,
        help="This many windows a video, at the centres of equal parts, instead of all; for ms "
        "without --dilation the pairs of neighbouring centres, one less.",
    ),
    click.option(
        "--tail",
        type=click.Choice(["drop", "repeat"]),
        default="drop",
        help="What to do where the last window runs past the end.",
    ),
)

decode_options = combine_options(
    click.option(
        "--short-side", type=int, default=256, help="Scale the shorter side down to this."
    ),
    click.option("--size", metavar="WxH", help="Scale to this size, as displayed."),
    click.option("--no-resize", is_flag=True, help="Keep the videos' own sizes."),
    click.option("--upscale", is_flag=True, help="Let --short-side enlarge small videos too."),
    click.option(
        "--fps", type=float, help="Take frames by timestamp at this rate.  [default: all]"
    ),
    click.option("--start", type=float, help="Seconds after the first frame."),
    click.option("--end", type=float, help="Seconds after the first frame."),
    click.option("--no-autorotate", is_flag=True, help="Leave rotated videos as they are coded."),
    click.option("--image-fps", type=float, default=25.0, help="The rate of folders of images."),
    click.option(
        "--max-pixels", type=int, default=Decoding.max_pixels, help="Refuse larger frames."
    ),
    click.option(
        "--on-decode-error",
        type=click.Choice(["skip", "stop", "fail"]),
        default="skip",
        help="At damage: go on, end the video there, or give it up.",
    ),
    click.option(
        "--decoder",
        type=click.Choice(["pyav", "nvdec"]),
        default="pyav",
        help="nvdec decodes files (no URLs) on the NVIDIA GPU that computes, by torchcodec; a "
        "video that it cannot decode as pyav does fails. Folders of images are read as ever.",
    ),
)

storage_options = combine_options(
    click.option(
        "--dtype",
        type=click.Choice(["float16", "float32", "q16", "uint8"]),
        default="float16",
        help="How maps are stored; readers get floats from each.",
    ),
    click.option(
        "--bound",
        default="auto",
        metavar="auto|FLOAT",
        help="The largest value that uint8 and q16 keep.",
    ),
    click.option(
        "--compression",
        type=click.Choice(["auto", "none", "gzip", "lzf", "blosc"]),
        default="auto",
        help="auto compresses what costs far more to compute.",
    ),
    click.option(
        "--videos-per-shard",
        type=click.IntRange(min=1),
        default=500,
        help="Begin a new shard after so many videos.",
    ),
    click.option("--shard-size", default="2GiB", help="Begin a new shard after so many bytes."),
)


def name_option_errors(record: Callable[P, R]) -> Callable[P, R]:
    """The maker of a job's part, whose errors name the option where they name the field."""

    def make_record(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return record(*args, **kwargs)
        except UsageError as error:
            field, _, message = str(error).partition(" ")
            raise UsageError(f"--{field.replace('_', '-')} {message}") from error

    return make_record


def make_decoding(options: dict[str, Any]) -> Decoding:
    """The decoding that a command's options mean."""
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
    """The windowing that a command's options mean."""
    return name_option_errors(Windowing)(
        step=options["step"],
        dilation=options["dilation"],
        segments=options["segments"],
        tail=options["tail"],
    )


def make_storage(options: dict[str, Any]) -> Storage:
    """The storage that a command's options mean."""
    bound = options["bound"]
    try:
        number = None if bound == "auto" else float(bound)
    except ValueError as error:
        raise UsageError(f"bad --bound ({bound}): give auto or a number") from error
    return name_option_errors(Storage)(
        dtype=options["dtype"],
        bound=number,
        compression=options["compression"],
        videos_per_shard=options["videos_per_shard"],
        shard_size=parse_bytes(options["shard_size"]),
    )


def group_by_method(
    texts: Sequence[str], methods: Sequence[str], *, option: str
) -> dict[str, dict[str, str]]:
    """``NAME=VALUE`` for all methods, ``METHOD.NAME=VALUE`` for one."""
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
    """``FILE`` for the one method, ``METHOD=FILE`` for one of several."""
    files: dict[str, str] = {}
    for text in texts:
        method, _, path = (
            text.partition("=") if text.partition("=")[0] in methods else ("", "", text)
        )
        if not method and len(methods) > 1:
            raise UsageError(
                f"--weights {text}: for which of {', '.join(methods)}? METHOD=FILE says"
            )
        files[method or methods[0]] = os.path.abspath(path)  # noqa: PTH100 - as typed, links kept
    return files


def parse_size(text: str) -> tuple[int, int]:
    """``340x256`` to (340, 256): width, then height."""
    numbers = re.fullmatch(r"0*([1-9][0-9]{0,8})x0*([1-9][0-9]{0,8})", text.lower())
    if not numbers:
        raise UsageError(f"bad size ({text}): give width x height in pixels, as in 340x256")
    return int(numbers[1]), int(numbers[2])


def parse_bytes(text: str) -> int:
    """``2GiB``, ``500MB`` or a plain number to bytes.

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

"""The parts of a method: a module that computes, and an entry that describes it."""

import hashlib
import inspect
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mrx.errors import ShapeError, UsageError

Normalization = Literal["imagenet", "x3d", "none"]

COLOR_STATISTICS: dict[str, tuple[list[float], list[float]]] = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "x3d": ([0.45, 0.45, 0.45], [0.225, 0.225, 0.225]),
    "none": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
}
"""Mean and standard deviation of R, G and B in 0..1, from the training of the networks."""


class Representation(nn.Module):
    """A motion representation: a module that turns windows of frames into maps.

    A subclass sets the attributes below in its constructor and computes in `forward`. Training
    calls `forward` on a float clip; extraction calls `extract` on the decoder's bytes.

    Attributes:
        length: frames in a window
        step: default number of frames from one window to the next
        dilation: default number of frames from one frame of a window to the next
        channels: names of the output's channels
        bound: limit that absolute values rarely exceed; `uint8` storage clips here by default
        smallest: smallest height and width that the formula accepts
        across_segments: given a number of segments and no dilation, take the frames of a window
            from adjacent segments, one of each, instead of from one segment; for matching over
            wide gaps
        key_prefixes: prefixes of this module's weights in the state dicts of whole networks

    Shape:
        - frames: ``(B, T, C, H, W)`` uint8, T = ``length``, C = 3 (rgb) or 1 (gray)
        - clip: the same shape, floating point, as `prepare` scales it
        - output: ``(B, len(channels), H', W')``
    """

    color: ClassVar[Literal["rgb", "gray"]] = "rgb"
    units: ClassVar[str] = "a.u."
    across_segments: ClassVar[bool] = False
    key_prefixes: ClassVar[tuple[str, ...]] = ("",)

    length: int
    step: int
    channels: tuple[str, ...]
    bound: float
    dilation: int = 1
    smallest: int = 1

    def prepare(self, frames: Tensor) -> Tensor:
        """Scale the decoder's bytes to the floats that `forward` is defined on."""
        raise TypeError(f"{type(self).__name__} does not scale frames: define prepare")

    def extract(self, frames: Tensor) -> Tensor:
        """Compute maps from the decoder's bytes; subclasses may override it with a faster twin."""
        return self(self.prepare(frames))

    def output_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape (C', H', W') of the maps of frames of this size."""
        return len(self.channels), height, width

    def covered_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width, from the top left, that the maps cover."""
        return height, width

    def estimate_bound(self) -> float:
        """Return the `bound` for the current weights; called after loading others."""
        return self.bound

    def translate_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the weights of a state dict from other code to this module's names.

        Raises:
            ValueError: the weights do not fit
        """
        return state

    def describe_dilation_problem(self, dilation: int) -> str:
        """Return why frames of a window this far apart give poor maps, or an empty string."""
        return ""

    def collect_facts(self) -> dict[str, Any]:
        """Return facts besides the parameters that decide the output, for shard attributes."""
        return {}

    def check_clip(self, clip: Tensor) -> None:
        """Raise ShapeError, with the expected shape, if a clip has another one."""
        colors = 3 if self.color == "rgb" else 1
        shape = tuple(clip.shape)
        if clip.ndim != 5 or shape[1] != self.length or shape[2] != colors:
            raise ShapeError(
                f"{type(self).__name__} takes clips (B, {self.length}, {colors}, H, W), got {shape}"
            )
        if min(shape[3:]) < self.smallest:
            raise ShapeError(
                f"{type(self).__name__} needs frames of at least {self.smallest}x{self.smallest} "
                f"pixels, got {shape[4]}x{shape[3]}"
            )


@dataclass(frozen=True)
class Method:
    """The entry of a method: its description for the command line and the shards.

    The module's constructor is the only home of the parameters' defaults.
    """

    name: str
    module: type[Representation]
    summary: str
    paper: str
    cost: Literal["light", "heavy"]
    version: int = 1

    def list_parameters(self) -> dict[str, inspect.Parameter]:
        """Return the constructor's parameters, with annotations resolved."""
        hints = typing.get_type_hints(self.module.__init__)
        signature = inspect.signature(self.module)
        return {k: p.replace(annotation=hints.get(k, Any)) for k, p in signature.parameters.items()}

    def complete_parameters(self, given: Mapping[str, str]) -> dict[str, Any]:
        """Return all parameters: the defaults, replaced by given texts read by their annotation.

        Raises:
            UsageError: a name is unknown, or a text is not of its type
        """
        known = self.list_parameters()
        values = {name: parameter.default for name, parameter in known.items()}
        for name, text in given.items():
            if name not in known:
                raise UsageError(
                    f"{self.name} has no parameter {name}; it has "
                    + ", ".join(f"{k}={p.default}" for k, p in known.items())
                )
            values[name] = read_value(f"{self.name}.{name}", text, known[name].annotation)
        return values

    def build_module(self, parameters: Mapping[str, Any]) -> Representation:
        """Build the module, in evaluation mode.

        Raises:
            UsageError: the constructor refuses a value
        """
        try:
            return self.module(**parameters).eval()
        except ValueError as error:
            raise UsageError(f"{self.name}: {error}") from error


def read_value(name: str, text: str, kind: Any) -> Any:
    """Read a parameter's text as int, float, bool, str or one of a `Literal`'s choices.

    >>> read_value("mbpm.size", "9", int), read_value("mbpm.scale", "paper", Literal["paper"])
    (9, 'paper')
    >>> read_value("tvl1.warps", "none", int | None), read_value("tvl1.warps", "3", int | None)
    (None, 3)
    """
    kinds = typing.get_args(kind)
    if type(None) in kinds:
        kind = next(k for k in kinds if k is not type(None))
        # Where "none" is a choice of the Literal, as in ms.refinement, it is that choice, and only
        # Python's None is no value.
        if text == "None" or (text.lower() == "none" and "none" not in typing.get_args(kind)):
            return None
    options = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    if options:
        if text not in options:
            raise UsageError(f"{name}={text}: choose from {', '.join(options)}")
        return text
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        return words[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        raise UsageError(f"{name}={text}: not of type {kind.__name__}") from error


def normalize_bytes(frames: Tensor, normalization: Normalization, dtype: torch.dtype) -> Tensor:
    """Normalize bytes 0..255 to ``(bytes / 255 - mean) / std``.

    Shape:
        - frames: ``(B, T, 3, H, W)`` uint8; output: the same, of the given dtype
    """
    mean, std = (
        frames.new_tensor(v, dtype=dtype).view(3, 1, 1) for v in COLOR_STATISTICS[normalization]
    )
    # In place on the copy that `to` makes of bytes: the formula without two temporaries.
    return frames.to(dtype).mul_(1 / (255 * std)).sub_(mean / std)


def name_flow_channels(stack: int) -> tuple[str, ...]:
    """Return the channel names of a window's displacements.

    >>> name_flow_channels(1), name_flow_channels(2)
    (('dx', 'dy'), ('x1', 'y1', 'x2', 'y2'))
    """
    if stack == 1:
        return "dx", "dy"
    return tuple(f"{axis}{i}" for i in range(1, stack + 1) for axis in "xy")


@contextmanager
def full_precision(clip: Tensor) -> Iterator[Tensor]:
    """Yield the clip in float32 at least, with autocast off."""
    # Autocast would run convolutions and products in half precision, which spoils the sums.
    with torch.autocast(clip.device.type, enabled=False):
        yield clip.to(torch.promote_types(clip.dtype, torch.float32))


def keep_traced_size(frames: Tensor) -> Tensor:
    """Make a `torch.jit.trace` refuse frames of another size than it has seen.

    A trace holds numbers that depend on the size, such as those of pyramid levels, and would
    silently return maps of the old size. `torch.export` checks sizes by itself.

    Shape:
        - frames: ``(B, T, C, H, W)``; output: the same
    """
    if not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return frames
    return frames.expand(-1, *map(int, frames.shape[1:]))


def hash_weights(module: nn.Module) -> str:
    """Return the sha256 of a module's weights as float32, in the order of its state dict."""
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

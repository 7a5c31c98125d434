"""Weights → render → one picture: what ``mrx visualize --kernels`` does.

A method's kernels are drawn before training and, where a checkpoint is given, after it, with one
scale for both; a checkpoint alone shows the filters of its first layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mrx import methods
from mrx.errors import UsageError
from mrx.methods.spec import Representation
from mrx.methods.weights import load_weights, read_state, shorten
from mrx.render.figures import Kernel, Panel, Size, filters_page, kernels_page
from mrx.visualize.film import write_png

SPACE, TIME = "conv_s.weight", "conv_t.weight"
"""The names of a motion band-pass's two filters, here and in the released code."""

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layers:
    """Which filters of checkpoints are drawn, and how.

    Attributes:
        names: of convolutions, as in the files; none is each file's first
        channel: one input of every filter alone, from 0
        each: every filter has a scale of its own, instead of one for a layer
    """

    names: Sequence[str] = ()
    channel: int | None = None
    each: bool = False


def draw_method(
    name: str, given: Mapping[str, str], weights: str | None, output: str, scale: float
) -> None:
    """Draw a method's kernels as it is made, and beside them those of a checkpoint.

    Raises:
        UsageError: the method has none, or the checkpoint does not fit
    """
    method = methods.find(name)
    parameters = method.complete(given)
    modules = {"before training": method.build(parameters)}
    if weights:
        modules["after training"] = method.build(parameters)
        load_weights(modules["after training"], weights)
    states = {word: module.state_dict() for word, module in modules.items()}
    made = states["before training"]
    layer = next(iter(first_layers(made)), "")
    if {SPACE, TIME} <= made.keys():
        kernels = [one for word, module in modules.items() for one in _kernels(word, module)]
        _check_finite(kernels, weights)
        page = kernels_page(kernels, Size(scale))
    elif layer:
        panels = [Panel(word, convolutions(state)[layer]) for word, state in states.items()]
        page = filters_page(panels, Size(scale), each=False, same=True)
    else:
        raise UsageError(
            f"{name} has no filters in space to draw, as mbpm and pa have; --weights FILE without "
            "-m draws the first layer of a checkpoint"
        )
    write_png(Path(output), page)


def draw_checkpoints(paths: Sequence[str], layers: Layers, output: str, scale: float) -> None:
    """Draw filters of checkpoints beside each other, with a scale for each layer.

    Raises:
        UsageError: a file cannot be read safely, or has none; none has a layer that is named
    """
    states = {path: read_state(Path(path)) for path in paths}
    _check_names(states, layers.names)
    panels = []
    for path, state in states.items():
        before = f"{Path(path).stem}: " if len(states) > 1 else ""
        for layer, weights in _chosen(path, state, layers.names).items():
            part = _of_channel(weights, layers.channel, f"{path}: {layer}")
            panels.append(Panel(before + layer, part, layers.channel))
    page = filters_page(panels, Size(scale), each=layers.each, same=False)
    write_png(Path(output), page)


def first_layers(state: State) -> dict[str, Tensor]:
    """The filters that a network sees its input with, by layer; empty where there are none.

    They are the first in the file that reach over more than a pixel, but for a motion band-pass,
    which stands before the first layer; and others of the same shape that take colors too: a
    network of two paths has two.

    >>> net = {"a.weight": torch.zeros(8, 3, 1, 1), "b.weight": torch.zeros(8, 3, 7, 7)}
    >>> list(first_layers(net))
    ['b']
    """
    found = {
        layer: weights
        for layer, weights in convolutions(state).items()
        if max(weights.shape[-2:]) > 1 and not _is_band_pass(layer, state)
    }
    if not found:
        return {}
    first = next(iter(found))
    shape = found[first].shape
    if shape[1] != 3:
        return {first: found[first]}
    return {layer: weights for layer, weights in found.items() if weights.shape == shape}


def convolutions(state: State) -> dict[str, Tensor]:
    """The weights of convolutions in space, or time and space, by their layers' names."""
    return {
        key.removesuffix("weight").rstrip("."): weights
        for key, weights in state.items()
        if key.endswith("weight") and weights.ndim in (4, 5) and weights.is_floating_point()
    }


def _is_band_pass(layer: str, state: State) -> bool:
    key = f"{layer}.weight"
    return _is_space(key) and key.removesuffix(SPACE) + TIME in state


def _is_space(key: str) -> bool:
    return key.endswith(SPACE)


def _kernels(word: str, module: Representation) -> list[Kernel]:
    """A kernel for each channel, or one where they are equal."""
    state = module.state_dict()
    space, time = state[SPACE][:, 0], state[TIME][:, 0]
    if all(torch.equal(one, one[:1].expand_as(one)) for one in (space, time)):
        return [Kernel(word, space[0], time[0])]
    titles = [f"{word}: {channel}" for channel in module.channels]
    return [Kernel(*one) for one in zip(titles, space, time, strict=True)]


def _check_finite(kernels: Sequence[Kernel], weights: str | None) -> None:
    if not all(torch.isfinite(torch.as_tensor(k.space)).all() for k in kernels):
        raise UsageError(f"{weights}: the kernel has numbers that are not finite: nothing to draw")


def _check_names(states: Mapping[str, State], names: Sequence[str]) -> None:
    there = {layer for state in states.values() for layer in convolutions(state)}
    for name in names:
        if name.removesuffix(".weight") not in there:
            held = "; ".join(f"{path} has {_inventory(state)}" for path, state in states.items())
            raise UsageError(f"--layer {name}: no such convolution; {held}")


def _chosen(path: str, state: State, names: Sequence[str]) -> dict[str, Tensor]:
    """The layers of a file that are asked for and there, or else its first."""
    there = convolutions(state)
    wanted = dict.fromkeys(name.removesuffix(".weight") for name in names)
    found = {name: there[name] for name in wanted if name in there} or first_layers(state)
    if not found:
        way = "; -m mbpm draws its motion band-pass" if any(map(_is_space, state)) else ""
        raise UsageError(f"{path}: no filters in space to draw; it has {_inventory(state)}{way}")
    return found


def _inventory(state: State) -> str:
    """What a file has: its convolutions, or else whatever it has."""
    held = convolutions(state) or state
    words = [f"{name} ({' x '.join(map(str, weights.shape))})" for name, weights in held.items()]
    return shorten(words) or "no tensors"


def _of_channel(weights: Tensor, channel: int | None, what: str) -> Tensor:
    if channel is None:
        return weights
    if channel >= weights.shape[1]:
        inputs = weights.shape[1]
        raise UsageError(f"--channel {channel}: {what} has {inputs} inputs, the first is 0")
    return weights[:, channel : channel + 1]

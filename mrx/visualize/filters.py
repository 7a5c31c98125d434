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
from mrx.methods.weights import load_weights, read_state, shorten_list
from mrx.render.figures import (
    FilterPanel,
    KernelPanel,
    PageSize,
    draw_filters_page,
    draw_kernels_page,
)
from mrx.visualize.film import write_png

SPACE_KEY, TIME_KEY = "conv_s.weight", "conv_t.weight"
"""The names of a motion band-pass's two filters, here and in the released code."""

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class LayerSelection:
    """Which filters of checkpoints are drawn, and how.

    Attributes:
        names: of convolutions, as in the files; none is each file's first
        channel: one input of every filter alone, from 0
        separate_scales: every filter has a scale of its own, instead of one for a layer
    """

    names: Sequence[str] = ()
    channel: int | None = None
    separate_scales: bool = False


def draw_method_filters(
    name: str, given_parameters: Mapping[str, str], weights: str | None, output: str, scale: float
) -> None:
    """Draw a method's kernels as it is made, and beside them those of a checkpoint.

    Raises:
        UsageError: the method has none, or the checkpoint does not fit
    """
    method = methods.find_method(name)
    parameters = method.complete_parameters(given_parameters)
    modules = {"before training": method.build_module(parameters)}
    if weights:
        modules["after training"] = method.build_module(parameters)
        load_weights(modules["after training"], weights)
    states = {word: module.state_dict() for word, module in modules.items()}
    initial_state = states["before training"]
    layer = next(iter(find_first_layers(initial_state)), "")
    if {SPACE_KEY, TIME_KEY} <= initial_state.keys():
        kernels = [
            one for word, module in modules.items() for one in _collect_kernels(word, module)
        ]
        _check_kernels_finite(kernels, weights)
        page = draw_kernels_page(kernels, PageSize(scale))
    elif layer:
        panels = [
            FilterPanel(word, find_convolutions(state)[layer]) for word, state in states.items()
        ]
        page = draw_filters_page(panels, PageSize(scale), each=False, same_scale=True)
    else:
        raise UsageError(
            f"{name} has no filters in space to draw, as mbpm and pa have; --weights FILE without "
            "-m draws the first layer of a checkpoint"
        )
    write_png(Path(output), page)


def draw_checkpoints(
    paths: Sequence[str], selection: LayerSelection, output: str, scale: float
) -> None:
    """Draw filters of checkpoints beside each other, with a scale for each layer.

    Raises:
        UsageError: a file cannot be read safely, or has none; none has a layer that is named
    """
    states = {path: read_state(Path(path)) for path in paths}
    _check_layer_names(states, selection.names)
    panels = []
    for path, state in states.items():
        prefix = f"{Path(path).stem}: " if len(states) > 1 else ""
        for layer, weights in _choose_layers(path, state, selection.names).items():
            filters = _select_channel(weights, selection.channel, f"{path}: {layer}")
            panels.append(FilterPanel(prefix + layer, filters, selection.channel))
    page = draw_filters_page(
        panels, PageSize(scale), each=selection.separate_scales, same_scale=False
    )
    write_png(Path(output), page)


def find_first_layers(state: StateDict) -> dict[str, Tensor]:
    """The filters that a network sees its input with, by layer; empty where there are none.

    They are the first in the file that reach over more than a pixel, but for a motion band-pass,
    which stands before the first layer; and others of the same shape that take colors too: a
    network of two paths has two.

    >>> net = {"a.weight": torch.zeros(8, 3, 1, 1), "b.weight": torch.zeros(8, 3, 7, 7)}
    >>> list(find_first_layers(net))
    ['b']
    """
    found = {
        layer: weights
        for layer, weights in find_convolutions(state).items()
        if max(weights.shape[-2:]) > 1 and not _is_band_pass(layer, state)
    }
    if not found:
        return {}
    first = next(iter(found))
    shape = found[first].shape
    if shape[1] != 3:
        return {first: found[first]}
    return {layer: weights for layer, weights in found.items() if weights.shape == shape}


def find_convolutions(state: StateDict) -> dict[str, Tensor]:
    """The weights of convolutions in space, or time and space, by their layers' names."""
    return {
        key.removesuffix("weight").rstrip("."): weights
        for key, weights in state.items()
        if key.endswith("weight") and weights.ndim in (4, 5) and weights.is_floating_point()
    }


def _is_band_pass(layer: str, state: StateDict) -> bool:
    key = f"{layer}.weight"
    return _is_space_key(key) and key.removesuffix(SPACE_KEY) + TIME_KEY in state


def _is_space_key(key: str) -> bool:
    return key.endswith(SPACE_KEY)


def _collect_kernels(title: str, module: Representation) -> list[KernelPanel]:
    """A kernel for each channel, or one where they are equal."""
    state = module.state_dict()
    space, time = state[SPACE_KEY][:, 0], state[TIME_KEY][:, 0]
    if all(torch.equal(one, one[:1].expand_as(one)) for one in (space, time)):
        return [KernelPanel(title, space[0], time[0])]
    titles = [f"{title}: {channel}" for channel in module.channels]
    return [KernelPanel(*one) for one in zip(titles, space, time, strict=True)]


def _check_kernels_finite(kernels: Sequence[KernelPanel], weights: str | None) -> None:
    if not all(torch.isfinite(torch.as_tensor(k.space)).all() for k in kernels):
        raise UsageError(f"{weights}: the kernel has numbers that are not finite: nothing to draw")


def _check_layer_names(states: Mapping[str, StateDict], names: Sequence[str]) -> None:
    known_layers = {layer for state in states.values() for layer in find_convolutions(state)}
    for name in names:
        if name.removesuffix(".weight") not in known_layers:
            inventories = "; ".join(
                f"{path} has {_describe_state(state)}" for path, state in states.items()
            )
            raise UsageError(f"--layer {name}: no such convolution; {inventories}")


def _choose_layers(path: str, state: StateDict, names: Sequence[str]) -> dict[str, Tensor]:
    """The layers of a file that are asked for and there, or else its first."""
    available = find_convolutions(state)
    wanted = dict.fromkeys(name.removesuffix(".weight") for name in names)
    found = {name: available[name] for name in wanted if name in available} or find_first_layers(
        state
    )
    if not found:
        hint = "; -m mbpm draws its motion band-pass" if any(map(_is_space_key, state)) else ""
        raise UsageError(
            f"{path}: no filters in space to draw; it has {_describe_state(state)}{hint}"
        )
    return found


def _describe_state(state: StateDict) -> str:
    """What a file has: its convolutions, or else whatever it has."""
    tensors = find_convolutions(state) or state
    words = [f"{name} ({' x '.join(map(str, weights.shape))})" for name, weights in tensors.items()]
    return shorten_list(words) or "no tensors"


def _select_channel(weights: Tensor, channel: int | None, source: str) -> Tensor:
    if channel is None:
        return weights
    if channel >= weights.shape[1]:
        inputs = weights.shape[1]
        raise UsageError(f"--channel {channel}: {source} has {inputs} inputs, the first is 0")
    return weights[:, channel : channel + 1]

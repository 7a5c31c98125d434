"""The work of ``mrx visualize --kernels``: weights → render → one picture.

A method's kernels are drawn before training and, if a checkpoint is given, after it, on one scale.
A checkpoint alone shows the filters of its first layer.
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
"""The keys of a motion band-pass's two filters, in mrx and in the released code."""

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class LayerSelection:
    """The filters of checkpoints to draw, and their scale.

    Attributes:
        names: names of convolutions, as in the files; empty draws the first of each file
        channel: draw only this input channel of every filter, from 0
        separate_scales: give each filter its own scale, instead of one scale per layer
    """

    names: Sequence[str] = ()
    channel: int | None = None
    separate_scales: bool = False


def draw_method_filters(
    name: str, given_parameters: Mapping[str, str], weights: str | None, output: str, scale: float
) -> None:
    """Draw a method's initial kernels, and beside them those of a checkpoint.

    Args:
        name: the method
        given_parameters: the method's parameters as text
        weights: the checkpoint's path, or None
        output: the .png to write
        scale: size relative to the default

    Raises:
        UsageError: the method has no kernels, or the checkpoint does not fit
    """
    method = methods.find_method(name)
    parameters = method.complete_parameters(given_parameters)
    modules = {"before training": method.build_module(parameters)}
    if weights:
        modules["after training"] = method.build_module(parameters)
        load_weights(modules["after training"], weights)
    states = {title: module.state_dict() for title, module in modules.items()}
    initial_state = states["before training"]
    layer = next(iter(find_first_layers(initial_state)), "")
    if {SPACE_KEY, TIME_KEY} <= initial_state.keys():
        kernels = [
            kernel
            for title, module in modules.items()
            for kernel in _collect_kernels(title, module)
        ]
        _check_kernels_finite(kernels, weights)
        page = draw_kernels_page(kernels, PageSize(scale))
    elif layer:
        panels = [
            FilterPanel(title, find_convolutions(state)[layer]) for title, state in states.items()
        ]
        page = draw_filters_page(panels, PageSize(scale), each=False, same_scale=True)
    else:
        raise UsageError(
            f"nothing to draw: {name} has no spatial filters, unlike mbpm and pa. --weights FILE "
            "without -m draws the first layer of a checkpoint"
        )
    write_png(Path(output), page)


def draw_checkpoints(
    paths: Sequence[str], selection: LayerSelection, output: str, scale: float
) -> None:
    """Draw filters of checkpoints side by side, with a scale for each layer.

    Args:
        paths: the checkpoints
        selection: the filters to draw
        output: the .png to write
        scale: size relative to the default

    Raises:
        UsageError: a file cannot be read safely or has no filters, or no file has a named layer
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
    """Return the filters that a network applies to its input, by layer; may be empty.

    They are the first filters in the file that are larger than a pixel, except a motion band-pass,
    which comes before the first layer. If they take 3 colors, all filters of their shape are
    included, because a network of two paths has two first layers.

    >>> net = {"a.weight": torch.zeros(8, 3, 1, 1), "b.weight": torch.zeros(8, 3, 7, 7)}
    >>> list(find_first_layers(net))
    ['b']
    """
    candidates = {
        layer: weights
        for layer, weights in find_convolutions(state).items()
        if max(weights.shape[-2:]) > 1 and not _is_band_pass(layer, state)
    }
    if not candidates:
        return {}
    first = next(iter(candidates))
    shape = candidates[first].shape
    if shape[1] != 3:
        return {first: candidates[first]}
    return {layer: weights for layer, weights in candidates.items() if weights.shape == shape}


def find_convolutions(state: StateDict) -> dict[str, Tensor]:
    """Return the weights of 2D and 3D convolutions, by layer name."""
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
    """Return a panel for each channel, or one panel if all channels are equal."""
    state = module.state_dict()
    space, time = state[SPACE_KEY][:, 0], state[TIME_KEY][:, 0]
    if all(torch.equal(one, one[:1].expand_as(one)) for one in (space, time)):
        return [KernelPanel(title, space[0], time[0])]
    titles = [f"{title}: {channel}" for channel in module.channels]
    return [KernelPanel(*parts) for parts in zip(titles, space, time, strict=True)]


def _check_kernels_finite(kernels: Sequence[KernelPanel], weights: str | None) -> None:
    if not all(torch.isfinite(torch.as_tensor(k.space)).all() for k in kernels):
        raise UsageError(f"nothing to draw ({weights}): the kernel has values that are not finite")


def _check_layer_names(states: Mapping[str, StateDict], names: Sequence[str]) -> None:
    known_layers = {layer for state in states.values() for layer in find_convolutions(state)}
    for name in names:
        if name.removesuffix(".weight") not in known_layers:
            inventories = "; ".join(
                f"{path} has {_describe_state(state)}" for path, state in states.items()
            )
            raise UsageError(f"--layer {name}: no such convolution; {inventories}")


def _choose_layers(path: str, state: StateDict, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the requested layers that a file has, or else its first layers."""
    available = find_convolutions(state)
    wanted = dict.fromkeys(name.removesuffix(".weight") for name in names)
    named = {name: available[name] for name in wanted if name in available}
    chosen = named or find_first_layers(state)
    if not chosen:
        hint = ". -m mbpm draws its motion band-pass" if any(map(_is_space_key, state)) else ""
        raise UsageError(
            f"nothing to draw ({path}): no spatial filters, only {_describe_state(state)}{hint}"
        )
    return chosen


def _describe_state(state: StateDict) -> str:
    """List a file's convolutions, or all its tensors if it has none."""
    tensors = find_convolutions(state) or state
    texts = [f"{name} ({' x '.join(map(str, weights.shape))})" for name, weights in tensors.items()]
    return shorten_list(texts) or "no tensors"


def _select_channel(weights: Tensor, channel: int | None, source: str) -> Tensor:
    if channel is None:
        return weights
    if channel >= weights.shape[1]:
        inputs = weights.shape[1]
        raise UsageError(f"--channel {channel}: {source} has inputs 0 to {inputs - 1}")
    return weights[:, channel : channel + 1]

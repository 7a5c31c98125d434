"""What other code calls the weights of TVNet, and which of this module's they are."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mrx.methods.weights import shorten
from mrx.ops.tvnet_solver import smoothing_kernel


class Depth(NamedTuple):
    """How much is unrolled, and the ratio of sizes of neighbouring scales."""

    scales: int
    warps: int
    iterations: int
    zoom: float


@dataclass(frozen=True)
class Table:
    """How other code names what it saves, and which parameter and index here its taps belong to."""

    shape: tuple[int, ...]
    slots: Mapping[str, tuple[str, tuple[int, ...]]]
    taps: tuple[tuple[int, ...], tuple[int, ...]]
    fields: tuple[str, str]
    fixed: dict[str, Tensor]
    ignored: frozenset[str]


_CENTRED = torch.tensor([-0.5, 0.0, 0.5])


def _official_table(depth: Depth) -> Table:
    """The variables of LijieFan/tvnet; scale 0 is the finest there too."""
    scales, warps, iterations = (range(count) for count in depth[:3])
    root, slots = "tvl1_flow/scale", {}
    for s, w, i, c, a in itertools.product(scales, warps, iterations, range(2), range(2)):
        scope, rest = f"{root}{s}/warping{w}/iter{i}", f"{c + 1}_diff_{'xy'[a]}/kernel"
        slots[f"{scope}/divergence/div_p{rest}"] = "divergence", (s, w, i, c, a)
        slots[f"{scope}/forward_gradient/u{rest}"] = "gradient", (s, w, i, c, a)
    grey, kernel = torch.tensor([0.114, 0.587, 0.299]), smoothing_kernel()
    names = [f"tvl1_flow/{name}/kernel" for name in ("conv2d", "conv2d_1", "conv2d_2", "conv2d_3")]
    fixed = dict(zip(names, (grey, grey, kernel, kernel), strict=True))
    for s, axis in itertools.product(scales, "xy"):
        fixed[f"{root}{s}/centered_gradient/x2_diff_{axis}/kernel"] = _CENTRED
    losses = (f"forward_gradient/u{c}_diff_{axis}/kernel" for c in "12" for axis in "xy")
    return Table(
        shape=(*depth[:3], 2, 2, 2),
        slots=slots,
        taps=((1, 2, 1, 1), (2, 1, 1, 1)),
        fields=(f"{root}{depth.scales - 1}/u1", f"{root}{depth.scales - 1}/u2"),
        fixed=fixed,
        ignored=frozenset(losses),
    )


def _port_table(depth: Depth) -> Table:
    """The keys of the PyTorch port in busy-quiet-net, which has one scale and one warp."""
    if (depth.scales, depth.warps) != (1, 1):
        raise ValueError("the port has one scale and one warp: make the module with 1 of each")
    slots = {}
    for i, c, a in itertools.product(range(depth.iterations), range(2), range(2)):
        block, part, axis = f"warpblock.iterblock{i + 1}", "xy"[c], "xy"[a]
        first = f"{block}.divergence_{part}.div_conv_{axis}.weight"
        second = f"{block}.forward_gradient_{part}.forward_conv_{axis}.weight"
        slots[first] = "divergence", (0, 0, i, c, a)
        slots[second] = "gradient", (0, 0, i, c, a)
    centred = (f"warpblock.centered_gradient.center_conv_{axis}.weight" for axis in "xy")
    return Table(
        shape=(1, 1, depth.iterations, 2, 2, 2),
        slots=slots,
        taps=((1, 1, 1, 2), (1, 1, 2, 1)),
        fields=("u1", "u2"),
        fixed=dict.fromkeys(centred, _CENTRED),
        ignored=frozenset(f"forward_gradient.forward_conv_{axis}.weight" for axis in "xy"),
    )


_TABLES = {"tvl1_flow/": _official_table, "warpblock.": _port_table}
"""By where a name begins that tells whose it is."""


def translate(state: dict[str, Tensor], depth: Depth, *, field: bool) -> dict[str, Tensor] | None:
    """This module's weights from those of code that names them otherwise; None for its own names.

    Args:
        state: tensors by name
        depth: of the module that they are for
        field: whether that module starts from a trained field

    Raises:
        ValueError: names are missing, unknown or of another shape, or fixed values differ
    """
    for marker, table in _TABLES.items():
        home = next((k.partition(marker)[0] for k in state if marker in k), None)
        if home is not None:
            inside = {k.removeprefix(home): v for k, v in state.items() if k.startswith(home)}
            found = {key.removesuffix(":0"): value for key, value in inside.items()}
            return _read(table(depth), found, field=field)
    return None


def _read(table: Table, state: dict[str, Tensor], *, field: bool) -> dict[str, Tensor]:
    """This module's weights from those of other code, or what keeps them from fitting."""
    problems = _compare(table, state)
    if problems:
        raise ValueError("; ".join(problems))
    found = {name: torch.empty(table.shape) for name in ("divergence", "gradient")}
    for key, (parameter, place) in table.slots.items():
        found[parameter][place] = state[key].flatten().float()
    parts = [state[key] for key in table.fields if key in state]
    if not parts or not (field or any(part.any() for part in parts)):
        return found
    height, width = parts[0].shape[1:3]
    if not field:
        size = f"field_height={height}, field_width={width}"
        raise ValueError(f"it starts from a trained field; make the module with {size}")
    return found | {"initial_field": torch.cat(parts).view(2, height, width).float()}


def _compare(table: Table, state: dict[str, Tensor]) -> list[str]:
    known = table.slots.keys() | set(table.fields) | table.fixed.keys() | table.ignored
    values = [(key, state[key], value) for key, value in table.fixed.items() if key in state]
    lists = {
        "missing": [key for key in table.slots if key not in state],
        "unexpected": [key for key in state if key not in known],
        "not as they are fixed here:": [k for k, now, made in values if not _alike(now, made)],
    }
    problems = [f"{word} {shorten(keys)}" for word, keys in lists.items() if keys]
    needed = {key: table.taps[place[-1]] for key, (_, place) in table.slots.items()}
    problems += [
        f"{key} is {tuple(state[key].shape)}, needs {shape}"
        for key, shape in needed.items()
        if key in state and state[key].shape != shape
    ][:1]
    fields = [tuple(state[key].shape) for key in table.fields if key in state]
    if fields and not (len(fields) == 2 and fields[0] == fields[1] and len(fields[0]) > 2):
        problems.append(f"{' and '.join(table.fields)} must be two of one shape, they are {fields}")
    return problems


def _alike(now: Tensor, made: Tensor) -> bool:
    """Whether the numbers are the same but for rounding, whatever the axes."""
    return now.numel() == made.numel() and torch.allclose(now.to(made).flatten(), made.flatten())

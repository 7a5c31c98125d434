"""Translation of TVNet weights saved by other code to the names of this module."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mrx.methods.tvnet_depth import UnrollDepth
from mrx.methods.weights import shorten_list
from mrx.ops.tvnet_solver import smoothing_kernel


@dataclass(frozen=True)
class NameTable:
    """Weights of other code, and their places in this module.

    Attributes:
        shape: of this module's `divergence` and `gradient`
        tap_slots: by foreign name the parameter here and the index of its taps
        tap_shapes: of the taps along x and along y, in other code
        field_names: of both components of the initial field
        fixed_values: tensors that must have their original values
        ignored_names: names that the flow does not depend on
    """

    shape: tuple[int, ...]
    tap_slots: Mapping[str, tuple[str, tuple[int, ...]]]
    tap_shapes: tuple[tuple[int, ...], tuple[int, ...]]
    field_names: tuple[str, str]
    fixed_values: dict[str, Tensor]
    ignored_names: frozenset[str]


_CENTERED_TAPS = torch.tensor([-0.5, 0.0, 0.5])


def _build_official_table(depth: UnrollDepth) -> NameTable:
    """Build the table for the variables of LijieFan/tvnet, where scale 0 is the finest too."""
    scales, warps, iterations = (range(count) for count in depth[:3])
    root, slots = "tvl1_flow/scale", {}
    for s, w, i, c, a in itertools.product(scales, warps, iterations, range(2), range(2)):
        scope, rest = f"{root}{s}/warping{w}/iter{i}", f"{c + 1}_diff_{'xy'[a]}/kernel"
        slots[f"{scope}/divergence/div_p{rest}"] = "divergence", (s, w, i, c, a)
        slots[f"{scope}/forward_gradient/u{rest}"] = "gradient", (s, w, i, c, a)
    gray_weights, kernel = torch.tensor([0.114, 0.587, 0.299]), smoothing_kernel()
    names = [f"tvl1_flow/{name}/kernel" for name in ("conv2d", "conv2d_1", "conv2d_2", "conv2d_3")]
    fixed = dict(zip(names, (gray_weights, gray_weights, kernel, kernel), strict=True))
    for s, axis in itertools.product(scales, "xy"):
        fixed[f"{root}{s}/centered_gradient/x2_diff_{axis}/kernel"] = _CENTERED_TAPS
    loss_names = (f"forward_gradient/u{c}_diff_{axis}/kernel" for c in "12" for axis in "xy")
    return NameTable(
        shape=(*depth[:3], 2, 2, 2),
        tap_slots=slots,
        tap_shapes=((1, 2, 1, 1), (2, 1, 1, 1)),
        field_names=(f"{root}{depth.scales - 1}/u1", f"{root}{depth.scales - 1}/u2"),
        fixed_values=fixed,
        ignored_names=frozenset(loss_names),
    )


def _build_port_table(depth: UnrollDepth) -> NameTable:
    """Build the table for the PyTorch port in busy-quiet-net, with one scale and one warp."""
    if (depth.scales, depth.warps) != (1, 1):
        raise ValueError("the port has one scale and one warp: use scales=1 and warps=1")
    slots = {}
    for i, c, a in itertools.product(range(depth.iterations), range(2), range(2)):
        block, part, axis = f"warpblock.iterblock{i + 1}", "xy"[c], "xy"[a]
        first = f"{block}.divergence_{part}.div_conv_{axis}.weight"
        second = f"{block}.forward_gradient_{part}.forward_conv_{axis}.weight"
        slots[first] = "divergence", (0, 0, i, c, a)
        slots[second] = "gradient", (0, 0, i, c, a)
    centered_names = (f"warpblock.centered_gradient.center_conv_{axis}.weight" for axis in "xy")
    return NameTable(
        shape=(1, 1, depth.iterations, 2, 2, 2),
        tap_slots=slots,
        tap_shapes=((1, 1, 1, 2), (1, 1, 2, 1)),
        field_names=("u1", "u2"),
        fixed_values=dict.fromkeys(centered_names, _CENTERED_TAPS),
        ignored_names=frozenset(f"forward_gradient.forward_conv_{axis}.weight" for axis in "xy"),
    )


_TABLE_BUILDERS = {"tvl1_flow/": _build_official_table, "warpblock.": _build_port_table}
"""By a part of the names that only this code has."""


def translate_tvnet_state(
    state: dict[str, Tensor], depth: UnrollDepth, *, has_field: bool
) -> dict[str, Tensor] | None:
    """Translate weights of other code to this module's names; return None if none are foreign.

    Names of the official TensorFlow code look like
    ``tvl1_flow/scale0/warping0/iter0/divergence/div_p1_diff_x/kernel``, with ``:0`` or without;
    the port's like ``warpblock.iterblock1.divergence_x.div_conv_x.weight``. Their ``u1`` and ``u2``
    become the `initial_field`, which must be of that size; a module without one requires them to be
    0. Values that both keep fixed, like the centered gradient, must be the original ones. Taps that
    only their loss uses are ignored.

    Args:
        state: tensors by name
        depth: depth of the module to load
        has_field: whether that module has an initial field

    Raises:
        ValueError: names are missing, unknown or of another shape, or fixed values differ
    """
    # The scope of a whole network may come first: net/tvl1_flow/scale0/.. -> prefix net/
    for marker, build_table in _TABLE_BUILDERS.items():
        prefix = next((k.partition(marker)[0] for k in state if marker in k), None)
        if prefix is not None:
            inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            weights = {key.removesuffix(":0"): value for key, value in inside.items()}
            return _read_foreign_weights(build_table(depth), weights, has_field=has_field)
    return None


def _read_foreign_weights(
    table: NameTable, state: dict[str, Tensor], *, has_field: bool
) -> dict[str, Tensor]:
    """Return this module's weights, or raise ValueError with all problems."""
    problems = _find_name_problems(table, state)
    if problems:
        raise ValueError("; ".join(problems))
    weights = {name: torch.empty(table.shape) for name in ("divergence", "gradient")}
    for key, (parameter, place) in table.tap_slots.items():
        weights[parameter][place] = state[key].flatten().float()
    parts = [state[key] for key in table.field_names if key in state]
    # An untrained field is all zeros and changes nothing: a module without one can load the file.
    if not parts or not (has_field or any(part.any() for part in parts)):
        return weights
    height, width = parts[0].shape[1:3]
    if not has_field:
        size = f"field_height={height}, field_width={width}"
        raise ValueError(f"the file has a trained initial field: use {size}")
    return weights | {"initial_field": torch.cat(parts).view(2, height, width).float()}


def _find_name_problems(table: NameTable, state: dict[str, Tensor]) -> list[str]:
    known = (
        table.tap_slots.keys()
        | set(table.field_names)
        | table.fixed_values.keys()
        | table.ignored_names
    )
    changed = [
        key
        for key, fixed in table.fixed_values.items()
        if key in state and not _has_same_numbers(state[key], fixed)
    ]
    lists = {
        "missing": [key for key in table.tap_slots if key not in state],
        "unexpected": [key for key in state if key not in known],
        "other values than the fixed ones in": changed,
    }
    problems = [f"{word} {shorten_list(keys)}" for word, keys in lists.items() if keys]
    # The last index of a place is the axis, x or y; one wrong shape is enough to report.
    needed = {key: table.tap_shapes[place[-1]] for key, (_, place) in table.tap_slots.items()}
    problems += [
        f"{key} is {tuple(state[key].shape)}, needs {shape}"
        for key, shape in needed.items()
        if key in state and state[key].shape != shape
    ][:1]
    fields = [tuple(state[key].shape) for key in table.field_names if key in state]
    if fields and not (len(fields) == 2 and fields[0] == fields[1] and len(fields[0]) > 2):
        names = " and ".join(table.field_names)
        problems.append(f"{names} must be two of one shape (1, H, W, ..), got {fields}")
    return problems


def _has_same_numbers(present: Tensor, expected: Tensor) -> bool:
    """Compare numbers up to rounding; axes may differ."""
    return present.numel() == expected.numel() and torch.allclose(
        present.to(expected).flatten(), expected.flatten()
    )

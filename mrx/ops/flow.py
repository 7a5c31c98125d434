"""Windows of frames to flow: texture, levels, and a solver for each pair of neighbours."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from mrx.ops.pyramid import build_pyramid
from mrx.ops.texture import extract_texture
from mrx.ops.tvl1_solver import LevelFactory, PlainLevel, SolverRules, solve_levels


def estimate_flow(clip: Tensor, rules: SolverRules, level: LevelFactory = PlainLevel) -> Tensor:
    """The displacements between the neighbouring frames of each window, as one batch.

    Shape:
        - clip: ``(B, T, 1, H, W)``, floating point in 0..255
        - output: ``(B, 2 (T - 1), H, W)``, x and y of each pair in turn
    """
    b, t = clip.shape[:2]
    return _solve_distinct_pairs(clip.flatten(0, 1), torch.arange(b * t).view(b, t), rules, level)


def estimate_shared_flow(
    frames: Tensor, rules: SolverRules, level: LevelFactory = PlainLevel
) -> Tensor:
    """The same of windows that may share frames, as views of the same memory, each done once.

    Shape:
        - frames: ``(B, T, 1, H, W)``, of any type, in 0..255
        - output: ``(B, 2 (T - 1), H, W)``
    """
    distinct: dict[int, Tensor] = {frame.data_ptr(): frame for window in frames for frame in window}
    if not distinct:
        return estimate_flow(frames.float(), rules, level)
    image_indices = {place: number for number, place in enumerate(distinct)}
    windows = [[image_indices[frame.data_ptr()] for frame in window] for window in frames]
    images = torch.stack(list(distinct.values())).float()
    return _solve_distinct_pairs(images, torch.tensor(windows), rules, level)


def _solve_distinct_pairs(
    images: Tensor, windows: Tensor, rules: SolverRules, level: LevelFactory
) -> Tensor:
    """The flow of windows (B, T) of numbers of images (N, 1, H, W); equal pairs are solved once."""
    if rules.texture:
        images = extract_texture(images, rules)
    levels = build_pyramid(images, zoom=rules.zoom, max_levels=rules.levels, smooth=rules.blur)
    neighbor_pairs = torch.stack([windows[:, :-1], windows[:, 1:]], dim=-1).flatten(0, 1)
    pairs, places = torch.unique(neighbor_pairs, dim=0, return_inverse=True)
    first, second = ([size[side] for size in levels] for side in pairs.to(images.device).unbind(1))
    pair_flows = solve_levels(first, second, rules, level)
    b, t = windows.shape
    return pair_flows[places.to(images.device)].view(b, 2 * (t - 1), *images.shape[2:])


def map_neighbors(clip: Tensor, compute: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Something of the neighbouring frames of each window, pair by pair.

    A pair that windows share, as views of the same memory, is computed once.

    Shape:
        - clip: ``(B, T, ...)``
        - output: ``(B, C (T - 1), H, W)``, where `compute` gives ``(1, C, H, W)`` of two frames
    """
    maps_by_pair: dict[tuple[int, int], Tensor] = {}
    window_maps = []
    for window in clip:
        places = [(a.data_ptr(), b.data_ptr()) for a, b in pairwise(window)]
        pairs = dict(zip(places, pairwise(window), strict=True))
        previous_maps, maps_by_pair = maps_by_pair, {}
        for place, pair in pairs.items():
            maps_by_pair[place] = previous_maps[place] if place in previous_maps else compute(*pair)
        window_maps.append(torch.cat([maps_by_pair[place] for place in places], dim=1))
    return torch.cat(window_maps)

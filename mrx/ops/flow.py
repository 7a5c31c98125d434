"""Optical flow of windows: extract texture, build levels, solve each pair of neighbors."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from mrx.ops.light import match_frame_light
from mrx.ops.pyramid import build_pyramid
from mrx.ops.texture import extract_texture
from mrx.ops.tvl1_solver import LevelFactory, PlainLevel, SolverRules, solve_levels


def estimate_flow(clip: Tensor, rules: SolverRules, level: LevelFactory = PlainLevel) -> Tensor:
    """Estimate the displacements between neighboring frames of each window, as one batch.

    Shape:
        - clip: ``(B, T, 1, H, W)``, floating point in 0..255
        - output: ``(B, 2 (T - 1), H, W)``, x and y of each pair in turn
    """
    b, t = clip.shape[:2]
    windows = torch.arange(b * t, device=clip.device).view(b, t)
    first, second = windows[:, :-1].flatten(), windows[:, 1:].flatten()
    flows = _solve_pairs(clip.flatten(0, 1), first, second, rules, level)
    return flows.view(b, 2 * (t - 1), *clip.shape[3:])


def estimate_shared_flow(
    frames: Tensor, rules: SolverRules, level: LevelFactory = PlainLevel
) -> Tensor:
    """Estimate flow like `estimate_flow`, solving each pair that windows share only once.

    Windows share a frame if both are views of the same memory.

    Shape:
        - frames: ``(B, T, 1, H, W)``, of any type, in 0..255
        - output: ``(B, 2 (T - 1), H, W)``
    """
    # Windows that overlap view the same memory, so a data pointer identifies a frame.
    distinct: dict[int, Tensor] = {frame.data_ptr(): frame for window in frames for frame in window}
    if not distinct:
        # torch.stack refuses the empty list of a batch without frames.
        return estimate_flow(frames.float(), rules, level)
    image_indices = {pointer: index for index, pointer in enumerate(distinct)}
    windows = [[image_indices[frame.data_ptr()] for frame in window] for window in frames]
    images = torch.stack(list(distinct.values())).float()
    # windows [[0, 1, 2], [1, 2, 3]] -> pairs [[0, 1], [1, 2], [2, 3]], places [0, 1, 1, 2]
    neighbor_pairs = torch.tensor([pair for window in windows for pair in pairwise(window)])
    pairs, places = torch.unique(neighbor_pairs, dim=0, return_inverse=True)
    first, second = pairs.to(images.device).unbind(1)
    flows = _solve_pairs(images, first, second, rules, level)
    b, t = frames.shape[:2]
    return flows[places.to(images.device)].view(b, 2 * (t - 1), *images.shape[2:])


def _solve_pairs(
    images: Tensor, first: Tensor, second: Tensor, rules: SolverRules, level: LevelFactory
) -> Tensor:
    """Solve pairs of images.

    Shape:
        - images: ``(N, 1, H, W)``
        - first, second: ``(P,)``, indices of images
        - output: ``(P, 2, H, W)``
    """
    if rules.light != "none":
        # The earlier image of each pair in the light of its later one.
        later = images[second]
        images = torch.cat([later, match_frame_light(images[first], later)])
        second, first = torch.arange(len(images), device=images.device).chunk(2)
    if rules.texture:
        images = extract_texture(images, rules)
    levels = build_pyramid(images, zoom=rules.zoom, max_levels=rules.levels, smooth=rules.blur)
    before, after = ([size[side] for size in levels] for side in (first, second))
    return solve_levels(before, after, rules, level)


def map_neighbors(clip: Tensor, compute: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Apply `compute` to each pair of neighboring frames of each window.

    A pair that consecutive windows share, as views of the same memory, is computed once.

    Shape:
        - clip: ``(B, T, ...)``
        - output: ``(B, C (T - 1), H, W)``, where `compute` returns ``(1, C, H, W)`` for two frames
    """
    maps_by_pair: dict[tuple[int, int], Tensor] = {}
    window_maps = []
    for window in clip:
        places = [(a.data_ptr(), b.data_ptr()) for a, b in pairwise(window)]
        pairs = dict(zip(places, pairwise(window), strict=True))
        # Overlapping windows are consecutive, so only the maps of the previous one are kept.
        previous_maps, maps_by_pair = maps_by_pair, {}
        for place, pair in pairs.items():
            maps_by_pair[place] = previous_maps[place] if place in previous_maps else compute(*pair)
        window_maps.append(torch.cat([maps_by_pair[place] for place in places], dim=1))
    return torch.cat(window_maps)

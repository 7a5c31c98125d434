"""Windows of frames to flow: texture, levels, and a solver for each pair of neighbours."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from mrx.ops.pyramid import pyramid
from mrx.ops.texture import texture
from mrx.ops.tvl1 import MakeLevel, PlainLevel, Rules, solve


def flow(clip: Tensor, rules: Rules, level: MakeLevel = PlainLevel) -> Tensor:
    """The displacements between the neighbouring frames of each window, as one batch.

    Shape:
        - clip: ``(B, T, 1, H, W)``, floating point in 0..255
        - output: ``(B, 2 (T - 1), H, W)``, x and y of each pair in turn
    """
    images = clip.flatten(0, 1)
    if rules.texture:
        images = texture(images, rules)
    levels = pyramid(images, zoom=rules.zoom, most=rules.levels, smooth=rules.blur)
    windows = [image.view(*clip.shape[:2], *image.shape[1:]).unbind(1) for image in levels]
    moments = zip(*windows, strict=True)
    return torch.cat([solve(a, b, rules, level) for a, b in pairwise(moments)], dim=1)


def neighbours(clip: Tensor, compute: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Something of the neighbouring frames of each window, pair by pair.

    A pair that windows share, as views of the same memory, is computed once.

    Shape:
        - clip: ``(B, T, ...)``
        - output: ``(B, C (T - 1), H, W)``, where `compute` gives ``(1, C, H, W)`` of two frames
    """
    known: dict[tuple[int, int], Tensor] = {}
    found = []
    for window in clip:
        places = [(a.data_ptr(), b.data_ptr()) for a, b in pairwise(window)]
        pairs = dict(zip(places, pairwise(window), strict=True))
        before, known = known, {}
        for place, pair in pairs.items():
            known[place] = before[place] if place in before else compute(*pair)
        found.append(torch.cat([known[place] for place in places], dim=1))
    return torch.cat(found)

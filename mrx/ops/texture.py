"""Texture: an image without the structure that a change of light moves."""

from collections.abc import Callable

from torch import Tensor

from mrx.ops.tvl1_solver import SolverRules, dual_divergence, forward_difference

STRUCTURE_THETA = 0.125
"""How far the structure may lie from an image in -1..1: the theta of its total variation."""


def extract_structure(image: Tensor, *, rounds: int) -> Tensor:
    """The smooth part of an image by Rudin, Osher and Fatemi, with Chambolle's projected dual.

    Shape:
        - image: ``(B, 1, H, W)``, in -1..1; output: the same
    """
    dual = image.new_zeros(image.shape[0], 1, 2, *image.shape[2:])
    for _ in range(rounds):
        slope = forward_difference(image + STRUCTURE_THETA * dual_divergence(dual))
        unprojected = dual + (0.25 / STRUCTURE_THETA) * slope
        length = (unprojected.square().sum(2, keepdim=True) + 1e-24).sqrt()
        dual = unprojected / length.clamp(min=1)
    return image + STRUCTURE_THETA * dual_divergence(dual)


def extract_texture(
    image: Tensor, rules: SolverRules, *, find_structure: Callable[..., Tensor] = extract_structure
) -> Tensor:
    """Take a share of the structure away, and raise what is left by a fixed gain.

    ``127.5 (1 + gain (f - share S))`` with f the image in -1..1 and S its structure (Wedel et al.,
    An Improved Algorithm for TV-L1 Optical Flow, 2009; there the two images are stretched
    jointly). It depends on no other frame, and a constant image stays finite.

    Args:
        image: what to take it from
        rules: its share, gain and rounds
        find_structure: `extract_structure`, or a faster twin

    Shape:
        - image: ``(B, 1, H, W)``, in 0..255; output: the same, not clipped
    """
    scaled = image / 127.5 - 1
    kept = scaled - rules.texture * find_structure(scaled, rounds=rules.texture_rounds)
    return 127.5 * (1 + rules.texture_gain * kept)

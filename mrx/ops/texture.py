"""Texture: an image without its structure, the part that changes with the light."""

from collections.abc import Callable

from torch import Tensor

from mrx.ops.tvl1_solver import SolverRules, dual_divergence, forward_difference

STRUCTURE_THETA = 0.125
"""Theta of the total variation: the allowed distance of the structure from an image in -1..1."""


def extract_structure(image: Tensor, *, rounds: int) -> Tensor:
    """Compute the smooth part of an image by Rudin, Osher and Fatemi, with Chambolle's dual.

    Each round projects the dual field to a length of at most 1.

    Shape:
        - image: ``(B, 1, H, W)``, in -1..1; output: the same
    """
    dual = image.new_zeros(image.shape[0], 1, 2, *image.shape[2:])
    for _ in range(rounds):
        slope = forward_difference(image + STRUCTURE_THETA * dual_divergence(dual))
        unprojected = dual + (0.25 / STRUCTURE_THETA) * slope
        # 1e-24 keeps the slope of the root finite where the field is 0.
        length = (unprojected.square().sum(2, keepdim=True) + 1e-24).sqrt()
        dual = unprojected / length.clamp(min=1)
    return image + STRUCTURE_THETA * dual_divergence(dual)


def extract_texture(
    image: Tensor, rules: SolverRules, *, find_structure: Callable[..., Tensor] = extract_structure
) -> Tensor:
    """Remove a share of the structure, and multiply the rest by a fixed gain.

    ``127.5 (1 + gain (f - share S))`` with f the image in -1..1 and S its structure (Wedel et al.,
    An Improved Algorithm for TV-L1 Optical Flow, 2009, where the two images are stretched jointly).
    The texture depends on no other frame, and a constant image stays finite.

    Args:
        image: the image to filter
        rules: settings with the share, gain and rounds of the texture
        find_structure: `extract_structure`, or a faster twin

    Shape:
        - image: ``(B, 1, H, W)``, in 0..255; output: the same, not clipped
    """
    scaled = image / 127.5 - 1
    kept = scaled - rules.texture * find_structure(scaled, rounds=rules.texture_rounds)
    return 127.5 * (1 + rules.texture_gain * kept)

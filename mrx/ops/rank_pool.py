"""Rank pooling, approximate and exact: the direction that orders the frames in time."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Coefficients = Literal["original", "tcvrick", "simple"]

# Newton's method ends earlier once the active set repeats.
_NEWTON_STEPS = 100


def frame_weights(length: int, kind: Coefficients = "original") -> Tensor:
    """Return the weights of frames 1..T in approximate rank pooling, ``(T,)`` in float64.

    - ``original``: sum over k = t..T of (2k - T - 1) / k, the authors' code; sums to 0
      (to 1 for T = 1)
    - ``tcvrick``: sum over k = t..T of (2k - T) / k, the Python port; sums to T
    - ``simple``: 2t - T - 1, without averages over time

    >>> frame_weights(6).round(decimals=3).tolist()
    [-5.15, -0.15, 1.35, 1.683, 1.433, 0.833]
    """
    if length < 1:
        raise ValueError(f"length={length}: rank pooling needs at least 1 frame")
    time = torch.arange(1, length + 1, dtype=torch.float64)
    if kind == "simple":
        return 2 * time - length - 1
    if length == 1:
        return torch.ones_like(time)
    slope = 2 * time - length - (1 if kind == "original" else 0)
    # A sum over k = t..T is a cumulative sum from the end.
    return (slope / time).flip(0).cumsum(0).flip(0)


def weighted_sum(clip: Tensor, weights: Sequence[float]) -> Tensor:
    """Sum the frames times their weights, in floating point for any type of frames.

    Args:
        clip: the frames
        weights: a weight for each frame

    Shape:
        - clip: ``(B, T, C, H, W)`` floating point or bytes
        - output: ``(B, C, H, W)``, of the clip's dtype, or float32 for bytes
    """
    dtype = clip.dtype if clip.is_floating_point() else torch.float32
    first, *others = weights
    total = clip[:, 0].to(dtype) * first
    for t, weight in enumerate(others, start=1):
        total.add_(clip[:, t].to(dtype), alpha=weight)
    return total


def exact_rank_pool(frames: Tensor, strength: float) -> Tensor:
    """Compute the vector that ranks frames by time, in float64.

    This is VideoDarwin's support vector regression. Frames become running means, signed square
    roots, and unit vectors v_t; the result minimizes
    ``1/2 |w|² + strength Σ_t max(0, |w·v_t - t| - 0.1)²``. It carries no gradient.

    Shape:
        - frames: ``(B, T, ...)``
        - output: ``(B, ...)`` float64
    """
    with torch.no_grad():
        b, t = frames.shape[:2]
        flat = frames.reshape(b, t, -1).double()
        count = torch.arange(1, t + 1, dtype=flat.dtype, device=flat.device)
        means = flat.cumsum(1) / count[:, None]
        roots = means.sign() * means.abs().sqrt()
        norms = roots.norm(dim=2, keepdim=True)
        # An all-zero frame stays zero instead of becoming NaN.
        units = roots / norms.where(norms > 0, torch.ones_like(norms))
        # The dual has T unknowns, one for each frame, instead of one for each pixel.
        dual = _solve_dual(units @ units.mT, count.expand(b, t), strength)
        return (dual[:, None, :] @ units).reshape(b, *frames.shape[2:])


def _solve_dual(gram: Tensor, targets: Tensor, strength: float, tolerance: float = 0.1) -> Tensor:
    """Solve ``a + 2 strength g(gram a - targets) = 0`` for a; g shrinks by the tolerance.

    The equation is linear while the set of frames beyond the tolerance stays the same, so a Newton
    step that does not change the set has found the solution.

    Shape:
        - gram: ``(B, T, T)``, positive semi-definite
        - targets, output: ``(B, T)``
    """
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    # 0 marks frames within the tolerance. The start is a = 0, where the residual is -targets.
    sign = -targets.sign() * (targets.abs() > tolerance)
    dual = torch.zeros_like(targets)
    for _ in range(_NEWTON_STEPS):
        active = sign.abs()
        system = identity + 2 * strength * active[:, :, None] * gram
        dual = torch.linalg.solve(system, 2 * strength * active * (targets + tolerance * sign))
        residual = (gram @ dual[:, :, None])[:, :, 0] - targets
        next_sign = residual.sign() * (residual.abs() > tolerance)
        if torch.equal(next_sign, sign):
            break
        sign = next_sign
    return dual

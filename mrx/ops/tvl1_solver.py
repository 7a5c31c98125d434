"""TV-L1 optical flow: the settings of a solver, its formulas, and a solver in plain tensors.

For two gray images in 0..255 the solver minimizes
``E(u) = sum(strength |I1(x + u) - I0|) + TV(u1) + TV(u2)``, split with v and
``|u - v|² / (2 theta)`` (Zach, Pock and Bischof, A Duality Based Approach for Realtime TV-L1
Optical Flow, 2007). u are the displacements, p their dual fields.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from mrx.ops.light import match_local_light
from mrx.ops.matched_start import SMALLEST_FRAME, choose_start, match_frames
from mrx.ops.median import median_blur
from mrx.ops.pyramid import enlarge_flow
from mrx.ops.stencils import ROOT_EPSILON, central_difference, five_point_difference
from mrx.ops.warp import BorderMode, is_inside, sample_cubic

GRADIENT_GUARD = 1.1920929e-7
"""Squared gradients up to this count as 0: the pixel takes no data step."""

GradientKind = Literal["central", "mixed"]
MedianPlace = Literal["warp", "round"]
LightMatching = Literal["none", "frame", "local"]
FlowStart = Literal["zero", "matches"]
_RULE_CHOICES = {
    "median_at": MedianPlace,
    "gradient": GradientKind,
    "border": BorderMode,
    "light": LightMatching,
    "start": FlowStart,
}
_START_SCALE = 0.3  # of the frame: matches start the smallest level of at least this size


@dataclass(frozen=True)
class SolverRules:
    """Settings that determine a solution.

    Attributes:
        tau: step size of the dual fields
        strength: weight of the data term, lambda in the paper
        theta: coupling of v and u; smaller is tighter
        zoom: size of a level as a share of the one above
        levels: maximum number of levels, of at least 16 pixels a side
        blur: blur an image before shrinking it
        warps, outer, inner: linearizations a level, rounds a linearization, iterations a round
        epsilon: end a linearization when an iteration changes u by less than this root mean
            square; 0 runs all iterations
        median: side of the median filter of u in pixels; 1 disables it
        median_at: filter before each ``warp`` or before each ``round``
        gradient: ``central`` differences of the later image, or ``mixed``, the mean of the
            five-point differences of both images
        cubic: parameter a of the warp's cubic kernel
        border: values of the warp outside the frame: ``zero``, or ``clamp`` to the edge
        masked: drop the data term where a pixel has left the frame
        texture: share of the structure to remove from the images; 0 leaves them unchanged
        texture_gain, texture_rounds: gain and rounds of the texture extraction
        light: give the earlier ``frame`` the gain and offset of the later one, or ``local`` also
            the mean brightness around each pixel, at each level; see `mrx.ops.light`
        start: displacements that the search starts from, ``zero`` or ``matches`` where these fit
            better, in frames of at least 32 pixels a side; see `mrx.ops.matched_start`
    """

    tau: float
    strength: float
    theta: float
    zoom: float
    levels: int
    blur: bool
    warps: int
    outer: int
    inner: int
    epsilon: float
    median: int
    median_at: MedianPlace
    gradient: GradientKind
    cubic: float
    border: BorderMode
    masked: bool
    texture: float
    texture_gain: float
    texture_rounds: int
    light: LightMatching
    start: FlowStart

    def __post_init__(self) -> None:
        counts, scales = ("levels", "warps", "outer", "inner"), ("tau", "strength", "theta")
        amounts = ("epsilon", "texture", "texture_gain", "texture_rounds")
        limits: list[tuple[str, Callable[[Any], bool], str]] = [
            ("zoom", lambda value: 0 < value < 1, "above 0 and below 1"),
            ("median", lambda value: value in (1, 3, 5), "1, 3 or 5"),
            *((name, lambda value: value >= 1, "at least 1") for name in counts),
            *((name, lambda value: 0 < value < math.inf, "above 0") for name in scales),
            *((name, lambda value: 0 <= value < math.inf, "at least 0") for name in amounts),
            ("texture", lambda value: value <= 1, "at most 1"),
            ("cubic", lambda value: -2 <= value <= 0, "in -2..0"),
            *(
                (name, get_args(kind).__contains__, " or ".join(get_args(kind)))
                for name, kind in _RULE_CHOICES.items()
            ),
        ]
        for name, is_valid, words in limits:
            value = getattr(self, name)
            if not is_valid(value):
                raise ValueError(f"{name}={value}: must be {words}")


class SolverLevel(Protocol):
    """A solver at one size of the images; `mrx.kernels` has faster ones.

    Shape:
        - before, after: ``(B, 1, H, W)``, in 0..255
        - flow: ``(B, 2, H, W)``, the initial displacements
    """

    def __init__(self, before: Tensor, after: Tensor, flow: Tensor, rules: SolverRules) -> None: ...

    def warp(self) -> None:
        """Linearize once, then iterate."""

    def flow(self) -> Tensor:
        """Return the current displacements."""


LevelFactory = Callable[[Tensor, Tensor, Tensor, SolverRules], SolverLevel]
"""A level class, called with the images before and after, the flow and the rules."""


def solve_levels(
    before: Sequence[Tensor], after: Sequence[Tensor], rules: SolverRules, level: LevelFactory
) -> Tensor:
    """Solve the flow from one image to the other, from the smallest level to the largest.

    Args:
        before: the levels of the earlier image, the largest first
        after: the levels of the later image
        rules: settings of the solver
        level: class that solves one level

    Shape:
        - output: ``(B, 2, H, W)``: x right, y down, in pixels, with ``after(x + u) ~ before(x)``
    """
    if not before:
        raise ValueError("before and after have no levels: pass at least one of each")
    # Integers, as sizes are tensors while `torch.jit.trace` runs.
    height, width = map(int, before[0].shape[2:])
    is_matched = len(before[0]) > 0 and min(height, width) >= SMALLEST_FRAME
    uses_matches = rules.start == "matches" and is_matched
    candidates = match_frames(before[0], after[0]) if uses_matches else ()
    flow = before[-1].new_zeros(len(before[-1]), 2, *before[-1].shape[2:])
    for index in reversed(range(len(before))):
        first, second = before[index], after[index]
        h, w = map(int, first.shape[2:])
        if index < len(before) - 1:
            flow = enlarge_flow(flow, h, w, zoom=rules.zoom)
        if h >= _START_SCALE * height:
            for matched in candidates:
                flow = choose_start(first, second, flow, matched, scale=h / height)
            candidates = ()
        if rules.light == "local":
            first = match_local_light(first, second, flow)
        solver_level = level(first, second, flow, rules)
        for _ in range(rules.warps):
            solver_level.warp()
        flow = solver_level.flow()
    return flow


@dataclass(frozen=True)
class LinearResidual:
    """The data term, linear in the displacement u: ``offset + gradient . u`` is the residual.

    Shape:
        - gradient: ``(B, 2, H, W)``
        - offset: ``(B, 1, H, W)``
        - inverse: ``(B, 1, H, W)``, 1 over the squared gradient; 0 where the gradient is 0
    """

    gradient: Tensor
    offset: Tensor
    inverse: Tensor


def linearize_residual(
    before: Tensor,
    after: Tensor,
    slopes: tuple[Tensor, Tensor],
    flow: Tensor,
    rules: SolverRules,
    *,
    sample: Callable[..., Tensor] = sample_cubic,
) -> LinearResidual:
    """Warp the later image and its gradient, and linearize the residual there.

    Args:
        before: the earlier image
        after: the later image
        slopes: the gradients of both images
        flow: the displacements at which the later image is sampled
        rules: settings of the solver
        sample: `sample_cubic`, or a faster twin

    Shape:
        - before, after: ``(B, 1, H, W)``
        - slopes: ``(B, 2, H, W)`` each
        - flow: ``(B, 2, H, W)``
    """
    planes = torch.cat([after, slopes[1]], dim=1)
    warped = sample(planes, flow, a=rules.cubic, border=rules.border)
    image, gradient = warped[:, :1], warped[:, 1:]
    if rules.gradient == "mixed":
        gradient = (gradient + slopes[0]) / 2
    if rules.masked:
        gradient = gradient * is_inside(flow)
    square = gradient.square().sum(1, keepdim=True)
    is_flat = square <= GRADIENT_GUARD
    # The inner `where` keeps 1 / 0, and its derivative, out of the branch that is not taken.
    inverse = torch.where(is_flat, 0.0, 1 / torch.where(is_flat, 1.0, square))
    offset = image - (gradient * flow).sum(1, keepdim=True) - before
    return LinearResidual(gradient, offset, inverse)


def compute_gradients(before: Tensor, after: Tensor, rules: SolverRules) -> tuple[Tensor, Tensor]:
    """Compute the gradients of both images for `linearize_residual`."""
    if rules.gradient == "mixed":
        return five_point_difference(before), five_point_difference(after)
    # Only ``mixed`` reads the earlier image's gradient: any tensor of the right shape will do.
    slope = central_difference(after)
    return slope, slope


def dual_divergence(dual: Tensor) -> Tensor:
    """Compute the divergence of dual fields by backward differences; they are 0 before the frame.

    Shape:
        - dual: ``(B, C, 2, H, W)``, x then y
        - output: ``(B, C, H, W)``
    """
    across, down = dual.unbind(2)
    total = across + down
    total[..., 1:] -= across[..., :-1]
    total[..., 1:, :] -= down[..., :-1, :]
    return total


def forward_difference(field: Tensor) -> Tensor:
    """Compute the slope to the right and downwards; 0 in the last column and the last row.

    Shape:
        - field: ``(B, C, H, W)``
        - output: ``(B, C, 2, H, W)``, x then y
    """
    across = torch.zeros_like(field)
    down = torch.zeros_like(field)
    across[..., :-1] = field[..., 1:] - field[..., :-1]
    down[..., :-1, :] = field[..., 1:, :] - field[..., :-1, :]
    return torch.stack([across, down], dim=2)


def take_data_step(flow: Tensor, term: LinearResidual, *, limit: float) -> Tensor:
    """Move the flow along the gradient until the residual is 0, at most by the limit.

    The limit is ``strength * theta``. The clamp covers the three cases of the paper.
    """
    residual = term.offset + (term.gradient * flow).sum(1, keepdim=True)
    return flow + (-residual * term.inverse).clamp(-limit, limit) * term.gradient


def take_dual_step(dual: Tensor, flow: Tensor, *, rate: float) -> Tensor:
    """Take one fixed-point step of the dual fields; the rate is ``tau / theta``.

    Shape:
        - dual: ``(B, 2, 2, H, W)``; output: the same
        - flow: ``(B, 2, H, W)``
    """
    slope = forward_difference(flow)
    length = (slope.square().sum(2, keepdim=True) + ROOT_EPSILON).sqrt()
    return (dual + rate * slope) / (1 + rate * length)


class PlainLevel:
    """A differentiable level in plain tensor operations, for any device and precision."""

    def __init__(self, before: Tensor, after: Tensor, flow: Tensor, rules: SolverRules) -> None:
        self.before, self.after, self.rules = before, after, rules
        self._slopes = compute_gradients(before, after, rules)
        self._flow = flow
        self._dual = flow.new_zeros(len(flow), 2, 2, *flow.shape[2:])

    def flow(self) -> Tensor:
        """Return the current displacements."""
        return self._flow

    def warp(self) -> None:
        """Linearize once, then iterate; each pair of the batch stops on its own."""
        rules = self.rules
        if rules.median_at == "warp":
            self._flow = median_blur(self._flow, rules.median)
        term = linearize_residual(self.before, self.after, self._slopes, self._flow, rules)
        moving = torch.ones(len(self._flow), dtype=torch.bool, device=self._flow.device)
        for _ in range(rules.outer):
            if rules.median_at == "round":
                filtered = median_blur(self._flow, rules.median)
                self._flow = _select_pairs(moving, filtered, self._flow)
            for _ in range(rules.inner):
                moving = moving & self._run_iteration(term, moving)
                # moving.any() waits for a GPU, so a solver that never stops early skips it.
                if rules.epsilon and not moving.any():
                    return

    def _run_iteration(self, term: LinearResidual, moving: Tensor) -> Tensor:
        """Run one iteration of the moving pairs; return the pairs that changed enough to go on."""
        rules = self.rules
        flow = take_data_step(self._flow, term, limit=rules.strength * rules.theta)
        flow = flow + rules.theta * dual_divergence(self._dual)
        dual = take_dual_step(self._dual, flow, rate=rules.tau / rules.theta)
        if not rules.epsilon:
            self._flow, self._dual = flow, dual
            return moving
        change = (flow - self._flow).detach().square().sum((1, 2, 3))
        # Pairs that have stopped keep their values, so a result does not depend on its batch.
        self._flow = _select_pairs(moving, flow, self._flow)
        self._dual = _select_pairs(moving, dual, self._dual)
        return change > rules.epsilon**2 * flow.shape[2] * flow.shape[3]


def _select_pairs(chosen: Tensor, values: Tensor, others: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, *[1] * (values.ndim - 1)), values, others)

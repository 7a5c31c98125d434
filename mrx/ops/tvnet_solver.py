"""The formulas of TVNet: TV-L1 unrolled into iterations with trainable difference taps."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mrx.ops.stencils import central_difference

PadMode = Literal["zero", "reflect"]
OutsideMode = Literal["extrapolate", "clamp"]
TensorPair = tuple[Tensor, Tensor]

SQUARE_EPSILON = 1e-12
_KERNEL_CORNER = (
    (0.000874, 0.006976, 0.01386),
    (0.006976, 0.0557, 0.110656),
    (0.01386, 0.110656, 0.219833),
)


class DifferenceTaps(NamedTuple):
    """The trainable taps of all iterations; untrained, each pair is (-1, 1).

    Shape:
        - divergence, gradient: ``(S, W, I, 2, 2, 2)``: scale from the finest, warp, iteration,
          component of the flow (x, y), axis of the difference (x, y), tap
    """

    divergence: Tensor
    gradient: Tensor


class SolverConstants(NamedTuple):
    """Constants of all iterations, each a positive tensor without axes.

    ``tau`` is the time step, ``strength`` the weight λ of the data term, ``theta`` its coupling.
    """

    tau: Tensor
    strength: Tensor
    theta: Tensor


class WarpSampling(NamedTuple):
    """Settings of `warp` for sampling the second frame along the flow."""

    outside: OutsideMode
    shorten: bool


def convert_to_gray(frames: Tensor, *, round_down: bool) -> Tensor:
    """Compute the luma ``(114 B + 587 G + 299 R) / 1000`` of values 0..255.

    The result is rounded down if `round_down`; its derivative is that of the luma before rounding.
    For bytes the sum is exact, so every device gives the result of real numbers.

    Shape:
        - frames: ``(..., 3, H, W)``, R, G, B
        - output: ``(..., 1, H, W)``

    >>> convert_to_gray(torch.tensor([9.0, 9.0, 9.0]).view(3, 1, 1), round_down=True).item()
    9.0
    """
    red, green, blue = (frames[..., i : i + 1, :, :] for i in range(3))
    luminance = (299 * red + 587 * green + 114 * blue) / 1000
    # The sum and the difference are exact: this is the floor, with the derivative of the luma.
    return (
        luminance + (luminance.detach().floor() - luminance.detach()) if round_down else luminance
    )


def normalize_pair(first: Tensor, second: Tensor) -> TensorPair:
    """Stretch two images jointly to fill 0..255; a constant pair stays unchanged.

    Shape:
        - first, second, outputs: ``(N, C, H, W)``

    >>> normalize_pair(torch.tensor([[[[1.0]]]]), torch.tensor([[[[3.0]]]]))[1].item()
    255.0
    """
    axes = (1, 2, 3)
    low = torch.minimum(first.amin(axes, keepdim=True), second.amin(axes, keepdim=True))
    high = torch.maximum(first.amax(axes, keepdim=True), second.amax(axes, keepdim=True))
    varied = high > low
    span = torch.where(varied, high - low, 1)
    stretched = [torch.where(varied, 255 * (i - low) / span, i) for i in (first, second)]
    return stretched[0], stretched[1]


def smoothing_kernel() -> Tensor:
    """Return the 5x5 Gaussian of sigma 0.8 with the digits of the official code, in float64.

    >>> smoothing_kernel().shape, round(smoothing_kernel().sum().item(), 5)
    (torch.Size([5, 5]), 1.0)
    """
    # Mirror the top left 3x3 corner downwards, then to the right.
    corner = torch.tensor(_KERNEL_CORNER, dtype=torch.float64)
    half = torch.cat([corner, corner[:2].flip(0)])
    return torch.cat([half, half[:, :2].flip(1)], dim=1)


def smooth_by_kernel(image: Tensor, kernel: Tensor, pad: PadMode) -> Tensor:
    """Smooth with a 5x5 kernel, padding with zeros or reflecting without the edge pixel.

    Shape:
        - image, output: ``(N, 1, H, W)``, H and W above 2 to reflect
        - kernel: ``(5, 5)``
    """
    padded = F.pad(image, (2, 2, 2, 2), mode="constant" if pad == "zero" else "reflect")
    return F.conv2d(padded, kernel[None, None])


def warp(maps: Tensor, flow: Tensor, sampling: WarpSampling) -> Tensor:
    """Sample maps at ``x + flow(x)`` bilinearly.

    Outside the frame, ``clamp`` takes the nearest edge. ``extrapolate`` follows the official code:
    to the right and below, the last two columns or rows continue linearly without bound; to the
    left and above, everything is 0. `shorten` reduces displacements by 1/W and 1/H of their length,
    as in the official code.

    Shape:
        - maps, output: ``(N, C, H, W)``, H and W above 1
        - flow: ``(N, 2, H, W)``, x and y, in pixels

    >>> image, flow = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.full((1, 2, 2, 2), 0.5)
    >>> warp(image, flow, WarpSampling("clamp", shorten=False))[0, 0]
    tensor([[2.5000, 3.0000],
            [3.5000, 4.0000]])
    """
    h, w = maps.shape[-2:]
    scale_x, scale_y = ((w - 1) / w, (h - 1) / h) if sampling.shorten else (1.0, 1.0)
    columns = torch.arange(w, device=flow.device, dtype=flow.dtype)
    rows = torch.arange(h, device=flow.device, dtype=flow.dtype)[:, None]
    across = _interpolation_neighbors(columns + scale_x * flow[:, 0], w, sampling.outside)
    down = _interpolation_neighbors(rows + scale_y * flow[:, 1], h, sampling.outside)
    flat, total = maps.flatten(2), torch.zeros_like(maps)
    for row, height in down:
        for column, width in across:
            index = (row * w + column).flatten(1)[:, None].expand(-1, maps.shape[1], -1)
            total = total + (width * height)[:, None] * flat.gather(2, index).view_as(maps)
    return total


def _interpolation_neighbors(
    position: Tensor, size: int, outside: OutsideMode
) -> tuple[TensorPair, TensorPair]:
    """Return the indices before and after each position on an axis, each with its weight."""
    if outside == "clamp":
        position = position.clamp(0, size - 1)
    # A NaN would become an invalid index, which ends the process on a GPU.
    base = position.detach().floor().nan_to_num()
    # Left of the frame both indices are 0 and their weights cancel. Right of it the weights
    # extrapolate: size = 4, position = 4.5 -> index 2 weighs -1.5, index 3 weighs 2.5.
    before, after = base.clamp(0, size - 2), (base + 1).clamp(0, size - 1)
    return (before.long(), after - position), (after.long(), position - before)


def forward_gradient(flow: Tensor, taps: Tensor) -> TensorPair:
    """Compute differences to the next pixel, ``t0 u[x] + t1 u[x+1]``, along x and y; 0 at the end.

    Shape:
        - flow: ``(N, 2, H, W)``
        - taps: ``(2, 2, 2)``: component, axis, tap
        - outputs: along x and along y, each ``(N, 2, H, W)``

    >>> taps = torch.tensor([-1.0, 1.0]).expand(2, 2, 2)
    >>> forward_gradient(torch.tensor([1.0, 4.0, 9.0]).expand(1, 2, 1, 3), taps)[0][0, 0]
    tensor([[3., 5., 0.]])
    """
    (x0, x1), (y0, y1) = _split_taps(taps)
    along_x = x0 * flow[..., :-1] + x1 * flow[..., 1:]
    along_y = y0 * flow[..., :-1, :] + y1 * flow[..., 1:, :]
    return F.pad(along_x, (0, 1)), F.pad(along_y, (0, 0, 0, 1))


def tap_divergence(dual_x: Tensor, dual_y: Tensor, taps: Tensor) -> Tensor:
    """Sum the differences from the previous pixel, ``t0 p[x-1] + t1 p[x]``, along x and y.

    Values before the first pixel and at the last pixel count as 0.

    Shape:
        - dual_x, dual_y, output: ``(N, 2, H, W)``
        - taps: ``(2, 2, 2)``: component, axis, tap

    >>> dual = torch.tensor([1.0, 4.0, 9.0]).expand(1, 2, 1, 3)
    >>> tap_divergence(dual, 0 * dual, torch.tensor([-1.0, 1.0]).expand(2, 2, 2))[0, 0]
    tensor([[ 1.,  3., -4.]])
    """
    (x0, x1), (y0, y1) = _split_taps(taps)
    inner_x, inner_y = dual_x[..., :-1], dual_y[..., :-1, :]
    along_x = F.pad(x0 * inner_x, (1, 0)) + F.pad(x1 * inner_x, (0, 1))
    along_y = F.pad(y0 * inner_y, (0, 0, 1, 0)) + F.pad(y1 * inner_y, (0, 0, 0, 1))
    return along_x + along_y


def _split_taps(taps: Tensor) -> list[TensorPair]:
    """Return the two taps of x and of y, each ``(2, 1, 1)``: one for each component of the flow."""
    views = [tap.view(-1, 1, 1) for axis in taps.unbind(1) for tap in axis.unbind(1)]
    return [(views[0], views[1]), (views[2], views[3])]


def update_dual(dual: TensorPair, gradient: TensorPair, ratio: Tensor) -> TensorPair:
    """Compute ``(p + k g) / (1 + k √(|g|² + 1e-12))``, k = tau / theta (TVNet supplement, eq. 1).

    The constant under the root keeps the derivative finite where the gradient is 0 (eq. 2).

    Shape:
        - dual, gradient, outputs: along x and along y, all of one shape
        - ratio: k, without axes
    """
    (dual_x, dual_y), (along_x, along_y) = dual, gradient
    length = (along_x.square() + along_y.square() + SQUARE_EPSILON).sqrt()
    damping = 1 + ratio * length
    return (dual_x + ratio * along_x) / damping, (dual_y + ratio * along_y) / damping


class LinearError(NamedTuple):
    """The brightness error of a warp, linear in the flow u: ``error + slope · u``.

    Shape:
        - slope: ``(N, 2, H, W)``, the warped gradient
        - error: ``(N, 1, H, W)``, at u = 0
        - inverse: ``(N, 1, H, W)``, ``-1 / (|slope|² + 1e-12)``
    """

    slope: Tensor
    error: Tensor
    inverse: Tensor


def linearize_error(first: Tensor, warped: Tensor, flow: Tensor) -> LinearError:
    """Linearize the brightness error around a flow.

    Shape:
        - first: ``(N, 1, H, W)``
        - warped: ``(N, 3, H, W)``, the second image and its gradient, sampled along the flow
        - flow: ``(N, 2, H, W)``
    """
    slope = warped[:, 1:]
    error = warped[:, :1] - (slope * flow).sum(1, keepdim=True) - first + SQUARE_EPSILON
    return LinearError(slope, error, -1 / (slope.square().sum(1, keepdim=True) + SQUARE_EPSILON))


def run_iteration(
    flow: Tensor,
    dual: TensorPair,
    data: LinearError,
    taps: tuple[Tensor, Tensor],
    constants: SolverConstants,
) -> tuple[Tensor, TensorPair, Tensor]:
    """Run one iteration: data step by clipping, u = v + theta div p, dual step of the new u.

    Shape:
        - flow: ``(N, 2, H, W)``
        - dual: along x and along y, each ``(N, 2, H, W)``
        - taps: of the divergence and of the gradient, each ``(2, 2, 2)``

    Returns:
        flow and dual after the iteration, and the brightness error before it, ``(N, 1, H, W)``
    """
    tau, strength, theta = constants
    limit = strength * theta
    slope_flow = data.slope * flow
    error = slope_flow[:, :1] + slope_flow[:, 1:] + data.error
    # Clipping equals the three-way threshold of the papers, and no branch divides by zero.
    step_size = torch.clamp(error * data.inverse, -limit, limit)
    flow = flow + step_size * data.slope + theta * tap_divergence(*dual, taps[0])
    return flow, update_dual(dual, forward_gradient(flow, taps[1]), tau / theta), error


def iterate_warp(
    flow: Tensor,
    dual: TensorPair,
    data: LinearError,
    taps: DifferenceTaps,
    constants: SolverConstants,
) -> tuple[Tensor, TensorPair, Tensor]:
    """Run all iterations of a warp, one for each ``(2, 2, 2)`` of the taps ``(I, 2, 2, 2)``."""
    error = data.error
    for pair in zip(taps.divergence, taps.gradient, strict=True):
        flow, dual, error = run_iteration(flow, dual, data, pair, constants)
    return flow, dual, error


def iterate_in_place(
    flow: Tensor,
    dual: TensorPair,
    data: LinearError,
    taps: DifferenceTaps,
    constants: SolverConstants,
) -> tuple[Tensor, TensorPair, Tensor]:
    """Run `iterate_warp` in place, with the same bits, for taps (-1, 1) and without derivatives.

    Only the number of taps matters, not their values.
    """
    tau, strength, theta = constants
    limit, ratio, coupling = (x.item() for x in (strength * theta, tau / theta, theta))
    flow, (dual_x, dual_y) = flow.clone(), (part.clone() for part in dual)
    along_x, along_y, scratch = (torch.zeros_like(flow) for _ in range(3))
    error, step_size = torch.empty_like(data.error), torch.empty_like(data.error)
    for _ in taps.divergence:
        torch.mul(data.slope, flow, out=scratch)
        torch.add(scratch[:, :1], scratch[:, 1:], out=error).add_(data.error)
        torch.mul(error, data.inverse, out=step_size).clamp_(-limit, limit)
        flow.add_(torch.mul(step_size, data.slope, out=scratch))
        # Divergence: backward differences, along x in `scratch` and along y in `along_y`.
        scratch.copy_(dual_x)[..., 1:].sub_(dual_x[..., :-1])
        along_y.copy_(dual_y)[..., 1:, :].sub_(dual_y[..., :-1, :])
        flow.add_(scratch.add_(along_y).mul_(coupling))
        torch.sub(flow[..., 1:], flow[..., :-1], out=along_x[..., :-1])
        torch.sub(flow[..., 1:, :], flow[..., :-1, :], out=along_y[..., :-1, :])
        # The divergence left values in the last row; the last column of along_x is always 0.
        along_y[..., -1, :] = 0
        torch.mul(along_x, along_x, out=scratch).add_(along_y * along_y).add_(
            SQUARE_EPSILON
        ).sqrt_()
        scratch.mul_(ratio).add_(1)
        dual_x.add_(along_x.mul_(ratio)).div_(scratch)
        dual_y.add_(along_y.mul_(ratio)).div_(scratch)
    return flow, (dual_x, dual_y), error


def level_sizes(height: int, width: int, *, max_levels: int, zoom: float) -> list[tuple[int, int]]:
    """Return the sizes (H, W) of the pyramid's levels from the finest, at most `max_levels`.

    Their number is ``1 + ln(√(H² + W²) / 4) / ln(1 / zoom)`` rounded down, at least 1; levels with
    a side below 2 pixels are dropped. Each side is ``side * zoom^level`` rounded half up.

    >>> level_sizes(96, 128, max_levels=3, zoom=0.5)
    [(96, 128), (48, 64), (24, 32)]
    >>> level_sizes(5, 4, max_levels=5, zoom=0.5)
    [(5, 4)]
    """
    level_limit = 1 + math.log(math.hypot(height, width) / 4) / math.log(1 / zoom)
    scales = [zoom**level for level in range(1, min(max(int(level_limit), 1), max_levels))]
    sizes = [(int(height * share + 0.5), int(width * share + 0.5)) for share in scales]
    return [(height, width), *(size for size in sizes if min(size) > 1)]


def resize_bilinear(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bilinearly from corner to corner, without a filter.

    Shape:
        - image: ``(N, C, H, W)``; output: ``(N, C, *size)``
    """
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image, size, mode="bilinear", align_corners=True)


def unroll_flow(
    first: Tensor,
    second: Tensor,
    taps: DifferenceTaps,
    constants: SolverConstants,
    *,
    zoom: float,
    sampling: WarpSampling,
    initial_field: Tensor | None = None,
    run_warp: Callable[..., tuple[Tensor, TensorPair, Tensor]] = iterate_warp,
) -> TensorPair:
    """Compute the flow from the first image to the second, from the coarsest level to the finest.

    The shape of the taps sets the number of warps and iterations, and the maximum number of levels.
    The flow of a coarser level is divided by `zoom`, not by the ratio of sizes.

    Shape:
        - first, second: ``(N, 1, H, W)``, smoothed, 0..255
        - initial_field: ``(2, h, w)``, the flow to start from, in pixels of its own grid; None is 0
        - outputs: flow ``(N, 2, H, W)`` in pixels, x right and y down, and the brightness error
          before the last iteration, ``(N, 1, H, W)``
    """
    sizes = level_sizes(*first.shape[-2:], max_levels=len(taps.divergence), zoom=zoom)
    flow = error = first.new_zeros(len(first), 2, *sizes[-1])
    if initial_field is not None:
        flow = flow + _fit_field(initial_field, sizes[-1])
    for level in reversed(range(len(sizes))):
        if level < len(sizes) - 1:
            flow = resize_bilinear(flow, sizes[level]) / zoom
        # Levels are resized from the full images, not from each other.
        start, end = resize_bilinear(first, sizes[level]), resize_bilinear(second, sizes[level])
        maps = torch.cat([end, central_difference(end)], dim=1)
        # The dual starts at 0 at each level, not at each warp.
        dual = torch.zeros_like(flow), torch.zeros_like(flow)
        for kernels in zip(taps.divergence[level], taps.gradient[level], strict=True):
            data = linearize_error(start, warp(maps, flow, sampling), flow)
            flow, dual, error = run_warp(flow, dual, data, DifferenceTaps(*kernels), constants)
    return flow, error


def _fit_field(field: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a field to a level, and its displacements by the ratio of the sizes."""
    h, w = field.shape[-2:]
    ratio = field.new_tensor([size[1] / w, size[0] / h]).view(2, 1, 1)
    return resize_bilinear(field[None], size) * ratio

"""Spatial and temporal stencils: the Laplacian of Gaussian, and the second difference in time."""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

KernelScale = Literal["released", "paper"]


class LoG(NamedTuple):
    """A sampled Laplacian of Gaussian, whole and as factors, all of one scale and in float64.

    ``kernel[i, j] = first[i] * second[j] + second[i] * first[j]``, up to rounding.

    Shape:
        - kernel: ``(size, size)``
        - first, second: ``(size,)``
    """

    kernel: Tensor
    first: Tensor
    second: Tensor


def laplacian_of_gaussian(size: int, sigma: float, *, scale: KernelScale = "released") -> LoG:
    """Sample the Laplacian of Gaussian at whole pixels, in float64.

    With r² = x² + y² and s = sigma: ``-1/(π s⁴) (1 - r²/(2 s²)) exp(-r²/(2 s²))``. The scale
    ``paper`` keeps that; ``released``, the scale of the authors' code, divides it by its own sum.
    The sum nearly cancels (-7.8e-4 for 9 and 1.1), so this turns the sign and multiplies by 1281.

    Raises:
        ValueError: the size is even, sigma is not positive, or the scale is ``released`` and the
            sum is nothing but rounding

    >>> kernel = laplacian_of_gaussian(9, 1.1).kernel
    >>> round(kernel[4, 4].item(), 3), round(kernel.sum().item(), 6)
    (278.398, 1.0)
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size={size}: the kernel needs an odd number of taps")
    if not sigma > 0:
        raise ValueError(f"sigma={sigma}: must be above 0")
    half = torch.arange(size, dtype=torch.float64) - size // 2
    decay = half.square() / (2 * sigma**2)
    square = decay[:, None] + decay[None, :]
    peak = -1 / (math.pi * sigma**4)
    kernel = peak * (1 - square) * torch.exp(-square)
    second = torch.exp(-decay)
    first = peak * (0.5 - decay) * second
    if scale == "paper":
        return LoG(kernel, first, second)
    total = float(kernel.numpy().sum())
    if abs(total) < 1e-6 * kernel.abs().max():
        raise ValueError(
            f"sigma={sigma}, size={size}: this kernel sums to {total:.1e}, which is rounding, so "
            "dividing by it gives noise; take a smaller size, a larger sigma or scale=paper"
        )
    return LoG(kernel / total, first / total, second)


def reflect_depthwise(image: Tensor, weight: Tensor) -> Tensor:
    """Correlate each channel with its own kernel, the border reflected without its edge pixel.

    Shape:
        - image: ``(B, C, H, W)``, H and W above ``k // 2``
        - weight: ``(C, 1, k, k)``
        - output: ``(B, C, H, W)``

    >>> reflect_depthwise(torch.eye(3)[None, None], torch.ones(1, 1, 3, 3))[0, 0, 0]
    tensor([5., 3., 4.])
    """
    # On the CPU a depthwise convolution is 3 times as fast in channels_last.
    layout = torch.channels_last if image.device.type == "cpu" else torch.preserve_format
    padded = F.pad(image, [weight.shape[-1] // 2] * 4, mode="reflect")
    return F.conv2d(padded.contiguous(memory_format=layout), weight, groups=image.shape[1])


def second_difference(before: Tensor, now: Tensor, after: Tensor, taps: Tensor) -> Tensor:
    """Weigh three moments by three taps, as differences to the middle one.

    ``t0 (before - now) + t2 (after - now) + (t0 + t1 + t2) now`` is the sum of products for any
    taps; for taps that sum to 0 equal moments give exactly 0, fused multiply-add or not.

    Shape:
        - before, now, after: ``(..., C, H, W)``
        - taps: ``(C, 3)``
        - output: ``(..., C, H, W)``
    """
    past, _, future = (tap.view(-1, 1, 1) for tap in taps.unbind(1))
    total = taps.sum(1).view(-1, 1, 1)
    return past * (before - now) + future * (after - now) + total * now


def central_difference(image: Tensor) -> Tensor:
    """The gradient by ``(I[x + 1] - I[x - 1]) / 2``, the edge repeated.

    Shape:
        - image: ``(B, 1, H, W)``
        - output: ``(B, 2, H, W)``, x then y

    >>> central_difference(torch.tensor([[[[0.0, 2.0, 8.0]]]]))[0, 0]
    tensor([[1., 4., 3.]])
    """
    return torch.cat([_symmetric_difference(image, axis, 1) / 2 for axis in (3, 2)], dim=1)


def five_point_difference(image: Tensor) -> Tensor:
    """The gradient by the taps (1, -8, 0, 8, -1) / 12, the edge repeated.

    Of a constant image it is exactly 0.

    Shape:
        - image: ``(B, 1, H, W)``
        - output: ``(B, 2, H, W)``, x then y
    """
    slopes = (
        (8 * _symmetric_difference(image, axis, 1) - _symmetric_difference(image, axis, 2)) / 12
        for axis in (3, 2)
    )
    return torch.cat(list(slopes), dim=1)


def _symmetric_difference(image: Tensor, axis: int, distance: int) -> Tensor:
    """The pixel so far ahead along an axis less the one as far behind, the edge repeated."""
    size = image.shape[axis]
    places = torch.arange(size, device=image.device)
    ahead = image.index_select(axis, (places + distance).clamp(max=size - 1))
    return ahead - image.index_select(axis, (places - distance).clamp(min=0))

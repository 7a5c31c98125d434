"""Stencils: the Laplacian of Gaussian, image gradients, and the second difference in time."""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

KernelScale = Literal["released", "paper"]

ROOT_EPSILON = 1e-24
"""Added under a square root to keep its slope finite; far below any image gradient squared."""


class LoG(NamedTuple):
    """A sampled Laplacian of Gaussian in float64, as a kernel and as factors of the same scale.

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
    ``paper`` keeps these values; ``released``, the scale of the authors' code, divides them by
    their sum. The sum nearly cancels (-7.8e-4 for size 9 and sigma 1.1), so the division flips the
    sign and multiplies by 1281.

    Raises:
        ValueError: the size is even, sigma is not positive, or the scale is ``released`` and the
            sum is only rounding error

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
    # 1 - di - dj = (0.5 - di) + (0.5 - dj), so the kernel is a sum of two separable products.
    second = torch.exp(-decay)
    first = peak * (0.5 - decay) * second
    if scale == "paper":
        return LoG(kernel, first, second)
    total = float(kernel.numpy().sum())
    if abs(total) < 1e-6 * kernel.abs().max():
        raise ValueError(
            f"sigma={sigma}, size={size}: the kernel sums to {total:.1e}, which is rounding error, "
            "so dividing by it gives noise. Use a smaller size, a larger sigma or scale=paper"
        )
    return LoG(kernel / total, first / total, second)


def reflect_depthwise(image: Tensor, weight: Tensor) -> Tensor:
    """Correlate each channel with its own kernel, reflecting the border without its edge pixel.

    Shape:
        - image: ``(B, C, H, W)``, H and W above ``k // 2``
        - weight: ``(C, 1, k, k)``
        - output: ``(B, C, H, W)``

    >>> reflect_depthwise(torch.eye(3)[None, None], torch.ones(1, 1, 3, 3))[0, 0, 0]
    tensor([5., 3., 4.])
    """
    padded = F.pad(image, [weight.shape[-1] // 2] * 4, mode="reflect")
    # On the CPU a depthwise convolution is 3 times as fast in this layout.
    planes = store_channels_last(padded) if image.device.type == "cpu" else padded
    return F.conv2d(planes, weight, groups=image.shape[1])


def store_channels_last(planes: Tensor) -> Tensor:
    """Return planes whose channels are adjacent in memory, as `torch.channels_last` does.

    Unlike with a memory format, `torch.func.vmap` can follow.

    Shape:
        - planes: ``(B, C, H, W)``; output: the same
    """
    return planes.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def second_difference(before: Tensor, now: Tensor, after: Tensor, taps: Tensor) -> Tensor:
    """Weight three moments by three taps, as differences from the middle one.

    ``t0 (before - now) + t2 (after - now) + (t0 + t1 + t2) now`` is the sum of products for any
    taps. For taps that sum to 0, equal moments give exactly 0, with or without fused multiply-add.

    Shape:
        - before, now, after: ``(..., C, H, W)``
        - taps: ``(C, 3)``
        - output: ``(..., C, H, W)``
    """
    past, _, future = (tap.view(-1, 1, 1) for tap in taps.unbind(1))
    total = taps.sum(1).view(-1, 1, 1)
    return past * (before - now) + future * (after - now) + total * now


def central_difference(image: Tensor) -> Tensor:
    """Compute the gradient ``(I[x + 1] - I[x - 1]) / 2``, repeating the edge.

    Shape:
        - image: ``(B, 1, H, W)``
        - output: ``(B, 2, H, W)``, x then y

    >>> central_difference(torch.tensor([[[[0.0, 2.0, 8.0]]]]))[0, 0]
    tensor([[1., 4., 3.]])
    """
    return torch.cat([_symmetric_difference(image, axis, 1) / 2 for axis in (3, 2)], dim=1)


def five_point_difference(image: Tensor) -> Tensor:
    """Compute the gradient with the taps (1, -8, 0, 8, -1) / 12, repeating the edge.

    The gradient of a constant image is exactly 0.

    Shape:
        - image: ``(B, 1, H, W)``
        - output: ``(B, 2, H, W)``, x then y
    """
    # Pixels are subtracted before they are weighted: on a constant image both terms are exactly 0.
    slopes = (
        (8 * _symmetric_difference(image, axis, 1) - _symmetric_difference(image, axis, 2)) / 12
        for axis in (3, 2)
    )
    return torch.cat(list(slopes), dim=1)


def _symmetric_difference(image: Tensor, axis: int, distance: int) -> Tensor:
    """Subtract the pixel `distance` behind from the one `distance` ahead, repeating the edge."""
    size = image.shape[axis]
    positions = torch.arange(size, device=image.device)
    ahead = image.index_select(axis, (positions + distance).clamp(max=size - 1))
    return ahead - image.index_select(axis, (positions - distance).clamp(min=0))

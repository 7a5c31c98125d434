"""Image pyramids, blurred and resized as in OpenCV."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_LEVEL = 16
"""Shortest side of a level in pixels, unless the image itself is smaller."""


def pyramid_sizes(
    height: int, width: int, *, zoom: float, max_levels: int
) -> list[tuple[int, int]]:
    """Return the sizes of the levels, starting with the image itself.

    Each size is the one above times `zoom`, rounded.

    >>> pyramid_sizes(64, 100, zoom=0.5, max_levels=9)
    [(64, 100), (32, 50), (16, 25)]
    """
    chosen_sizes = [(height, width)]
    while len(chosen_sizes) < max_levels:
        smaller = tuple(round(side * zoom) for side in chosen_sizes[-1])
        if min(smaller) < SMALLEST_LEVEL or smaller == chosen_sizes[-1]:
            break
        chosen_sizes.append((smaller[0], smaller[1]))
    return chosen_sizes


def blur_taps(zoom: float) -> list[float]:
    """Return the Gaussian taps that prevent aliasing: sigma is ``0.6 sqrt(1/zoom² - 1)``.

    >>> len(blur_taps(0.5)), round(sum(blur_taps(0.5)), 6)
    (9, 1.0)
    """
    sigma = blur_sigma(zoom)
    # OpenCV takes round(8 sigma + 1) taps for float images, made odd.
    radius = round(sigma * 8 + 1) // 2
    taps = [math.exp(-((i / sigma) ** 2) / 2) for i in range(-radius, radius + 1)]
    return [tap / sum(taps) for tap in taps]


def blur_sigma(zoom: float) -> float:
    """Return the standard deviation of `blur_taps`."""
    return 0.6 * math.sqrt(1 / zoom**2 - 1)


def blur_reflected(image: Tensor, taps: list[float]) -> Tensor:
    """Blur with a separable symmetric kernel, reflecting the border without its edge pixel.

    Shape:
        - image: ``(B, C, H, W)``; output: the same
    """
    radius = len(taps) // 2
    for axis in (2, 3):
        size = image.shape[axis]
        # F.pad refuses a kernel wider than the image; these positions reflect repeatedly.
        padded = image.index_select(axis, _reflected_positions(size, radius).to(image.device))
        shifted = (padded.narrow(axis, i, size) * tap for i, tap in enumerate(taps))
        # `torch.sum` rounds differently by the place in memory, and equal images must stay equal.
        image = functools.reduce(torch.add, shifted)
    return image


def _reflected_positions(size: int, radius: int) -> Tensor:
    """Return the reflected positions from `radius` before an axis to `radius` after it."""
    # size = 3, radius = 2 -> [2, 1, 0, 1, 2, 1, 0]
    period = max(2 * (size - 1), 1)
    positions = torch.arange(-radius, size + radius) % period
    return torch.minimum(positions, period - positions)


def shrink_image(image: Tensor, height: int, width: int, *, zoom: float) -> Tensor:
    """Resize by linear interpolation at steps of exactly ``1 / zoom``, like ``cv2.resize`` with fx.

    Unlike in torch's interpolation, rounding the size does not change the step.

    Shape:
        - image: ``(B, C, H, W)``; output: ``(B, C, height, width)``
    """
    for axis, size in ((2, height), (3, width)):
        image = _resample_axis(image, axis, size, 1 / zoom)
    return image


def enlarge_flow(flow: Tensor, height: int, width: int, *, zoom: float) -> Tensor:
    """Resize the displacements of a level to the next finer one, and divide them by `zoom`.

    Shape:
        - flow: ``(B, 2, h, w)``; output: ``(B, 2, height, width)``
    """
    size = (height, width)
    return F.interpolate(flow, size, mode="bilinear", align_corners=False) / zoom


def _resample_axis(image: Tensor, axis: int, size: int, step: float) -> Tensor:
    """Sample one axis at ``(i + 0.5) step - 0.5``, clamped to the image."""
    last = image.shape[axis] - 1
    source_positions = (torch.arange(size, dtype=torch.float64) + 0.5) * step - 0.5
    low = source_positions.floor().clamp(0, last)
    share = (source_positions - low).clamp(0, 1).to(image)
    low = low.long().to(image.device)
    high = (low + 1).clamp(max=last)
    shape = [-1 if i == axis else 1 for i in range(image.ndim)]
    first, second = image.index_select(axis, low), image.index_select(axis, high)
    return first + (second - first) * share.view(shape)


def build_pyramid(image: Tensor, *, zoom: float, max_levels: int, smooth: bool) -> list[Tensor]:
    """Build all levels of an image, the largest first; each is made from the one above.

    Shape:
        - image: ``(B, C, H, W)``
    """
    levels = [image]
    # Integers, as sizes are tensors while `torch.jit.trace` runs.
    sizes = pyramid_sizes(*map(int, image.shape[2:]), zoom=zoom, max_levels=max_levels)
    for height, width in sizes[1:]:
        above = blur_reflected(levels[-1], blur_taps(zoom)) if smooth else levels[-1]
        levels.append(shrink_image(above, height, width, zoom=zoom))
    return levels

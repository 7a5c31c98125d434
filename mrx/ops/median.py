"""The median of a square of pixels, by comparisons alone."""

import torch
import torch.nn.functional as F
from torch import Tensor


def median_blur(image: Tensor, size: int) -> Tensor:
    """The median of each pixel's square of 1, 3 or 5 pixels a side, the edge repeated.

    Shape:
        - image: ``(B, C, H, W)``; output: the same

    >>> median_blur(torch.tensor([[[[0.0, 9.0, 1.0]]]]), 3)
    tensor([[[[0., 1., 1.]]]])
    """
    if size == 1:
        return image
    h, w = image.shape[2:]
    padded = F.pad(image, [size // 2] * 4, mode="replicate")
    return median([padded[..., i : i + h, j : j + w] for i in range(size) for j in range(size)])


def median(values: list[Tensor]) -> Tensor:
    """The element-wise median of an odd number of tensors.

    Of more than half of the values the least and the greatest cannot be the median: they are
    dropped, the next value is taken in, and so on until one is left.

    >>> median([torch.tensor(v) for v in (3.0, 1.0, 2.0)])
    tensor(2.)
    """
    candidates, remaining = values[: len(values) // 2 + 2], values[len(values) // 2 + 2 :]
    while len(candidates) > 1:
        candidates = _drop_extremes(candidates) + remaining[:1]
        remaining = remaining[1:]
    return candidates[0]


def _drop_extremes(values: list[Tensor]) -> list[Tensor]:
    """All values but the least and the greatest, in no order."""
    orders = (torch.minimum, torch.maximum), (torch.maximum, torch.minimum)
    for push, keep in orders:
        extreme, kept = values[0], []
        for value in values[1:]:
            kept.append(keep(extreme, value))
            extreme = push(extreme, value)
        values = kept
    return values

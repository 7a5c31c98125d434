"""Median filter over squares of pixels, by comparisons of whole planes."""

import torch
import torch.nn.functional as F
from torch import Tensor


def median_blur(image: Tensor, size: int) -> Tensor:
    """Replace each pixel by the median of its square of 1, 3 or 5 pixels a side.

    The edge is repeated.

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
    """Compute the element-wise median of an odd number of tensors.

    Among more than half of the values, the smallest and the largest cannot be the median. Both are
    dropped and the next value is added, until one value is left.

    >>> median([torch.tensor(v) for v in (3.0, 1.0, 2.0)])
    tensor(2.)
    """
    # The comparisons of 25 values are hundreds of nodes, and a graph of a solver has many medians.
    if torch.compiler.is_compiling():
        return torch.stack(values).median(0).values
    # 9 values: 6 candidates and 3 remaining, then 5 and 2, 4 and 1, 3 and 0, and 1 candidate.
    candidates, remaining = values[: len(values) // 2 + 2], values[len(values) // 2 + 2 :]
    while len(candidates) > 1:
        candidates = _drop_extremes(candidates) + remaining[:1]
        remaining = remaining[1:]
    return candidates[0]


def _drop_extremes(values: list[Tensor]) -> list[Tensor]:
    """Return all values but the smallest and the largest, in no order."""
    # The first pass carries the minimum along and keeps the others, the second the maximum.
    orders = (torch.minimum, torch.maximum), (torch.maximum, torch.minimum)
    for push, keep in orders:
        extreme, kept = values[0], []
        for value in values[1:]:
            kept.append(keep(extreme, value))
            extreme = push(extreme, value)
        values = kept
    return values

"""Sample images at displaced pixels, in pixel coordinates."""

from typing import Literal

import torch
from torch import Tensor

BorderMode = Literal["zero", "clamp"]


def displaced_positions(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the columns and rows of the pixels after their displacement.

    Shape:
        - flow: ``(B, 2, H, W)``; outputs: ``(B, H, W)`` each

    >>> displaced_positions(torch.full((1, 2, 1, 3), 0.5))[0]
    tensor([[[0.5000, 1.5000, 2.5000]]])
    """
    h, w = flow.shape[2:]
    columns = torch.arange(w, device=flow.device, dtype=flow.dtype)
    rows = torch.arange(h, device=flow.device, dtype=flow.dtype)
    return columns + flow[:, 0], rows[:, None] + flow[:, 1]


def is_inside(flow: Tensor) -> Tensor:
    """Test each pixel for lying in the frame, border included, after its displacement.

    Shape:
        - flow: ``(B, 2, H, W)``; output: ``(B, 1, H, W)`` bool
    """
    h, w = flow.shape[2:]
    x, y = displaced_positions(flow)
    return ((x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1))[:, None]


def cubic_weights(fraction: Tensor, a: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the weights of neighbors -1, 0, 1 and 2 by Keys' cubic kernel.

    ``a = -0.5`` is Catmull-Rom, ``a = -0.75`` the bicubic of OpenCV and torch. Weights sum to 1.

    >>> [round(float(w), 4) for w in cubic_weights(torch.tensor(0.5), -0.5)]
    [-0.0625, 0.5625, 0.5625, -0.0625]
    """
    left_distance, right_distance = fraction, 1 - fraction
    first = ((a * (left_distance + 1) - 5 * a) * (left_distance + 1) + 8 * a) * (
        left_distance + 1
    ) - 4 * a
    second = ((a + 2) * left_distance - (a + 3)) * left_distance * left_distance + 1
    third = ((a + 2) * right_distance - (a + 3)) * right_distance * right_distance + 1
    return first, second, third, 1 - first - second - third


def sample_cubic(planes: Tensor, flow: Tensor, *, a: float, border: BorderMode) -> Tensor:
    """Sample planes at ``x + flow`` with a 16-tap cubic kernel, in pixel coordinates.

    A flow of whole pixels returns those pixels exactly. Taps outside the frame are zero, or repeat
    the edge, depending on `border`.

    Shape:
        - planes: ``(B, C, H, W)``
        - flow: ``(B, 2, H, W)``
        - output: ``(B, C, H, W)``
    """
    _, c, h, w = planes.shape
    x, y = displaced_positions(flow)
    # More than four pixels outside, every tap is border, and larger values could overflow `long`.
    x, y = x.clamp(-4, w + 3), y.clamp(-4, h + 3)
    # Gradients reach the flow through the fractions; the pixel indices are constants.
    left, top = x.detach().floor(), y.detach().floor()
    across, down = cubic_weights(x - left, a), cubic_weights(y - top, a)
    flat = planes.flatten(2)
    total = torch.zeros_like(planes)
    for j in range(4):
        row = top.long() + (j - 1)
        for i in range(4):
            column = left.long() + (i - 1)
            weight = across[i] * down[j]
            if border == "zero":
                inside_frame = (row >= 0) & (row < h) & (column >= 0) & (column < w)
                weight = weight * inside_frame
            # Clamped in both modes: gather needs valid indices even for taps of weight 0.
            pixel_index = row.clamp(0, h - 1) * w + column.clamp(0, w - 1)
            taps = flat.gather(2, pixel_index.flatten(1)[:, None].expand(-1, c, -1))
            total = total + weight[:, None] * taps.view_as(planes)
    return total


def sample_linear(planes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Sample planes at columns x and rows y by bilinear interpolation, repeating the edge.

    Whole pixels return those pixels exactly.

    Shape:
        - planes: ``(B, C, H, W)``
        - x, y: ``(B, h, w)``
        - output: ``(B, C, h, w)``
    """
    b, c, height, width = planes.shape
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, top = x.detach().floor(), y.detach().floor()
    right_share, lower_share = (x - left)[:, None], (y - top)[:, None]
    flat = planes.flatten(2)
    # Clamped again, as NaN becomes an integer of any size.
    column, row = left.long().clamp(0, width - 1), top.long().clamp(0, height - 1)

    def take_pixels(row: Tensor, column: Tensor) -> Tensor:
        index = (row * width + column).flatten(1)[:, None].expand(-1, c, -1)
        return flat.gather(2, index).view(b, c, *x.shape[1:])

    right, below = (column + 1).clamp(max=width - 1), (row + 1).clamp(max=height - 1)
    upper = torch.lerp(take_pixels(row, column), take_pixels(row, right), right_share)
    lower = torch.lerp(take_pixels(below, column), take_pixels(below, right), right_share)
    return torch.lerp(upper, lower, lower_share)

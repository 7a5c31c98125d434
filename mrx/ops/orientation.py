"""Histograms of edge orientations in cells: features that need no training."""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_NUM_ORIENTATIONS = 8
_NOISE_SIGMA = 1.0
"""Sigma of the blur before the gradient, in pixels."""

# Added to squared gradients and to standard deviations, which may be 0.
_SQUARE_EPSILON = 1e-12
_DEVIATION_EPSILON = 1e-6
_CHANNELS_AT_ONCE = 16


class CellLayout(NamedTuple):
    """The grid of cells of a picture, and the neighborhood of a cell's features.

    Attributes:
        stride: pixels from one cell to the next
        sigma: sigma of the blur of the orientation maps, in pixels
        side: side in cells, odd, of the square whose histograms are one cell's features
    """

    stride: int
    sigma: float
    side: int


CELL_LAYOUTS = {8: CellLayout(8, 3.0, 3), 4: CellLayout(4, 2.0, 5)}
"""Layouts by stride, chosen by their error on moved photographs."""


def compute_luma(frames: Tensor) -> Tensor:
    """Compute ``0.299 R + 0.587 G + 0.114 B``, on the scale of the frames.

    Shape:
        - frames: ``(..., 3, H, W)``; output: ``(..., 1, H, W)``
    """
    red, green, blue = (frames[..., i : i + 1, :, :] for i in range(3))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def gaussian_taps(sigma: float) -> list[float]:
    """Return the taps of a Gaussian; they sum to 1.

    The radius is ``int(3 sigma + 0.5)``.

    >>> [round(value, 3) for value in gaussian_taps(0.5)]
    [0.0, 0.106, 0.787, 0.106, 0.0]
    """
    radius = int(3 * sigma + 0.5)
    taps = [math.exp(-(step**2) / (2 * sigma**2)) for step in range(-radius, radius + 1)]
    total = sum(taps)
    return [tap / total for tap in taps]


def smoothing_matrix(size: int, sigma: float) -> Tensor:
    """Return the matrix that applies `gaussian_taps` along an axis, repeating the edge.

    Shape:
        - output: ``(size, size)`` float64; each row sums to 1

    >>> [round(value, 3) for value in smoothing_matrix(3, 0.5)[0].tolist()]
    [0.893, 0.106, 0.0]
    """
    taps = torch.tensor(gaussian_taps(sigma), dtype=torch.float64)
    steps = torch.arange(len(taps)) - len(taps) // 2
    positions = (torch.arange(size)[:, None] + steps).clamp(0, size - 1)
    # Taps beyond the edge add up at the edge pixel.
    return torch.zeros(size, size, dtype=torch.float64).scatter_add(
        1, positions, taps.expand(size, -1)
    )


def blur_by_matrix(maps: Tensor, sigma: float) -> Tensor:
    """Blur small maps by a Gaussian as matrix products, repeating the edge.

    Shape:
        - maps: ``(..., H, W)``; output: the same
    """
    down, across = (smoothing_matrix(size, sigma).to(maps) for size in maps.shape[-2:])
    return down @ maps @ across.T


def blur_by_taps(images: Tensor, sigma: float) -> Tensor:
    """Blur large images by a small Gaussian tap by tap, repeating the edge.

    Shape:
        - images: ``(N, C, H, W)``; output: the same
    """
    return correlate_separable(images, gaussian_taps(sigma))


def correlate_separable(images: Tensor, taps: list[float]) -> Tensor:
    """Correlate along both axes with an odd number of taps, repeating the edge.

    Shape:
        - images: ``(N, C, H, W)``; output: the same

    >>> correlate_separable(torch.tensor([[[[0.0, 3.0]]]]), [1 / 3, 1 / 3, 1 / 3])
    tensor([[[[1., 2.]]]])
    """
    radius = len(taps) // 2
    for axis, pad in ((2, [0, 0, radius, radius]), (3, [radius, radius, 0, 0])):
        size, padded = images.shape[axis], F.pad(images, pad, mode="replicate")
        shifted = (padded.narrow(axis, i, size) * tap for i, tap in enumerate(taps))
        images = functools.reduce(torch.add, shifted)
    return images


def orientation_histograms(gray: Tensor, cells: CellLayout) -> Tensor:
    """Compute the strength of each edge orientation around each cell.

    The picture is blurred by 1 pixel; g are its central differences. Channel i of 8 is ``|g|
    max(0, cos(angle(g) - i π/4))⁴``, blurred by `cells.sigma` and read at the center of each cell
    as the mean of the middle four pixels. A cell's features are the channels of the `side` x `side`
    cells around it, row by row. The edge of the picture is repeated.

    Shape:
        - gray: ``(N, 1, H, W)``, in 0..1
        - output: ``(N, 8 side², H // stride, W // stride)``, cells from the top left
    """
    height, width = (size // cells.stride for size in gray.shape[2:])
    down, across = (_cell_reading_matrix(size, cells).to(gray) for size in gray.shape[2:])
    slopes = _compute_slopes(blur_by_taps(gray, _NOISE_SIGMA))
    # Each channel is reduced to cells before the next one is made: only one has full size.
    cell_channels = [down @ channel @ across.T for channel in _iterate_orientations(*slopes)]
    histograms = torch.cat(cell_channels, dim=1)
    shifts = range(cells.side)
    return torch.cat(
        [histograms[..., i : i + height, j : j + width] for i in shifts for j in shifts], dim=1
    )


def standardize_features(features: Tensor) -> Tensor:
    """Subtract each channel's mean and divide by its deviation, over all given frames and cells.

    For two frames the result depends on those two alone, however the video is cut.

    Shape:
        - features: ``(N, C, H, W)``; output: the same

    >>> standardize_features(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)).flatten()
    tensor([-0.7071,  0.7071])
    """
    # A few channels at a time, because flattening them makes a copy.
    parts = [
        torch.std_mean(_flatten_channels(part), dim=1)
        for part in torch.split(features, _CHANNELS_AT_ONCE, 1)
    ]
    deviation, mean = (torch.cat(values).view(-1, 1, 1) for values in zip(*parts, strict=True))
    return (features - mean).div_(deviation + _DEVIATION_EPSILON)


def _flatten_channels(features: Tensor) -> Tensor:
    """Flatten the values of each channel to ``(C, N * H * W)``."""
    return features.transpose(0, 1).flatten(1)


def _compute_slopes(image: Tensor) -> tuple[Tensor, Tensor]:
    """Compute central differences to the right and downwards, repeating the edge."""
    padded = F.pad(image, [1] * 4, mode="replicate")
    rows, columns = padded[..., 1:-1, :], padded[..., 1:-1]
    return (rows[..., 2:] - rows[..., :-2]) / 2, (columns[..., 2:, :] - columns[..., :-2, :]) / 2


def _iterate_orientations(across: Tensor, down: Tensor) -> Iterator[Tensor]:
    """Yield the orientation channels at every pixel, one after the other."""
    # |g| cos(angle(g) - a) is the projection of g on direction a: its 4th power over |g|³ gives
    # |g| cos⁴ without computing an angle.
    square = across.square() + down.square() + _SQUARE_EPSILON
    scale = square.rsqrt() / square
    for i in range(_NUM_ORIENTATIONS):
        angle = math.tau * i / _NUM_ORIENTATIONS
        along = math.cos(angle) * across + math.sin(angle) * down
        yield along.relu().square().square() * scale


def _cell_reading_matrix(size: int, cells: CellLayout) -> Tensor:
    """Return the matrix that blurs an axis and averages the middle two pixels of each cell.

    Shape:
        - output: ``(size // stride + side - 1, size)``, including cells beyond both ends
    """
    beyond = cells.side // 2
    first = torch.arange(-beyond, size // cells.stride + beyond) * cells.stride
    middles = [(first + cells.stride // 2 + i).clamp(0, size - 1) for i in (-1, 0)]
    matrix = smoothing_matrix(size, cells.sigma)
    return (matrix[middles[0]] + matrix[middles[1]]) / 2

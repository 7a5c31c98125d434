"""From displacements of coarse cells to displacements below a pixel, and how far to trust them.

Matching decides once for each cell, among whole cells. Here that is where the search starts: what
both directions agree on is kept and fills what they do not, and three levels of the images, at 1/4
and 1/2 of their size and whole, each move it to where the images fit, by least squares over
windows (Lucas and Kanade, An Iterative Image Registration Technique, 1981), robustly. At each level
a cell may also take the affine motion of what fits around it, if that fits as well; and the search
starts anew from no motion and from the shift by which both pictures correlate best, which are kept
if they fit the whole picture better, as they may where a pattern repeats and matching is a guess.

Displacements are x right and y down. The numbers below were chosen by the error on photographs
moved by 8 to 40 pixels, and on pairs of films with true flow.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mrx.ops.median import median_blur
from mrx.ops.orientation import blur, smooth, weigh
from mrx.ops.stencils import five_point_difference
from mrx.ops.warp import inside, positions

CELL = 4
"""Pixels from one refined displacement to the next."""

MATCHED = 8
"""Pixels from one of the displacements that refinement starts from to the next."""


class Size(NamedTuple):
    """A size of the images, and what is done there.

    Attributes:
        times: how many times smaller the images are
        side: pixels of a cell, each way
        steps: of least squares
        around: windows of the motion around that is tried afterwards, sigma in cells
    """

    times: int
    side: int
    steps: int
    around: tuple[float, ...]


_QUARTER = Size(times=4, side=2, steps=3, around=(8.0, 4.0))
_HALF = Size(times=2, side=4, steps=3, around=(8.0, 4.0))
_WHOLE = Size(times=1, side=CELL, steps=2, around=(4.0,))

_SOFTEN = 0.5  # sigma of the blur of the whole images, against their noise
_SHRINK = 1.0  # sigma of the blur before an image is halved
_NEIGHBOURHOOD = 9  # pixels a side, for the mean and deviation that are taken away
_FAINT = 4.0  # a deviation of this many gray values is halved by what is added against noise
_FURTHEST = 2.0  # pixels of the level that a step may lead
_FURTHEST_IN_COMMON = 14  # pixels of the smallest images: as far as cells are matched by default
_MEDIAN = 5
_WINDOW = 1.0  # sigma, in cells
_STIFF = 1e-3  # added to the squares of the gradient
_OUTLIER = 0.3  # a difference of this size counts half, in deviations of the neighbourhood
_FLAT = 0.02  # squares of the gradient, of which half counts as texture
_FUSSY = 8  # power of how well cells fit when they speak for those around
_AS_WELL = 0.02  # how much worse the motion around may fit
_LEAST = 1e-6
_APART = 1.0  # pixels between both directions at which half of the confidence is left
_SPREAD = 0.05  # in squared sigmas
_TINY = 1e-24  # keeps the root's slope finite
_NEAR = ((0.7, 1.0), (4.0, 0.02))  # sigmas in cells and weights of what fills the gaps


class Refined(NamedTuple):
    """Displacements and how far to trust them.

    Shape:
        - displacement: ``(N, 2, H // 4, W // 4)``, in pixels
        - confidence: ``(N, 1, H // 4, W // 4)``, in 0..1
    """

    displacement: Tensor
    confidence: Tensor


class Found(NamedTuple):
    """What matching found for the cells of a frame.

    Shape:
        - displacement: ``(N, 2, H // 8, W // 8)``, in pixels
        - confidence: ``(N, 1, H // 8, W // 8)``, in 0..1
    """

    displacement: Tensor
    confidence: Tensor


def refine(first: Tensor, second: Tensor, there: Found, back: Found) -> Refined:
    """Refine the displacements of 8x8 cells to 4x4 cells, below a pixel.

    Both directions are refined on the smaller images, to see where they agree; the whole images
    see to the first one only. The confidence is the product of three values in 0..1: how well the
    images fit, how much texture there is to tell, and how far both directions agree.

    Args:
        first: frames, in gray values 0..255
        second: what they become
        there: displacements from the first to the second
        back: those from the second to the first

    Shape:
        - first, second: ``(N, 1, H, W)``, H and W at least 8
    """
    pairs = len(first)
    quarter, half, whole = _pyramid(torch.cat([first, second]))
    flow = torch.cat([_settle(there, back), _settle(back, there)])
    flow = _QUARTER.times * _search(quarter, flow / _QUARTER.times)
    level = Level(half, half.roll(pairs, 0), _HALF)
    flow = _HALF.times * level.solve(flow / _HALF.times)[0]
    agreed = agreement(flow[:pairs], flow[pairs:], cell=MATCHED, tolerance=_APART)
    level = Level(whole[:pairs], whole[pairs:], _WHOLE)
    starts = _part(torch.cat([flow[:pairs], agreed], dim=1), MATCHED // CELL, level.cells)
    flow, fit = level.solve(starts[:, :2])
    trust = fit * level.texture * starts[:, 2:]
    return Refined(median_blur(flow, 3), trust)


def agreement(there: Tensor, back: Tensor, *, cell: int, tolerance: float) -> Tensor:
    """How far a displacement is undone by that of where it leads: ``1 / (1 + (d / tolerance)⁴)``.

    d is the length of their sum. Where it leads out of the frame the result is 0.

    Args:
        there: displacements, in pixels
        back: those of the other direction
        cell: pixels from one of them to the next
        tolerance: pixels at which the result is 1/2

    Shape:
        - there, back: ``(N, 2, h, w)``
        - output: ``(N, 1, h, w)``

    >>> still, gone = torch.zeros(1, 2, 1, 1), torch.full((1, 2, 1, 1), 8.0)
    >>> [agreement(d, still, cell=8, tolerance=1.0).item() for d in (still, gone)]
    [1.0, 0.0]
    """
    height, width = there.shape[2:]
    x, y = (place.round().long() for place in positions(there / cell))
    held = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    place = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    returned = back.flatten(2).gather(2, place.flatten(1)[:, None].expand(-1, 2, -1))
    apart = (there + returned.view_as(there)).square().sum(1) / tolerance**2
    return (held / (1 + apart.square()))[:, None]


def affine_motion(flow: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """At each cell, the affine motion that fits those around it best, in a Gaussian window.

    Args:
        flow: displacements
        weight: how much each of them counts, above 0
        sigma: of the window, in cells

    Shape:
        - flow: ``(N, 2, h, w)``; output: the same
        - weight: ``(N, 1, h, w)``
    """
    h, w = flow.shape[2:]
    values, weights = flow.double(), weight.double()
    # Cells are counted in sigmas from the middle of the map, which keeps the moments small.
    x = ((torch.arange(w, device=flow.device, dtype=values.dtype) - (w - 1) / 2) / sigma).view(1, w)
    y = ((torch.arange(h, device=flow.device, dtype=values.dtype) - (h - 1) / 2) / sigma).view(h, 1)
    places = torch.stack([x.expand(h, w), y.expand(h, w), x * x + 0 * y, x * y, y * y + 0 * x])
    terms = [weights, weights * places, weights * values]
    terms += [weights * values * axis for axis in (x, y)]
    total = smooth(torch.cat(terms, dim=1), sigma)
    total, moments = total[:, :1], total[:, 1:] / total[:, :1]
    mean_x, mean_y, xx, xy, yy = moments[:, :5].chunk(5, 1)
    mean, along_x, along_y = moments[:, 5:7], moments[:, 7:9], moments[:, 9:11]
    # A little is added to the spread, so that a line of cells does not tilt the plane at will.
    xx, yy = xx - mean_x**2 + _SPREAD, yy - mean_y**2 + _SPREAD
    xy = xy - mean_x * mean_y
    along_x, along_y = along_x - mean * mean_x, along_y - mean * mean_y
    slope_x, slope_y = _solve(xx, xy, yy, along_x, along_y)
    return (mean + slope_x * (x - mean_x) + slope_y * (y - mean_y)).to(flow)


class Level:
    """Least squares at one size of the images. Displacements are in its pixels.

    Shape:
        - first, second: ``(N, 1, H, W)``, of mean 0 and deviation 1 around each pixel
    """

    def __init__(self, first: Tensor, second: Tensor, size: Size) -> None:
        self.first, self.size = first, size
        self.cells = first.shape[2] // size.side, first.shape[3] // size.side
        self._slope = five_point_difference(first)
        self._later = torch.cat([second, five_point_difference(second)], dim=1)
        across, down = self._slope.chunk(2, 1)
        squares = across * across, across * down, down * down
        xx, xy, yy = self._in_windows(*squares).chunk(3, 1)
        least = (xx + yy) / 2 - (((xx - yy) / 2).square() + xy.square() + _TINY).sqrt()
        self.texture = least.relu() / (least.relu() + _FLAT)
        """How much there is to tell displacements by, 0..1, ``(N, 1, h, w)``."""

    def solve(self, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Displacements that make the images fit, from some that nearly do, and how well they fit.

        Shape:
            - flow: ``(N, 2, h, w)``; outputs: the same, and ``(N, 1, h, w)`` in 0..1
        """
        for _ in range(self.size.steps):
            flow = self.step(flow)
        fit = self.fit(flow)
        for sigma in self.size.around:
            speaks = fit**_FUSSY * self.texture + _LEAST
            around = self.step(affine_motion(flow, speaks, sigma))
            fit_around = self.fit(around)
            better = fit_around > fit - _AS_WELL
            flow = torch.where(better, around, flow)
            fit = torch.where(better, fit_around, fit)
        return flow, fit

    def step(self, flow: Tensor) -> Tensor:
        """The median of displacements, moved once by least squares.

        With r the difference of the images at displaced pixels and g the mean of both gradients, it
        minimises ``Σ w (r + g · d)²`` over a window for the step d. w is 0 outside of the frame and
        falls with r.
        """
        flow = median_blur(flow, _MEDIAN)
        warped, weight = self._warp(flow, self._later)
        difference = warped[:, :1] - self.first
        slope = (warped[:, 1:] + self._slope) / 2
        across, down = (slope * _resist(weight, difference)).chunk(2, 1)
        whole_x, whole_y = slope.chunk(2, 1)
        products = [across * whole_x, across * whole_y, down * whole_y]
        products += [-across * difference, -down * difference]
        xx, xy, yy, x, y = self._in_windows(*products).chunk(5, 1)
        step = torch.cat(_solve(xx + _STIFF, xy, yy + _STIFF, x, y), dim=1)
        return flow + step.clamp(-_FURTHEST, _FURTHEST)

    def fit(self, flow: Tensor) -> Tensor:
        """How well the images fit around each cell, 0..1, ``(N, 1, h, w)``."""
        warped, weight = self._warp(flow, self._later[:, :1])
        return self._in_windows(_resist(weight, warped - self.first))

    def _warp(self, flow: Tensor, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Planes at displaced pixels, and whether these are in the frame."""
        h, w = planes.shape[2:]
        pixels = _part(flow, self.size.side, (h, w))
        x, y = positions(pixels)
        grid = torch.stack([(2 * x + 1) / w - 1, (2 * y + 1) / h - 1], dim=-1)
        warped = F.grid_sample(
            planes, grid, mode="bicubic", padding_mode="border", align_corners=False
        )
        return warped, inside(pixels)

    def _in_windows(self, *planes: Tensor) -> Tensor:
        """Means over cells, blurred, of planes ``(N, 1, H, W)``."""
        cells = [F.avg_pool2d(plane, self.size.side) for plane in planes]
        return smooth(torch.cat(cells, dim=1), _WINDOW)


def _resist(weight: Tensor, difference: Tensor) -> Tensor:
    """Weights that fall with the difference, so that what does not fit counts for little."""
    return weight / (1 + (difference / _OUTLIER).square())


def _solve(xx: Tensor, xy: Tensor, yy: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The solution of ``[[xx, xy], [xy, yy]] d = [x, y]``."""
    determinant = xx * yy - xy * xy
    return (yy * x - xy * y) / determinant, (xx * y - xy * x) / determinant


def _settle(there: Found, back: Found) -> Tensor:
    """Displacements that the other direction agrees with, spread to where it does not."""
    flow = there.displacement
    agreed = agreement(flow, back.displacement, cell=MATCHED, tolerance=MATCHED)
    weight = agreed * there.confidence.square() + _LEAST
    planes = torch.cat([weight * flow, weight], dim=1)
    near = [share * smooth(planes, sigma) for sigma, share in _NEAR]
    spread = torch.stack(near).sum(0)
    return spread[:, :2] / spread[:, 2:]


def common_shift(first: Tensor, second: Tensor, *, most: int) -> Tensor:
    """The shift of whole pixels, at most so many each way, by which images correlate best.

    ``Σ_p first[p] second[p + d] / √n_d`` is largest there, over the n_d pixels p whose target is
    inside: chance makes sums that grow as that root. It has no gradient.

    Shape:
        - first, second: ``(N, 1, H, W)``, of mean 0
        - output: ``(N, 2)``: x right, y down, from the first to the second

    >>> image = torch.tensor([[0.0, 3.0, -2.0, -1.0, 0.0, 0.0]] * 2)[None, None]
    >>> common_shift(image, image.roll(2, dims=3), most=3)
    tensor([[2., 0.]])
    """
    h, w = first.shape[2:]
    down, across = (
        torch.arange(-min(most, size // 2), min(most, size // 2) + 1, device=first.device)
        for size in (h, w)
    )
    size = h + int(down[-1]), w + int(across[-1])  # what goes around meets zeros
    with torch.no_grad():
        spectrum = torch.fft.rfft2(first, size).conj() * torch.fft.rfft2(second, size)
        sums = torch.fft.irfft2(spectrum, size)[:, 0]
        sums = sums[:, down % size[0]][..., across % size[1]]
        inside = (h - down.abs())[:, None] * (w - across.abs())
        peak = (sums / inside.sqrt()).flatten(1).argmax(1)
    shift = torch.stack([across[peak % len(across)], down[peak // len(across)]], dim=1)
    return shift.to(first.dtype)


def _search(images: Tensor, flow: Tensor) -> Tensor:
    """Displacements on the smallest images, from the start that fits best in all.

    The starts are the given displacements, none, and what all pixels have most in common.

    Shape:
        - images: ``(2 N, 1, H, W)``, the first frames and then the second ones
        - flow: ``(2 N, 2, h, w)``, of both directions; output: the same
    """
    later = images.roll(len(images) // 2, 0)
    common = common_shift(images, later, most=_FURTHEST_IN_COMMON)
    starts = [flow, torch.zeros_like(flow), common[..., None, None].expand_as(flow)]
    # One batch, as the operations on such small images take their time whatever their number.
    level = Level(torch.cat([images] * len(starts)), torch.cat([later] * len(starts)), _QUARTER)
    flows, fit = level.solve(torch.cat(starts))
    scores = (fit * level.texture).mean((1, 2, 3), keepdim=True).chunk(len(starts))
    best, most = flows[: len(flow)], scores[0]
    for found, score in zip(flows.chunk(len(starts)), scores, strict=True):
        best = torch.where(score > most, found, best)
        most = torch.maximum(score, most)
    return best


def _pyramid(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A quarter of the images, a half and the whole, as the least squares take them."""
    whole = blur(images, _SOFTEN)
    half = F.avg_pool2d(blur(whole, _SHRINK), 2)
    quarter = F.avg_pool2d(blur(half, _SHRINK), 2)
    return _standardize(quarter), _standardize(half), _standardize(whole)


def _standardize(images: Tensor) -> Tensor:
    """Each pixel less the mean of its neighbourhood, over the deviation there."""
    taps = [1 / _NEIGHBOURHOOD] * _NEIGHBOURHOOD
    centred = images - weigh(images, taps)
    return centred / (weigh(centred.square(), taps) + _FAINT**2).sqrt()


def _part(maps: Tensor, times: int, size: tuple[int, int]) -> Tensor:
    """Values of cells for parts of them, `times` a side, by linear interpolation.

    Both begin at the top left; what lies beyond the last cell gets its value.

    Shape:
        - maps: ``(N, C, h, w)``; output: ``(N, C, *size)``
    """
    parts = F.interpolate(maps, scale_factor=times, mode="bilinear", align_corners=False)
    down, across = (wanted - found for wanted, found in zip(size, parts.shape[2:], strict=True))
    return F.pad(parts, [0, across, 0, down], mode="replicate") if down or across else parts

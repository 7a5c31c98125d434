"""Refine displacements of coarse cells to fractions of a pixel, with a confidence.

Matching chooses among whole cells, once for each cell. Its displacements start the search here:
those that both directions agree on are kept, and fill the cells where they disagree. Levels of the
images at 1/4, 1/2 and full size then improve the fit by robust least squares over windows (Lucas
and Kanade, An Iterative Image Registration Technique, 1981). At each level a cell may also take the
affine motion of well-fitting cells around it, if that fits as well. The smallest level also tries
to start from no motion and from the shift at which both pictures correlate best. Such a start wins
if it fits the whole picture better, as can happen if a pattern repeats and matching is a guess.

Displacements are x right and y down. The constants below were chosen by the error on photographs
moved by 8 to 40 pixels, and on film pairs with true flow.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mrx.ops.median import median_blur
from mrx.ops.orientation import blur_by_matrix, blur_by_taps, correlate_separable
from mrx.ops.stencils import ROOT_EPSILON, five_point_difference
from mrx.ops.warp import displaced_positions, is_inside

CELL_PIXELS = 4
"""Pixels from one refined displacement to the next."""

MATCHED_PIXELS = 8
"""Pixels from one matched displacement, where refinement starts, to the next."""


class RefineScale(NamedTuple):
    """The refinement settings of one image size.

    Attributes:
        shrink_factor: factor by which the images are smaller
        cell_pixels: side of a cell, in pixels
        steps: number of least-squares steps
        motion_sigmas: sigmas, in cells, of the windows for affine motion, tried after the steps
    """

    shrink_factor: int
    cell_pixels: int
    steps: int
    motion_sigmas: tuple[float, ...]


QUARTER_SCALE = RefineScale(shrink_factor=4, cell_pixels=2, steps=3, motion_sigmas=(8.0, 4.0))
_HALF = RefineScale(shrink_factor=2, cell_pixels=4, steps=3, motion_sigmas=(8.0, 4.0))
_WHOLE = RefineScale(shrink_factor=1, cell_pixels=CELL_PIXELS, steps=2, motion_sigmas=(4.0,))

_SOFTEN_SIGMA = 0.5  # sigma of the blur at full size, against noise
_SHRINK_SIGMA = 1.0  # sigma of the blur before an image is halved
_NEIGHBORHOOD_PIXELS = 9  # side of the square whose mean and deviation are removed
_FAINT_DEVIATION = 4.0  # gray values; against noise, this deviation is scaled to variance 1/2
_MAX_STEP = 2.0  # pixels of the level, for each least-squares step
# In pixels at 1/4 size: the 7 cells of 8 pixels that matching reaches by default.
_MAX_COMMON_SHIFT = 14
_MEDIAN_SIDE = 5  # cells
_WINDOW_SIGMA = 1.0  # cells
_GRADIENT_DAMPING = 1e-3  # added to the squares of the gradient
_OUTLIER_DIFFERENCE = 0.3  # difference, in local deviations, that counts half
_FLAT_TEXTURE = 0.02  # smaller eigenvalue of the gradients at which the texture is 1/2
# Affine motion: well-fitting cells dominate, and its fit may be this much worse.
_FIT_POWER = 8
_FIT_TOLERANCE = 0.02
_MIN_WEIGHT = 1e-6
_AGREEMENT_TOLERANCE = 1.0  # pixels between both directions that halve the confidence
_SPREAD_DAMPING = 0.05  # in squared sigmas
_FILL_WINDOWS = ((0.7, 1.0), (4.0, 0.02))  # sigma in cells, and weight, of each window


class RefinedMotion(NamedTuple):
    """Refined displacements of 4x4 cells and their confidence.

    Shape:
        - displacement: ``(N, 2, H // 4, W // 4)``, in pixels
        - confidence: ``(N, 1, H // 4, W // 4)``, in 0..1
    """

    displacement: Tensor
    confidence: Tensor


class MatchedMotion(NamedTuple):
    """Matched displacements of 8x8 cells and their confidence.

    Shape:
        - displacement: ``(N, 2, H // 8, W // 8)``, in pixels
        - confidence: ``(N, 1, H // 8, W // 8)``, in 0..1
    """

    displacement: Tensor
    confidence: Tensor


def refine_motion(
    first: Tensor, second: Tensor, forward: MatchedMotion, backward: MatchedMotion
) -> RefinedMotion:
    """Refine displacements of 8x8 cells to 4x4 cells and fractions of a pixel.

    The confidence is the product of three values in 0..1: the fit of the images, their texture, and
    the agreement of both directions.

    Args:
        first: frames, in gray values 0..255
        second: the frames after the motion
        forward: displacements from the first to the second
        backward: displacements from the second to the first

    Shape:
        - first, second: ``(N, 1, H, W)``, H and W at least 8
    """
    pairs = len(first)
    quarter, half, whole = _build_refine_pyramid(torch.cat([first, second]))
    flow = torch.cat([fill_disagreements(forward, backward), fill_disagreements(backward, forward)])
    flow = QUARTER_SCALE.shrink_factor * _search_smallest_scale(
        quarter, flow / QUARTER_SCALE.shrink_factor
    )
    # One batch holds both directions: rolling it by the number of pairs swaps the frames.
    level = RefineLevel(half, half.roll(pairs, 0), _HALF)
    flow = _HALF.shrink_factor * level.solve_flow(flow / _HALF.shrink_factor)[0]
    agreement_map = measure_agreement(
        flow[:pairs], flow[pairs:], cell=MATCHED_PIXELS, tolerance=_AGREEMENT_TOLERANCE
    )
    # Agreement is known from the smaller images, so only the first direction goes on.
    level = RefineLevel(whole[:pairs], whole[pairs:], _WHOLE)
    starts = _interpolate_cells(
        torch.cat([flow[:pairs], agreement_map], dim=1),
        MATCHED_PIXELS // CELL_PIXELS,
        level.grid_size,
    )
    flow, fit = level.solve_flow(starts[:, :2])
    confidence = fit * level.texture * starts[:, 2:]
    return RefinedMotion(median_blur(flow, 3), confidence)


def measure_agreement(forward: Tensor, backward: Tensor, *, cell: int, tolerance: float) -> Tensor:
    """Measure how well `backward` undoes `forward`, as ``1 / (1 + (d / tolerance)⁴)``.

    d is the length of a displacement plus the backward one at its target. Targets outside the frame
    give 0.

    Args:
        forward: displacements, in pixels
        backward: displacements of the other direction
        cell: pixels from one displacement to the next
        tolerance: the d, in pixels, that gives 1/2

    Shape:
        - forward, backward: ``(N, 2, h, w)``
        - output: ``(N, 1, h, w)``

    >>> still, gone = torch.zeros(1, 2, 1, 1), torch.full((1, 2, 1, 1), 8.0)
    >>> [measure_agreement(d, still, cell=8, tolerance=1.0).item() for d in (still, gone)]
    [1.0, 0.0]
    """
    height, width = forward.shape[2:]
    x, y = (place.round().long() for place in displaced_positions(forward / cell))
    inside_frame = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    target_index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    returned = backward.flatten(2).gather(2, target_index.flatten(1)[:, None].expand(-1, 2, -1))
    squared_distance = (forward + returned.view_as(forward)).square().sum(1) / tolerance**2
    return (inside_frame / (1 + squared_distance.square()))[:, None]


def affine_motion(flow: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """Evaluate at each cell the affine motion that best fits a Gaussian window around it.

    Args:
        flow: displacements
        weight: weights of the displacements, above 0
        sigma: sigma of the window, in cells

    Shape:
        - flow: ``(N, 2, h, w)``; output: the same
        - weight: ``(N, 1, h, w)``
    """
    h, w = flow.shape[2:]
    values, weights = flow.double(), weight.double()
    # Positions are in sigmas from the middle of the map, which keeps the moments small.
    x = ((torch.arange(w, device=flow.device, dtype=values.dtype) - (w - 1) / 2) / sigma).view(1, w)
    y = ((torch.arange(h, device=flow.device, dtype=values.dtype) - (h - 1) / 2) / sigma).view(h, 1)
    places = torch.stack([x.expand(h, w), y.expand(h, w), x * x + 0 * y, x * y, y * y + 0 * x])
    terms = [weights, weights * places, weights * values]
    terms += [weights * values * axis for axis in (x, y)]
    total = blur_by_matrix(torch.cat(terms, dim=1), sigma)
    total, moments = total[:, :1], total[:, 1:] / total[:, :1]
    mean_x, mean_y, xx, xy, yy = moments[:, :5].chunk(5, 1)
    mean, along_x, along_y = moments[:, 5:7], moments[:, 7:9], moments[:, 9:11]
    # Damping the spread keeps cells in one line from tilting the plane arbitrarily.
    xx, yy = xx - mean_x**2 + _SPREAD_DAMPING, yy - mean_y**2 + _SPREAD_DAMPING
    xy = xy - mean_x * mean_y
    along_x, along_y = along_x - mean * mean_x, along_y - mean * mean_y
    slope_x, slope_y = _solve_two_by_two(xx, xy, yy, along_x, along_y)
    return (mean + slope_x * (x - mean_x) + slope_y * (y - mean_y)).to(flow)


class RefineLevel:
    """Least-squares refinement at one image size; displacements are in its pixels.

    Shape:
        - first, second: ``(N, 1, H, W)``, of mean 0 and deviation 1 around each pixel
    """

    def __init__(self, first: Tensor, second: Tensor, scale: RefineScale) -> None:
        self.first, self.scale = first, scale
        self.grid_size = first.shape[2] // scale.cell_pixels, first.shape[3] // scale.cell_pixels
        self._slope = five_point_difference(first)
        self._second_planes = torch.cat([second, five_point_difference(second)], dim=1)
        across, down = self._slope.chunk(2, 1)
        squares = across * across, across * down, down * down
        xx, xy, yy = self._average_windows(*squares).chunk(3, 1)
        # An edge has one large eigenvalue: it fixes the displacement across it, not along it.
        smaller_eigenvalue = (xx + yy) / 2 - (
            ((xx - yy) / 2).square() + xy.square() + ROOT_EPSILON
        ).sqrt()
        self.texture = smaller_eigenvalue.relu() / (smaller_eigenvalue.relu() + _FLAT_TEXTURE)
        """Texture around each cell, from 0 (flat, or one edge) to 1, ``(N, 1, h, w)``."""

    def solve_flow(self, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Refine approximate displacements, and return them with the fit of the images.

        Shape:
            - flow: ``(N, 2, h, w)``; outputs: the same, and ``(N, 1, h, w)`` in 0..1
        """
        for _ in range(self.scale.steps):
            flow = self.refine_flow(flow)
        fit = self.measure_fit(flow)
        for sigma in self.scale.motion_sigmas:
            fit_weight = fit**_FIT_POWER * self.texture + _MIN_WEIGHT
            affine_flow = self.refine_flow(affine_motion(flow, fit_weight, sigma))
            fit_around = self.measure_fit(affine_flow)
            better = fit_around > fit - _FIT_TOLERANCE
            flow = torch.where(better, affine_flow, flow)
            fit = torch.where(better, fit_around, fit)
        return flow, fit

    def refine_flow(self, flow: Tensor) -> Tensor:
        """Take one least-squares step from the median of the displacements.

        With r the difference of the images at displaced pixels and g the mean of both gradients,
        the step d minimizes ``Σ w (r + g · d)²`` over a window. The weight w is 0 outside the frame
        and decreases with r.
        """
        flow = median_blur(flow, _MEDIAN_SIDE)
        warped, weight = self._warp_planes(flow, self._second_planes)
        difference = warped[:, :1] - self.first
        slope = (warped[:, 1:] + self._slope) / 2
        across, down = (slope * _downweight_outliers(weight, difference)).chunk(2, 1)
        whole_x, whole_y = slope.chunk(2, 1)
        products = [across * whole_x, across * whole_y, down * whole_y]
        products += [-across * difference, -down * difference]
        xx, xy, yy, x, y = self._average_windows(*products).chunk(5, 1)
        step = torch.cat(
            _solve_two_by_two(xx + _GRADIENT_DAMPING, xy, yy + _GRADIENT_DAMPING, x, y), dim=1
        )
        return flow + step.clamp(-_MAX_STEP, _MAX_STEP)

    def measure_fit(self, flow: Tensor) -> Tensor:
        """Measure the fit of the images around each cell, 0..1, ``(N, 1, h, w)``."""
        warped, weight = self._warp_planes(flow, self._second_planes[:, :1])
        return self._average_windows(_downweight_outliers(weight, warped - self.first))

    def _warp_planes(self, flow: Tensor, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Sample planes at displaced pixels, and test whether these lie in the frame."""
        h, w = planes.shape[2:]
        pixels = _interpolate_cells(flow, self.scale.cell_pixels, (h, w))
        x, y = displaced_positions(pixels)
        # grid_sample counts the frame as -1..1 between the outer edges of its border pixels.
        grid = torch.stack([(2 * x + 1) / w - 1, (2 * y + 1) / h - 1], dim=-1)
        warped = F.grid_sample(
            planes, grid, mode="bicubic", padding_mode="border", align_corners=False
        )
        return warped, is_inside(pixels)

    def _average_windows(self, *planes: Tensor) -> Tensor:
        """Average planes ``(N, 1, H, W)`` over cells, and blur the averages."""
        cells = [F.avg_pool2d(plane, self.scale.cell_pixels) for plane in planes]
        return blur_by_matrix(torch.cat(cells, dim=1), _WINDOW_SIGMA)


def _downweight_outliers(weight: Tensor, difference: Tensor) -> Tensor:
    """Reduce weights where the images differ, so that outliers count little."""
    return weight / (1 + (difference / _OUTLIER_DIFFERENCE).square())


def _solve_two_by_two(
    xx: Tensor, xy: Tensor, yy: Tensor, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Solve ``[[xx, xy], [xy, yy]] d = [x, y]`` for d."""
    determinant = xx * yy - xy * xy
    return (yy * x - xy * y) / determinant, (xx * y - xy * x) / determinant


def fill_disagreements(forward: MatchedMotion, backward: MatchedMotion) -> Tensor:
    """Spread the displacements that both directions agree on to where they disagree."""
    flow = forward.displacement
    agreement_map = measure_agreement(
        flow, backward.displacement, cell=MATCHED_PIXELS, tolerance=MATCHED_PIXELS
    )
    weight = agreement_map * forward.confidence.square() + _MIN_WEIGHT
    planes = torch.cat([weight * flow, weight], dim=1)
    window_sums = [share * blur_by_matrix(planes, sigma) for sigma, share in _FILL_WINDOWS]
    spread = torch.stack(window_sums).sum(0)
    return spread[:, :2] / spread[:, 2:]


def find_common_shift(first: Tensor, second: Tensor, *, max_shift: int) -> Tensor:
    """Find the shift in whole pixels, at most `max_shift` each way, with the best correlation.

    The shift d maximizes ``Σ_p first[p] second[p + d] / √n_d`` over the n_d pixels p with a target
    inside. The result has no gradient.

    Shape:
        - first, second: ``(N, 1, H, W)``, of mean 0
        - output: ``(N, 2)``: x right, y down, from the first to the second

    >>> image = torch.tensor([[0.0, 3.0, -2.0, -1.0, 0.0, 0.0]] * 2)[None, None]
    >>> find_common_shift(image, image.roll(2, dims=3), max_shift=3)
    tensor([[2., 0.]])
    """
    h, w = first.shape[2:]
    reach = [min(max_shift, size // 2) for size in (h, w)]
    down, across = (torch.arange(-r, r + 1, device=first.device) for r in reach)
    # The FFT correlates cyclically: with this padding, pixels that wrap around meet zeros.
    size = h + reach[0], w + reach[1]
    with torch.no_grad():
        spectrum = torch.fft.rfft2(first, size).conj() * torch.fft.rfft2(second, size)
        sums = torch.fft.irfft2(spectrum, size)[:, 0]
        sums = sums[:, down % size[0]][..., across % size[1]]
        inside = (h - down.abs())[:, None] * (w - across.abs())
        # Sums of unrelated pixels grow as the root of their number.
        peak = (sums / inside.sqrt()).flatten(1).argmax(1)
    shift = torch.stack([across[peak % len(across)], down[peak // len(across)]], dim=1)
    return shift.to(first.dtype)


def _search_smallest_scale(images: Tensor, flow: Tensor) -> Tensor:
    """Refine on the smallest images, from the start that fits the whole picture best.

    The starts are the given displacements, no motion, and the common shift of all pixels.

    Shape:
        - images: ``(2 N, 1, H, W)``, the first frames and then the second ones
        - flow: ``(2 N, 2, h, w)``, of both directions; output: the same
    """
    partners = images.roll(len(images) // 2, 0)
    common = find_common_shift(images, partners, max_shift=_MAX_COMMON_SHIFT)
    starts = [flow, torch.zeros_like(flow), common[..., None, None].expand_as(flow)]
    # One batch: operations on images this small take the same time for any number of them.
    level = RefineLevel(
        torch.cat([images] * len(starts)), torch.cat([partners] * len(starts)), QUARTER_SCALE
    )
    flows, fit = level.solve_flow(torch.cat(starts))
    scores = (fit * level.texture).mean((1, 2, 3), keepdim=True).chunk(len(starts))
    best_flow, best_score = flows[: len(flow)], scores[0]
    for refined, score in zip(flows.chunk(len(starts)), scores, strict=True):
        best_flow = torch.where(score > best_score, refined, best_flow)
        best_score = torch.maximum(score, best_score)
    return best_flow


def _build_refine_pyramid(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the images at 1/4, 1/2 and full size, standardized locally."""
    whole = blur_by_taps(images, _SOFTEN_SIGMA)
    half = F.avg_pool2d(blur_by_taps(whole, _SHRINK_SIGMA), 2)
    quarter = F.avg_pool2d(blur_by_taps(half, _SHRINK_SIGMA), 2)
    return standardize_locally(quarter), standardize_locally(half), standardize_locally(whole)


def standardize_locally(images: Tensor) -> Tensor:
    """Subtract the mean of each pixel's neighborhood, and divide by the deviation there."""
    taps = [1 / _NEIGHBORHOOD_PIXELS] * _NEIGHBORHOOD_PIXELS
    centered = images - correlate_separable(images, taps)
    return centered / (correlate_separable(centered.square(), taps) + _FAINT_DEVIATION**2).sqrt()


def _interpolate_cells(maps: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """Interpolate the values of cells linearly to `factor` x `factor` parts of each.

    Both grids begin at the top left; parts beyond the last cell repeat its value.

    Shape:
        - maps: ``(N, C, h, w)``; output: ``(N, C, *size)``
    """
    parts = F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)
    down, across = (
        target_size - part_size
        for target_size, part_size in zip(size, parts.shape[2:], strict=True)
    )
    return F.pad(parts, [0, across, 0, down], mode="replicate") if down or across else parts

"""A start for optical flow from matches, for motion that an image pyramid misses.

On the small images of a pyramid, an object that moves farther than it is large has vanished, or
looks like what is behind it. Matching the cells of both frames finds it (`mrx.ops.matching`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mrx.ops.matching import correlate, normalize_features, split_rows
from mrx.ops.orientation import (
    CELL_LAYOUTS,
    blur_by_taps,
    orientation_histograms,
    standardize_features,
)
from mrx.ops.refine import (
    MATCHED_PIXELS,
    QUARTER_SCALE,
    MatchedMotion,
    RefineLevel,
    fill_disagreements,
    standardize_locally,
)
from mrx.ops.warp import displaced_positions, is_inside, sample_linear

SMALLEST_FRAME = 4 * MATCHED_PIXELS
"""Shortest side in pixels of the frames that are matched."""

LARGE_FRAME = 720
"""Shortest side in pixels from which frames are halved first: that side of a cell doubles."""

_REACH = 7  # cells of 8 pixels, each way
_HALVING_SIGMA = 1.0  # pixels of the blur before an image is halved
_LARGEST_MISFIT = 1.0  # local deviations; more count as much, as do pixels outside the frame
_MISFIT_SIGMA = 3.0  # pixels around which misfits are averaged
_MISFIT_MARGIN = 0.05  # by which a match must fit better than the flow so far


def match_frames(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Match cells of 8 pixels in both directions; return them refined at 1/4 size, and as they are.

    Matches that the other direction does not confirm are replaced by those around them. Of large
    frames, larger cells are matched.

    Shape:
        - before, after: ``(B, 1, H, W)``, in 0..255, H and W at least `SMALLEST_FRAME`
        - outputs: ``(B, 2, H // 8, W // 8)``, displacements in pixels, or a few cells less
    """
    if min(map(int, before.shape[2:])) >= LARGE_FRAME:
        halves = match_frames(_halve_image(before), _halve_image(after))
        refined, matched = (
            2 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=False)
            for flow in halves
        )
        return refined, matched
    # One pair at a time: the bits of a match must not depend on its batch.
    pairs = zip(torch.split(before, 1), torch.split(after, 1), strict=True)
    refined, matched = (
        torch.cat(flows) for flows in zip(*(_match_pair(*pair) for pair in pairs), strict=True)
    )
    return refined, matched


def _match_pair(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Match two frames ``(1, 1, H, W)`` as `match_frames` does."""
    features = _compute_pair_features(torch.cat([before, after]))
    first, second = features[:1], features[1:]
    forward, backward = _find_peaks(first, second), _find_peaks(second, first)
    matched = fill_disagreements(forward, backward)
    quarter, later_quarter = (
        standardize_locally(_halve_image(_halve_image(image))) for image in (before, after)
    )
    shrink_factor = QUARTER_SCALE.shrink_factor
    level = RefineLevel(quarter, later_quarter, QUARTER_SCALE)
    refined, _ = level.solve_flow(matched / shrink_factor)
    return refined * shrink_factor, matched


def choose_start(
    before: Tensor, after: Tensor, flow: Tensor, matched: Tensor, *, scale: float
) -> Tensor:
    """Take the matched displacement at each pixel around which it fits clearly better.

    Args:
        before: the earlier image of a level
        after: the later one
        flow: displacements from the smaller levels, in pixels of this one
        matched: displacements of cells from `match_frames`, in pixels of the whole frame
        scale: size of the level as a share of the frame

    Shape:
        - before, after: ``(B, 1, H, W)``
        - flow: ``(B, 2, H, W)``; output: the same
    """
    # Integers, as sizes are tensors while `torch.jit.trace` runs.
    h, w = map(int, flow.shape[2:])
    covered_size = [
        min(size, round(int(cells) * MATCHED_PIXELS * scale))
        for size, cells in zip((h, w), matched.shape[2:], strict=True)
    ]
    candidate = scale * F.interpolate(
        matched, size=covered_size, mode="bilinear", align_corners=False
    )
    # Pixels beyond the last whole cell repeat its displacement.
    candidate = F.pad(candidate, [0, w - covered_size[1], 0, h - covered_size[0]], mode="replicate")
    is_better = (
        _measure_misfit(before, after, candidate)
        < _measure_misfit(before, after, flow) - _MISFIT_MARGIN
    )
    return torch.where(is_better, candidate, flow)


def _halve_image(image: Tensor) -> Tensor:
    return F.avg_pool2d(blur_by_taps(image, _HALVING_SIGMA), 2)


def _compute_pair_features(pair: Tensor) -> Tensor:
    """Compute features of length 1, standardized over a pair ``(2, 1, H, W)`` alone."""
    histograms = orientation_histograms(pair / 255, CELL_LAYOUTS[MATCHED_PIXELS])
    return normalize_features(standardize_features(histograms))


def _find_peaks(first: Tensor, second: Tensor) -> MatchedMotion:
    """Find the displacement of the highest cosine of each cell, strip by strip to save memory."""
    patch = 2 * _REACH + 1
    peaks = [
        correlate(first, second, patch=patch, rows=rows).max(1)
        for rows in split_rows(first, patch=patch)
    ]
    heights, places = (torch.cat(maps, dim=1) for maps in zip(*peaks, strict=True))
    cells = torch.stack([places % patch, places // patch], dim=1) - _REACH
    return MatchedMotion((cells * MATCHED_PIXELS).to(first), heights[:, None].relu())


def _measure_misfit(before: Tensor, after: Tensor, flow: Tensor) -> Tensor:
    """Measure how much the displaced later image differs around each pixel, in 0..1."""
    warped = sample_linear(after, *displaced_positions(flow))
    difference = standardize_locally(warped) - standardize_locally(before)
    misfit = difference.abs().clamp(max=_LARGEST_MISFIT)
    return blur_by_taps(torch.where(is_inside(flow), misfit, _LARGEST_MISFIT), _MISFIT_SIGMA)

"""Light: give one image the brightness of another, over the frame and around each pixel.

Optical flow assumes that pixels keep their gray values. Automatic exposure changes the gain and the
offset of whole frames; shadows, vignettes and flicker change the brightness of parts of them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mrx.ops.orientation import blur_by_taps
from mrx.ops.warp import displaced_positions, is_inside, sample_linear

_SAMPLES_PER_SIDE = 64  # pixels along the shorter side whose gray values are compared
_DARKEST, _BRIGHTEST = 2.0, 253.0  # gray values beyond these may have been clipped
_EXPLAINED_SHARE = 0.5  # of the difference that may remain after a change of light
_NUM_PARTS = 16  # of the shorter side, each with one mean gray value
_PARTS_TOLERANCE = 1.02
_FLAT_VARIANCE = 1e-3
_CELL_PIXELS = 4
_LOCAL_SIGMA = 4.0  # pixels of a level; see the table in `mrx.methods.tvl1`


def match_frame_light(before: Tensor, after: Tensor) -> Tensor:
    """Give images the gain and offset of the images after them, clipped to 0..255.

    Gray values in ascending order are compared, darkest with darkest, so that motion hardly counts.
    The line through them is applied if it explains more than half of their mean difference and
    brings the parts of both images no farther apart in the median. Otherwise, what enters and
    leaves the frame has changed the gray values, and the image is returned as is.

    Shape:
        - before, after: ``(B, 1, H, W)``, in 0..255; output: the same

    >>> ramp = torch.arange(64.0).view(1, 1, 8, 8)
    >>> match_frame_light(ramp, 2 * ramp + 10)[0, 0, 0, :3].round()
    tensor([10., 12., 14.])
    """
    step = max(1, min(map(int, before.shape[2:])) // _SAMPLES_PER_SIDE)
    first, second = (
        image[..., ::step, ::step].flatten(1).sort(1).values for image in (before, after)
    )
    is_usable = [(values > _DARKEST) & (values < _BRIGHTEST) for values in (first, second)]
    # The small weight decides if all pixels may have been clipped.
    weight = (is_usable[0] & is_usable[1]).to(first) + 1e-6
    weight = weight / weight.sum(1, keepdim=True)
    mean, later_mean = ((weight * values).sum(1, keepdim=True) for values in (first, second))
    variance = (weight * (first - mean).square()).sum(1, keepdim=True)
    covariance = (weight * (first - mean) * (second - later_mean)).sum(1, keepdim=True)
    gain = (covariance + _FLAT_VARIANCE) / (variance + _FLAT_VARIANCE)
    offset = later_mean - gain * mean
    difference = (second - first).abs().mean(1)
    remaining = (second - (gain * first + offset).clamp(0, 255)).abs().mean(1)
    matched = (gain[..., None, None] * before + offset[..., None, None]).clamp(0, 255)
    explains_values = remaining < _EXPLAINED_SHARE * difference
    explains_parts = _compare_parts(matched, after) <= _PARTS_TOLERANCE * _compare_parts(
        before, after
    )
    return torch.where((explains_values & explains_parts).view(-1, 1, 1, 1), matched, before)


def _compare_parts(image: Tensor, other: Tensor) -> Tensor:
    """Return the median difference of the mean gray values of parts of two images, ``(B,)``."""
    side = max(1, min(map(int, image.shape[2:])) // _NUM_PARTS)
    return F.avg_pool2d(image - other, side).abs().flatten(1).median(1).values


def match_local_light(before: Tensor, after: Tensor, flow: Tensor) -> Tensor:
    """Add to an image the mean difference of the displaced later image around each pixel.

    Equal images remain exactly as they are.

    Shape:
        - before, after: ``(B, 1, H, W)``
        - flow: ``(B, 2, H, W)``, displacements from the earlier image to the later one
        - output: ``(B, 1, H, W)``
    """
    h, w = before.shape[2:]
    inside = is_inside(flow).to(before)
    difference = (sample_linear(after, *displaced_positions(flow)) - before) * inside
    planes = torch.cat([difference, inside], dim=1)
    planes = F.pad(planes, [0, -w % _CELL_PIXELS, 0, -h % _CELL_PIXELS])
    sums = blur_by_taps(F.avg_pool2d(planes, _CELL_PIXELS), _LOCAL_SIGMA / _CELL_PIXELS)
    offsets = sums[:, :1] / (sums[:, 1:] + 1e-4)
    # Weights of interpolation by 4 are multiples of 1/8, so offsets of 0 stay exactly 0.
    return (
        before
        + F.interpolate(offsets, scale_factor=_CELL_PIXELS, mode="bilinear", align_corners=False)[
            ..., :h, :w
        ]
    )

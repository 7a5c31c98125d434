"""Matching for `ms`: presets of rules, their checks, and the maps of one pair of frames."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mrx.checks import check_choice
from mrx.methods.motion_squeeze import FeatureMatching
from mrx.methods.ms_features import LAYER2_STRIDE, FeatureKind, MSShift
from mrx.ops.matching import TieRule
from mrx.ops.orientation import CELL_LAYOUTS, compute_luma
from mrx.ops.refine import CELL_PIXELS, MATCHED_PIXELS, MatchedMotion, refine_motion

MSPreset = Literal["refined", "paper"]
Refinement = Literal["subpixel", "none"]


class MatchingRules(NamedTuple):
    """Rules for matching two frames.

    Attributes:
        patch: displacements to try along each axis, odd; 15 is 7 cells each way
        sigma: of the Gaussian around the best match, in cells
        temperature: factor of the cosines in the softmax
        stride: pixels from one value of the maps to the next, 4 or 8; without refinement it is also
            the size of the matched cells, which for a ResNet is 8
        tie: which of equally good matches wins: the ``first`` as released, or the ``smallest``
        refinement: ``subpixel``, or ``none``
    """

    patch: int
    sigma: float
    temperature: float
    stride: int
    tie: TieRule
    refinement: Refinement

    @property
    def uses_refinement(self) -> bool:
        """True if matches are refined below the pixel."""
        return self.refinement == "subpixel"

    @property
    def cell_pixels(self) -> int:
        """Pixels of a matched cell, each way."""
        return MATCHED_PIXELS if self.uses_refinement else self.stride


MS_PRESETS: dict[MSPreset, MatchingRules] = {
    "refined": MatchingRules(
        patch=15,
        sigma=5.0,
        temperature=100.0,
        stride=4,
        tie="smallest",
        refinement="subpixel",
    ),
    "paper": MatchingRules(
        patch=15,
        sigma=5.0,
        temperature=100.0,
        stride=8,
        tie="first",
        refinement="none",
    ),
}
"""``paper`` is the released code's kernel soft-argmax, one decision for each 8 pixels; its
confidence is the cosine, which is high in flat regions as well. ``refined`` starts from the same
matching of cells of 8 pixels, in both directions, and continues below the pixel (`mrx.ops.refine`);
its confidence is low where the picture is flat, does not fit, or the directions disagree.

Mean errors of ``paper``, ``refined`` and TV-L1's default, in pixels (tests/benchmarks/matching.py):

- 52 pairs of textured photographs, shifted, turned and zoomed as a whole, which the refinement was
  tuned on: 4.05, 0.08 and 0.13
- 32 pairs of other pictures: 13.3, 0.8 and 5.4
- 8 of these with one object in front of another: 13.4, 2.8 and 2.2, mostly in cells at the object's
  edge and where it hides what was visible before
- the Middlebury pairs: ``refined`` 0.32, TV-L1 0.21

On repeating patterns, or on pure noise, refinement can be off by tens of pixels; its confidence is
mostly low there."""

# Cells of 4 pixels: 9 cells each way, which is 36 pixels.
_FINE_PATCH = 19


def choose_matching_rules(preset: MSPreset, given: Mapping[str, Any]) -> MatchingRules:
    """Return the rules of a preset, replaced by the given ones that are not None."""
    chosen = {name: value for name, value in given.items() if value is not None}
    rules = MS_PRESETS[preset]._replace(**chosen)
    if "patch" not in chosen and not rules.uses_refinement and rules.stride == CELL_PIXELS:
        return rules._replace(patch=_FINE_PATCH)
    return rules


def check_matching_rules(rules: MatchingRules, features: FeatureKind, seed: int | None) -> None:
    """Raise ValueError if the rules are unknown or do not suit the features."""
    check_choice("refinement", rules.refinement, Refinement)
    if rules.stride not in CELL_LAYOUTS:
        raise ValueError(
            f"stride={rules.stride}: choose from {', '.join(map(str, sorted(CELL_LAYOUTS)))}"
        )
    if features != "hog" and not rules.uses_refinement and rules.stride != LAYER2_STRIDE:
        raise ValueError(
            f"stride={rules.stride}: {features} has cells of {LAYER2_STRIDE} pixels; "
            f"use stride={LAYER2_STRIDE}"
        )
    if features == "hog" and seed is not None:
        raise ValueError(f"seed={seed}: features=hog has no weights to draw")


def describe_coarse_cells(rules: MatchingRules, dilation: int) -> str:
    """Return why cells matched as a whole are too coarse for this dilation, or an empty string."""
    if rules.uses_refinement or not 0 < dilation < rules.cell_pixels:
        return ""
    cell = rules.cell_pixels
    return (
        f"cells of {cell} pixels are matched as a whole, which is coarse for frames {dilation} "
        f"apart: use --dilation {cell} or more, or preset=refined"
    )


def check_ms_window(features: FeatureKind, stack: int, shift: MSShift) -> None:
    """Raise ValueError if a window has no pairs, or no network that could shift its channels."""
    check_choice("shift", shift, MSShift)
    if stack < 1:
        raise ValueError(f"stack={stack}: must be at least 1")
    if features == "hog" and shift != "none":
        raise ValueError(f"shift={shift}: features=hog has no network to shift channels in")


def name_map_channels(stack: int) -> tuple[str, ...]:
    """Return the channel names of a window: displacement and confidence of each pair.

    >>> name_map_channels(1)
    ('dx', 'dy', 'confidence')
    >>> name_map_channels(2)
    ('x1', 'y1', 'confidence1', 'x2', 'y2', 'confidence2')
    """
    if stack == 1:
        return "dx", "dy", "confidence"
    return tuple(f"{name}{i}" for i in range(1, stack + 1) for name in ("x", "y", "confidence"))


def match_pair(
    pair: Tensor, features: Tensor, matching: FeatureMatching, rules: MatchingRules
) -> Tensor:
    """Compute the displacement and confidence maps of two frames.

    Args:
        pair: the frames
        features: the features of both
        matching: built from the same rules
        rules: cell size and refinement

    Shape:
        - pair: ``(2, 3, H, W)``, in 0..1
        - features: ``(2, C, H // cell, W // cell)``
        - output: ``(1, 3, H // stride, W // stride)``
    """
    if not rules.uses_refinement:
        matches = matching(features[:1], features[1:])
        return torch.cat([matches.displacement * rules.cell_pixels, matches.confidence], dim=1)
    # Both directions as a batch of two: first to second, and second to first.
    matches = matching(features, features.flip(0))
    forward_match, backward_match = (
        MatchedMotion(displacement * rules.cell_pixels, confidence)
        for displacement, confidence in zip(
            matches.displacement.chunk(2), matches.confidence.chunk(2), strict=True
        )
    )
    gray = 255 * compute_luma(pair)
    maps = torch.cat(refine_motion(gray[:1], gray[1:], forward_match, backward_match), dim=1)
    # Refinement always gives a value for each 4 pixels; a stride of 8 is the mean of four.
    return F.avg_pool2d(maps, rules.stride // CELL_PIXELS)

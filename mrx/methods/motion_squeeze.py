"""MotionSqueeze: displacement and confidence by matching features of adjacent frames."""

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mrx.checks import check_choice
from mrx.errors import ShapeError
from mrx.ops.matching import (
    TieRule,
    check_map_pair,
    correlate,
    max_displacement,
    normalize_features,
    pair_up,
    peak_confidence,
    repeat_last,
    soft_argmax,
    split_rows,
)

Transformation = Literal["separable", "one-1x1", "one-3x3", "four-3x3"]

_MAX_CORRELATION_VALUES = 2**22  # of a correlation, in memory at a time: 16 MB of float32


class MatchMaps(NamedTuple):
    """Displacement and confidence of pairs of frames.

    Shape:
        - displacement: ``(N, 2, H, W)``: x right, y down, in cells, from the first to the second
        - confidence: ``(N, 1, H, W)``, in 0..1
    """

    displacement: Tensor
    confidence: Tensor


class FeatureMatching(nn.Module):
    """Matches each cell of a frame with nearby cells of the next (MotionSqueeze, section 2).

    Cells are compared by the cosine of their features, with negative ones as 0. The displacement is
    the kernel soft-argmax of the cosines, see `mrx.ops.matching.soft_argmax`, and the confidence
    their maximum. It computes in float32 at least, under autocast too, and keeps no state.

    In flat regions all displacements match equally well: as released, the displacement is arbitrary
    and the confidence 1. ``tie="smallest"`` makes the displacement 0 inside flat regions larger
    than the patch.

    Args:
        patch: displacements along each axis, odd; 15 is 7 cells each way
        sigma: of the Gaussian around the best match, in displacements
        temperature: factor of the cosines in the softmax
        dilation: cells from one displacement to the next; the released code has only 1
        tie: which of equally good matches wins

    Shape:
        - first, second: ``(N, C, H, W)``
        - output: see `MatchMaps`
    """

    def __init__(
        self,
        patch: int = 15,
        sigma: float = 5.0,
        temperature: float = 100.0,
        dilation: int = 1,
        tie: TieRule = "first",
    ) -> None:
        super().__init__()
        check_choice("tie", tie, TieRule)
        for name, value in (("sigma", sigma), ("temperature", temperature)):
            if not value > 0:
                raise ValueError(f"{name}={value}: must be above 0")
        # A patch of 1 has a reach of 0, and MotionSqueeze divides by the reach.
        if patch == 1:
            raise ValueError("patch=1: must be at least 3")
        self.reach = max_displacement(patch=patch, dilation=dilation)
        self.patch, self.sigma, self.temperature = patch, sigma, temperature
        self.dilation, self.tie = dilation, tie

    def forward(self, first: Tensor, second: Tensor) -> MatchMaps:
        """Match pairs of frames."""
        check_map_pair(first, second)
        # Batches of pairs here, strips of rows below: both many small maps and one large map would
        # otherwise hold too many correlations at once.
        pairs_at_once = max(
            1, _MAX_CORRELATION_VALUES // (self.patch**2 * first.shape[-2] * first.shape[-1])
        )
        parts = zip(
            torch.split(first, pairs_at_once), torch.split(second, pairs_at_once), strict=True
        )
        return _join_matches(
            [self._match_strips(first_part, second_part) for first_part, second_part in parts], 0
        )

    def extra_repr(self) -> str:
        """Return the settings for `print`."""
        names = ("patch", "sigma", "temperature", "dilation", "tie")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    def _match_strips(self, first: Tensor, second: Tensor) -> MatchMaps:
        """Match strip by strip, to bound the memory of a large map's correlations."""
        a, b = normalize_features(first), normalize_features(second)
        rows = split_rows(
            a, patch=self.patch, dilation=self.dilation, max_values=_MAX_CORRELATION_VALUES
        )
        return _join_matches([self._match_rows(a, b, strip) for strip in rows], 2)

    def _match_rows(self, first: Tensor, second: Tensor, rows: range) -> MatchMaps:
        cosines = correlate(
            first, second, patch=self.patch, dilation=self.dilation, rows=rows
        ).relu()
        displacement = soft_argmax(
            cosines,
            patch=self.patch,
            dilation=self.dilation,
            sigma=self.sigma,
            temperature=self.temperature,
            tie=self.tie,
        )
        return MatchMaps(displacement, peak_confidence(cosines))


class MotionSqueeze(nn.Module):
    """Adds motion features to a network's features, as a layer of a classifier (MS module).

    Adjacent frames are matched. Convolutions turn the displacement, divided by the largest possible
    one, and the confidence into features, which are added to the input. No ReLU follows the sum.
    The last frame gets the maps of the last pair.

    Its state dict has the names of the released code, which keeps ``chnl_reduction`` and
    ``flow_refinement`` at the top of its network. Initial weights are those of the released code:
    Kaiming's normal distribution by outputs. Autocast applies to the convolutions, not to the
    matching.

    Args:
        channels: C, of the features; the released networks have 128 (ResNet-18) or 512 (-50)
        segments: T, frames of a clip, at least 2
        reduced: channels to match, after a 1x1 convolution; None matches all without one, as in
            MobileNet-V2
        transformation: of displacements to features, a form of table 1 of the supplement: four
            depthwise ``separable`` convolutions as released, ``one-1x1``, ``one-3x3``, or
            ``four-3x3``, whose first three have 64 channels, a width that fits the supplement's
            FLOPs
        matching: the matching to use; None is `FeatureMatching` with its defaults

    Shape:
        - features, output: ``(B * T, C, H, W)``, the frames of a clip one after another
    """

    def __init__(
        self,
        channels: int,
        segments: int,
        *,
        reduced: int | None = 64,
        transformation: Transformation = "separable",
        matching: FeatureMatching | None = None,
    ) -> None:
        super().__init__()
        if segments < 2:
            raise ValueError(f"segments={segments}: must be at least 2")
        check_choice("transformation", transformation, Transformation)
        self.channels, self.segments = channels, segments
        self.chnl_reduction = (
            nn.Identity()
            if reduced is None
            else nn.Sequential(*_build_conv_layer(channels, reduced, 1))
        )
        self.matching = FeatureMatching() if matching is None else matching
        self.flow_refinement = _TRANSFORMATION_BUILDERS[transformation](channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Tensor) -> Tensor:
        """Add motion features to the features."""
        matches = self.match_frames(features)
        # Divided by the reach, displacements are in -1..1 as in the released code.
        maps = torch.cat([matches.displacement / self.matching.reach, matches.confidence], 1)
        motion = self.flow_refinement(repeat_last(maps, self.segments).to(features.dtype))
        return features + motion

    def match_frames(self, features: Tensor) -> MatchMaps:
        """Return the matches of each pair, B (T - 1) of them, for inspection.

        Displacements are in cells; multiply them by the network's stride for pixels of its input.
        During training, a forward hook on ``matching`` gets the same without computing it twice.
        """
        if features.ndim != 4 or features.shape[1] != self.channels:
            raise ShapeError(
                f"MotionSqueeze takes features (B * {self.segments}, {self.channels}, H, W), "
                f"got {tuple(features.shape)}"
            )
        return self.matching(*pair_up(self.chnl_reduction(features), self.segments))


def _join_matches(matches: list[MatchMaps], axis: int) -> MatchMaps:
    if len(matches) == 1:
        return matches[0]
    return MatchMaps(*(torch.cat(maps, axis) for maps in zip(*matches, strict=True)))


def _build_conv_layer(inputs: int, outputs: int, size: int, *, groups: int = 1) -> list[nn.Module]:
    """Return a convolution, its batch norm and a ReLU."""
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


def _stack_layers(layers: list[list[nn.Module]]) -> nn.Sequential:
    named = ((f"conv{i}", nn.Sequential(*layer)) for i, layer in enumerate(layers, 1))
    return nn.Sequential(OrderedDict(named))


def _build_separable(channels: int) -> nn.Sequential:
    """Build four pairs of a depthwise and a pointwise convolution."""
    widths = (3, 16, 32, 64, channels)
    parts = zip(pairwise(widths), (7, 3, 3, 3), strict=True)
    return _stack_layers(
        [_build_conv_layer(i, i, k, groups=i) + _build_conv_layer(i, o, 1) for (i, o), k in parts]
    )


def _build_standard(*widths: int, size: int) -> nn.Sequential:
    """Build convolutions from each width to the next."""
    return _stack_layers([_build_conv_layer(i, o, size) for i, o in pairwise(widths)])


_TRANSFORMATION_BUILDERS: dict[Transformation, Callable[[int], nn.Sequential]] = {
    "separable": _build_separable,
    "one-1x1": lambda channels: _build_standard(3, channels, size=1),
    "one-3x3": lambda channels: _build_standard(3, channels, size=3),
    "four-3x3": lambda channels: _build_standard(3, 64, 64, 64, channels, size=3),
}

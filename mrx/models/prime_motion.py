"""The prime motion block and its contrastive loss.

From Hierarchical Contrastive Motion Learning for Video Action Recognition (Yang et al.; 2020),
whose code is not public. The docstrings name the choices that its supplement leaves open.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrx.checks import check_choice
from mrx.errors import ShapeError
from mrx.methods.spec import full_precision
from mrx.ops.matching import correlate, normalize_features, pair_up, repeat_last

Similarity = Literal["cosine", "dot"]


class PrimeMotionBlock(nn.Module):
    """Motion features of adjacent frames, wrapped as a residual block.

    A 1x1 convolution reduces the channels. The costs of displacements up to 6 cells in steps of 2
    are concatenated, and a 3x3 convolution turns both into motion features. A 1x1 convolution
    expands these to C channels, which are added to the input. Batch normalization and ReLU follow
    each convolution and the costs; only the last convolution has no ReLU. The last normalization
    starts at 0, so a new block changes nothing. Costs are computed in float32 at least, under
    autocast too; the last frame gets those of the last pair.

    Open in the supplement: the width, the similarity, the kernel of the second convolution, the
    expansion to C channels, and the costs of the last frame.

    Args:
        channels: C, of the features
        segments: T, frames of a clip, at least 2
        width: number of reduced channels and of motion features; None is a quarter of C, at least
            64
        displacement: the largest, in cells (d in the supplement)
        stride: cells from one displacement to the next (s)
        similarity: ``cosine``, or ``dot`` over the number of channels

    Shape:
        - features, output: ``(B * T, C, H, W)``, the frames of a clip one after another
    """

    def __init__(
        self,
        channels: int,
        segments: int,
        *,
        width: int | None = None,
        displacement: int = 6,
        stride: int = 2,
        similarity: Similarity = "cosine",
    ) -> None:
        super().__init__()
        check_choice("similarity", similarity, Similarity)
        if segments < 2:
            raise ValueError(f"segments={segments}: must be at least 2")
        if stride < 1 or displacement < stride or displacement % stride:
            raise ValueError(
                f"displacement={displacement}, stride={stride}: must be a multiple of the stride"
            )
        self.channels, self.segments, self.similarity = channels, segments, similarity
        self.patch, self.dilation = 2 * (displacement // stride) + 1, stride
        width = max(64, channels // 4) if width is None else width
        costs = self.patch**2
        self.reduction = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.cost = nn.Sequential(nn.BatchNorm2d(costs), nn.ReLU())
        self.fusion = nn.Sequential(
            nn.Conv2d(width + costs, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        last = nn.BatchNorm2d(channels)
        self.expansion = nn.Sequential(nn.Conv2d(width, channels, 1, bias=False), last)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(last.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Add motion features to the features."""
        return features + self.expansion(self.compute_motion(features))

    def compute_motion(self, features: Tensor) -> Tensor:
        """Compute the motion features for prediction and contrast, ``(B * T, width, H, W)``."""
        if features.ndim != 4 or features.shape[1] != self.channels:
            raise ShapeError(
                f"PrimeMotionBlock takes features (B * {self.segments}, {self.channels}, H, W), "
                f"got {tuple(features.shape)}"
            )
        reduced = self.reduction(features)
        costs = repeat_last(self._compute_costs(*pair_up(reduced, self.segments)), self.segments)
        return self.fusion(torch.cat([reduced, self.cost(costs.to(reduced.dtype))], 1))

    def _compute_costs(self, first: Tensor, second: Tensor) -> Tensor:
        if self.similarity == "cosine":
            first, second = normalize_features(first), normalize_features(second)
        costs = correlate(first, second, patch=self.patch, dilation=self.dilation)
        return costs if self.similarity == "cosine" else costs / first.shape[1]


def contrastive_loss(
    predicted: Tensor, truth: Tensor, *, temperature: float = 0.07, normalize: bool = True
) -> Tensor:
    """Compute InfoNCE, which matches each predicted feature with its truth among all others.

    ``-mean_i log(exp(p_i · q_i / τ) / Σ_j exp(p_i · q_j / τ))`` over all B N T positions. Negatives
    are the truths at other places of a video, at other times and of other videos, see
    `count_negatives`. Open in the supplement: the temperature, and the normalization of features;
    the raw inner product is ``temperature=1, normalize=False``. It computes in float32 at least,
    under autocast too, and the gradient reaches both inputs.

    Args:
        predicted: p, features
        truth: q, features of the same positions
        temperature: τ
        normalize: use cosines instead of inner products

    Shape:
        - predicted, truth: ``(B, N, T, C)``, or any other axes before C
        - output: no axes
    """
    if predicted.shape != truth.shape or predicted.numel() == 0:
        shapes = f"{tuple(predicted.shape)} and {tuple(truth.shape)}"
        raise ShapeError(f"contrastive_loss takes two non-empty tensors of one shape, got {shapes}")
    with full_precision(predicted) as features:
        p, q = features.flatten(0, -2), truth.to(features.dtype).flatten(0, -2)
        if normalize:
            p, q = F.normalize(p, dim=1), F.normalize(q, dim=1)
        own = torch.arange(len(p), device=p.device)
        return F.cross_entropy(p @ q.T / temperature, own)


class NegativeCounts(NamedTuple):
    """Numbers of negatives of one predicted feature.

    Attributes:
        spatial: of the same video at other places, at any time
        temporal: of the same video and place at other times
        easy: of other videos
    """

    spatial: int
    temporal: int
    easy: int


def count_negatives(videos: int, places: int, frames: int) -> NegativeCounts:
    """Count the negatives of `contrastive_loss` for one position, by kind.

    >>> count_negatives(2, 3, 4)
    NegativeCounts(spatial=8, temporal=3, easy=12)
    """
    return NegativeCounts((places - 1) * frames, frames - 1, (videos - 1) * places * frames)

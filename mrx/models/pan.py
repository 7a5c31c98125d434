"""The head of PAN: weighted pooling over the frames of a clip."""

import torch
from torch import Tensor, nn

from mrx.errors import ShapeError


class VAP(nn.Module):
    """Classifies a clip by its frames' features pooled at several speeds (PAN, various timescales).

    For each stride s = 1, 2, 4, .. below ``n_segment``, rows of features are maxima over the frames
    j, j + s, j + 2s, ..; their sum is weighted by a softmax computed from the rows' means.

    Args:
        n_segment: frames of a clip, at least 2
        feature_dim: features of a frame
        classes: number of classes
        dropout: share of features to drop before the last layer in training

    Shape:
        - features: ``(N * n_segment, feature_dim)``
        - output: ``(N, classes)``
    """

    def __init__(
        self, n_segment: int, feature_dim: int, classes: int, dropout: float = 0.5
    ) -> None:
        super().__init__()
        # n_segment = 8 -> [1, 2, 4]
        self.strides = [2**level for level in range(n_segment.bit_length() - 1)]
        if not self.strides or n_segment % self.strides[-1]:
            raise ValueError(
                f"n_segment={n_segment}: must be at least 2 and divisible by its largest stride, "
                f"{self.strides[-1] if self.strides else 1}"
            )
        self.n_segment = n_segment
        rows = sum(self.strides)
        self.TES = nn.Sequential(
            nn.Linear(rows, 4 * rows, bias=False),
            nn.ReLU(),
            nn.Linear(4 * rows, rows, bias=False),
        )
        self.dropout = nn.Dropout(dropout)
        self.pred = nn.Linear(feature_dim, classes)
        for weight in (*self.TES.parameters(), self.pred.weight):
            nn.init.normal_(weight, std=0.001)
        nn.init.zeros_(self.pred.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Pool the features of each clip and classify them."""
        width = self.pred.in_features
        if features.ndim != 2 or features.shape[1] != width or len(features) % self.n_segment:
            raise ShapeError(
                f"VAP takes (N * {self.n_segment}, {width}), got {tuple(features.shape)}"
            )
        clips = features.reshape(-1, self.n_segment, width)
        parts = [clips.view(len(clips), -1, s, clips.shape[2]).amax(1) for s in self.strides]
        rows = torch.cat(parts, dim=1)
        share = self.TES(rows.mean(2)).softmax(1)
        return self.pred(self.dropout(torch.einsum("ns,nsd->nd", share, rows)))

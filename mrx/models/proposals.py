"""Correspondence proposals: pairs of each point of a clip with similar points of other frames."""

import torch
from torch import Tensor, nn

from mrx.backbones.segments import check_segments, flatten_clips, unflatten_clips
from mrx.errors import ShapeError
from mrx.methods.spec import full_precision

_PAIRS_AT_ONCE = 2**24
_EPSILON = 1e-3
"""Batch norm epsilon, the default of the TensorFlow layer in the authors' code."""


class CorrespondenceProposal(nn.Module):
    """Learn from the k most similar points of other frames (CP, Liu et al., 2019).

    A clip has ``N = T H W`` points. The k neighbors of a point are those of least squared distance
    ``|a|² + |b|² - 2 a·b`` in other frames; the choice has no gradient. Each pair is the vector
    ``[neighbor's position - own position, own features, neighbor's features]``, with positions
    ``(t/T, y/H, x/W)``, and passes two 1x1 convolutions with ReLU. The maximum over a point's pairs
    passes a third convolution and a batch norm that starts at 0, and is added to the input. No ReLU
    follows.

    Args:
        channels: C of the maps
        segments: frames of a clip, T
        k: neighbors of a point, at most ``N - H W``
        widths: outputs of the two convolutions of pairs; None is ``(C // 4, C // 2)``
        shrink: work on maps of 1/shrink the height and width, and enlarge the result

    Shape:
        - maps, output: ``(B * segments, C, H, W)``, the frames of a clip one after another
    """

    def __init__(
        self,
        channels: int,
        segments: int,
        *,
        k: int = 8,
        widths: tuple[int, int] | None = None,
        shrink: int = 1,
    ) -> None:
        super().__init__()
        if k < 1 or shrink < 1:
            raise ValueError(f"k={k}, shrink={shrink}: both must be at least 1")
        check_segments(segments, minimum=2)
        first, second = widths or (channels // 4, channels // 2)
        self.channels, self.segments, self.k, self.shrink = channels, segments, k, shrink
        self.mlp = nn.Sequential(
            nn.Conv2d(2 * channels + 3, first, 1),
            nn.BatchNorm2d(first, eps=_EPSILON),
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, 1),
            nn.BatchNorm2d(second, eps=_EPSILON),
            nn.ReLU(inplace=True),
        )
        last = nn.BatchNorm2d(channels, eps=_EPSILON)
        self.project = nn.Sequential(nn.Conv2d(second, channels, 1), last)
        nn.init.zeros_(last.weight)

    def forward(self, maps: Tensor) -> Tensor:
        """Add the features of the proposed correspondences."""
        maps = flatten_clips(maps, self.segments)
        h, w = maps.shape[2:]
        small = (h // self.shrink, w // self.shrink)
        if maps.shape[1] != self.channels or self.k > (self.segments - 1) * small[0] * small[1]:
            raise ShapeError(
                f"CorrespondenceProposal takes {self.channels} channels and at least k={self.k} "
                f"points in the other {self.segments - 1} frames, got {tuple(maps.shape)}"
                + (f" at 1/{self.shrink} the size" if self.shrink > 1 else "")
            )
        small_maps = resize_maps(maps, *small) if self.shrink > 1 else maps
        pairs = self._pair_points(small_maps)
        strongest = self.mlp(pairs).amax(3)
        clip_maps = strongest.view(*strongest.shape[:2], self.segments, *small)  # (B, C, T, h, w)
        change = self.project(clip_maps.transpose(1, 2).flatten(0, 1))
        return maps + (resize_maps(change, h, w) if self.shrink > 1 else change)

    def _pair_points(self, maps: Tensor) -> Tensor:
        """Return the vector of each point and neighbor, ``(B, 3 + 2 C, N, k)``."""
        clips = unflatten_clips(maps, self.segments)
        points = clips.transpose(1, 2).flatten(2)  # (B, C, N)
        index = find_nearest_points(clips, self.k).flatten(1)
        places = _compute_positions(clips).expand(len(clips), -1, -1)
        own = torch.cat([places, points], dim=1)
        other = own.gather(2, index[:, None].expand(-1, own.shape[1], -1))
        own = own[..., None].expand(-1, -1, -1, self.k)
        other = other.view(own.shape)
        return torch.cat([other[:, :3] - own[:, :3], own[:, 3:], other[:, 3:]], dim=1)


@torch.no_grad()
def find_nearest_points(clips: Tensor, k: int, *, max_distances: int = _PAIRS_AT_ONCE) -> Tensor:
    """Find the k most similar points of other frames for each point of a clip, unordered.

    Args:
        clips: the maps
        k: number of points to find
        max_distances: distances to hold at a time, of the N² in all

    Shape:
        - clips: ``(B, T, C, H, W)``
        - output: ``(B, T * H * W, k)``, indices into the points ``T * H * W``
    """
    with full_precision(clips) as exact:
        # Far from 0, large squares would swamp the differences: center the features first.
        exact = exact - exact.mean((1, 3, 4), keepdim=True)
        frames = exact.flatten(3).transpose(2, 3)  # (B, T, H * W, C)
        points = frames.flatten(1, 2)
        squares = points.square().sum(2)
        size = frames.shape[2]
        rows = max(1, max_distances // max(1, points.shape[:2].numel()))
        indices = []
        for t in range(frames.shape[1]):
            for block in torch.split(frames[:, t], rows, dim=1):
                # 2 a·b - |b|²: the own |a|² is the same for all neighbors, so it is left out.
                similarity = torch.baddbmm(-squares[:, None], block, points.mT, alpha=2)
                # Points of the same frame are no neighbors.
                similarity[:, :, t * size : (t + 1) * size] = -torch.inf
                indices.append(similarity.topk(k, dim=2, sorted=False).indices)
    return torch.cat(indices, dim=1)


def resize_maps(maps: Tensor, height: int, width: int) -> Tensor:
    """Resize by bilinear sampling at ``i * old / new``, as TensorFlow 1 does.

    Shape:
        - maps: ``(B, C, H, W)``; output: ``(B, C, height, width)``
    """
    for axis, size in ((2, height), (3, width)):
        old = maps.shape[axis]
        steps = torch.arange(size, device=maps.device)
        # old = 2, size = 4 -> low = [0, 0, 1, 1], share = [0, 0.5, 0, 0.5]
        low = steps * old // size
        share = (steps * old % size).to(maps.dtype) / size
        share = share.view(-1, *(1,) * (3 - axis))
        near = maps.index_select(axis, low)
        far = maps.index_select(axis, (low + 1).clamp(max=old - 1))
        maps = near + share * (far - near)
    return maps


def _compute_positions(clips: Tensor) -> Tensor:
    """Return the position ``(t/T, y/H, x/W)`` of each point, ``(1, 3, N)``."""
    t, _, h, w = clips.shape[1:]
    axes = (torch.arange(size, device=clips.device, dtype=clips.dtype) / size for size in (t, h, w))
    return torch.stack([grid.flatten() for grid in torch.meshgrid(*axes, indexing="ij")])[None]

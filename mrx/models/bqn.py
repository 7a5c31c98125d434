"""Motion band-pass of feature maps, for the Busy-Quiet networks."""

import torch
from torch import Tensor, nn

from mrx.errors import ShapeError
from mrx.methods.mbpm import build_depthwise_filters
from mrx.methods.spec import full_precision
from mrx.ops.stencils import laplacian_of_gaussian, reflect_depthwise, second_difference


class MBPMFeatures(nn.Module):
    """Motion band-pass of feature maps, inside a classifier's blocks.

    All frames have the same filters; the first and last frame of each clip are repeated once.

    Args:
        channels: of the feature maps
        segments: frames of a clip
        sigma: of the Gaussian, in pixels
        size: taps of the spatial kernel each way, odd

    Shape:
        - features: ``(N * segments, channels, H, W)``, H and W above ``size // 2``
        - output: the same
    """

    def __init__(self, channels: int, segments: int, sigma: float = 0.9, size: int = 7) -> None:
        super().__init__()
        kernel = laplacian_of_gaussian(size, sigma).kernel
        self.conv_s, self.conv_t = build_depthwise_filters(channels, kernel)
        self.segments = segments

    def forward(self, features: Tensor) -> Tensor:
        """Filter feature maps, clip by clip."""
        self._check_features(features)
        with full_precision(features) as maps:
            clips = maps.reshape(-1, self.segments, *maps.shape[1:])
            # T = 4 -> before = frames 0, 0, 1, 2 and after = frames 1, 2, 3, 3
            before = torch.cat([clips[:, :1], clips[:, :-1]], dim=1)
            after = torch.cat([clips[:, 1:], clips[:, -1:]], dim=1)
            taps = self.conv_t.weight[:, 0].to(maps.dtype)
            difference = second_difference(before, clips, after, taps).flatten(0, 1)
            return reflect_depthwise(difference, self.conv_s.weight.to(maps.dtype))

    def _check_features(self, features: Tensor) -> None:
        channels, _, size, _ = self.conv_s.weight.shape
        shape = tuple(features.shape)
        if features.ndim != 4 or shape[1] != channels or shape[0] % self.segments:
            raise ShapeError(
                f"MBPMFeatures takes (N * {self.segments}, {channels}, H, W), got {shape}"
            )
        if min(shape[2:]) <= size // 2:
            raise ShapeError(
                f"MBPMFeatures with {size} taps needs maps of at least {size // 2 + 1} each way, "
                f"got {shape[3]}x{shape[2]}"
            )

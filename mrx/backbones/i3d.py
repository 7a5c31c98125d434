"""I3D: Inception-v1 inflated to space and time, with optional motion modules."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mrx.backbones.resnet import initialize_weights
from mrx.backbones.segments import unflatten_clips
from mrx.errors import ShapeError

_EPSILON = 1e-3
"""Epsilon of every batch norm, as in the code of I3D's authors."""


class BranchWidths(NamedTuple):
    """Output channels of an Inception block's branches, and of the 1x1s before its 3x3s."""

    pointwise: int
    before_first_cube: int
    first_cube: int
    before_second_cube: int
    second_cube: int
    pooled: int


_INCEPTION_WIDTHS = {
    "Mixed_3b": BranchWidths(64, 96, 128, 16, 32, 32),
    "Mixed_3c": BranchWidths(128, 128, 192, 32, 96, 64),
    "Mixed_4b": BranchWidths(192, 96, 208, 16, 48, 64),
    "Mixed_4c": BranchWidths(160, 112, 224, 24, 64, 64),
    "Mixed_4d": BranchWidths(128, 128, 256, 24, 64, 64),
    "Mixed_4e": BranchWidths(112, 144, 288, 32, 64, 64),
    "Mixed_4f": BranchWidths(256, 160, 320, 32, 128, 128),
    "Mixed_5b": BranchWidths(256, 160, 320, 32, 128, 128),
    "Mixed_5c": BranchWidths(384, 192, 384, 48, 128, 128),
}

I3D_BLOCKS = (
    *("Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1", "Conv3d_2c_3x3"),
    *("MaxPool3d_3a_3x3", "Mixed_3b", "Mixed_3c"),
    *("MaxPool3d_4a_3x3", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f"),
    *("MaxPool3d_5a_2x2", "Mixed_5b", "Mixed_5c"),
)
"""The names of the blocks, in order."""


class ConvUnit(nn.Module):
    """A 3D convolution without bias, batch norm and ReLU; padding keeps the size at stride 1.

    Args:
        inputs: input channels
        outputs: output channels
        size: of the kernel: time, height, width, all odd
        stride: in time, height, width

    Shape:
        - maps: ``(B, inputs, T, H, W)``; output: ``(B, outputs, T', H', W')``
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: tuple[int, int, int] = (1, 1, 1),
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        pad = (size[0] // 2, size[1] // 2, size[2] // 2)
        self.conv3d = nn.Conv3d(inputs, outputs, size, stride, pad, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=_EPSILON)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        """Apply the convolution, batch norm and ReLU."""
        return self.relu(self.bn(self.conv3d(maps)))


class InceptionBlock(nn.Module):
    """Four branches side by side: 1x1x1, two of 1x1x1 and 3x3x3, and a maximum with 1x1x1.

    Args:
        inputs: input channels
        widths: output channels of the branches

    Shape:
        - maps: ``(B, inputs, T, H, W)``; output: ``(B, C, T, H, W)``, C the sum of the four
    """

    def __init__(self, inputs: int, widths: BranchWidths) -> None:
        super().__init__()
        cube = (3, 3, 3)
        self.b0 = ConvUnit(inputs, widths.pointwise)
        self.b1a = ConvUnit(inputs, widths.before_first_cube)
        self.b1b = ConvUnit(widths.before_first_cube, widths.first_cube, cube)
        self.b2a = ConvUnit(inputs, widths.before_second_cube)
        self.b2b = ConvUnit(widths.before_second_cube, widths.second_cube, cube)
        self.b3a = nn.MaxPool3d(cube, stride=1, padding=1)
        self.b3b = ConvUnit(inputs, widths.pooled)

    def forward(self, maps: Tensor) -> Tensor:
        """Concatenate the outputs of the branches."""
        branches = (
            self.b0(maps),
            self.b1b(self.b1a(maps)),
            self.b2b(self.b2a(maps)),
            self.b3b(self.b3a(maps)),
        )
        return torch.cat(branches, dim=1)


class I3D(nn.Module):
    """Inception-v1 in 3D for short clips, not official (Carreira and Zisserman, 2017).

    The stem is 1x7x7 with stride (1, 2, 2), as in MotionSqueeze's supplement for 8 frames. The
    supplement does not describe the rest, which is as in I3D except for two choices: padding is
    symmetric, and the head is a mean over all positions and a linear layer. Names are those of the
    common PyTorch port: blocks as in `I3D_BLOCKS`; in an Inception block ``b0``, ``b1a``, ``b1b``,
    ``b2a``, ``b2b``, ``b3b``, each with ``conv3d`` and ``bn``; ``logits`` for the head; and
    ``inserted.<block>`` for a module inserted after a block.

    Args:
        classes: number of classes
        temporal_pools: halve the frames at ``MaxPool3d_4a_3x3`` and ``MaxPool3d_5a_2x2``, as I3D
            does; otherwise keep all
        insert: modules by name of the block that they follow; their input and output are the maps
            of all frames ``(B * T, C, H, W)``. MotionSqueeze's place is after ``Mixed_3c``, the
            second at stride 8, with 480 channels

    Shape:
        - clip: ``(B, T, 3, H, W)``, normalized as for the training of the weights
        - output: ``(B, classes)``, logits
    """

    def __init__(
        self,
        classes: int = 400,
        *,
        temporal_pools: bool = True,
        insert: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        unknown = [name for name in insert or {} if name not in I3D_BLOCKS]
        if unknown:
            raise ValueError(f"insert={unknown}: choose from {', '.join(I3D_BLOCKS)}")
        time_stride = 2 if temporal_pools else 1
        self.smallest = 3 if temporal_pools else 1
        self.Conv3d_1a_7x7 = ConvUnit(3, 64, (1, 7, 7), (1, 2, 2))
        self.MaxPool3d_2a_3x3 = _build_max_pool(1, 3, 1)
        self.Conv3d_2b_1x1 = ConvUnit(64, 64)
        self.Conv3d_2c_3x3 = ConvUnit(64, 192, (3, 3, 3))
        self.MaxPool3d_3a_3x3 = _build_max_pool(1, 3, 1)
        self.MaxPool3d_4a_3x3 = _build_max_pool(3, 3, time_stride)
        self.MaxPool3d_5a_2x2 = _build_max_pool(time_stride, 2, time_stride)
        inputs = 192
        for name, widths in _INCEPTION_WIDTHS.items():
            self.add_module(name, InceptionBlock(inputs, widths))
            inputs = widths.pointwise + widths.first_cube + widths.second_cube + widths.pooled
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(0.5)
        self.logits = nn.Linear(inputs, classes)
        initialize_weights(self)
        # Added after the drawing of weights: inserted modules keep their own.
        self.inserted = nn.ModuleDict(insert)

    def forward(self, clip: Tensor) -> Tensor:
        """Compute the logits of clips."""
        maps = self.avgpool(self.compute_features(clip)).flatten(1)
        return self.logits(self.dropout(maps))

    def compute_features(self, clip: Tensor, until: str | None = None) -> Tensor:
        """Compute the maps of a block, ``(B, C, T', H', W')``, before its inserted module.

        Without `until`, return the input of the head.
        """
        if until is not None and until not in I3D_BLOCKS:
            raise ValueError(f"until={until}: choose from {', '.join(I3D_BLOCKS)}")
        shape = tuple(clip.shape)
        if len(shape) != 5 or shape[2] != 3 or shape[1] < self.smallest or 0 in shape[3:]:
            raise ShapeError(
                f"I3D takes clips (B, T, 3, H, W), T at least {self.smallest}, H and W at least 1, "
                f"got {shape}"
            )
        maps = clip.transpose(1, 2)
        for name in I3D_BLOCKS:
            maps = self.get_submodule(name)(maps)
            if name == until:
                break
            if name in self.inserted:
                maps = _apply_frame_by_frame(self.inserted[name], maps)
        return maps


def _apply_frame_by_frame(module: nn.Module, maps: Tensor) -> Tensor:
    """Apply a module for maps ``(B * T, C, H, W)`` to maps ``(B, C, T, H, W)``."""
    frames = module(maps.transpose(1, 2).flatten(0, 1))
    return unflatten_clips(frames, maps.shape[2]).transpose(1, 2)


def _build_max_pool(frames: int, size: int, stride: int) -> nn.MaxPool3d:
    """Build a max pool that halves height and width, with `stride` in time."""
    pads = (frames - 1) // 2, (size - 1) // 2, (size - 1) // 2
    return nn.MaxPool3d((frames, size, size), (stride, 2, 2), pads)

"""MobileNet-V2 for the frames of a clip: plain, with temporal shift, and with MotionSqueeze."""

from typing import Literal

from torch import Tensor, nn

from mrx.backbones.resnet import initialize_weights
from mrx.backbones.segments import average_logits, check_segments, flatten_clips
from mrx.backbones.shift import ShiftMode, make_shift

StemSize = Literal[3, 7]

_BLOCK_GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, number of blocks, and stride of the first block."""

_LAST_CHANNELS = 1280
SQUEEZED_CHANNELS = 32
_LAYERS_BEFORE_MOTION = 7
"""Number of `features` before the motion module: all up to stride 8, with 32 channels."""


class InvertedResidual(nn.Module):
    """Widen by 1x1, filter each channel by 3x3, narrow by 1x1 without ReLU; add if shapes match.

    The shift acts on the branch only, and only in blocks that both widen and add.

    Args:
        inputs: input channels
        outputs: output channels
        stride: of the 3x3
        expansion: ratio of inner channels to inputs; 1 leaves the first convolution out
        shift: module for the branch's input, in blocks that widen and add

    Shape:
        - maps: ``(N, inputs, H, W)``; output: ``(N, outputs, H / stride, W / stride)``
    """

    def __init__(
        self, inputs: int, outputs: int, *, stride: int, expansion: int, shift: nn.Module
    ) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.adds = stride == 1 and inputs == outputs
        self.shift = shift if self.adds and expansion > 1 else nn.Identity()
        widen = [_build_conv_unit(inputs, hidden, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *widen,
            _build_conv_unit(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Transform the maps, and add them if shapes match."""
        change = self.conv(self.shift(maps))
        return maps + change if self.adds else change


class MobileNetV2(nn.Module):
    """MobileNet-V2 on each frame of a clip, with averaged logits; with `shift`, TSM's.

    The names in its state dict are torchvision's, with and without the shift. The 10 blocks that
    widen and add are shifted.

    Args:
        classes: number of classes
        segments: frames of a clip
        shift: how frames exchange channels, or None for a plain network
        stem: size of the first kernel: 3 as in all public weights, or 7 as in MotionSqueeze's
            supplement

    Shape:
        - clip: ``(B, segments, 3, H, W)``, or frame after frame ``(B * segments, 3, H, W)``,
          normalized as for the training of the weights
        - output: ``(B, classes)``, logits
    """

    def __init__(
        self,
        classes: int = 1000,
        *,
        segments: int = 8,
        shift: ShiftMode | None = None,
        stem: StemSize = 3,
    ) -> None:
        super().__init__()
        if stem not in (3, 7):
            raise ValueError(f"stem={stem}: choose from 3, 7")
        check_segments(segments)
        self.segments = segments
        inputs = 32
        layers: list[nn.Module] = [_build_conv_unit(3, inputs, stem, stride=2)]
        for expansion, outputs, count, stride in _BLOCK_GROUPS:
            for i in range(count):
                block = InvertedResidual(
                    inputs,
                    outputs,
                    stride=stride if i == 0 else 1,
                    expansion=expansion,
                    shift=make_shift(segments, shift),
                )
                layers.append(block)
                inputs = outputs
        self.features = nn.Sequential(*layers, _build_conv_unit(inputs, _LAST_CHANNELS, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(_LAST_CHANNELS, classes))
        initialize_weights(self)

    def forward(self, clip: Tensor) -> Tensor:
        """Compute the logits of clips: the mean of their frames' logits."""
        return average_logits(self.frame_logits(clip), self.segments)

    def frame_logits(self, clip: Tensor) -> Tensor:
        """Compute the logits of single frames, ``(B * segments, classes)``."""
        maps = flatten_clips(clip, self.segments)
        maps = self.add_motion(self.features[:_LAYERS_BEFORE_MOTION](maps))
        maps = self.features[_LAYERS_BEFORE_MOTION:](maps)
        return self.classifier(self.avgpool(maps).flatten(1))

    def add_motion(self, maps: Tensor) -> Tensor:
        """Return the maps of the last block at stride 8; subclasses add motion features."""
        return maps


def _build_conv_unit(
    inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Build a convolution with batch norm and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )

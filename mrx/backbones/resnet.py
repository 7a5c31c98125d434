"""ResNet for the frames of a clip: plain, with temporal shift, or with a motion module."""

from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from mrx.backbones.segments import average_logits, check_segments, flatten_clips
from mrx.backbones.shift import ShiftMode, make_shift
from mrx.checks import check_choice

ResNetDepth = Literal[18, 50]
ResNetStage = Literal["layer1", "layer2", "layer3", "layer4"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; only the first one's input is shifted.

    Args:
        inputs: input channels
        width: channels of both convolutions
        stride: of the first one
        shift: `TemporalShift` or an identity, for the input of the first convolution

    Shape:
        - maps: ``(N, inputs, H, W)``; output: ``(N, width, H / stride, W / stride)``
    """

    expansion: ClassVar[int] = 1

    def __init__(self, inputs: int, width: int, *, stride: int, shift: nn.Module) -> None:
        super().__init__()
        self.shift = shift
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        # Apart from `relu`, so that CPNet can replace it.
        self.last_relu = nn.ReLU(inplace=True)
        self.downsample = _build_shortcut(inputs, width, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Transform the maps and add them to the shortcut."""
        out = self.relu(self.bn1(self.conv1(self.shift(maps))))
        out = self.bn2(self.conv2(out))
        return self.last_relu(out + self.downsample(maps))


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; only the first one's input is shifted.

    The stride is the 3x3's, as in torchvision; the last convolution is 4 times as wide.

    Args:
        inputs: input channels
        width: channels of the first two convolutions
        stride: of the second
        shift: `TemporalShift` or an identity, for the input of the first convolution

    Shape:
        - maps: ``(N, inputs, H, W)``; output: ``(N, 4 * width, H / stride, W / stride)``
    """

    expansion: ClassVar[int] = 4

    def __init__(self, inputs: int, width: int, *, stride: int, shift: nn.Module) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.shift = shift
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        # Apart from `relu`, so that CPNet can replace it.
        self.last_relu = nn.ReLU(inplace=True)
        self.downsample = _build_shortcut(inputs, outputs, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Transform the maps and add them to the shortcut."""
        out = self.relu(self.bn1(self.conv1(self.shift(maps))))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.last_relu(out + self.downsample(maps))


_BLOCKS_BY_DEPTH: dict[int, tuple[type[BasicBlock] | type[BottleneckBlock], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    50: (BottleneckBlock, (3, 4, 6, 3)),
}
"""By depth: the type of block, and the number of blocks of each layer."""


class ResNet(nn.Module):
    """ResNet on each frame of a clip, with averaged logits (TSN); with `shift`, TSM-ResNet.

    The names in its state dict are torchvision's, with and without the shift. TSM's code shifts
    only every second block if layer3 has 23 blocks or more, which these depths do not.
    `set_dropout` turns on dropout before the last layer.

    Args:
        depth: 18 or 50
        classes: number of classes
        segments: frames of a clip
        shift: how frames exchange channels in each block, or None for a plain ResNet

    Shape:
        - clip: ``(B, segments, 3, H, W)``, or frame after frame ``(B * segments, 3, H, W)``,
          normalized as for the training of the weights
        - output: ``(B, classes)``, logits
    """

    def __init__(
        self,
        depth: ResNetDepth = 50,
        classes: int = 1000,
        *,
        segments: int = 8,
        shift: ShiftMode | None = None,
    ) -> None:
        super().__init__()
        if depth not in _BLOCKS_BY_DEPTH:
            raise ValueError(f"depth={depth}: choose from {', '.join(map(str, _BLOCKS_BY_DEPTH))}")
        check_segments(segments)
        block, counts = _BLOCKS_BY_DEPTH[depth]
        self.segments = segments
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = 64
        for i, count in enumerate(counts):
            width = 64 * 2**i
            blocks = []
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                shifting = make_shift(segments, shift)
                blocks.append(block(inputs, width, stride=stride, shift=shifting))
                inputs = block.expansion * width
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.0)
        self.fc = nn.Linear(inputs, classes)
        initialize_weights(self)

    def forward(self, clip: Tensor) -> Tensor:
        """Compute the logits of clips: the mean of their frames' logits."""
        return average_logits(self.frame_logits(clip), self.segments)

    def frame_logits(self, clip: Tensor) -> Tensor:
        """Compute the logits of single frames, ``(B * segments, classes)``."""
        maps = self.avgpool(self.compute_features(clip)).flatten(1)
        return self.fc(self.dropout(maps))

    def compute_features(self, clip: Tensor, until: ResNetStage = "layer4") -> Tensor:
        """Compute the maps of a layer, ``(B * segments, C, H / s, W / s)``.

        ``layer2`` (res3) has stride s = 8 and 128 or 512 channels, ``layer4`` stride 32.
        The maps of layer2 are the input of a motion module after it, not its output.
        """
        check_choice("until", until, ResNetStage)
        maps = self.relu(self.bn1(self.conv1(flatten_clips(clip, self.segments))))
        maps = self.maxpool(maps)
        for name in get_args(ResNetStage):
            maps = self.get_submodule(name)(maps)
            if name == until:
                break
            if name == "layer2":
                maps = self.add_motion(maps)
        return maps

    def add_motion(self, maps: Tensor) -> Tensor:
        """Return the maps of layer2; subclasses add motion features."""
        return maps


def set_channels(net: ResNet, channels: int) -> None:
    """Change a network's input channels: its first weights become their mean over the colors.

    TSN starts from image weights this way: stacked flow has 2 channels per displacement.

    Args:
        net: changed in place
        channels: new number of input channels
    """
    old_conv = net.conv1
    conv = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False).to(old_conv.weight)
    with torch.no_grad():
        conv.weight.copy_(old_conv.weight.mean(1, keepdim=True).expand_as(conv.weight))
    net.conv1 = conv


def set_dropout(net: nn.Module, share: float) -> None:
    """Drop this share of features before the last layer in training.

    Args:
        net: a network of this package, changed in place
        share: 0.5 in the recipes of TSM and MotionSqueeze, 0.8 for small data sets
    """
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = share


def initialize_weights(net: nn.Module) -> None:
    """Draw weights as in ResNet's and TSM's code: He for convolutions, N(0, 0.001) for the head."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.001)
            nn.init.zeros_(module.bias)


def _build_shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Build the layer that adapts a block's input to its output."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def layer2_channels(depth: ResNetDepth) -> int:
    """Return the channels of layer2."""
    return 128 if depth == 18 else 512

"""Features that `ms` matches: histograms of orientations, or layer2 of a ResNet."""

from typing import Literal

import torch
from torch import Tensor, nn

from mrx.backbones.resnet import ResNet
from mrx.methods.spec import COLOR_STATISTICS
from mrx.ops.orientation import (
    CELL_LAYOUTS,
    compute_luma,
    orientation_histograms,
    standardize_features,
)

FeatureKind = Literal["hog", "resnet18", "resnet50"]
MSShift = Literal["none", "zero", "circulant"]

LAYER2_STRIDE = 8
"""Stride of a ResNet's layer2, after which MotionSqueeze matches."""

_REDUCED_CHANNELS = 64
_KEPT_LAYERS = ("conv1.", "bn1.", "layer1.", "layer2.")
REDUCTION_PREFIX = "chnl_reduction."


def compute_pair_histograms(pair: Tensor, cell: int) -> Tensor:
    """Compute the orientation histograms of two frames, standardized over the pair.

    Shape:
        - pair: ``(2, 3, H, W)``, in 0..1
        - output: ``(2, C, H // cell, W // cell)``
    """
    histograms = orientation_histograms(compute_luma(pair), CELL_LAYOUTS[cell])
    return standardize_features(histograms)


def compute_layer2(backbone: ResNet, reduction: nn.Module | None, frames: Tensor) -> Tensor:
    """Compute a network's features of the frames of one window.

    Shape:
        - frames: ``(T, 3, H, W)``, in 0..1
        - output: ``(T, C, H // 8, W // 8)``
    """
    mean, deviation = (frames.new_tensor(v).view(3, 1, 1) for v in COLOR_STATISTICS["imagenet"])
    images = ((frames - mean) / deviation).to(backbone.conv1.weight.dtype)
    maps = backbone.compute_features(images, until="layer2")
    if reduction is not None:
        maps = reduction(maps)
    # The padded strides of the network round up: 45 rows give 6, of which 5 are whole cells.
    height, width = (size // LAYER2_STRIDE for size in frames.shape[2:])
    return maps[..., :height, :width].to(frames.dtype)


def build_random_backbone(
    features: FeatureKind, seed: int, *, num_frames: int, shift: MSShift
) -> ResNet:
    """Build a ResNet up to layer2 for windows of `num_frames`, with weights drawn from `seed`."""
    # The caller's random numbers must not depend on the features.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ResNet(
            18 if features == "resnet18" else 50,
            segments=num_frames,
            shift=None if shift == "none" else shift,
        )
    # The whole network is drawn first: the weights of a seed are those of a whole ResNet.
    for name in ("layer3", "layer4", "fc"):
        delattr(net, name)
    return net


def build_reduction(features: FeatureKind) -> nn.Sequential:
    """Build MotionSqueeze's channel reduction, which precedes the matching."""
    channels = 128 if features == "resnet18" else 512
    with torch.random.fork_rng(devices=[]):
        conv = nn.Conv2d(channels, _REDUCED_CHANNELS, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(_REDUCED_CHANNELS), nn.ReLU()).eval()


def translate_ms_state(
    state: dict[str, Tensor], features: FeatureKind
) -> tuple[dict[str, Tensor], nn.Sequential | None]:
    """Rename the weights up to layer2 of torchvision's, TSM's or MotionSqueeze's code.

    Args:
        state: tensors by name
        features: the kind of network that they are for

    Returns:
        The weights under the names of `MS`, and new layers for the channel reduction if the state
        has one.

    Raises:
        ValueError: the reduction has other names or shapes
    """
    # TSM wraps the convolutions that it shifts: layer1.0.conv1.net.weight -> layer1.0.conv1.weight
    named = {key.replace(".net.", ".").removeprefix("backbone."): state[key] for key in state}
    reduction = {key: value for key, value in named.items() if key.startswith(REDUCTION_PREFIX)}
    layers = build_reduction(features) if reduction else None
    if layers is not None:
        _check_reduction_fit(reduction, layers.state_dict())
    kept = {
        f"backbone.{key}": value for key, value in named.items() if key.startswith(_KEPT_LAYERS)
    }
    return kept | reduction, layers


def _check_reduction_fit(reduction: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for key, value in reduction.items():
        own = wanted.get(key.removeprefix(REDUCTION_PREFIX))
        if own is None:
            raise ValueError(f"{key} is not a weight of the channel reduction")
        if own.shape != value.shape:
            raise ValueError(f"{key} is {tuple(value.shape)}, needs {tuple(own.shape)}")

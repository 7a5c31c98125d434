"""Persistence of appearance: changes of shallow features from frame to frame."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrx.checks import check_choice
from mrx.methods.spec import (
    COLOR_STATISTICS,
    Method,
    Normalization,
    Representation,
    full_precision,
    hash_weights,
    normalize_bytes,
)
from mrx.ops.stencils import store_channels_last

_NUM_FEATURES = 8
_EPSILON = 1e-6
_RARE_MAP_SHARE = 0.1
"""Share of the largest possible map that maps rarely exceed."""


class PA(Representation):
    """Distances between shallow features of adjacent frames (PAN).

    ``map_i = √ Σ_c (conv(f_i)_c - conv(f_{i+1})_c + 1e-6)²`` over 8 features of a 7x7 convolution.
    The bias cancels, so the convolution runs on the difference of frames: equal frames give
    exactly ``√8 · 1e-6``. Without trained weights the features are a random projection, which the
    seed reproduces. It computes in float32 at least, under autocast too.

    Args:
        n_length: frames in a window, one more than maps; the released networks take 4
        seed: of the weights, N(0, 0.001), drawn on the CPU
        normalize: mean and deviation to normalize the colors with

    Shape:
        - clip: ``(B, n_length, 3, H, W)``
        - output: ``(B, n_length - 1, H, W)``, above 0
    """

    key_prefixes = ("", "PA.")

    def __init__(
        self, n_length: int = 6, seed: int = 0, normalize: Normalization = "imagenet"
    ) -> None:
        super().__init__()
        if n_length < 2:
            raise ValueError(f"n_length={n_length}: must be at least 2")
        check_choice("normalize", normalize, Normalization)
        self.seed = seed
        self.normalize = normalize
        conv = nn.Conv2d(3, _NUM_FEATURES, 7, padding=3, device="meta").to_empty(device="cpu")
        conv.load_state_dict({"weight": _draw_pa_weights(seed), "bias": torch.zeros(_NUM_FEATURES)})
        self.shallow_conv = conv
        self.length = n_length
        self.step = n_length
        self.channels = tuple(f"pa{i}" for i in range(n_length - 1))
        self.bound = self.estimate_bound()

    def prepare(self, frames: Tensor) -> Tensor:
        """Scale bytes to 0..1, subtract the mean and divide by the deviation."""
        dtype = torch.promote_types(self.shallow_conv.weight.dtype, torch.float32)
        return normalize_bytes(frames, self.normalize, dtype)

    def forward(self, clip: Tensor) -> Tensor:
        """Compute the distances of adjacent frames in a clip as `prepare` scales it."""
        self.check_clip(clip)
        with full_precision(clip) as frames:
            return self._compute_distance(frames[:, :-1] - frames[:, 1:], self.shallow_conv.weight)

    def extract(self, frames: Tensor) -> Tensor:
        """Compute distances from differences of bytes, which are exact.

        It agrees with `forward` to 1e-6 of the largest output.
        """
        self.check_clip(frames)
        weight = self.shallow_conv.weight.float()
        deviation = torch.tensor(COLOR_STATISTICS[self.normalize][1], device=weight.device)
        # In a difference the mean cancels; dividing the weights replaces dividing each frame.
        scaled = weight / (255 * deviation.view(3, 1, 1))
        # One window's features stay in the CPU's cache; a GPU takes them all at once.
        size = 1 if frames.device.type == "cpu" else len(frames)
        parts = torch.split(frames.to(torch.int16), size)
        differences = [(part[:, :-1] - part[:, 1:]).float() for part in parts]
        with full_precision(scaled) as filters:
            return torch.cat([self._compute_distance(part, filters) for part in differences])

    def estimate_bound(self) -> float:
        """Return a share of the largest distance of colors in 0..1."""
        deviation = torch.tensor(COLOR_STATISTICS[self.normalize][1])
        reach = self.shallow_conv.weight.detach().abs().sum((2, 3)).float().cpu() / deviation
        return _RARE_MAP_SHARE * reach.sum(1).norm().item()

    def collect_facts(self) -> dict[str, Any]:
        """Return the normalization in numbers, and the state and hash of the weights."""
        mean, deviation = COLOR_STATISTICS[self.normalize]
        untrained = _draw_pa_weights(self.seed).to(self.shallow_conv.weight)
        return {
            "mean": mean,
            "std": deviation,
            "epsilon": _EPSILON,
            "trained": not torch.equal(self.shallow_conv.weight, untrained),
            "weights_sha256": hash_weights(self),
            "torch": str(torch.__version__),
        }

    def _compute_distance(self, difference: Tensor, weight: Tensor) -> Tensor:
        """Compute the norms over features ``(B, T, H, W)`` of differences ``(B, T, 3, H, W)``."""
        # In channels_last this convolution is 4 times as fast on the CPU.
        maps = store_channels_last(difference.flatten(0, 1))
        _, bias = self.shallow_conv.parameters()
        # The bias cancels; a zero of it stays in the graph, because training in parallel expects
        # a gradient for each parameter.
        epsilon = (bias - bias + _EPSILON).to(maps.dtype)
        features = F.conv2d(maps, weight.to(maps.dtype), epsilon, padding=3)
        norms = features.square().sum(1).sqrt()
        return norms.view(*difference.shape[:2], *norms.shape[1:])


def _draw_pa_weights(seed: int) -> Tensor:
    """Draw the untrained weights of a seed, on the CPU whatever the device of the module."""
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(_NUM_FEATURES, 3, 7, 7).normal_(0, 0.001, generator=generator)


METHOD = Method(
    name="pa",
    module=PA,
    summary="change of shallow features from frame to frame, one map for each pair",
    paper="PAN: Towards Fast Action Recognition via Learning Persistence of Appearance "
    "(Zhang et al.; 2020)",
    cost="light",
)

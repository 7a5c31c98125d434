"""Motion band-pass module of the Busy-Quiet networks."""

from typing import Any

import torch
from torch import Tensor, nn

from mrx.checks import check_choice
from mrx.kernels import choose_backend
from mrx.kernels.band_pass import band_pass, filter_colors_by_opencv
from mrx.methods.spec import (
    COLOR_STATISTICS,
    Method,
    Normalization,
    Representation,
    full_precision,
    hash_weights,
    normalize_bytes,
)
from mrx.ops.stencils import (
    KernelScale,
    laplacian_of_gaussian,
    reflect_depthwise,
    second_difference,
)

_RARE_OUTPUT_SHARE = 0.053
"""Share of the largest possible output that outputs rarely exceed."""


class MBPM(Representation):
    """Keeps motion: a Laplacian of Gaussian in space, minus a second difference in time.

    ``LoG * (2 f1 - f0 - f2) / 3`` per color, of three frames (Busy-Quiet Video Disentangling for
    Video Classification; the layout of the released code, which divides the LoG by its own sum).
    Brightness that is still, or linear in time, gives 0. It computes in float32 at least, under
    autocast too: the gain of the kernel is 1589.

    Args:
        sigma: of the Gaussian, in pixels
        size: taps of the spatial kernel each way, odd
        scale: of the kernel: divided by its sum as in the ``released`` code, or plain as in the
            ``paper``, which by default is 1281 times smaller and of the other sign
        normalize: mean and deviation to normalize the colors with

    Shape:
        - clip: ``(B, 3, 3, H, W)``, H and W above ``size // 2``
        - output: ``(B, 3, H, W)``
    """

    key_prefixes = ("", "mbpf1.", "mbpf.")

    def __init__(
        self,
        sigma: float = 1.1,
        size: int = 9,
        scale: KernelScale = "released",
        normalize: Normalization = "imagenet",
    ) -> None:
        super().__init__()
        check_choice("scale", scale, KernelScale)
        check_choice("normalize", normalize, Normalization)
        self.normalize = normalize
        self.log = laplacian_of_gaussian(size, sigma, scale=scale)
        self.conv_s, self.conv_t = build_depthwise_filters(3, self.log.kernel)
        self._untrained_weights = tuple(
            w.float() for w in _make_untrained_filters(3, self.log.kernel)
        )
        deviation = torch.tensor(COLOR_STATISTICS[normalize][1], dtype=torch.float64)
        self._gain = 1 / (3 * 255 * deviation)
        self.length = 3
        self.step = 3
        self.channels = ("red", "green", "blue")
        self.smallest = size // 2 + 1
        self.bound = self.estimate_bound()

    def prepare(self, frames: Tensor) -> Tensor:
        """Scale bytes to 0..1, subtract the mean and divide by the deviation."""
        dtype = torch.promote_types(self.conv_s.weight.dtype, torch.float32)
        return normalize_bytes(frames, self.normalize, dtype)

    def forward(self, clip: Tensor) -> Tensor:
        """Filter a clip as `prepare` scales it, or on any other scale."""
        self.check_clip(clip)
        with full_precision(clip) as frames:
            # Time first: the same sums, three times cheaper.
            return reflect_depthwise(self._filter_time(frames), self.conv_s.weight.to(frames.dtype))

    def extract(self, frames: Tensor) -> Tensor:
        """Filter bytes; on the CPU without gradients, by a faster twin.

        It agrees with `forward` to 1e-6 of the largest output.
        """
        kind = choose_backend()
        needs_torch = frames.device.type != "cpu" or torch.is_grad_enabled() or kind == "torch"
        if needs_torch or self.conv_s.weight.dtype != torch.float32:
            return super().extract(frames)
        self.check_clip(frames)
        # The separable twin serves the untrained filters only.
        if self.is_trained:
            return filter_colors_by_opencv(
                self._filter_time(self.prepare(frames)), self.conv_s.weight
            )
        return band_pass(frames, self.log.first, self.log.second, self._gain, backend=kind)

    @property
    def is_trained(self) -> bool:
        """True if the weights differ from the initial ones."""
        present = (self.conv_s.weight, self.conv_t.weight)
        pairs = zip(present, self._untrained_weights, strict=True)
        return not all(torch.equal(now, before.to(now)) for now, before in pairs)

    def estimate_bound(self) -> float:
        """Return a share of the largest output of colors in 0..1."""
        deviation = torch.tensor(COLOR_STATISTICS[self.normalize][1])
        space = self.conv_s.weight.detach().abs().sum((1, 2, 3)).float().cpu()
        time = self.conv_t.weight.detach().abs().sum((1, 2)).float().cpu()
        return _RARE_OUTPUT_SHARE * (space * time / deviation).max().item()

    def collect_facts(self) -> dict[str, Any]:
        """Return the normalization in numbers, and the state and hash of the weights."""
        mean, deviation = COLOR_STATISTICS[self.normalize]
        return {
            "mean": mean,
            "std": deviation,
            "trained": self.is_trained,
            "weights_sha256": hash_weights(self),
        }

    def _filter_time(self, frames: Tensor) -> Tensor:
        taps = self.conv_t.weight[:, 0].to(frames.dtype)
        before, now, after = frames.unbind(1)
        return second_difference(before, now, after, taps)


def build_depthwise_filters(channels: int, kernel: Tensor) -> tuple[nn.Conv2d, nn.Conv1d]:
    """Build both depthwise filters, in the shapes of the released code."""
    size = len(kernel)
    # On the meta device no random weights are drawn: the caller's generator stays untouched.
    shape: dict[str, Any] = {"groups": channels, "bias": False, "device": "meta"}
    space = nn.Conv2d(channels, channels, size, **shape).to_empty(device="cpu")
    time = nn.Conv1d(channels, channels, 3, **shape).to_empty(device="cpu")
    with torch.no_grad():
        for layer, weight in zip(
            (space, time), _make_untrained_filters(channels, kernel), strict=True
        ):
            layer.weight.copy_(weight)
    return space, time


def _make_untrained_filters(channels: int, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Return the initial weights of both filters, in float64."""
    taps = torch.tensor([-1.0, 2.0, -1.0], dtype=torch.float64) / 3
    return kernel.expand(channels, 1, -1, -1), taps.expand(channels, 1, -1)


METHOD = Method(
    name="mbpm",
    module=MBPM,
    summary="band-passed motion of three frames, per color",
    paper="Busy-Quiet Video Disentangling for Video Classification (Huang, Bors; WACV 2022)",
    cost="light",
)

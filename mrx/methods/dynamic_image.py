"""Dynamic images: one image whose pixels rank the frames of a window in time."""

from typing import Literal

import torch
from torch import Tensor

from mrx.checks import check_choice
from mrx.kernels import choose_backend
from mrx.kernels import weighted_sum as fast_sum
from mrx.methods.spec import Method, Representation, full_precision
from mrx.ops.rank_pool import Coefficients, exact_rank_pool, frame_weights, weighted_sum

Pooling = Literal["approximate", "exact"]

_FRAME_VALUES = 3 * 256 * 340


class DynamicImage(Representation):
    """Summarize frames in one image: ``d = Σ_t a_t I_t`` (Dynamic Image Networks, rank pooling).

    Frames are 0..255, neither normalized nor scaled. The ``exact`` form solves VideoDarwin's
    support vector regression instead; it is not linear, carries no gradient, and ends when the
    solution is found, which neither `torch.compile` nor `torch.export` nor `vmap` can follow.

    Args:
        length: frames in a window
        pooling: ``approximate`` weights frames by coefficients, ``exact`` solves for the image
        coefficients: of the ``original`` authors' code, of the ``tcvrick`` port, which let the
            still scene through, or the ``simple`` 2t - T - 1; for approximate pooling
        strength: cost of an error in the regression, C; for exact pooling

    Shape:
        - clip: ``(B, length, 3, H, W)``
        - output: ``(B, 3, H, W)``
    """

    def __init__(
        self,
        length: int = 6,
        pooling: Pooling = "approximate",
        coefficients: Coefficients = "original",
        strength: float = 10.0,
    ) -> None:
        super().__init__()
        check_choice("pooling", pooling, Pooling)
        check_choice("coefficients", coefficients, Coefficients)
        if not strength > 0:
            raise ValueError(f"strength={strength}: must be above 0")
        self.pooling = pooling
        self.strength = strength
        self.weights = frame_weights(length, coefficients)
        self._weight_values = self.weights.tolist()
        if not self.weights.any():
            raise ValueError(f"length={length}, coefficients={coefficients}: all weights are 0")
        self.length = length
        self.step = 6
        self.channels = ("red", "green", "blue")
        self.bound = self.estimate_bound()

    def prepare(self, frames: Tensor) -> Tensor:
        """Convert bytes to floats, still 0..255."""
        return frames.float()

    def forward(self, clip: Tensor) -> Tensor:
        """Pool a clip of values in 0..255."""
        self.check_clip(clip)
        with full_precision(clip) as frames:
            return self._pool_frames(frames)

    def extract(self, frames: Tensor) -> Tensor:
        """Pool bytes, without a floating-point copy of them."""
        self.check_clip(frames)
        bytes_on_cpu = frames.device.type == "cpu" and frames.dtype == torch.uint8
        if bytes_on_cpu and self.pooling == "approximate" and choose_backend() == "numba":
            return fast_sum.sum_frames_by_numba(frames, self.weights)
        return self._pool_frames(frames)

    def estimate_bound(self) -> float:
        """Return the maximum of approximate pooling, or a value that exact pooling rarely exceeds.

        The norm of the exact image is at most ``√(2 C Σ_t (t - 0.1)²)``, where w = 0 costs as much.
        The bound is ten times the root mean square of an image of that norm at 256x340.
        """
        if self.pooling == "approximate":
            return 255 * self.weights.clamp(min=0).sum().item()
        errors = torch.arange(1, self.length + 1) - 0.1
        return 10 * (2 * self.strength * errors.square().sum() / _FRAME_VALUES).sqrt().item()

    def _pool_frames(self, frames: Tensor) -> Tensor:
        if self.pooling == "approximate":
            return weighted_sum(frames, self._weight_values)
        image = exact_rank_pool(frames, self.strength)
        return image.to(frames.dtype if frames.is_floating_point() else torch.float32)


METHOD = Method(
    name="dynamic-image",
    module=DynamicImage,
    summary="one image of a window by rank pooling over time",
    paper="Dynamic Image Networks for Action Recognition (Bilen et al.; CVPR 2016)",
    cost="light",
)

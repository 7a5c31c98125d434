"""TVNet: TV-L1 flow unrolled into layers that can be trained."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mrx.checks import check_choice
from mrx.methods.spec import (
    Method,
    Representation,
    full_precision,
    hash_weights,
    name_flow_channels,
)
from mrx.methods.tvnet_names import UnrollDepth, translate_tvnet_state
from mrx.ops.flow import map_neighbors
from mrx.ops.tvnet_solver import (
    DifferenceTaps,
    OutsideMode,
    PadMode,
    SolverConstants,
    WarpSampling,
    convert_to_gray,
    forward_gradient,
    iterate_in_place,
    iterate_warp,
    normalize_pair,
    smooth_by_kernel,
    smoothing_kernel,
    unroll_flow,
    warp,
)

TVNetPreset = Literal["tvnet50", "multiscale"]


TVNET_PRESETS: dict[str, UnrollDepth] = {
    "tvnet50": UnrollDepth(scales=1, warps=1, iterations=50, zoom=0.5),
    "multiscale": UnrollDepth(scales=5, warps=5, iterations=50, zoom=0.5),
}
"""TVNet-50 of the paper, and the depth that the authors' demo runs by default."""


class TVNet(Representation):
    """Optical flow by TV-L1, unrolled so that its differences are trained with a classifier.

    An iteration: ``v = u + clip(-ρ/|∇I|², ±λθ) ∇I``, ``u = v + θ div p``, and eq. 11 of the paper
    as its supplement repeats it, ``p = (p + τ/θ ∇u) / (1 + τ/θ √(|∇u|² + 1e-12))``. Its ``div``
    and ``∇u`` have 16 taps of their own, untrained (-1, 1). Grey values, smoothing and sampling
    are those of the official code. It computes in float32 at least, under autocast too.

    **Frames are RGB in 0..255**, neither 0..1 nor normalised, and nothing tells them apart: in
    0..1, rounding down leaves no picture, and without `normalize_pair` there is almost no flow.

    Args:
        preset: ``tvnet50``, or ``multiscale`` for 5 scales, 5 warps and 50 iterations
        stack: flows in a window, of neighbouring frames; it takes one frame more
        scales: at most; small frames have fewer. None is the preset's, also for the next three
        warps: of the second frame at each scale
        iterations: after each warp
        zoom: size of a scale over that of the next finer one
        floor_grey: round grey values down
        normalize_pair: stretch the grey values of each pair of frames to 0..255
        pad: what surrounds frames when they are smoothed; ``zero`` darkens 2 pixels at the border
        outside: what is sampled there, see `mrx.ops.tvnet_solver.warp`
        short_shift: sample at (1 - 1/W) u, not u, as the official code does
        tau: step of the dual, τ
        strength: weight of the brightness error, λ
        theta: coupling of the brightness error to the smooth flow, θ
        train_constants: train τ, λ and θ as parameters ``log_tau``, .., which keeps them above 0
        field_height: of a trained flow to start from, interpolated to the coarsest scale; 0 is none
        field_width: of the same

    Shape:
        - clip: ``(B, stack + 1, 3, H, W)``, 0..255
        - output: ``(B, 2 * stack, H, W)``: x (right), y (down) of each flow in turn, in pixels
        - divergence, gradient: ``(scales, warps, iterations, 2, 2, 2)``: scale from the finest,
          warp, iteration, component of the flow, axis of the difference, tap
        - initial_field: ``(2, field_height, field_width)``, in pixels of its own grid
    """

    units = "px"
    key_prefixes = ("", "tvnet.")
    initial_field: nn.Parameter | None
    kernel: Tensor

    def __init__(
        self,
        preset: TVNetPreset = "tvnet50",
        stack: int = 1,
        scales: int | None = None,
        warps: int | None = None,
        iterations: int | None = None,
        zoom: float | None = None,
        floor_grey: bool = True,
        normalize_pair: bool = True,
        pad: PadMode = "zero",
        outside: OutsideMode = "extrapolate",
        short_shift: bool = True,
        tau: float = 0.25,
        strength: float = 0.15,
        theta: float = 0.3,
        train_constants: bool = False,
        field_height: int = 0,
        field_width: int = 0,
    ) -> None:
        super().__init__()
        check_choice("preset", preset, TVNetPreset)
        check_choice("pad", pad, PadMode)
        check_choice("outside", outside, OutsideMode)
        overrides = {"scales": scales, "warps": warps, "iterations": iterations, "zoom": zoom}
        given = {name: value for name, value in overrides.items() if value is not None}
        self.depth = UnrollDepth(**(TVNET_PRESETS[preset]._asdict() | given))
        self.constants = {"tau": tau, "strength": strength, "theta": theta}
        _check_tvnet_numbers(stack, self.depth, self.constants, (field_height, field_width))
        self.floor_grey, self.normalize_pair, self.pad = floor_grey, normalize_pair, pad
        self.sampling = WarpSampling(outside, shorten=short_shift)
        self.train_constants = train_constants
        taps = torch.tensor([-1.0, 1.0]).repeat(*self.depth[:3], 2, 2, 1)
        self.divergence = nn.Parameter(taps)
        self.gradient = nn.Parameter(taps.clone())
        start = nn.Parameter(torch.zeros(2, field_height, field_width))
        self.initial_field = start if field_height else None
        for name, value in self.constants.items() if train_constants else ():
            self.register_parameter(f"log_{name}", nn.Parameter(torch.tensor(math.log(value))))
        self.register_buffer("kernel", smoothing_kernel().float(), persistent=False)
        self._untrained_weights = {
            name: value.detach().clone() for name, value in self.named_parameters()
        }
        self.length = stack + 1
        self.step = 1
        self.channels = name_flow_channels(stack)
        self.bound = 20.0
        self.smallest = 2 if pad == "zero" else 3

    def prepare(self, frames: Tensor) -> Tensor:
        """Bytes as floats, 0..255 as they are."""
        return frames.to(torch.promote_types(self.divergence.dtype, torch.float32))

    def forward(self, clip: Tensor) -> Tensor:
        """Flows between neighbouring frames of a clip of values in 0..255."""
        self.check_clip(clip)
        with full_precision(clip) as frames:
            return self._compute_flows(frames, in_place=False)

    def extract(self, frames: Tensor) -> Tensor:
        """Flows from bytes: on the CPU without gradients one pair at a time, untrained in place.

        It gives the bits of `forward`.
        """
        if frames.device.type != "cpu" or torch.is_grad_enabled() or len(frames) == 0:
            return super().extract(frames)
        self.check_clip(frames)
        in_place = not self._is_trained({"divergence", "gradient"})

        def compute_pair(before: Tensor, after: Tensor) -> Tensor:
            with full_precision(self.prepare(torch.stack([before, after])[None])) as pair:
                return self._compute_flows(pair, in_place=in_place)

        return map_neighbors(frames, compute_pair)

    def translate_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The official TensorFlow code's names, or the PyTorch port's, to this module's.

        TensorFlow's are like ``tvl1_flow/scale0/warping0/iter0/divergence/div_p1_diff_x/kernel``,
        with ``:0`` or without; the port's ``warpblock.iterblock1.divergence_x.div_conv_x.weight``.
        Their ``u1`` and ``u2`` become the `initial_field`, which must be of that size here; without
        one here they must be 0. What both do not train, the port's centred gradient among it, must
        be as it was made; taps that only their loss uses are left out.

        Raises:
            ValueError: names are missing, unknown or of another shape, or fixed values differ
        """
        found = translate_tvnet_state(state, self.depth, has_field=self.initial_field is not None)
        if found is None:
            return state
        return {k: v for k, v in self.state_dict().items() if k.startswith("log_")} | found

    def collect_facts(self) -> dict[str, Any]:
        """What the preset and the weights come to, in numbers."""
        present = dict(self.named_parameters())
        logs = {k: present[f"log_{k}"] for k in self.constants if self.train_constants}
        return {
            **self.depth._asdict(),
            **(self.constants | {name: log.exp().item() for name, log in logs.items()}),
            "trained": self._is_trained(self._untrained_weights),
            "weights_sha256": hash_weights(self),
        }

    def _is_trained(self, names: Iterable[str]) -> bool:
        """Whether any of these parameters is other than it was made."""
        pairs = ((self.get_parameter(name), self._untrained_weights[name]) for name in names)
        return not all(torch.equal(now, made.to(now)) for now, made in pairs)

    def _compute_flows(self, frames: Tensor, *, in_place: bool) -> Tensor:
        """Flows of ``(B, T, 3, H, W)``, as ``(B, 2 * (T - 1), H, W)``."""
        gray_frames = convert_to_gray(frames, round_down=self.floor_grey)
        first, second = gray_frames[:, :-1].flatten(0, 1), gray_frames[:, 1:].flatten(0, 1)
        if self.normalize_pair:
            first, second = normalize_pair(first, second)
        kernel = self.kernel.to(frames.dtype)
        start = self.initial_field
        flow, _ = unroll_flow(
            smooth_by_kernel(first, kernel, self.pad),
            smooth_by_kernel(second, kernel, self.pad),
            DifferenceTaps(self.divergence.to(frames.dtype), self.gradient.to(frames.dtype)),
            self._cast_constants(frames),
            zoom=self.depth.zoom,
            sampling=self.sampling,
            initial_field=None if start is None else start.to(frames.dtype),
            run_warp=iterate_in_place if in_place else iterate_warp,
        )
        return flow.view(len(frames), 2 * (frames.shape[1] - 1), *flow.shape[2:])

    def _cast_constants(self, frames: Tensor) -> SolverConstants:
        if self.train_constants:
            logs = (self.get_parameter(f"log_{name}") for name in self.constants)
            return SolverConstants(*(log.to(frames.dtype).exp() for log in logs))
        return SolverConstants(*(frames.new_full((), value) for value in self.constants.values()))


def _check_tvnet_numbers(
    stack: int, depth: UnrollDepth, constants: dict[str, float], size: tuple[int, int]
) -> None:
    counts = {"stack": stack, **depth._asdict()}
    zoom = counts.pop("zoom")
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    for name, constant in constants.items():
        if not constant > 0:
            raise ValueError(f"{name}={constant}: must be above 0")
    if not 0 < zoom < 1:
        raise ValueError(f"zoom={zoom}: must be above 0 and below 1")
    if (size[0] > 0) != (size[1] > 0) or min(size) < 0:
        raise ValueError(
            f"field_height={size[0]}, field_width={size[1]}: both above 0, or both 0 for none"
        )


def flow_loss(
    first: Tensor,
    second: Tensor,
    flow: Tensor,
    *,
    strength: float,
    sampling: WarpSampling,
    taps: Tensor | None = None,
) -> Tensor:
    """``λ mean|I2(x + u) - I1| + mean(|u1x| + |u1y| + |u2x| + |u2y|)``, the loss of TVNet.

    What a network that classifies by the flow adds, times a weight, to its own loss. The authors'
    code has λ = 0.15; the weight is not in it. `sampling` is a module's attribute.

    Shape:
        - first, second: ``(N, C, H, W)``, 0..255, neither gray nor smoothed
        - flow: ``(N, 2, H, W)``, from the first to the second
        - taps: ``(2, 2, 2)`` of the differences of the flow: component, axis, tap; None: (-1, 1)
        - output: no axes
    """
    if taps is None:
        taps = flow.new_tensor([-1.0, 1.0]).expand(2, 2, 2)
    brightness = (warp(second.to(flow), flow, sampling) - first).abs().mean()
    along_x, along_y = forward_gradient(flow, taps)
    # Both components are summed at a pixel before the mean, hence the 2.
    return strength * brightness + 2 * (along_x.abs() + along_y.abs()).mean()


METHOD = Method(
    name="tvnet",
    module=TVNet,
    summary="TV-L1 flow unrolled into trainable layers, 50 iterations",
    paper="End-to-End Learning of Motion Representation for Video Understanding (Fan et al.; "
    "CVPR 2018)",
    cost="heavy",
)

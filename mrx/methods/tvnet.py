"""TVNet: TV-L1 flow unrolled into trainable layers."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from mrx.checks import check_choice
from mrx.methods.spec import (
    Method,
    Representation,
    full_precision,
    hash_weights,
    keep_traced_size,
    name_flow_channels,
)
from mrx.methods.tvnet_depth import TVNetPreset, check_tvnet_numbers, choose_depth
from mrx.methods.tvnet_flow import FlowRules, FlowWeights, FrameLight, compute_clip_flows
from mrx.methods.tvnet_names import translate_tvnet_state
from mrx.methods.weights import WeightSnapshot
from mrx.ops.flow import map_neighbors
from mrx.ops.tvnet_solver import (
    DifferenceTaps,
    OutsideMode,
    PadMode,
    SolverConstants,
    WarpSampling,
    forward_gradient,
    smoothing_kernel,
    warp,
)


class TVNet(Representation):
    """Optical flow by TV-L1, unrolled so that its differences train with a classifier.

    An iteration: ``v = u + clip(-ρ/|∇I|², ±λθ) ∇I``, ``u = v + θ div p``, and eq. 11 of the paper
    as repeated in its supplement, ``p = (p + τ/θ ∇u) / (1 + τ/θ √(|∇u|² + 1e-12))``. Each iteration
    has 16 taps of its own for ``div`` and ``∇u``, untrained (-1, 1). Gray values, smoothing and
    sampling are those of the official code. It computes in float32 at least, under autocast too.

    **Frames are RGB in 0..255**, neither 0..1 nor normalized. Nothing checks this: in 0..1,
    rounding down leaves black frames, and without `normalize_pair` the flow is almost zero.

    Args:
        preset: ``tvnet50``, or ``multiscale`` for 5 scales, 5 warps and 50 iterations
        stack: flows in a window, each between adjacent frames; it takes one frame more
        scales: maximum number; small frames have fewer. None is the preset's, also for the next
            three
        warps: of the second frame at each scale
        iterations: after each warp
        zoom: size of a scale relative to the next finer one
        floor_grey: round gray values down
        normalize_pair: stretch the gray values of each pair of frames to 0..255
        pad: border of frames for smoothing; ``zero`` darkens 2 pixels at the border
        outside: sampling outside the frame, see `mrx.ops.tvnet_solver.warp`
        short_shift: sample at (1 - 1/W) u instead of u, as the official code does
        tau, strength, theta: step of the dual, τ, weight of the brightness error, λ, and its
            coupling to the smooth flow, θ
        train_constants: train τ, λ and θ as parameters ``log_tau``, .., which keeps them above 0
        field_height, field_width: size of a trained flow to start from, interpolated to the
            coarsest scale; a height of 0 is none
        light: ``frame`` gives the earlier frame the gain and offset of the later one

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
        light: FrameLight = "none",
    ) -> None:
        super().__init__()
        check_choice("preset", preset, TVNetPreset)
        check_choice("pad", pad, PadMode)
        check_choice("outside", outside, OutsideMode)
        check_choice("light", light, FrameLight)
        given = {"scales": scales, "warps": warps, "iterations": iterations, "zoom": zoom}
        self.depth = choose_depth(preset, given)
        self.constants = {"tau": tau, "strength": strength, "theta": theta}
        check_tvnet_numbers(stack, self.depth, self.constants, (field_height, field_width))
        self.sampling = WarpSampling(outside, shorten=short_shift)
        zoom = self.depth.zoom
        self.rules = FlowRules(floor_grey, normalize_pair, pad, self.sampling, zoom, light)
        self.train_constants = train_constants
        taps = torch.tensor([-1.0, 1.0]).repeat(*self.depth[:3], 2, 2, 1)
        self.divergence = nn.Parameter(taps)
        self.gradient = nn.Parameter(taps.clone())
        start = nn.Parameter(torch.zeros(2, field_height, field_width))
        self.initial_field = start if field_height else None
        # As logarithms, so that training keeps the constants above 0.
        for name, value in self.constants.items() if train_constants else ():
            self.register_parameter(f"log_{name}", nn.Parameter(torch.tensor(math.log(value))))
        self.register_buffer("kernel", smoothing_kernel().float(), persistent=False)
        self._untrained_weights = WeightSnapshot(self)
        self.length = stack + 1
        self.step = 1
        self.channels = name_flow_channels(stack)
        self.bound = 20.0
        # To reflect 2 pixels beside the edge, a side needs 3.
        self.smallest = 2 if pad == "zero" else 3

    def prepare(self, frames: Tensor) -> Tensor:
        """Convert bytes to floats, still 0..255."""
        return frames.to(torch.promote_types(self.divergence.dtype, torch.float32))

    def forward(self, clip: Tensor) -> Tensor:
        """Compute the flows between adjacent frames of a clip of values in 0..255."""
        self.check_clip(clip)
        with full_precision(clip) as frames:
            weights = self._cast_weights(frames.dtype)
            return compute_clip_flows(keep_traced_size(frames), weights, self.rules, in_place=False)

    def extract(self, frames: Tensor) -> Tensor:
        """Compute flows from bytes, with the bits of `forward`.

        On the CPU without gradients it runs pair by pair, and in place if the taps are untrained.
        """
        if frames.device.type != "cpu" or torch.is_grad_enabled() or len(frames) == 0:
            return super().extract(frames)
        self.check_clip(frames)
        in_place = not self._untrained_weights.differ_from(self, ("divergence", "gradient"))

        def compute_pair(before: Tensor, after: Tensor) -> Tensor:
            with full_precision(self.prepare(torch.stack([before, after])[None])) as pair:
                weights = self._cast_weights(pair.dtype)
                return compute_clip_flows(pair, weights, self.rules, in_place=in_place)

        return map_neighbors(frames, compute_pair)

    def translate_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename weights of the official code or its PyTorch port; see `translate_tvnet_state`."""
        weights = translate_tvnet_state(state, self.depth, has_field=self.initial_field is not None)
        if weights is None:
            return state
        # No foreign file has constants: this module keeps its own.
        return {k: v for k, v in self.state_dict().items() if k.startswith("log_")} | weights

    def collect_facts(self) -> dict[str, Any]:
        """Return the depth, the constants, and the state and hash of the weights."""
        logs = {k: getattr(self, f"log_{k}") for k in self.constants if self.train_constants}
        return {
            **self.depth._asdict(),
            **(self.constants | {name: log.exp().item() for name, log in logs.items()}),
            "trained": self._untrained_weights.differ_from(self),
            "weights_sha256": hash_weights(self),
        }

    def _cast_weights(self, dtype: torch.dtype) -> FlowWeights:
        kernel = self.kernel.to(dtype)
        constants = [kernel.new_full((), value) for value in self.constants.values()]
        if self.train_constants:
            # Attributes, as `torch.func.functional_call` sets others than the parameters.
            constants = [getattr(self, f"log_{name}").to(dtype).exp() for name in self.constants]
        taps = DifferenceTaps(self.divergence.to(dtype), self.gradient.to(dtype))
        start = None if self.initial_field is None else self.initial_field.to(dtype)
        return FlowWeights(kernel, taps, SolverConstants(*constants), start)


def flow_loss(
    first: Tensor,
    second: Tensor,
    flow: Tensor,
    *,
    strength: float,
    sampling: WarpSampling,
    taps: Tensor | None = None,
) -> Tensor:
    """Compute TVNet's loss, ``λ mean|I2(x + u) - I1| + mean(|u1x| + |u1y| + |u2x| + |u2y|)``.

    A network that classifies by the flow adds it, times a weight, to its own loss. The authors'
    code has λ = 0.15; it does not give the weight. `sampling` is an attribute of `TVNet`.

    Shape:
        - first, second: ``(N, C, H, W)``, 0..255, neither gray nor smoothed
        - flow: ``(N, 2, H, W)``, from the first to the second
        - taps: ``(2, 2, 2)``, of the flow's differences: component, axis, tap; None: (-1, 1)
        - output: no axes
    """
    if taps is None:
        taps = flow.new_tensor([-1.0, 1.0]).expand(2, 2, 2)
    brightness = (warp(second.to(flow), flow, sampling) - first).abs().mean()
    along_x, along_y = forward_gradient(flow, taps)
    # The mean runs over both components, which the loss sums at each pixel: hence the 2.
    return strength * brightness + 2 * (along_x.abs() + along_y.abs()).mean()


METHOD = Method(
    name="tvnet",
    module=TVNet,
    summary="TV-L1 flow unrolled into trainable layers, 50 iterations",
    paper="End-to-End Learning of Motion Representation for Video Understanding (Fan et al.; "
    "CVPR 2018)",
    cost="heavy",
)

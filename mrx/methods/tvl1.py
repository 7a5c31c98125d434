"""TV-L1 optical flow."""

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

from mrx.checks import check_choice
from mrx.kernels import choose_backend, tvl1_cpu
from mrx.methods.spec import (
    Method,
    Representation,
    full_precision,
    keep_traced_size,
    name_flow_channels,
)
from mrx.ops.flow import estimate_flow
from mrx.ops.tvl1_solver import (
    FlowStart,
    GradientKind,
    LightMatching,
    MedianPlace,
    SolverRules,
)
from mrx.ops.warp import BorderMode

TVL1Preset = Literal["matched", "accurate", "fast", "opencv", "opencv-cuda"]

_ACCURATE = SolverRules(
    tau=0.25,
    strength=0.15,
    theta=0.3,
    zoom=0.7,
    levels=999,
    blur=True,
    warps=5,
    outer=1,
    inner=20,
    epsilon=0.0,
    median=5,
    median_at="warp",
    gradient="mixed",
    cubic=-0.5,
    border="clamp",
    masked=True,
    texture=0.85,
    texture_gain=3.0,
    texture_rounds=40,
    light="local",
    start="zero",
)
_OPENCV = dataclasses.replace(
    _ACCURATE,
    zoom=0.8,
    levels=5,
    blur=False,
    outer=10,
    inner=30,
    epsilon=0.01,
    median_at="round",
    gradient="central",
    cubic=-0.75,
    border="zero",
    masked=False,
    texture=0.0,
    light="none",
)
TVL1_PRESETS: dict[TVL1Preset, SolverRules] = {
    "matched": dataclasses.replace(_ACCURATE, start="matches"),
    "accurate": _ACCURATE,
    "fast": dataclasses.replace(_ACCURATE, zoom=0.6, warps=3, inner=10, texture_rounds=20),
    "opencv": _OPENCV,
    "opencv-cuda": dataclasses.replace(
        _OPENCV, outer=1, inner=300, median=1, cubic=-0.5, border="clamp"
    ),
}
"""Mean errors in pixels over 4 pairs of Middlebury, 7 synthetic ones and 2 of Sintel, and the same
with a gain of 1.15 and an offset of 10 gray values in the later frame:

- ``matched``: 0.227, 0.059 and 0.822; 0.231, 0.062 and 0.834
- ``accurate``: 0.227, 0.059 and 0.928; 0.230, 0.063 and 0.937
- ``fast``: 0.266, 0.071 and 1.054; 0.265, 0.077 and 1.028
- ``accurate`` with ``light=none``: 0.233, 0.136 and 0.924; 7.6, 7.8 and 6.9

Without texture small motion is less accurate (0.263, 0.066 and 0.993 with a local match of light).
See tests/benchmarks/results for the tables."""


class TVL1(Representation):
    """Displacements of every pixel from one frame to the next, by TV-L1 (`mrx.ops.tvl1_solver`).

    Gray values must be in 0..`white`: the weight of the data term assumes gray levels of 0..255.
    Frames on another scale give almost no motion, without an error.

    Presets: ``matched`` starts from matches of cells where these fit better than the flow of the
    smaller levels, which finds what moves farther than it is large; it also gives the earlier
    frame the light of the later one, over the frame and around each pixel. ``accurate`` is the
    same without matches, and ``fast`` without matches and with fewer iterations. ``opencv``
    follows OpenCV 5's DualTVL1OpticalFlow, which early stops make chaotic: the two agree in the
    mean, not in each pixel. ``opencv-cuda`` follows the source of OpenCV's CUDA class, which
    denseflow calls; it was never compared with a run of that class, and it tests for an early
    stop at every iteration. These two expect frames of equal light.

    `torch.compile`, `torch.export` and `torch.func` follow all presets but these two, whose early
    stop depends on the data: ``epsilon=0`` runs all of their iterations.

    Args:
        preset: rules to start from; parameters that are given override it
        stack: displacements in a window of ``stack + 1`` frames
        white: gray value of white in the clips passed to `forward`
        half_state: let `extract` keep half precision between kernel launches on a GPU
        tau, strength, theta, zoom, levels, blur, warps, outer, inner, epsilon, median, median_at,
            gradient, cubic, border, masked, texture, texture_gain, texture_rounds, light, start:
            see `SolverRules`; None is the preset's

    Shape:
        - clip: ``(B, stack + 1, 1, H, W)``
        - output: ``(B, 2 * stack, H, W)``, x right and y down of each pair in turn, in pixels
    """

    color = "gray"
    units = "px"

    def __init__(
        self,
        preset: TVL1Preset = "matched",
        stack: int = 1,
        white: float = 255.0,
        half_state: bool = False,
        tau: float | None = None,
        strength: float | None = None,
        theta: float | None = None,
        zoom: float | None = None,
        levels: int | None = None,
        blur: bool | None = None,
        warps: int | None = None,
        outer: int | None = None,
        inner: int | None = None,
        epsilon: float | None = None,
        median: int | None = None,
        median_at: MedianPlace | None = None,
        gradient: GradientKind | None = None,
        cubic: float | None = None,
        border: BorderMode | None = None,
        masked: bool | None = None,
        texture: float | None = None,
        texture_gain: float | None = None,
        texture_rounds: int | None = None,
        light: LightMatching | None = None,
        start: FlowStart | None = None,
    ) -> None:
        super().__init__()
        check_choice("preset", preset, TVL1Preset)
        if stack < 1:
            raise ValueError(f"stack={stack}: must be at least 1")
        if not white > 0:
            raise ValueError(f"white={white}: must be above 0")
        given = {
            "tau": tau,
            "strength": strength,
            "theta": theta,
            "zoom": zoom,
            "levels": levels,
            "blur": blur,
            "warps": warps,
            "outer": outer,
            "inner": inner,
            "epsilon": epsilon,
            "median": median,
            "median_at": median_at,
            "gradient": gradient,
            "cubic": cubic,
            "border": border,
            "masked": masked,
            "texture": texture,
            "texture_gain": texture_gain,
            "texture_rounds": texture_rounds,
            "light": light,
            "start": start,
        }
        chosen: dict[str, Any] = {k: value for k, value in given.items() if value is not None}
        self.rules = dataclasses.replace(TVL1_PRESETS[preset], **chosen)
        self.preset = preset
        self.white = white
        self.half_state = half_state
        self.length = stack + 1
        self.step = 1
        self.channels = name_flow_channels(stack)
        self.bound = 20.0

    def prepare(self, frames: Tensor) -> Tensor:
        """Scale bytes to 0..`white`."""
        return frames.float() * (self.white / 255)

    def forward(self, clip: Tensor) -> Tensor:
        """Compute the flow with plain tensors; gradients pass through all iterations."""
        self.check_clip(clip)
        with full_precision(clip) as frames:
            return estimate_flow(keep_traced_size(frames) * (255 / self.white), self.rules)

    def extract(self, frames: Tensor) -> Tensor:
        """Compute the flow of bytes; without gradients, by the fastest kernel available."""
        if torch.is_grad_enabled() or len(frames) == 0:
            return super().extract(frames)
        self.check_clip(frames)
        return tvl1_cpu.compute_tvl1_flow(
            frames, self.rules, backend=choose_backend(), half=self.half_state
        )

    def collect_facts(self) -> dict[str, Any]:
        """Return the preset and the resolved rules."""
        return {"preset": self.preset, **dataclasses.asdict(self.rules)}


METHOD = Method(
    name="tvl1",
    module=TVL1,
    summary="optical flow by TV-L1, in pixels",
    paper="A Duality Based Approach for Realtime TV-L1 Optical Flow (Zach, Pock, Bischof; 2007)",
    cost="heavy",
)

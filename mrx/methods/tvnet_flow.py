"""Flows of TVNet as a function of frames, weights and rules."""

from typing import Literal, NamedTuple

from torch import Tensor

from mrx.ops.light import match_frame_light
from mrx.ops.tvnet_solver import (
    DifferenceTaps,
    PadMode,
    SolverConstants,
    WarpSampling,
    convert_to_gray,
    iterate_in_place,
    iterate_warp,
    normalize_pair,
    smooth_by_kernel,
    unroll_flow,
)

FrameLight = Literal["none", "frame"]


class FlowRules(NamedTuple):
    """Untrained choices of a TVNet.

    Attributes:
        floor_gray: round gray values down
        normalize_pair: stretch the gray values of each pair of frames to 0..255
        pad: border of frames for smoothing
        sampling: of the second frame along the flow
        zoom: size of a scale relative to the next finer one
        light: ``frame`` gives the earlier frame the gain and offset of the later one
    """

    floor_gray: bool
    normalize_pair: bool
    pad: PadMode
    sampling: WarpSampling
    zoom: float
    light: FrameLight


class FlowWeights(NamedTuple):
    """Tensors of a TVNet, all of the dtype of the frames.

    Shape:
        - kernel: ``(5, 5)``, of the smoothing
        - initial_field: ``(2, h, w)``, or None to start from no motion
    """

    kernel: Tensor
    taps: DifferenceTaps
    constants: SolverConstants
    initial_field: Tensor | None


def compute_clip_flows(
    frames: Tensor, weights: FlowWeights, rules: FlowRules, *, in_place: bool
) -> Tensor:
    """Compute the flows between adjacent frames of each clip.

    Args:
        frames: clips in R, G, B
        weights: in the dtype of the frames
        rules: gray values, smoothing and sampling
        in_place: run the in-place twin, for untrained taps without gradients

    Shape:
        - frames: ``(B, T, 3, H, W)``, 0..255
        - output: ``(B, 2 * (T - 1), H, W)``, x and y of each flow in turn
    """
    gray_frames = convert_to_gray(frames, round_down=rules.floor_gray)
    first, second = gray_frames[:, :-1].flatten(0, 1), gray_frames[:, 1:].flatten(0, 1)
    if rules.light == "frame":
        first = match_frame_light(first, second)
    if rules.normalize_pair:
        first, second = normalize_pair(first, second)
    flow, _ = unroll_flow(
        smooth_by_kernel(first, weights.kernel, rules.pad),
        smooth_by_kernel(second, weights.kernel, rules.pad),
        weights.taps,
        weights.constants,
        zoom=rules.zoom,
        sampling=rules.sampling,
        initial_field=weights.initial_field,
        run_warp=iterate_in_place if in_place else iterate_warp,
    )
    return flow.view(len(frames), 2 * (frames.shape[1] - 1), *flow.shape[2:])

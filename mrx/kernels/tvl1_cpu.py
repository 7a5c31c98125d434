"""TV-L1 flow from the decoder's bytes, by the fastest code that runs on the device.

The CPU takes one pair at a time, so that its fields stay in the cache. ``numba`` runs fused rows;
``opencv`` and ``torch`` update whole planes in place, the former with OpenCV's resampling and
median. Other devices take all pairs at once, by Triton kernels where they run.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from mrx.kernels import Backend, tvl1_gpu, tvl1_launch, tvl1_rows, warp_rows
from mrx.kernels.array_types import Floats
from mrx.ops import flow as ops
from mrx.ops.light import match_frame_light
from mrx.ops.median import median_blur
from mrx.ops.pyramid import blur_taps, build_pyramid, pyramid_sizes
from mrx.ops.texture import STRUCTURE_THETA, extract_structure, extract_texture
from mrx.ops.tvl1_solver import (
    LevelFactory,
    LinearResidual,
    PlainLevel,
    SolverRules,
    compute_gradients,
    linearize_residual,
    solve_levels,
)
from mrx.ops.warp import BorderMode, displaced_positions, sample_cubic

OPENCV_CUBIC = -0.75

LARGE_IMAGE_PIXELS = 480 * 640
"""Pixels from which several iterations share a pass over the rows, to stay in the cache."""

_WAVE_DEPTH = 10


def compute_tvl1_flow(
    frames: Tensor, rules: SolverRules, *, backend: Backend, half: bool = False
) -> Tensor:
    """Compute the displacements between the neighboring frames of each window.

    Frames that windows share, as views of the same memory, are prepared once.

    Args:
        frames: windows of frames
        rules: rules of the solver
        backend: backend on the CPU; on other devices ``torch`` rules out Triton kernels, and the
            others mean nothing
        half: keep the state in half precision between the launches of Triton kernels

    Shape:
        - frames: ``(B, T, 1, H, W)`` uint8 or floating point, in 0..255
        - output: ``(B, 2 (T - 1), H, W)`` float32
    """
    if frames.device.type != "cpu":
        return ops.estimate_shared_flow(
            frames, rules, _choose_device_level(frames, rules, backend, half=half)
        )
    prepared: dict[int, list[Tensor]] = {}

    def prepare_levels(frame: Tensor) -> list[Tensor]:
        # Overlapping windows are views of one memory, so equal addresses are equal frames.
        address = frame.data_ptr()
        if address not in prepared:
            # Drop the oldest: no more frames than a window has are needed again.
            while len(prepared) > frames.shape[1]:
                prepared.pop(next(iter(prepared)))
            prepared[address] = _build_levels(frame, rules, backend)
        return prepared[address]

    def solve_pair(before: Tensor, after: Tensor) -> Tensor:
        levels = None
        if rules.light != "none":
            image = before[None].float()
            matched = match_frame_light(image, after[None].float())
            if not torch.equal(matched, image):
                levels = _build_levels(matched[0], rules, backend)
        return solve_levels(
            levels or prepare_levels(before), prepare_levels(after), rules, _LEVEL_CLASSES[backend]
        )

    return ops.map_neighbors(frames, solve_pair)


def _choose_device_level(
    frames: Tensor, rules: SolverRules, backend: Backend, *, half: bool
) -> LevelFactory:
    """Choose the solver of a batch of pairs: Triton kernels, or tensors where they do not run."""
    if backend != "torch" and tvl1_launch.supports_device(frames):
        state = torch.float16 if half else torch.float32
        return functools.partial(tvl1_gpu.GpuLevel, dtype=state)
    # With epsilon, each pair of a batch must stop for itself, as only PlainLevel does.
    return PlainLevel if rules.epsilon else InPlaceLevel


def _build_levels(frame: Tensor, rules: SolverRules, backend: Backend) -> list[Tensor]:
    """Build the pyramid of a frame, less its structure if the rules ask for its texture.

    Shape:
        - frame: ``(1, H, W)``
        - output: ``(1, 1, h, w)`` each
    """
    image = frame[None].float()
    if rules.texture:
        smooth = _extract_structure_by_numba if backend == "numba" else extract_structure
        image = extract_texture(image, rules, find_structure=smooth)
    if backend == "torch":
        return build_pyramid(image, zoom=rules.zoom, max_levels=rules.levels, smooth=rules.blur)
    return _build_pyramid_by_opencv(image, rules)


def _extract_structure_by_numba(image: Tensor, *, rounds: int) -> Tensor:
    fields = tvl1_rows.new_fields(3, *image.shape[2:])
    tvl1_rows.compile_structure()(image[0, 0].numpy(), fields, np.float32(STRUCTURE_THETA), rounds)
    return torch.from_numpy(fields[None, :1, 1:, 1:-1])


def _build_pyramid_by_opencv(image: Tensor, rules: SolverRules) -> list[Tensor]:
    """Build a pyramid like `mrx.ops.pyramid`, by OpenCV."""
    import cv2

    levels = [image]
    sizes = pyramid_sizes(*image.shape[2:], zoom=rules.zoom, max_levels=rules.levels)
    for height, width in sizes[1:]:
        larger = levels[-1][0, 0].numpy()
        if rules.blur:
            taps = np.array(blur_taps(rules.zoom))
            larger = cv2.sepFilter2D(larger, cv2.CV_32F, taps, taps)
        smaller = np.empty((height, width), np.float32)
        cv2.resize(larger, None, smaller, rules.zoom, rules.zoom)
        levels.append(torch.from_numpy(smaller)[None, None])
    return levels


class RowsLevel:
    """A level of one pair, solved by the rows of numba."""

    def __init__(self, before: Tensor, after: Tensor, flow: Tensor, rules: SolverRules) -> None:
        height, width = before.shape[2:]
        self.rules = rules
        self._before = before[0, 0].numpy()
        self._fields = tvl1_rows.new_fields(6, height, width)
        self._flow = self._fields[:2, 1:, 1:-1]  # a view without the margins
        self._flow[:] = flow[0].numpy()
        # The right margin repeats the last column (see `tvl1_rows`), here and after each median.
        self._fields[:2, 1:, -1] = self._flow[..., -1]
        self._term = np.empty((4, height, width), np.float32)
        self._slopes = np.zeros((2, height, width), np.float32)
        self._rows = np.empty((12, width), np.float32)
        self._places = np.empty(width, np.int32)
        self._planes = self._interleave_planes(after[0, 0].numpy())

    def flow(self) -> Tensor:
        """Return the displacements so far."""
        return torch.from_numpy(self._flow.copy())[None]

    def warp(self) -> None:
        """Linearize around the current flow, and iterate."""
        rules = self.rules
        if rules.median_at == "warp":
            self._apply_median()
        mix = 0.5 if rules.gradient == "mixed" else 0.0
        warp_rows.compile_warp()(
            self._planes,
            self._before,
            self._slopes,
            self._fields,
            self._term,
            np.float32(rules.cubic),
            np.float32(mix),
            rules.masked,
            self._rows,
            self._places,
        )
        for _ in range(rules.outer):
            if rules.median_at == "round":
                self._apply_median()
            if not self._iterate_round():
                return

    def _iterate_round(self) -> bool:
        rules = self.rules
        size = self._before.size
        tolerance = rules.epsilon**2 * size if rules.epsilon else -1.0
        return tvl1_rows.compile_iterations()(
            self._fields,
            self._term,
            rules.inner,
            _WAVE_DEPTH if size >= LARGE_IMAGE_PIXELS and not rules.epsilon else 1,
            np.float32(rules.strength * rules.theta),
            np.float32(rules.theta),
            np.float32(rules.tau / rules.theta),
            tolerance,
        )

    def _apply_median(self) -> None:
        import cv2

        if self.rules.median > 1:
            for plane in self._flow:
                plane[:] = cv2.medianBlur(plane, self.rules.median)
            self._fields[:2, 1:, -1] = self._flow[..., -1]

    def _interleave_planes(self, image: Floats) -> Floats:
        """Interleave the later image and its gradient pixel by pixel, with their border.

        A pixel takes 4 values, of which the last is unused.
        """
        rules = self.rules
        weights = (8 / 12, -1 / 12) if rules.gradient == "mixed" else (0.5, 0.0)
        near, far = (np.float32(weight) for weight in weights)
        differentiate = warp_rows.compile_gradients()
        slopes = np.empty((2, *image.shape), np.float32)
        differentiate(image, near, far, slopes)
        if rules.gradient == "mixed":
            differentiate(self._before, near, far, self._slopes)
        height, width = image.shape
        pad = warp_rows.PAD
        # Border "zero" leaves these zeros around the image; "clamp" repeats its edge.
        planes = np.zeros((height + 2 * pad, width + 2 * pad, 4), np.float32)
        inner = planes[pad:-pad, pad:-pad]
        inner[..., 0] = image
        inner[..., 1:3] = slopes.transpose(1, 2, 0)
        if rules.border == "clamp":
            planes[pad:-pad, :pad] = inner[:, :1]
            planes[pad:-pad, -pad:] = inner[:, -1:]
            planes[:pad] = planes[pad]
            planes[-pad:] = planes[-pad - 1]
        return planes.reshape(-1)


class InPlaceLevel:
    """A level solved on whole planes in place; iterations allocate nothing."""

    def __init__(self, before: Tensor, after: Tensor, flow: Tensor, rules: SolverRules) -> None:
        self.before, self.after, self.rules = before, after, rules
        self._slopes = compute_gradients(before, after, rules)
        self._flow = flow.clone()
        self._dual = flow.new_zeros(len(flow), 2, 2, *flow.shape[2:])
        self._slope = torch.zeros_like(self._dual)  # the last column and row are never written
        self._length = torch.empty_like(flow)
        self._previous_flow = torch.empty_like(flow)
        self._residual = torch.empty_like(before)

    def flow(self) -> Tensor:
        """Return the displacements so far."""
        return self._flow

    def warp(self) -> None:
        """Linearize around the current flow, and iterate."""
        rules = self.rules
        if rules.median_at == "warp":
            self._apply_median()
        term = self._linearize_residual()
        height, width = self.before.shape[2:]
        tolerance = rules.epsilon**2 * height * width
        for _ in range(rules.outer):
            if rules.median_at == "round":
                self._apply_median()
            for _ in range(rules.inner):
                if rules.epsilon:
                    self._previous_flow.copy_(self._flow)
                self._iterate_in_place(term)
                if rules.epsilon and self._measure_change() <= tolerance:
                    return

    def _measure_change(self) -> Tensor:
        # The next iteration copies the previous flow anew, so this may overwrite it.
        return self._previous_flow.sub_(self._flow).square_().sum()

    def _apply_median(self) -> None:
        self._flow = median_blur(self._flow, self.rules.median)

    def _linearize_residual(self) -> LinearResidual:
        return linearize_residual(self.before, self.after, self._slopes, self._flow, self.rules)

    def _iterate_in_place(self, term: LinearResidual) -> None:
        rules, u, p = self.rules, self._flow, self._dual
        limit = rules.strength * rules.theta
        # Data step: along the gradient by -residual / |gradient|^2, at most `limit`.
        residual = torch.mul(term.gradient[:, :1], u[:, :1], out=self._residual)
        residual.addcmul_(term.gradient[:, 1:], u[:, 1:]).add_(term.offset)
        residual.mul_(term.inverse).clamp_(-limit, limit)
        u.addcmul_(term.gradient, residual, value=-1)
        # Add theta times the divergence of the dual field, by backward differences.
        across, down = p[:, :, 0], p[:, :, 1]
        u.add_(across, alpha=rules.theta).add_(down, alpha=rules.theta)
        u[..., 1:].sub_(across[..., :-1], alpha=rules.theta)
        u[..., 1:, :].sub_(down[..., :-1, :], alpha=rules.theta)
        # Dual step, from forward differences of the new displacements.
        right, below = self._slope[:, :, 0], self._slope[:, :, 1]
        torch.sub(u[..., 1:], u[..., :-1], out=right[..., :-1])
        torch.sub(u[..., 1:, :], u[..., :-1, :], out=below[..., :-1, :])
        length = torch.mul(right, right, out=self._length)
        length.addcmul_(below, below).sqrt_().mul_(rules.tau / rules.theta).add_(1)
        p.add_(self._slope, alpha=rules.tau / rules.theta).div_(length[:, :, None])


class OpenCVLevel(InPlaceLevel):
    """An `InPlaceLevel` with OpenCV's median, and OpenCV's warp where the rules ask for it."""

    def _apply_median(self) -> None:
        import cv2

        if self.rules.median > 1:
            for plane in self._flow[0].numpy():
                cv2.medianBlur(plane.copy(), self.rules.median, dst=plane)

    def _linearize_residual(self) -> LinearResidual:
        rules = self.rules
        remaps = rules.cubic == OPENCV_CUBIC and rules.border == "zero"
        sample = _sample_cubic_by_opencv if remaps else sample_cubic
        return linearize_residual(
            self.before, self.after, self._slopes, self._flow, rules, sample=sample
        )


def _sample_cubic_by_opencv(
    planes: Tensor, flow: Tensor, *, a: float, border: BorderMode
) -> Tensor:
    """Sample like `sample_cubic`, by OpenCV, which has one kernel and one border only."""
    import cv2

    out = torch.empty_like(planes)
    columns, rows = (where[0].numpy() for where in displaced_positions(flow))
    for source, target in zip(planes[0].numpy(), out[0].numpy(), strict=True):
        cv2.remap(source, columns, rows, cv2.INTER_CUBIC, dst=target)
    return out


_LEVEL_CLASSES: dict[str, LevelFactory] = {
    "numba": RowsLevel,
    "opencv": OpenCVLevel,
    "torch": InPlaceLevel,
}

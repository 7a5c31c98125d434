"""Launches of the Triton kernels of TV-L1 flow: block shapes, fields in memory, and arguments.

Fields are planes of rows that lie a multiple of 16 values apart (see `allocate_planes`). No launch
allocates memory or waits for the device, so launches can be recorded as a graph.
"""

import functools
import logging
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mrx.errors import ShapeError
from mrx.ops.tvl1_solver import GRADIENT_GUARD, SolverRules

KernelKind = Literal["step", "tile"]

# Rows that begin at multiples of 64 bytes let a thread load several values at once.
_PITCH_MULTIPLE = 16
# The tests compile the kernels for compute capabilities from this one on.
_MIN_CAPABILITY = (8, 0)
_log = logging.getLogger(__name__)


class BlockShape(NamedTuple):
    """The block of pixels that one program of a kernel works on.

    Attributes:
        rows: rows of the block
        columns: columns of the block
        warps: warps of 32 threads each
        iterations: iterations of a launch on tiles, each with a rim of as many pixels that belong
            to other tiles; 0 is one iteration without tiles
    """

    rows: int
    columns: int
    warps: int
    iterations: int = 0

    def count_programs(self, height: int, width: int) -> tuple[int, int]:
        """Count the programs along x and y that cover an image.

        >>> BlockShape(64, 32, 8, 5).count_programs(64, 54)  # tiles of 32 overlap by 10
        (2, 1)
        """
        rim = 2 * self.iterations
        across = max(1, -(-(width - rim) // (self.columns - rim)))
        return across, max(1, -(-(height - rim) // (self.rows - rim)))

    def count_pixels(self, height: int, width: int) -> int:
        """Count the pixels of all programs, with those outside the image and overlaps."""
        across, down = self.count_programs(height, width)
        return across * self.columns * down * self.rows


STEP_SHAPES = (
    BlockShape(1, 256, 4),
    BlockShape(2, 128, 4),
    BlockShape(4, 64, 4),
    BlockShape(8, 32, 4),
)
TILE_SHAPES = (BlockShape(64, 32, 8, 5), BlockShape(32, 64, 8, 5))
"""Blocks whose fields stay in registers on all targets, as the compiler reports."""


def choose_block_shape(height: int, width: int, kernel: KernelKind) -> BlockShape:
    """Choose the first shape of the table that computes at most 15 % more pixels than the best.

    >>> choose_block_shape(256, 340, "step")
    BlockShape(rows=2, columns=128, warps=4, iterations=0)
    """
    table = STEP_SHAPES if kernel == "step" else TILE_SHAPES
    fewest_pixels = min(shape.count_pixels(height, width) for shape in table)
    return next(
        shape for shape in table if shape.count_pixels(height, width) <= 1.15 * fewest_pixels
    )


def split_iterations(inner: int, max_iterations: int) -> list[int]:
    """Split the iterations of a round into launches of nearly equal size.

    >>> split_iterations(13, 5)
    [5, 4, 4]
    """
    count = -(-inner // max_iterations)
    return [inner // count + (i < inner % count) for i in range(count)]


class FlowState(NamedTuple):
    """The fields that iterations change, in float32 or float16.

    Shape:
        - flow: ``(B, 2, H, W)``
        - dual: ``(B, 2, 2, H, W)``: for each displacement, x then y
    """

    flow: Tensor
    dual: Tensor


class DataTerm(NamedTuple):
    """The data term around a displacement: ``rest + gradient . u`` is the residual.

    Shape:
        - gradient: ``(B, 2, H, W)``
        - rest: ``(B, 1, H, W)``
    """

    gradient: Tensor
    rest: Tensor


class StepConstants(NamedTuple):
    """Constants of an iteration: ``strength * theta``, theta, ``tau / theta``, and the guard."""

    bound: float
    theta: float
    rate: float
    guard: float = GRADIENT_GUARD


class StopRule(NamedTuple):
    """The stop of a launch: it skips the pairs at rest.

    Attributes:
        changes: ``(launches + 1, B)`` int64, in units of `scale_change`: row i + 1 takes the
            squared change of each pair in launch i; at first, row 0 holds the largest integer and
            all others 0
        limit: largest change of a pair at rest, in the same units
        launch: index of this launch, from 0
    """

    changes: Tensor
    limit: int
    launch: int = 0


def allocate_planes(*shape: int, like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Allocate planes on the device of `like`, with rows aligned for the kernels."""
    pitch = -(-shape[-1] // _PITCH_MULTIPLE) * _PITCH_MULTIPLE
    return like.new_empty(*shape[:-1], pitch, dtype=dtype)[..., : shape[-1]]


def launch_iterations(
    old: FlowState,
    new: FlowState,
    term: DataTerm,
    numbers: StepConstants,
    shape: BlockShape,
    stop: StopRule | None = None,
) -> None:
    """Launch iterations from one state to another that shares no memory with it.

    A pair that came to rest is copied by the next launch and skipped by all later ones.
    """
    b, _, h, w = old.flow.shape
    fields = (*old, *term, *new)
    values = (*fields, *_unpack_stop(stop), h, w, _check_pitch(*fields), *numbers)
    _launch_kernel("iterate_kernel", b, shape, *values, iterations=shape.iterations)


def launch_median(flow: Tensor, out: Tensor, side: int, stop: StopRule | None = None) -> None:
    """Launch the median of 3 x 3 or 5 x 5 pixels; pairs at rest are copied."""
    b, c, h, w = flow.shape
    values = (flow, out, *_unpack_stop(stop), h, w, _check_pitch(flow, out))
    _launch_kernel("median_kernel", b * c, choose_block_shape(h, w, "step"), *values, side=side)


def launch_warp(
    after: Tensor, before: Tensor, flow: Tensor, out: DataTerm, rules: SolverRules
) -> None:
    """Launch the warp: write the data term around a flow to `out`.

    Args:
        after: the later image and its gradient, x then y
        before: the same of the earlier image; without mixed gradients the image alone
        flow: displacements to warp by
        out: the data term to write
        rules: `cubic`, `border`, `gradient` and `masked` are used

    Shape:
        - after: ``(B, 3, H, W)``
        - before: ``(B, 3, H, W)`` or ``(B, 1, H, W)``
        - flow: ``(B, 2, H, W)``
    """
    b, _, h, w = flow.shape
    fields = (after, before, flow, *out)
    values = (*fields, h, w, _check_pitch(*fields), rules.cubic)
    paths = {"zero": rules.border == "zero", "mixed": rules.gradient == "mixed"}
    _launch_kernel(
        "warp_kernel", b, choose_block_shape(h, w, "step"), *values, masked=rules.masked, **paths
    )


def scale_change(change: float) -> int:
    """Convert a squared change to the integers that the kernels add up: 2**24 for a change of 1."""
    from mrx.kernels import triton_fields

    return int(change * triton_fields.SCALE.value)


def supports_device(image: Tensor) -> bool:
    """Tell if the kernels can run on the device of a tensor."""
    return image.is_cuda and torch.version.hip is None and _supports_triton(image.device)


@functools.cache
def _supports_triton(device: torch.device) -> bool:
    capability = torch.cuda.get_device_capability(device)
    if capability < _MIN_CAPABILITY:
        _log.debug(
            "no Triton kernels: compute capability %s is below %s", capability, _MIN_CAPABILITY
        )
        return False
    try:
        _import_kernels()
    # Like numba in `has_backend`, a Triton that does not fit may raise more than ImportError.
    except (ImportError, AttributeError, SystemError, OSError) as error:
        _log.debug("no Triton kernels: %s", error)
        return False
    return True


def select_device(field: Tensor) -> AbstractContextManager[object]:
    """Return a context in which the device of a field is the current one, for Triton."""
    return torch.cuda.device_of(field)  # type: ignore[no-untyped-call]


@functools.cache
def _import_kernels() -> dict[str, Any]:
    from mrx.kernels.triton_tvl1 import iterate_kernel
    from mrx.kernels.triton_warp import median_kernel, warp_kernel

    return {
        "iterate_kernel": iterate_kernel,
        "median_kernel": median_kernel,
        "warp_kernel": warp_kernel,
    }


def _launch_kernel(
    name: str, images: int, shape: BlockShape, *values: Any, **constants: int
) -> None:
    """Launch a kernel on `images` images; the first of the values is one of their fields."""
    if not images:  # a grid has no empty axis
        return
    grid = (*shape.count_programs(*values[0].shape[-2:]), images)
    kernel = _import_kernels()[name][grid]
    options = {"num_warps": shape.warps, "enable_fp_fusion": True}
    with select_device(values[0]):
        kernel(*values, rows=shape.rows, columns=shape.columns, **constants, **options)


def _unpack_stop(stop: StopRule | None) -> tuple[Tensor | None, int, int]:
    """Return the changes, the launch and the limit, as kernels take them."""
    return (None, 0, 0) if stop is None else (stop.changes, stop.launch, stop.limit)


def _check_pitch(*fields: Tensor) -> int:
    """Return the row pitch that all fields share, or raise if they are not planes of one pitch."""
    # (B, C, H, W) of pitch p: strides (C * H * p, H * p, p, 1).
    pitch = fields[0].stride(-2)
    for field in fields:
        *outer, height, _ = field.shape
        strides = [1, pitch]
        for length in reversed((*outer[1:], height)):
            strides.append(strides[-1] * length)
        if field.stride() != tuple(reversed(strides)):
            raise ShapeError(
                f"{field.shape=}, {field.stride()=}: not planes of {pitch=}. "
                "Allocate all fields with allocate_planes"
            )
    return pitch

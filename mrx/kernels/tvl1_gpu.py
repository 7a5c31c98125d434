"""TV-L1 flow on a GPU: the buffers of a level, and the launches of the kernels that work on them.

`GpuLevel` does what `mrx.ops.tvl1_solver.PlainLevel` does, to rounding; `supports_device` says whether it can. A
warp of a level is tens to hundreds of short launches: it is recorded as a graph when it comes a
second time, and then replayed. Buffers with their graphs are kept for the next pairs of that size.

The stop of ``epsilon`` is tested once a launch, by each pair for itself, and the host never waits
for it. A launch of the kernel ``step`` is one iteration; of ``tile`` it is several, so that a pair
may go on for a few iterations more.
"""

import functools
import logging
import weakref
from collections import deque
from contextlib import AbstractContextManager, suppress
from types import ModuleType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mrx.errors import ShapeError
from mrx.ops.tvl1_solver import GRADIENT_GUARD, SolverRules, compute_gradients

KernelKind = Literal["step", "tile"]

MAX_IDLE_BUFFERS = 16
"""Levels whose buffers and graphs are kept when they are done."""

_PITCH_MULTIPLE = (
    16  # rows begin at multiples of 64 bytes, so that values can be loaded several at once
)
_MIN_CAPABILITY = (
    8,
    0,
)  # of the compute capabilities that the kernels are compiled for in the tests
_MOVING_CHANGE = torch.iinfo(torch.int64).max
_log = logging.getLogger(__name__)


class BlockShape(NamedTuple):
    """What one program of a kernel works on.

    Attributes:
        rows: of its block of pixels
        columns: of its block
        warps: of 32 threads each
        iterations: on a tile, whose rim of as many pixels belongs to other tiles; 0 makes one
            without tiles
    """

    rows: int
    columns: int
    warps: int
    iterations: int = 0

    def count_programs(self, height: int, width: int) -> tuple[int, int]:
        """Programs along x and y."""
        rim = 2 * self.iterations
        across = max(1, -(-(width - rim) // (self.columns - rim)))
        return across, max(1, -(-(height - rim) // (self.rows - rim)))

    def count_pixels(self, height: int, width: int) -> int:
        """Pixels of all programs, with those outside the image and those of two tiles."""
        across, down = self.count_programs(height, width)
        return across * self.columns * down * self.rows


STEP_SHAPES = (
    BlockShape(1, 256, 4),
    BlockShape(2, 128, 4),
    BlockShape(4, 64, 4),
    BlockShape(8, 32, 4),
)
TILE_SHAPES = (BlockShape(64, 32, 8, 5), BlockShape(32, 64, 8, 5))
"""Blocks whose fields stay in the registers of all targets, as the compiler says."""


def choose_block_shape(height: int, width: int, kernel: KernelKind) -> BlockShape:
    """The first of the table that computes at most 15 % more pixels than the one with the fewest.

    >>> choose_block_shape(256, 340, "step")
    BlockShape(rows=2, columns=128, warps=4, iterations=0)
    """
    table = STEP_SHAPES if kernel == "step" else TILE_SHAPES
    fewest_pixels = min(shape.count_pixels(height, width) for shape in table)
    return next(s for s in table if s.count_pixels(height, width) <= 1.15 * fewest_pixels)


def split_iterations(inner: int, max_iterations: int) -> list[int]:
    """How many iterations each launch of a round makes: about as many, and at most so many.

    >>> split_iterations(13, 5)
    [5, 4, 4]
    """
    count = -(-inner // max_iterations)
    return [inner // count + (i < inner % count) for i in range(count)]


class FlowState(NamedTuple):
    """The fields that iterations change, in float32 or float16.

    Shape:
        - flow: ``(B, 2, H, W)``
        - dual: ``(B, 2, 2, H, W)``: of either displacement, x then y
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
    """The numbers of an iteration: ``strength * theta``, theta, ``tau / theta``, and the guard."""

    bound: float
    theta: float
    rate: float
    guard: float = GRADIENT_GUARD


class StopRule(NamedTuple):
    """Which pairs a launch leaves alone.

    Attributes:
        changes: ``(launches + 1, B)`` int64: before a launch, the squared change of each pair in
            the launch before, times 2**24; the first row is the largest number, the rest 0
        limit: a pair that changed no more than this is at rest
        launch: which launch this is, from 0
    """

    changes: Tensor
    limit: int
    launch: int = 0


def allocate_planes(*shape: int, like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Memory for fields, where another tensor is, with rows as the kernels like them."""
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
    """One launch, from one state to another that shares no memory with it.

    A pair at rest is copied in the first launch after its last, and left alone from then on.
    """
    b, _, h, w = old.flow.shape
    fields = (*old, *term, *new)
    values = (*fields, *_unpack_stop(stop), h, w, _check_pitch(*fields), *numbers)
    _launch_kernel("iterate_kernel", b, shape, *values, iterations=shape.iterations)


def launch_median(flow: Tensor, out: Tensor, side: int, stop: StopRule | None = None) -> None:
    """The median of a square of 3 or 5 pixels a side; of a pair at rest, the flow itself."""
    b, c, h, w = flow.shape
    values = (flow, out, *_unpack_stop(stop), h, w, _check_pitch(flow, out))
    _launch_kernel("median_kernel", b * c, choose_block_shape(h, w, "step"), *values, side=side)


def launch_warp(
    after: Tensor, before: Tensor, flow: Tensor, out: DataTerm, rules: SolverRules
) -> None:
    """The data term around a flow, of the rules' `cubic`, `border`, `gradient` and `masked`.

    Shape:
        - after: ``(B, 3, H, W)``: the later image and its gradient, x then y
        - before: ``(B, 3, H, W)``, the same of the earlier image; without mixed gradients the
          image alone, ``(B, 1, H, W)``
        - flow: ``(B, 2, H, W)``
    """
    b, _, h, w = flow.shape
    fields = (after, before, flow, *out)
    values = (*fields, h, w, _check_pitch(*fields), rules.cubic)
    paths = {"zero": rules.border == "zero", "mixed": rules.gradient == "mixed"}
    _launch_kernel(
        "warp_kernel", b, choose_block_shape(h, w, "step"), *values, masked=rules.masked, **paths
    )


def supports_device(image: Tensor) -> bool:
    """Whether the kernels can run on the device of a tensor."""
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
    except (ImportError, AttributeError, SystemError, OSError) as error:
        _log.debug("no Triton kernels: %s", error)
        return False
    return True


@functools.cache
def _import_kernels() -> ModuleType:
    from mrx.kernels import triton_tvl1

    return triton_tvl1


def _launch_kernel(
    name: str, images: int, shape: BlockShape, *values: Any, **constants: int
) -> None:
    """Launch a kernel on so many images; the first value is a field of theirs."""
    if images:
        kernel = getattr(_import_kernels(), name)[
            *shape.count_programs(*values[0].shape[-2:]), images
        ]
        options = {"num_warps": shape.warps, "enable_fp_fusion": True}
        with _select_device(values[0]):
            kernel(*values, rows=shape.rows, columns=shape.columns, **constants, **options)


def _select_device(field: Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device_of(field)  # type: ignore[no-untyped-call]


def _unpack_stop(stop: StopRule | None) -> tuple[Tensor | None, int, int]:
    """The changes, the launch and the limit, as kernels take them."""
    return (None, 0, 0) if stop is None else (stop.changes, stop.launch, stop.limit)


def _check_pitch(*fields: Tensor) -> int:
    """How far apart the rows of all these fields lie."""
    pitch = fields[0].stride(-2)
    for field in fields:
        *outer, height, _ = field.shape
        strides = [1, pitch]
        for length in reversed((*outer[1:], height)):
            strides.append(strides[-1] * length)
        if field.stride() != tuple(reversed(strides)):
            raise ShapeError(f"{field.shape=}, {field.stride()=}: not planes of {pitch=}")
    return pitch


class _LevelKey(NamedTuple):
    """What the buffers and graphs of a level depend on."""

    size: tuple[int, int, int]
    rules: SolverRules
    kernel: KernelKind
    dtype: torch.dtype
    device: torch.device
    stream: int


class _LevelBuffers:
    """The buffers of a level, and its warps as graphs."""

    def __init__(self, key: _LevelKey, like: Tensor) -> None:
        self.key = key
        rules, (b, h, w) = key.rules, key.size
        self._flows = [allocate_planes(b, 2, h, w, like=like, dtype=key.dtype) for _ in range(2)]
        self._duals = [allocate_planes(b, 2, 2, h, w, like=like, dtype=key.dtype) for _ in range(2)]
        self._active_sets = 0, 0
        self._term = DataTerm(
            allocate_planes(b, 2, h, w, like=like), allocate_planes(b, 1, h, w, like=like)
        )
        self._after = allocate_planes(b, 3, h, w, like=like)
        self._before = allocate_planes(b, 3 if rules.gradient == "mixed" else 1, h, w, like=like)
        shape = choose_block_shape(h, w, key.kernel)
        counts = split_iterations(rules.inner, max(1, shape.iterations))
        self._round_shapes = [
            shape._replace(iterations=n if shape.iterations else 0) for n in counts
        ]
        self._numbers = StepConstants(
            rules.strength * rules.theta, rules.theta, rules.tau / rules.theta
        )
        slots = 1 + rules.outer * len(counts)
        self._changes = like.new_empty(slots, b, dtype=torch.int64) if rules.epsilon else None
        self.records_graphs = like.is_cuda
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, tuple[int, int]]] = {}
        self._seen_starts: set[tuple[int, int]] = set()

    @property
    def state(self) -> FlowState:
        """The fields as they are."""
        flow, dual = self._active_sets
        return FlowState(self._flows[flow], self._duals[dual])

    @property
    def next_state(self) -> FlowState:
        """The buffers whose turn is next."""
        flow, dual = self._active_sets
        return FlowState(self._flows[1 - flow], self._duals[1 - dual])

    @torch.no_grad()
    def load_images(self, before: Tensor, after: Tensor, flow: Tensor) -> None:
        """Take the images of new pairs, and start at a flow."""
        first, second = compute_gradients(before, after, self.key.rules)
        self._after.copy_(torch.cat([after, second], 1))
        self._before.copy_(torch.cat([before, first], 1)[:, : self._before.shape[1]])
        self._active_sets = 0, 0
        self.state.flow.copy_(flow)
        self.state.dual.zero_()

    def run_warp(self) -> None:
        """One linearisation, iterated: the second time from the same buffers it is a graph."""
        start = self._active_sets
        if start not in self._graphs:
            if start not in self._seen_starts or not self.records_graphs:
                self._seen_starts.add(start)
                self._launch_sequence()
                return
            self._graphs[start] = self._record_graph(), self._active_sets
        graph, self._active_sets = self._graphs[start]
        graph.replay()

    def _record_graph(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(self.key.device)  # type: ignore[no-untyped-call]
        # Other threads may allocate meanwhile, those that decode for instance.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._launch_sequence()
        return graph

    def _launch_sequence(self) -> None:
        """All launches of a warp; they allocate nothing, so that they can be recorded."""
        rules, stop = self.key.rules, self._reset_stop()
        if rules.median_at == "warp":
            self._apply_median(None)
        launch_warp(self._after, self._before, self.state.flow, self._term, rules)
        for _ in range(rules.outer):
            if rules.median_at == "round":
                self._apply_median(stop)
            for shape in self._round_shapes:
                launch_iterations(
                    self.state, self.next_state, self._term, self._numbers, shape, stop
                )
                self._active_sets = 1 - self._active_sets[0], 1 - self._active_sets[1]
                stop = stop and stop._replace(launch=stop.launch + 1)

    def _reset_stop(self) -> StopRule | None:
        if self._changes is None:
            return None
        self._changes.zero_()
        self._changes[0].fill_(_MOVING_CHANGE)
        _, h, w = self.key.size
        return StopRule(
            self._changes, int(self.key.rules.epsilon**2 * h * w * _import_kernels().SCALE.value)
        )

    def _apply_median(self, stop: StopRule | None) -> None:
        if self.key.rules.median > 1:
            launch_median(self.state.flow, self.next_state.flow, self.key.rules.median, stop)
            self._active_sets = 1 - self._active_sets[0], self._active_sets[1]


_idle_buffers: deque[_LevelBuffers] = deque(maxlen=MAX_IDLE_BUFFERS)


def release_idle_buffers() -> None:
    """Forget the levels that are kept: their memory can be used for other things."""
    _idle_buffers.clear()


def _take_buffers(key: _LevelKey, like: Tensor) -> _LevelBuffers:
    """Buffers that lie idle, or new ones."""
    for _ in range(len(_idle_buffers)):
        with suppress(IndexError):  # another thread took it
            buffers = _idle_buffers.popleft()
            if buffers.key == key:
                return buffers
            _idle_buffers.append(buffers)
    with torch.inference_mode(False):  # so that they can be written to in any mode
        return _LevelBuffers(key, like)


class GpuLevel:
    """A level by the kernels, for images on a GPU; no gradients flow through it.

    Args:
        before: as `mrx.ops.tvl1_solver.Level` has it, like the three that follow
        after: the later image
        flow: where to start
        rules: of the solution
        kernel: ``step`` where the rules have an epsilon, so that the stop is exact, else ``tile``
        dtype: of the state between launches, float32 or float16; arithmetic is always float32
    """

    def __init__(
        self,
        before: Tensor,
        after: Tensor,
        flow: Tensor,
        rules: SolverRules,
        *,
        kernel: KernelKind | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        b, _, h, w = before.shape
        stream = torch.cuda.current_stream(before.device).cuda_stream if before.is_cuda else 0
        chosen = kernel or ("step" if rules.epsilon else "tile")
        key = _LevelKey((b, h, w), rules, chosen, dtype, before.device, stream)
        self._buffers = _take_buffers(key, before)
        weakref.finalize(self, _idle_buffers.append, self._buffers).atexit = False
        self._buffers.load_images(before, after, flow)

    def warp(self) -> None:
        """One linearisation, iterated."""
        with _select_device(self._buffers.state.flow):
            self._buffers.run_warp()

    def flow(self) -> Tensor:
        """The displacements so far, ``(B, 2, H, W)`` float32."""
        flow = self._buffers.state.flow
        return flow.to(torch.float32, copy=True, memory_format=torch.contiguous_format)

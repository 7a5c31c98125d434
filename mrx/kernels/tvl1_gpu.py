"""TV-L1 flow on a GPU: the buffers of a level, and the launches of the kernels that work on them.

`GpuLevel` does what `mrx.ops.tvl1.PlainLevel` does, to rounding; `usable` says whether it can. A
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
from mrx.ops.tvl1_solver import GUARD, Rules, gradients

Kernel = Literal["step", "tile"]

KEPT = 16
"""Levels whose buffers and graphs are kept when they are done."""

_PITCH = 16  # rows begin at multiples of 64 bytes, so that values can be loaded several at once
_OLDEST = (8, 0)  # of the compute capabilities that the kernels are compiled for in the tests
_MOVING = torch.iinfo(torch.int64).max
_log = logging.getLogger(__name__)


class Shape(NamedTuple):
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

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Programs along x and y."""
        rim = 2 * self.iterations
        across = max(1, -(-(width - rim) // (self.columns - rim)))
        return across, max(1, -(-(height - rim) // (self.rows - rim)))

    def computed(self, height: int, width: int) -> int:
        """Pixels of all programs, with those outside the image and those of two tiles."""
        across, down = self.grid(height, width)
        return across * self.columns * down * self.rows


STEPS = (Shape(1, 256, 4), Shape(2, 128, 4), Shape(4, 64, 4), Shape(8, 32, 4))
TILES = (Shape(64, 32, 8, 5), Shape(32, 64, 8, 5))
"""Blocks whose fields stay in the registers of all targets, as the compiler says."""


def choose_shape(height: int, width: int, kernel: Kernel) -> Shape:
    """The first of the table that computes at most 15 % more pixels than the one with the fewest.

    >>> choose_shape(256, 340, "step")
    Shape(rows=2, columns=128, warps=4, iterations=0)
    """
    table = STEPS if kernel == "step" else TILES
    least = min(shape.computed(height, width) for shape in table)
    return next(s for s in table if s.computed(height, width) <= 1.15 * least)


def launches(inner: int, most: int) -> list[int]:
    """How many iterations each launch of a round makes: about as many, and at most so many.

    >>> launches(13, 5)
    [5, 4, 4]
    """
    count = -(-inner // most)
    return [inner // count + (i < inner % count) for i in range(count)]


class State(NamedTuple):
    """The fields that iterations change, in float32 or float16.

    Shape:
        - flow: ``(B, 2, H, W)``
        - dual: ``(B, 2, 2, H, W)``: of either displacement, x then y
    """

    flow: Tensor
    dual: Tensor


class Term(NamedTuple):
    """The data term around a displacement: ``rest + gradient . u`` is the residual.

    Shape:
        - gradient: ``(B, 2, H, W)``
        - rest: ``(B, 1, H, W)``
    """

    gradient: Tensor
    rest: Tensor


class Numbers(NamedTuple):
    """The numbers of an iteration: ``strength * theta``, theta, ``tau / theta``, and the guard."""

    bound: float
    theta: float
    rate: float
    guard: float = GUARD


class Stop(NamedTuple):
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


def planes(*shape: int, like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Memory for fields, where another tensor is, with rows as the kernels like them."""
    pitch = -(-shape[-1] // _PITCH) * _PITCH
    return like.new_empty(*shape[:-1], pitch, dtype=dtype)[..., : shape[-1]]


def iterate(
    old: State, new: State, term: Term, numbers: Numbers, shape: Shape, stop: Stop | None = None
) -> None:
    """One launch, from one state to another that shares no memory with it.

    A pair at rest is copied in the first launch after its last, and left alone from then on.
    """
    b, _, h, w = old.flow.shape
    fields = (*old, *term, *new)
    values = (*fields, *_parts(stop), h, w, _pitch(*fields), *numbers)
    _run("iterate", b, shape, *values, iterations=shape.iterations)


def median(flow: Tensor, out: Tensor, side: int, stop: Stop | None = None) -> None:
    """The median of a square of 3 or 5 pixels a side; of a pair at rest, the flow itself."""
    b, c, h, w = flow.shape
    values = (flow, out, *_parts(stop), h, w, _pitch(flow, out))
    _run("median", b * c, choose_shape(h, w, "step"), *values, side=side)


def warp(after: Tensor, before: Tensor, flow: Tensor, out: Term, rules: Rules) -> None:
    """The data term around a flow, of the rules' `cubic`, `border`, `gradient` and `masked`.

    Shape:
        - after: ``(B, 3, H, W)``: the later image and its gradient, x then y
        - before: ``(B, 3, H, W)``, the same of the earlier image; without mixed gradients the
          image alone, ``(B, 1, H, W)``
        - flow: ``(B, 2, H, W)``
    """
    b, _, h, w = flow.shape
    fields = (after, before, flow, *out)
    values = (*fields, h, w, _pitch(*fields), rules.cubic)
    paths = {"zero": rules.border == "zero", "mixed": rules.gradient == "mixed"}
    _run("warp", b, choose_shape(h, w, "step"), *values, masked=rules.masked, **paths)


def usable(image: Tensor) -> bool:
    """Whether the kernels can run on the device of a tensor."""
    return image.is_cuda and torch.version.hip is None and _fits(image.device)


@functools.cache
def _fits(device: torch.device) -> bool:
    found = torch.cuda.get_device_capability(device)
    if found < _OLDEST:
        _log.debug("no Triton kernels: compute capability %s is below %s", found, _OLDEST)
        return False
    try:
        _kernels()
    except (ImportError, AttributeError, SystemError, OSError) as error:
        _log.debug("no Triton kernels: %s", error)
        return False
    return True


@functools.cache
def _kernels() -> ModuleType:
    from mrx.kernels import triton_tvl1

    return triton_tvl1


def _run(name: str, images: int, shape: Shape, *values: Any, **constants: int) -> None:
    """Launch a kernel on so many images; the first value is a field of theirs."""
    if images:
        kernel = getattr(_kernels(), name)[*shape.grid(*values[0].shape[-2:]), images]
        options = {"num_warps": shape.warps, "enable_fp_fusion": True}
        with _device_of(values[0]):
            kernel(*values, rows=shape.rows, columns=shape.columns, **constants, **options)


def _device_of(field: Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device_of(field)  # type: ignore[no-untyped-call]


def _parts(stop: Stop | None) -> tuple[Tensor | None, int, int]:
    """The changes, the launch and the limit, as kernels take them."""
    return (None, 0, 0) if stop is None else (stop.changes, stop.launch, stop.limit)


def _pitch(*fields: Tensor) -> int:
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


class _Key(NamedTuple):
    """What the buffers and graphs of a level depend on."""

    size: tuple[int, int, int]
    rules: Rules
    kernel: Kernel
    dtype: torch.dtype
    device: torch.device
    stream: int


class _Work:
    """The buffers of a level, and its warps as graphs."""

    def __init__(self, key: _Key, like: Tensor) -> None:
        self.key = key
        rules, (b, h, w) = key.rules, key.size
        self._flows = [planes(b, 2, h, w, like=like, dtype=key.dtype) for _ in range(2)]
        self._duals = [planes(b, 2, 2, h, w, like=like, dtype=key.dtype) for _ in range(2)]
        self._turns = 0, 0
        self._term = Term(planes(b, 2, h, w, like=like), planes(b, 1, h, w, like=like))
        self._after = planes(b, 3, h, w, like=like)
        self._before = planes(b, 3 if rules.gradient == "mixed" else 1, h, w, like=like)
        shape = choose_shape(h, w, key.kernel)
        counts = launches(rules.inner, max(1, shape.iterations))
        self._round = [shape._replace(iterations=n if shape.iterations else 0) for n in counts]
        self._numbers = Numbers(rules.strength * rules.theta, rules.theta, rules.tau / rules.theta)
        slots = 1 + rules.outer * len(counts)
        self._changes = like.new_empty(slots, b, dtype=torch.int64) if rules.epsilon else None
        self.records = like.is_cuda
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, tuple[int, int]]] = {}
        self._ran: set[tuple[int, int]] = set()

    @property
    def state(self) -> State:
        """The fields as they are."""
        flow, dual = self._turns
        return State(self._flows[flow], self._duals[dual])

    @property
    def other(self) -> State:
        """The buffers whose turn is next."""
        flow, dual = self._turns
        return State(self._flows[1 - flow], self._duals[1 - dual])

    @torch.no_grad()
    def load(self, before: Tensor, after: Tensor, flow: Tensor) -> None:
        """Take the images of new pairs, and start at a flow."""
        first, second = gradients(before, after, self.key.rules)
        self._after.copy_(torch.cat([after, second], 1))
        self._before.copy_(torch.cat([before, first], 1)[:, : self._before.shape[1]])
        self._turns = 0, 0
        self.state.flow.copy_(flow)
        self.state.dual.zero_()

    def warp(self) -> None:
        """One linearisation, iterated: the second time from the same buffers it is a graph."""
        start = self._turns
        if start not in self._graphs:
            if start not in self._ran or not self.records:
                self._ran.add(start)
                self._launch()
                return
            self._graphs[start] = self._record(), self._turns
        graph, self._turns = self._graphs[start]
        graph.replay()

    def _record(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(self.key.device)  # type: ignore[no-untyped-call]
        # Other threads may allocate meanwhile, those that decode for instance.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._launch()
        return graph

    def _launch(self) -> None:
        """All launches of a warp; they allocate nothing, so that they can be recorded."""
        rules, stop = self.key.rules, self._all_moving()
        if rules.median_at == "warp":
            self._smooth(None)
        warp(self._after, self._before, self.state.flow, self._term, rules)
        for _ in range(rules.outer):
            if rules.median_at == "round":
                self._smooth(stop)
            for shape in self._round:
                iterate(self.state, self.other, self._term, self._numbers, shape, stop)
                self._turns = 1 - self._turns[0], 1 - self._turns[1]
                stop = stop and stop._replace(launch=stop.launch + 1)

    def _all_moving(self) -> Stop | None:
        if self._changes is None:
            return None
        self._changes.zero_()
        self._changes[0].fill_(_MOVING)
        _, h, w = self.key.size
        return Stop(self._changes, int(self.key.rules.epsilon**2 * h * w * _kernels().SCALE.value))

    def _smooth(self, stop: Stop | None) -> None:
        if self.key.rules.median > 1:
            median(self.state.flow, self.other.flow, self.key.rules.median, stop)
            self._turns = 1 - self._turns[0], self._turns[1]


_idle: deque[_Work] = deque(maxlen=KEPT)


def release() -> None:
    """Forget the levels that are kept: their memory can be used for other things."""
    _idle.clear()


def _take(key: _Key, like: Tensor) -> _Work:
    """Buffers that lie idle, or new ones."""
    for _ in range(len(_idle)):
        with suppress(IndexError):  # another thread took it
            work = _idle.popleft()
            if work.key == key:
                return work
            _idle.append(work)
    with torch.inference_mode(False):  # so that they can be written to in any mode
        return _Work(key, like)


class GpuLevel:
    """A level by the kernels, for images on a GPU; no gradients flow through it.

    Args:
        before: as `mrx.ops.tvl1.Level` has it, like the three that follow
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
        rules: Rules,
        *,
        kernel: Kernel | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        b, _, h, w = before.shape
        stream = torch.cuda.current_stream(before.device).cuda_stream if before.is_cuda else 0
        chosen = kernel or ("step" if rules.epsilon else "tile")
        key = _Key((b, h, w), rules, chosen, dtype, before.device, stream)
        self._work = _take(key, before)
        weakref.finalize(self, _idle.append, self._work).atexit = False
        self._work.load(before, after, flow)

    def warp(self) -> None:
        """One linearisation, iterated."""
        with _device_of(self._work.state.flow):
            self._work.warp()

    def flow(self) -> Tensor:
        """The displacements so far, ``(B, 2, H, W)`` float32."""
        flow = self._work.state.flow
        return flow.to(torch.float32, copy=True, memory_format=torch.contiguous_format)

"""TV-L1 flow on a GPU: one pyramid level, its buffers, and CUDA graphs of its warps.

`GpuLevel` computes what `mrx.ops.tvl1_solver.PlainLevel` does, to rounding, where
`mrx.kernels.tvl1_launch.supports_device` allows. A warp is one linearization with its iterations,
tens to hundreds of short launches. The first run launches its kernels, the second records a CUDA
graph and replays it, later ones only replay. Buffers and their graphs are kept for later levels
with an equal `_LevelKey`.

Each launch tests the stop of ``epsilon`` separately for every pair, on the device; the host never
waits. A launch of the kernel ``step`` is one iteration. One of ``tile`` is several, so that a pair
may run for a few iterations more.
"""

import weakref
from collections import deque
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor

from mrx.kernels.tvl1_launch import (
    DataTerm,
    FlowState,
    KernelKind,
    StepConstants,
    StopRule,
    allocate_planes,
    choose_block_shape,
    launch_iterations,
    launch_median,
    launch_warp,
    scale_change,
    select_device,
    split_iterations,
)
from mrx.ops.tvl1_solver import SolverRules, compute_gradients

MAX_IDLE_BUFFERS = 16
"""Number of finished levels whose buffers and graphs are kept."""

_MOVING_CHANGE = torch.iinfo(torch.int64).max  # above any limit: the pair counts as moving


class _LevelKey(NamedTuple):
    """Key of the buffers and graphs of a level: equal keys can share them."""

    size: tuple[int, int, int]
    rules: SolverRules
    kernel: KernelKind
    dtype: torch.dtype
    device: torch.device
    stream: int


class _LevelBuffers:
    """The buffers of a level, and its warps as graphs.

    Graphs hold the addresses of the buffers, so buffers are never replaced, only written to.
    """

    def __init__(self, key: _LevelKey, like: Tensor) -> None:
        self.key = key
        rules, (b, h, w) = key.rules, key.size
        self._flows = [allocate_planes(b, 2, h, w, like=like, dtype=key.dtype) for _ in range(2)]
        self._duals = [allocate_planes(b, 2, 2, h, w, like=like, dtype=key.dtype) for _ in range(2)]
        # Double buffering: a launch reads one buffer and writes the other. (flow, dual): the
        # buffers with current values. The median swaps only the flow.
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
        # Key: buffers a warp starts from. Value: the graph, and the buffers it ends in; they differ
        # after an odd number of swaps.
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, tuple[int, int]]] = {}
        self._seen_starts: set[tuple[int, int]] = set()

    @property
    def state(self) -> FlowState:
        """The current fields."""
        flow, dual = self._active_sets
        return FlowState(self._flows[flow], self._duals[dual])

    @property
    def next_state(self) -> FlowState:
        """The buffers that the next launch writes."""
        flow, dual = self._active_sets
        return FlowState(self._flows[1 - flow], self._duals[1 - dual])

    @torch.no_grad()
    def load_images(self, before: Tensor, after: Tensor, flow: Tensor) -> None:
        """Load new pairs and the initial flow, and reset the dual."""
        first, second = compute_gradients(before, after, self.key.rules)
        self._after.copy_(torch.cat([after, second], 1))
        self._before.copy_(torch.cat([before, first], 1)[:, : self._before.shape[1]])
        self._active_sets = 0, 0  # Always start from set 0, so that recorded graphs are reused.
        self.state.flow.copy_(flow)
        self.state.dual.zero_()

    def run_warp(self) -> None:
        """Run one warp; from the second run with the same start buffers, by a graph."""
        start = self._active_sets
        if start not in self._graphs:
            # The first run compiles and loads kernels, which is not allowed during capture.
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
        # Other threads may allocate during the recording, those that decode for instance.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._launch_sequence()
        return graph

    def _launch_sequence(self) -> None:
        """Queue all launches of a warp; they allocate nothing, so that they can be recorded."""
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
        self._changes[0].fill_(_MOVING_CHANGE)  # no pair is at rest before the first launch
        _, h, w = self.key.size
        return StopRule(self._changes, scale_change(self.key.rules.epsilon**2 * h * w))

    def _apply_median(self, stop: StopRule | None) -> None:
        if self.key.rules.median > 1:
            launch_median(self.state.flow, self.next_state.flow, self.key.rules.median, stop)
            self._active_sets = 1 - self._active_sets[0], self._active_sets[1]


# When it is full, `maxlen` drops the buffers that were returned first.
_idle_buffers: deque[_LevelBuffers] = deque(maxlen=MAX_IDLE_BUFFERS)


def release_idle_buffers() -> None:
    """Drop the buffers and graphs that are kept for later, so that their memory can be reused."""
    _idle_buffers.clear()


def _take_buffers(key: _LevelKey, like: Tensor) -> _LevelBuffers:
    """Take idle buffers of this key, or make new ones."""
    # Threads share the deque without a lock: popleft and append are atomic, so buffers have one
    # owner at any time. Those of other keys go back to the end.
    for _ in range(len(_idle_buffers)):
        with suppress(IndexError):  # another thread took the last one
            buffers = _idle_buffers.popleft()
            if buffers.key == key:
                return buffers
            _idle_buffers.append(buffers)
    # Tensors made in inference mode could not be written to outside it.
    with torch.inference_mode(False):
        return _LevelBuffers(key, like)


class GpuLevel:
    """A level solved by the kernels, for images on a GPU; no gradients flow through it.

    Args:
        before: the earlier image, as in `mrx.ops.tvl1_solver.SolverLevel`
        after: the later image
        flow: displacements to start at
        rules: rules of the solver
        kernel: default ``step`` if the rules have an epsilon, so that the stop is exact, else
            ``tile``
        dtype: type of the state between launches, float32 or float16; arithmetic is always float32
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
        # Work on two streams is not ordered, so each stream has buffers of its own.
        stream = torch.cuda.current_stream(before.device).cuda_stream if before.is_cuda else 0
        chosen = kernel or ("step" if rules.epsilon else "tile")
        key = _LevelKey((b, h, w), rules, chosen, dtype, before.device, stream)
        self._buffers = _take_buffers(key, before)
        # The buffers go back when this level is collected, but not at interpreter exit. The GPU may
        # still work in them then: their next owner launches in the same stream, so after that.
        weakref.finalize(self, _idle_buffers.append, self._buffers).atexit = False
        self._buffers.load_images(before, after, flow)

    def warp(self) -> None:
        """Linearize around the current flow, and iterate."""
        with select_device(self._buffers.state.flow):
            self._buffers.run_warp()

    def flow(self) -> Tensor:
        """Return a copy of the displacements so far, ``(B, 2, H, W)`` float32."""
        flow = self._buffers.state.flow
        return flow.to(torch.float32, copy=True, memory_format=torch.contiguous_format)

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import tvl1_float64
from support.triton_marks import interpreted
from support.tvl1_float64 import FlowState, relative_error, smooth_noise
from support.tvl1_rules import ACCURATE, OPENCV

from mrx.kernels import tvl1_gpu, tvl1_launch
from mrx.kernels.tvl1_gpu import GpuLevel
from mrx.ops.tvl1_solver import PlainLevel

pytestmark = [*interpreted, pytest.mark.usefixtures("large_blocks")]


def pairs(rng, b, h, w):
    """Return smooth images, the later one moved by a pixel, and a flow to start at."""
    image = 120 + 60 * smooth_noise(rng, b, 1, h, w + 1)
    flow = 0.5 * smooth_noise(rng, b, 2, h, w)
    return [torch.from_numpy(f).float() for f in (image[..., 1:], image[..., :-1], flow)]


def expected_by_float64(before, after, flow, rules):
    """Return the flow of each pair, and its iterations in each warp."""
    flows, counts = [], []
    for i in range(len(flow)):
        images = [field[i : i + 1].double().numpy() for field in (before, after)]
        start = flow[i : i + 1].double().numpy()
        state = FlowState(start, np.zeros((1, 2, 2, *start.shape[2:])))
        counts.append([])
        for _ in range(rules.warps):
            state, count = tvl1_float64.solve_warp(*images, state, rules)
            counts[-1].append(count)
        flows.append(state.flow)
    return np.concatenate(flows), counts


def solved(before, after, flow, rules, **options):
    level = GpuLevel(before, after, flow, rules, **options)
    for _ in range(rules.warps):
        level.warp()
    return level.flow()


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["step", "tile"])
def test_a_level_by_the_accurate_rules_agrees_with_float64(kernel, rng):
    fields = pairs(rng, 2, 37, 53)
    expected, _ = expected_by_float64(*fields, ACCURATE)
    assert relative_error(solved(*fields, ACCURATE, kernel=kernel), expected) < 1e-5


@pytest.mark.slow
def test_a_level_by_the_opencv_rules_agrees_with_float64(rng):
    before, after, flow = pairs(rng, 3, 37, 53)
    after[1] = (before[1] + after[1]) / 2
    expected, counts = expected_by_float64(before, after, flow, OPENCV)
    # In the middle of a round, at the end of one, after odd and even counts, and not together.
    assert counts == [[14, 7, 7], [10, 7, 4], [12, 7, 7]]
    assert relative_error(solved(before, after, flow, OPENCV), expected) < 1e-5


def test_a_level_agrees_with_its_plain_twin(rng):
    rules = replace(ACCURATE, warps=1)
    fields = pairs(rng, 1, 30, 40)
    plain = PlainLevel(*(field.double() for field in fields), rules)
    plain.warp()
    assert relative_error(solved(*fields, rules), plain.flow().numpy()) < 1e-5


def test_equal_images_do_not_move(rng):
    image, _, flow = pairs(rng, 1, 30, 40)
    assert not solved(image, image, 0 * flow, replace(ACCURATE, warps=1)).any()


def test_half_precision_is_near(rng):
    rules = replace(ACCURATE, warps=1)
    fields = pairs(rng, 1, 30, 40)
    half = solved(*fields, rules, dtype=torch.float16)
    assert half.dtype == torch.float32
    assert 0 < relative_error(half, solved(*fields, rules).double().numpy()) < 5e-3


def test_a_later_level_finds_nothing_of_an_earlier_one(rng):
    rules = replace(OPENCV, warps=1, outer=1)
    first, second = pairs(rng, 1, 20, 30), pairs(rng, 1, 20, 30)
    fresh = solved(*second, rules)
    tvl1_gpu.release_idle_buffers()
    kept = solved(*first, rules)
    again = solved(*second, rules)
    assert torch.equal(again, fresh)
    assert not torch.equal(kept, again)
    assert len(tvl1_gpu._idle_buffers) == 1


class Launches:
    """Stands for a graph where there is no GPU: the launches of a warp, not yet run."""

    def __init__(self, work):
        self.calls = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tvl1_launch, "_launch_kernel", lambda *a, **b: self.calls.append((a, b)))
            work._launch_sequence()

    def replay(self):
        for places, names in self.calls:
            tvl1_launch._launch_kernel(*places, **names)


@pytest.mark.parametrize("median", [1, 3])
@pytest.mark.parametrize("inner", [5, 6])
def test_a_recorded_warp_goes_on_in_the_right_buffers(median, inner, rng, monkeypatch):
    monkeypatch.setattr(tvl1_gpu._LevelBuffers, "_record_graph", lambda work: Launches(work))
    rules = replace(ACCURATE, warps=5, inner=inner, median=median)
    first, second = pairs(rng, 1, 20, 30), pairs(rng, 1, 20, 30)
    expected = solved(*second, rules)
    level = GpuLevel(*first, rules)
    level._buffers.records_graphs = True
    for fields in (first, second):
        level._buffers.load_images(*fields)
        for _ in range(rules.warps):
            level.warp()
    assert level._buffers._graphs
    assert torch.equal(level.flow(), expected)


def test_two_levels_at_a_time_have_their_own_buffers(rng):
    rules = replace(ACCURATE, warps=1, median=1)
    fields = [pairs(rng, 1, 20, 30) for _ in range(2)]
    levels = [GpuLevel(*parts, rules) for parts in fields]
    for level in levels:
        level.warp()
    for level, parts in zip(levels, fields, strict=True):
        assert torch.equal(level.flow(), solved(*parts, rules))


def test_the_inputs_are_left_alone(rng):
    fields = pairs(rng, 1, 20, 30)
    before = [field.clone() for field in fields]
    solved(*fields, replace(ACCURATE, warps=1)).zero_()
    assert all(torch.equal(a, b) for a, b in zip(before, fields, strict=True))


def test_levels_are_shared_between_inference_mode_and_no_grad(rng):
    fields, rules = pairs(rng, 1, 20, 30), replace(ACCURATE, warps=1, inner=1, median=1)
    found = []
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            found.append(solved(*fields, rules).clone())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])

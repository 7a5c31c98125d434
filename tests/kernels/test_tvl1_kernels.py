import numpy as np
import pytest
import torch
from support import flows

pytest.importorskip("numba", reason="numba is not installed")

from mrx.kernels import tvl1_cpu, tvl1_gpu, tvl1_launch, tvl1_rows, warp_rows
from mrx.methods.tvl1 import TVL1, TVL1_PRESETS
from mrx.ops.texture import STRUCTURE_THETA, extract_structure
from mrx.ops.tvl1_solver import (
    LinearResidual,
    PlainLevel,
    dual_divergence,
    take_data_step,
    take_dual_step,
)

RULES = {name: TVL1(name, outer=2, inner=6, warps=2, epsilon=0.0).rules for name in TVL1_PRESETS}
LEVELS = [tvl1_cpu.RowsLevel, tvl1_cpu.OpenCVLevel, tvl1_cpu.InPlaceLevel]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("size", [(37, 53), (16, 16), (3, 40), (1, 7)])
def test_a_level_is_that_of_the_formulas(level, size, rules):
    frames = [
        torch.from_numpy(flows.make_texture(*size, dx=dx))[None, None].float() for dx in (0, 1.7)
    ]
    start = 3 * random(1, 2, *size)
    found = level(*frames, start, rules)
    expected = PlainLevel(*(frame.double() for frame in frames), start.double(), rules)
    for _ in range(2):
        found.warp()
        expected.warp()
    assert (found.flow() - expected.flow()).abs().max() < 2e-4


@pytest.mark.parametrize("count", [8, 30])
def test_rows_iterate_as_the_formulas_in_float64_do(count):
    h, w = 37, 53
    gradient, rest = 20 * random(2, h, w), 15 * random(1, h, w, seed=1)
    gradient[:, :4, :6] = 0
    square = gradient.square().sum(0, keepdim=True)
    inverse = torch.where(square > 0, 1 / square.clamp(min=1e-9), 0.0)
    start = 2 * random(2, h, w, seed=2)
    fields = tvl1_rows.new_fields(6, h, w)
    fields[:2, 1:, 1:-1] = start
    fields[:2, 1:, -1] = start[..., -1]
    term = torch.cat([gradient, rest, inverse]).numpy()
    numbers = [np.float32(n) for n in (0.045, 0.3, 0.25 / 0.3)]
    assert tvl1_rows.compile_iterations()(fields, term, count, 1, *numbers, -1.0)
    exact = LinearResidual(gradient[None].double(), rest[None].double(), inverse[None].double())
    flow, dual = start[None].double(), torch.zeros(1, 2, 2, h, w, dtype=torch.float64)
    for _ in range(count):
        flow = take_data_step(flow, exact, limit=0.045) + 0.3 * dual_divergence(dual)
        dual = take_dual_step(dual, flow, rate=0.25 / 0.3)
    found = torch.from_numpy(fields[:, 1:, 1:-1])
    expected = torch.cat([flow[0], dual[0].flatten(0, 1)])
    assert (found - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize("depth", [2, 7, 10, 40])
def test_iterations_that_go_over_the_rows_together_give_the_same(depth):
    h, w = 23, 31
    term = random(4, h, w).numpy()
    numbers = [np.float32(n) for n in (0.045, 0.3, 0.25 / 0.3)]
    fields = [tvl1_rows.new_fields(6, h, w) for _ in range(2)]
    for one, together in zip(fields, (1, depth), strict=True):
        tvl1_rows.compile_iterations()(one, term, 25, together, *numbers, -1.0)
    assert np.array_equal(*fields)


def test_rows_stop_when_they_change_no_more():
    fields, term = tvl1_rows.new_fields(6, 8, 9), np.zeros((4, 8, 9), np.float32)
    numbers = [np.float32(n) for n in (0.045, 0.3, 0.25 / 0.3)]
    assert not tvl1_rows.compile_iterations()(fields, term, 5, 1, *numbers, 0.0)
    assert tvl1_rows.compile_iterations()(fields, term, 5, 1, *numbers, -1.0)


def test_large_frames_take_the_same_way_as_small_ones(monkeypatch):
    frames = flows.stack_window(flows.make_texture(40, 50), flows.make_texture(40, 50, dx=1.5))
    found = [tvl1_cpu.compute_tvl1_flow(frames, TVL1_PRESETS["accurate"], backend="numba")]
    monkeypatch.setattr(tvl1_cpu, "LARGE_IMAGE_PIXELS", 1)
    found.append(tvl1_cpu.compute_tvl1_flow(frames, TVL1_PRESETS["accurate"], backend="numba"))
    assert torch.equal(*found)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (40, 33)])
def test_the_structure_of_rows_is_that_of_the_formula(size):
    image = random(1, 1, *size).clamp(-1, 1)
    fields = tvl1_rows.new_fields(3, *size)
    tvl1_rows.compile_structure()(image[0, 0].numpy(), fields, np.float32(STRUCTURE_THETA), 40)
    expected = extract_structure(image.double(), rounds=40)[0, 0]
    assert np.abs(fields[0, 1:, 1:-1] - expected.numpy()).max() < 1e-5


@pytest.mark.parametrize(
    ("preset", "most"), [("matched", 1e-4), ("accurate", 1e-4), ("fast", 1e-4), ("opencv", 0.03)]
)
def test_all_ways_agree_in_the_mean(preset, most):
    frames = flows.stack_window(
        flows.make_texture(60, 70), flows.make_texture(60, 70, dx=2.3, dy=1.1)
    )
    found = [
        tvl1_cpu.compute_tvl1_flow(frames, TVL1_PRESETS[preset], backend=backend)
        for backend in ("numba", "opencv", "torch")
    ]
    for other in found[1:]:
        assert (other - found[0]).abs().mean() < most


def test_rows_are_plain_python_that_runs_without_numba(monkeypatch):
    frames = flows.stack_window(flows.make_texture(16, 18), flows.make_texture(16, 18, dx=1))
    rules = TVL1(warps=1, inner=3, texture_rounds=2).rules
    expected = tvl1_cpu.compute_tvl1_flow(frames, rules, backend="numba")
    monkeypatch.setattr(tvl1_rows, "compile_iterations", lambda: tvl1_rows._iterate_rows)
    monkeypatch.setattr(tvl1_rows, "compile_structure", lambda: tvl1_rows._extract_structure_rows)
    monkeypatch.setattr(warp_rows, "compile_warp", lambda: warp_rows._warp_image_rows)
    monkeypatch.setattr(warp_rows, "compile_gradients", lambda: warp_rows._differentiate_rows)
    found = tvl1_cpu.compute_tvl1_flow(frames, rules, backend="numba")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_other_devices_take_a_way_of_tensors_alone():
    frames = flows.stack_window(
        flows.make_texture(20, 24), flows.make_texture(20, 24, dx=1), flows.make_texture(20, 24)
    )
    rules = TVL1(inner=1, warps=1, texture_rounds=1).rules
    found = tvl1_cpu.compute_tvl1_flow(frames.to("meta"), rules, backend="numba")
    assert (found.shape, found.device.type, found.dtype) == ((1, 4, 20, 24), "meta", torch.float32)


@pytest.mark.parametrize(
    ("backend", "there", "epsilon", "expected"),
    [
        ("numba", True, 0.01, tvl1_gpu.GpuLevel),
        ("torch", True, 0.0, tvl1_cpu.InPlaceLevel),
        ("numba", False, 0.0, tvl1_cpu.InPlaceLevel),
        ("numba", False, 0.01, PlainLevel),
    ],
)
def test_triton_runs_where_it_is_supported_and_allowed(
    backend, there, epsilon, expected, monkeypatch
):
    monkeypatch.setattr(tvl1_launch, "supports_device", lambda frames: there)
    rules = TVL1(epsilon=epsilon).rules
    found = tvl1_cpu._choose_device_level(torch.empty(1), rules, backend, half=True)
    assert getattr(found, "func", found) is expected
    assert not there or backend == "torch" or found.keywords == {"dtype": torch.float16}


def test_planes_in_place_take_a_batch_of_pairs():
    frames = [torch.rand(3, 1, 20, 24) * 255 for _ in range(2)]
    rules = RULES["accurate"]
    together = tvl1_cpu.InPlaceLevel(*frames, torch.zeros(3, 2, 20, 24), rules)
    together.warp()
    for i in range(3):
        alone = tvl1_cpu.InPlaceLevel(
            *(f[i : i + 1] for f in frames), torch.zeros(1, 2, 20, 24), rules
        )
        alone.warp()
        assert (together.flow()[i] - alone.flow()[0]).abs().max() < 1e-5

import numpy as np
import pytest
import torch
from support.triton_marks import interpreted
from support.tvl1_float64 import (
    NUMBERS,
    assert_nothing_else_written,
    guard_planes,
    make_poisoned,
    random_fields,
    relative_error,
    run_steps,
)

from mrx.errors import ShapeError
from mrx.kernels import tvl1_launch
from mrx.kernels.tvl1_launch import STEP_SHAPES, TILE_SHAPES, BlockShape, DataTerm, FlowState

pytestmark = interpreted

STEP = BlockShape(32, 128, 4)
TILE = BlockShape(64, 64, 8, 4)


def launched(state, term, shape, times, *, dtype=torch.float32):
    """Return the state after `times` launches, in buffers that are NaN at first."""
    old = FlowState(*(guard_planes(field, dtype) for field in state))
    new = FlowState(*(make_poisoned(field) for field in old))
    terms = DataTerm(*(guard_planes(field) for field in term))
    for _ in range(times):
        tvl1_launch.launch_iterations(old, new, terms, NUMBERS, shape)
        old, new = new, old
    for field in (*old, *new, *terms):
        assert_nothing_else_written(field)
    return old


def assert_agrees(size, shape, times, *, limit=1e-6, dtype=torch.float32):
    state, term = random_fields(*size)
    found = launched(state, term, shape, times, dtype=dtype)
    expected, _ = run_steps(state, term, times * max(1, shape.iterations))
    for field, right in zip(found, expected, strict=True):
        assert relative_error(field, right) < limit


@pytest.mark.parametrize("size", [(1, 37, 53), (3, 20, 20), (1, 32, 128)])
def test_steps_agree_with_float64(size):
    assert_agrees(size, STEP, 8)


@pytest.mark.slow
def test_many_steps_agree_with_float64():
    assert_agrees((1, 37, 53), STEP, 30)


def test_steps_of_a_batch_agree_with_float64():
    assert_agrees((3, 64, 85), STEP, 3)


@pytest.mark.parametrize("shape", STEP_SHAPES)
def test_steps_of_each_shape_agree_with_float64(shape):
    assert_agrees((2, 9, 37), shape, 2)


@pytest.mark.parametrize("size", [(1, 37, 53), (3, 64, 85), (3, 20, 20), (1, 64, 64), (1, 57, 113)])
def test_tiles_agree_with_float64(size):
    assert_agrees(size, TILE, 2)


def test_many_tiles_agree_with_float64():
    assert_agrees((1, 70, 75), BlockShape(64, 64, 8, 5), 6)


@pytest.mark.parametrize("shape", TILE_SHAPES)
def test_tiles_of_each_shape_agree_with_float64(shape):
    assert_agrees((1, 60, 70), shape, 2)


@pytest.mark.parametrize("shape", [BlockShape(64, 512, 4), BlockShape(128, 128, 16, 8)])
def test_the_size_of_a_video_agrees_with_float64(shape):
    assert_agrees((1, 255, 341), shape, 1)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3)])
@pytest.mark.parametrize("shape", [BlockShape(8, 32, 4), BlockShape(32, 32, 4, 4)])
def test_the_smallest_images_agree_with_float64(size, shape):
    assert_agrees((2, *size), shape, 2)


@pytest.mark.parametrize("shape", [STEP, TILE._replace(iterations=1)])
def test_a_gradient_below_the_guard_counts_as_zero(shape):
    size = np.sqrt(NUMBERS.guard / 2)
    gradient = np.full((2, 2, 9, 9), size) * np.array([0.99, 1.01]).reshape(2, 1, 1, 1)
    state = FlowState(np.zeros((2, 2, 9, 9)), np.zeros((2, 2, 2, 9, 9)))
    flow = launched(state, DataTerm(gradient, np.ones((2, 1, 9, 9))), shape, 1).flow
    assert not flow[0].any()
    torch.testing.assert_close(flow[1].double(), torch.tensor(-NUMBERS.bound * gradient[1]))


@pytest.mark.parametrize("shape", [STEP, TILE])
def test_two_runs_are_equal_to_the_bit(shape):
    state, term = random_fields(2, 40, 70)
    first, second = (launched(state, term, shape, 2) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("shape", [STEP, TILE])
def test_a_batch_is_its_pairs_one_by_one(shape):
    state, term = random_fields(3, 30, 70)
    found = launched(state, term, shape, 2)
    for i in range(3):
        alone = [type(fields)(*(f[i : i + 1] for f in fields)) for fields in (state, term)]
        for field, one in zip(found, launched(*alone, shape, 2), strict=True):
            assert torch.equal(field[i : i + 1], one)


@pytest.mark.parametrize(("shape", "times"), [(STEP, 8), (TILE, 2)])
def test_a_state_in_half_precision_loses_three_digits_only(shape, times):
    assert_agrees((1, 37, 53), shape, times, dtype=torch.float16, limit=2e-3)


def test_an_empty_batch_gives_an_empty_flow():
    state, term = random_fields(0, 5, 6)
    assert launched(state, term, STEP, 1).flow.shape == (0, 2, 5, 6)


def test_fields_of_other_pitches_are_refused():
    state, term = random_fields(1, 5, 6)
    old, terms = (type(f)(*(guard_planes(v) for v in f)) for f in (state, term))
    wide = terms._replace(rest=guard_planes(term.rest, align=64))
    with pytest.raises(ShapeError, match="not planes of pitch=16"):
        tvl1_launch.launch_iterations(old, FlowState(*map(make_poisoned, old)), wide, NUMBERS, STEP)


def test_dense_fields_need_no_pitch():
    state, term = random_fields(1, 5, 6)
    tensors = [[torch.from_numpy(v.astype(np.float32)) for v in fields] for fields in (state, term)]
    new = FlowState(*(torch.full_like(field, float("nan")) for field in tensors[0]))
    tvl1_launch.launch_iterations(FlowState(*tensors[0]), new, DataTerm(*tensors[1]), NUMBERS, STEP)
    assert relative_error(new.flow, run_steps(state, term, 1)[0].flow) < 1e-6

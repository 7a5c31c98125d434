import pytest
import torch
import torch.nn.functional as F
from support.triton_marks import interpreted
from support.tvl1_float64 import assert_nothing_else_written, guard_planes, make_poisoned

from mrx.kernels import tvl1_launch

pytestmark = interpreted


def by_sorting(field, side):
    padded = F.pad(field, [side // 2] * 4, mode="replicate")
    windows = padded.unfold(2, side, 1).unfold(3, side, 1)
    return windows.flatten(-2).median(-1).values


def assert_exact(values, side, dtype=torch.float32):
    field = guard_planes(values, dtype)
    found = make_poisoned(field)
    tvl1_launch.launch_median(field, found, side)
    assert torch.equal(found.float(), by_sorting(field.float(), side))
    assert_nothing_else_written(found)


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("size", [(1, 37, 53), (3, 64, 85), (1, 1, 1), (2, 2, 9), (1, 7, 1)])
def test_it_is_the_median_with_the_edge_repeated(size, side, rng, large_blocks):
    b, h, w = size
    assert_exact(rng.normal(size=(b, 2, h, w)), side)


@pytest.mark.parametrize("side", [3, 5])
def test_the_median_of_equal_values_is_exact(side, rng, large_blocks):
    assert_exact(rng.integers(-2, 3, size=(1, 2, 60, 60)), side)


@pytest.mark.parametrize("side", [3, 5])
def test_half_precision_is_exact_too(side, rng, large_blocks):
    assert_exact(rng.normal(size=(1, 2, 30, 40)), side, torch.float16)


@pytest.mark.parametrize("width", [20, 60, 130, 260])
def test_blocks_of_each_shape_meet_without_a_seam(width, rng):
    assert_exact(rng.normal(size=(1, 1, 5, width)), 5)

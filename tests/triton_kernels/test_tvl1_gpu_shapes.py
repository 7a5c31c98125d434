import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import integers, sampled_from

from mrx.kernels import tvl1_launch
from mrx.kernels.tvl1_launch import (
    STEP_SHAPES,
    TILE_SHAPES,
    allocate_planes,
    choose_block_shape,
    split_iterations,
)


@settings(deadline=None)
@given(integers(1, 1000), integers(1, 8))
def test_launches_make_all_iterations_and_none_too_many(inner, most):
    counts = split_iterations(inner, most)
    assert sum(counts) == inner
    assert max(counts) <= most
    assert max(counts) - min(counts) <= 1
    assert len(counts) == -(-inner // most)


@settings(deadline=None)
@given(integers(1, 4000), integers(1, 4000), sampled_from(STEP_SHAPES + TILE_SHAPES))
def test_programs_cover_the_image_and_none_is_idle(height, width, shape):
    rim = 2 * shape.iterations
    for size, block, count in zip(
        (width, height),
        (shape.columns, shape.rows),
        shape.count_programs(height, width),
        strict=True,
    ):
        assert rim + count * (block - rim) >= size
        assert count == 1 or rim + (count - 1) * (block - rim) < size


@settings(deadline=None)
@given(integers(1, 4000), integers(1, 4000), sampled_from(["step", "tile"]))
def test_the_chosen_shape_wastes_little(height, width, kernel):
    table = STEP_SHAPES if kernel == "step" else TILE_SHAPES
    chosen = choose_block_shape(height, width, kernel)
    assert chosen in table
    assert all(
        chosen.count_pixels(height, width) <= 1.15 * s.count_pixels(height, width) for s in table
    )


@pytest.mark.parametrize("width", [1, 15, 16, 17, 340])
def test_rows_of_planes_are_aligned(width):
    field = allocate_planes(2, 3, 5, width, like=torch.empty(0))
    assert field.shape == (2, 3, 5, width)
    assert field.stride(-2) % 16 == 0
    assert tvl1_launch._check_pitch(field) == field.stride(-2)


def test_images_on_the_cpu_are_not_for_the_kernels():
    assert not tvl1_launch.supports_device(torch.zeros(1))

from dataclasses import replace

import numpy as np
import pytest
from support.triton_marks import interpreted
from support.tvl1_float64 import (
    assert_nothing_else_written,
    compute_gradient,
    guard_planes,
    linearize,
    make_poisoned,
    relative_error,
    smooth_noise,
)
from support.tvl1_rules import ACCURATE

from mrx.kernels import tvl1_launch
from mrx.kernels.tvl1_launch import DataTerm

pytestmark = [*interpreted, pytest.mark.usefixtures("large_blocks")]


def images(rng, b, h, w):
    return [
        (120 + 60 * smooth_noise(rng, b, 1, h, w)).astype(np.float32).astype(float) for _ in "01"
    ]


def stacked(image, rules):
    return np.concatenate([image, compute_gradient(image[:, 0], rules.gradient)], axis=1)


def warped(before, after, flow, rules):
    first = stacked(before, rules) if rules.gradient == "mixed" else before
    out = DataTerm(make_poisoned(guard_planes(flow)), make_poisoned(guard_planes(before)))
    fields = [guard_planes(field) for field in (stacked(after, rules), first, flow)]
    tvl1_launch.launch_warp(*fields, out, rules)
    for field in (*fields, *out):
        assert_nothing_else_written(field)
    return out


def assert_agrees(before, after, flow, rules):
    found, expected = warped(before, after, flow, rules), linearize(before, after, flow, rules)
    for field, right in zip(found, expected, strict=True):
        assert relative_error(field, right) < 1e-6


@pytest.mark.parametrize("border", ["zero", "clamp"])
@pytest.mark.parametrize("cubic", [-0.75, -0.5])
@pytest.mark.parametrize("kind", ["central", "mixed"])
@pytest.mark.parametrize("masked", [False, True])
def test_it_agrees_with_sixteen_taps_in_float64(border, cubic, kind, masked, rng):
    rules = replace(ACCURATE, border=border, cubic=cubic, gradient=kind, masked=masked)
    flow = (5 * rng.normal(size=(2, 2, 37, 53))).astype(np.float32).astype(float)
    assert_agrees(*images(rng, 2, 37, 53), flow, rules)


@pytest.mark.parametrize("border", ["zero", "clamp"])
@pytest.mark.parametrize("masked", [False, True])
def test_whole_pixels_and_the_border_itself_agree(border, masked, rng):
    rules = replace(ACCURATE, border=border, masked=masked)
    flow = rng.integers(-9, 10, size=(3, 2, 20, 25)).astype(float)
    assert_agrees(*images(rng, 3, 20, 25), flow, rules)


def test_whole_pixels_are_taken_exactly(rng):
    rules = replace(ACCURATE, gradient="central", masked=False)
    before, after = images(rng, 1, 20, 25)
    found = warped(before, after, np.full((1, 2, 20, 25), [[[2.0]], [[-3.0]]]), rules)
    slope = guard_planes(compute_gradient(after[:, 0], "central"))
    assert (found.gradient[:, :, 3:, :-2] == slope[:, :, :-3, 2:]).all()


def test_without_displacement_equal_images_leave_no_residual(rng):
    image = images(rng, 1, 20, 25)[0]
    assert not warped(image, image, np.zeros((1, 2, 20, 25)), ACCURATE).rest.any()


@pytest.mark.parametrize("border", ["zero", "clamp"])
@pytest.mark.parametrize("far", [30.5, 1e4, 3e9, 1e30])
def test_far_outside_there_is_the_border(border, far, rng):
    rules = replace(ACCURATE, border=border, gradient="central")
    before, after = images(rng, 1, 20, 25)
    signs = rng.choice([-1, 1], size=(1, 2, 20, 25))
    found = warped(before, after, far * signs, rules)
    held = after if border == "clamp" else 0 * after
    row, column = (np.where(signs[0, i] < 0, 0, end) for i, end in ((1, 19), (0, 24)))
    assert not found.gradient.any()
    np.testing.assert_allclose(found.rest[0, 0], held[0, 0, row, column] - before[0, 0], atol=1e-4)


def test_a_place_keeps_its_digits_far_from_the_origin(rng):
    flow = np.full((1, 2, 1, 2000), 1e-4, np.float32).astype(float)
    assert_agrees(*images(rng, 1, 1, 2000), flow, replace(ACCURATE, masked=False))

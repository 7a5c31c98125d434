import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis.strategies import floats, integers, sampled_from
from support import flows

from mrx.methods.tvl1 import TVL1
from mrx.ops import stencils
from mrx.ops.flow import estimate_flow, estimate_shared_flow, map_neighbors
from mrx.ops.median import median, median_blur
from mrx.ops.pyramid import (
    blur_reflected,
    blur_sigma,
    blur_taps,
    build_pyramid,
    enlarge_flow,
    pyramid_sizes,
    shrink_image,
)
from mrx.ops.texture import extract_structure
from mrx.ops.tvl1_solver import (
    LinearResidual,
    PlainLevel,
    dual_divergence,
    forward_difference,
    take_data_step,
    take_dual_step,
)
from mrx.ops.warp import cubic_weights, is_inside, sample_cubic


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 255


@given(
    h=integers(1, 12),
    w=integers(1, 12),
    dx=integers(-20, 20),
    dy=integers(-20, 20),
    a=sampled_from([-0.5, -0.75]),
)
@settings(max_examples=60, deadline=None)
def test_a_whole_displacement_takes_the_pixels_themselves(h, w, dx, dy, a):
    image = random(1, 2, h, w)
    flow = torch.tensor([float(dx), float(dy)]).view(1, 2, 1, 1).expand(1, 2, h, w)
    x, y = torch.arange(w) + dx, torch.arange(h) + dy
    clamped = image[..., y.clamp(0, h - 1), :][..., x.clamp(0, w - 1)]
    assert torch.equal(sample_cubic(image, flow, a=a, border="clamp"), clamped)
    within = ((y >= 0) & (y < h))[:, None] & ((x >= 0) & (x < w))
    assert torch.equal(sample_cubic(image, flow, a=a, border="zero"), clamped * within)
    assert torch.equal(is_inside(flow)[0, 0], within)


def test_sampling_with_zeros_outside_is_the_bicubic_of_torch():
    image, flow = random(2, 3, 20, 30).double(), random(2, 2, 20, 30, seed=1).double() / 30 - 4
    base = torch.stack(torch.meshgrid(torch.arange(30), torch.arange(20), indexing="xy"))
    grid = (base + flow).permute(0, 2, 3, 1) * 2 / torch.tensor([29.0, 19.0]) - 1
    expected = F.grid_sample(image, grid, mode="bicubic", align_corners=True)
    found = sample_cubic(image, flow, a=-0.75, border="zero")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_sampling_with_a_repeated_edge_equals_a_padded_image():
    image, flow = random(1, 1, 9, 11), random(1, 2, 9, 11, seed=1) / 16 - 8
    padded = F.pad(image, [30] * 4, mode="replicate")
    wide = F.pad(flow, [30] * 4)
    expected = sample_cubic(padded, wide, a=-0.5, border="zero")[..., 30:-30, 30:-30]
    found = sample_cubic(image, flow, a=-0.5, border="clamp")
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_sampling_far_outside_stays_finite():
    flow = torch.full((1, 2, 4, 5), 1e30)
    for border in ("zero", "clamp"):
        assert sample_cubic(random(1, 1, 4, 5), flow, a=-0.5, border=border).isfinite().all()


@given(floats(0, 1), sampled_from([-0.5, -0.75]))
def test_cubic_weights_sum_to_one(fraction, a):
    assert sum(cubic_weights(torch.tensor(fraction), a)).item() == pytest.approx(1, abs=1e-6)


def test_gradients_flow_through_the_displacement_of_the_warp():
    image = random(1, 1, 6, 7).double()
    flow = (random(1, 2, 6, 7, seed=1).double() / 255 * 0.8 + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f: sample_cubic(image, f, a=-0.5, border="clamp"), flow, atol=1e-4
    )


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (20, 31)])
def test_the_median_filter_is_opencvs(size, shape):
    image = random(1, 2, *shape)
    found = median_blur(image, size)
    for plane, expected in zip(image[0].numpy(), found[0].numpy(), strict=True):
        assert np.array_equal(cv2.medianBlur(plane, size), expected)


@given(integers(0, 8), integers(0, 100))
@settings(deadline=None)
def test_a_median_is_the_middle_value_also_among_equal_ones(half, seed):
    values = torch.randint(0, 5, (2 * half + 1, 3), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(median(list(values.float())), values.float().median(0).values)


@pytest.mark.parametrize("zoom", [0.5, 0.6, 0.7, 0.8])
@pytest.mark.parametrize("shape", [(21, 33), (64, 80), (256, 340), (38, 58)])
def test_shrinking_and_blurring_are_opencvs(zoom, shape):
    image = random(1, 1, *shape)
    plane = image[0, 0].numpy()
    smaller = cv2.resize(plane, None, fx=zoom, fy=zoom)
    found = shrink_image(image, *smaller.shape, zoom=zoom)[0, 0].numpy()
    assert np.abs(found - smaller).max() < 1e-3
    sigma = blur_sigma(zoom)
    smooth = cv2.GaussianBlur(plane, (0, 0), sigma)
    assert np.abs(blur_reflected(image, blur_taps(zoom))[0, 0].numpy() - smooth).max() < 1e-3


@given(integers(1, 300), integers(1, 300), sampled_from([0.5, 0.7, 0.97]), integers(1, 99))
def test_the_pyramid_ends_before_levels_are_too_small(height, width, zoom, most):
    found = pyramid_sizes(height, width, zoom=zoom, max_levels=most)
    assert found[0] == (height, width)
    assert len(found) <= most
    assert all(min(size) >= 16 for size in found[1:])
    assert len(set(found)) == len(found)
    if len(found) < most:
        smaller = tuple(round(side * zoom) for side in found[-1])
        assert min(smaller) < 16 or smaller == found[-1]


def test_a_pyramid_has_each_size():
    levels = build_pyramid(random(2, 1, 64, 100), zoom=0.5, max_levels=9, smooth=True)
    assert [tuple(level.shape) for level in levels] == [
        (2, 1, 64, 100),
        (2, 1, 32, 50),
        (2, 1, 16, 25),
    ]


def test_enlarged_displacements_are_longer():
    found = enlarge_flow(torch.ones(1, 2, 8, 9), 16, 19, zoom=0.5)
    torch.testing.assert_close(found, torch.full((1, 2, 16, 19), 2.0))


def test_differences_of_a_slope_are_the_slope():
    y, x = torch.meshgrid(torch.arange(7.0), torch.arange(9.0), indexing="ij")
    image = (3 * x - 2 * y)[None, None]
    for difference in (stencils.central_difference, stencils.five_point_difference):
        inner = difference(image)[..., 2:-2, 2:-2]
        torch.testing.assert_close(inner[:, 0], torch.full_like(inner[:, 0], 3))
        torch.testing.assert_close(inner[:, 1], torch.full_like(inner[:, 1], -2))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 6)])
def test_differences_of_a_constant_image_are_exactly_0(shape):
    image = torch.full((1, 1, *shape), 93.7)
    for difference in (stencils.central_difference, stencils.five_point_difference):
        assert torch.equal(difference(image), torch.zeros(1, 2, *shape))


def test_the_divergence_is_minus_the_adjoint_of_the_difference():
    field, dual = random(1, 2, 6, 5).double(), random(1, 2, 2, 6, 5, seed=1).double()
    dual[..., 0, :, -1] = 0
    dual[..., 1, -1, :] = 0
    inner = (forward_difference(field) * dual).sum()
    torch.testing.assert_close(inner, -(field * dual_divergence(dual)).sum())


def test_the_data_step_is_the_three_cases_of_the_paper():
    gradient = torch.tensor([3.0, -4.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    rest = torch.tensor([-9.0, 0.5, 9.0]).view(1, 1, 1, 3)
    term = LinearResidual(gradient, rest, torch.full((1, 1, 1, 3), 1 / 25))
    moved = take_data_step(torch.zeros(1, 2, 1, 3), term, limit=0.045)
    expected = torch.tensor([0.045, -0.5 / 25, -0.045]) * gradient
    torch.testing.assert_close(moved, expected)


def test_the_dual_step_keeps_fields_below_one():
    dual = torch.zeros(1, 2, 2, 8, 9)
    for seed in range(30):
        dual = take_dual_step(dual, random(1, 2, 8, 9, seed=seed), rate=0.8333)
    assert dual.square().sum(2).sqrt().max() <= 1


def test_the_dual_step_has_the_gradient_of_finite_differences():
    dual = random(1, 2, 2, 4, 5).double() / 255 - 0.5
    flow = random(1, 2, 4, 5, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: take_dual_step(dual, f, rate=0.8333), flow)


def test_structure_is_smoother_and_keeps_a_constant_image():
    image = random(1, 1, 20, 24) / 127.5 - 1
    smooth = extract_structure(image, rounds=40)
    variation = [forward_difference(i).abs().sum() for i in (image, smooth)]
    assert variation[1] < 0.7 * variation[0]
    plain = torch.full((1, 1, 5, 6), 0.3)
    assert torch.equal(extract_structure(plain, rounds=40), plain)


def test_pairs_that_windows_share_are_computed_once():
    video, computed = torch.arange(6.0).view(6, 1, 1), []

    def compute(before, after):
        computed.append((before.item(), after.item()))
        return (before * 10 + after)[None, None]

    windows = video.unfold(0, 3, 1).permute(0, 3, 1, 2)
    found = map_neighbors(windows, compute)
    assert found[:, :, 0, 0].tolist() == [[1, 12], [12, 23], [23, 34], [34, 45]]
    assert computed == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert torch.equal(map_neighbors(windows.clone(), compute), found)


def test_windows_that_share_frames_solve_each_pair_once():
    rules = TVL1(warps=1, inner=3, texture_rounds=2).rules
    video = torch.from_numpy(np.stack([flows.make_texture(20, 24, dx=i) for i in range(6)]))
    windows = video.unfold(0, 3, 1).permute(0, 3, 1, 2)[:, :, None]
    batches = []

    class Counted(PlainLevel):
        def __init__(self, before, *rest):
            batches.append(len(before))
            super().__init__(before, *rest)

    found = estimate_shared_flow(windows, rules, Counted)
    assert set(batches) == {5}
    expected = estimate_flow(windows.float().contiguous(), rules)
    assert (found - expected).abs().max() < 1e-5
    assert set(batches) == {5}

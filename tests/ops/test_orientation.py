"""Orientation histograms against a step-by-step form of their formula."""

import math

import pytest
import torch
import torch.nn.functional as F

from mrx.ops.orientation import (
    CELL_LAYOUTS,
    blur_by_matrix,
    compute_luma,
    orientation_histograms,
    standardize_features,
)


def blur_plainly(image, sigma):
    """Blur by a Gaussian of radius int(3 sigma + 0.5) with two convolutions, repeating the edge."""
    radius, channels = int(3 * sigma + 0.5), image.shape[1]
    taps = torch.exp(-(torch.arange(-radius, radius + 1).double() ** 2) / (2 * sigma**2))
    taps = (taps / taps.sum()).expand(channels, 1, 1, -1)
    padded = F.pad(image, [radius] * 4, mode="replicate")
    rows = F.conv2d(padded, taps, groups=channels)
    return F.conv2d(rows, taps.transpose(2, 3), groups=channels)


def histograms_plainly(gray, cells):
    """Follow the definition: angles, shifted pictures, and the center four pixels of a cell."""
    image = F.pad(blur_plainly(gray, 1.0), [1] * 4, mode="replicate")
    across = (image[..., 1:-1, 2:] - image[..., 1:-1, :-2]) / 2
    down = (image[..., 2:, 1:-1] - image[..., :-2, 1:-1]) / 2
    strength = (across**2 + down**2 + 1e-12).sqrt()
    angle = torch.atan2(down, across)
    turned = [(angle - math.tau * i / 8).cos().clamp(min=0) ** 4 for i in range(8)]
    maps = blur_plainly(torch.cat([strength * t for t in turned], 1), cells.sigma)
    stride, beyond = cells.stride, cells.side // 2 * cells.stride
    h, w = gray.shape[2:]
    padded = F.pad(maps, [beyond] * 4, mode="replicate")
    steps = range(0, 2 * beyond + 1, stride)
    maps = torch.cat([padded[..., i : i + h, j : j + w] for i in steps for j in steps], 1)
    first = stride // 2 - 1
    read = [maps[..., first + i :: stride, first + j :: stride] for i in (0, 1) for j in (0, 1)]
    return sum(part[..., : h // stride, : w // stride] for part in read) / 4


@pytest.fixture
def gray():
    return torch.rand(2, 1, 45, 54, dtype=torch.float64, generator=torch.manual_seed(0))


@pytest.mark.parametrize("stride", [8, 4])
def test_histograms_are_those_of_the_definition(gray, stride):
    expected = histograms_plainly(gray, CELL_LAYOUTS[stride])
    result = orientation_histograms(gray, CELL_LAYOUTS[stride])
    assert result.shape == (2, {8: 72, 4: 200}[stride], 45 // stride, 54 // stride)
    assert (result - expected).abs().max() < 1e-7  # the definition has |g| of 1e-6 where g is 0
    assert (
        orientation_histograms(gray.float(), CELL_LAYOUTS[stride]) - expected
    ).abs().max() < 1e-6


def test_a_ramp_has_one_orientation_and_some_of_its_neighbors():
    ramp = (0.01 * torch.arange(80.0, dtype=torch.float64)).expand(1, 1, 80, 80)
    middle = orientation_histograms(ramp, CELL_LAYOUTS[8])[0, :, 5, 5].view(9, 8)
    expected = 0.01 * torch.tensor([1, 0.25, 0, 0, 0, 0, 0, 0.25], dtype=torch.float64)
    assert torch.allclose(middle, expected.expand(9, 8), atol=1e-9)


def test_a_turn_by_90_degrees_shifts_orientations_by_two(gray):
    square = gray[..., :40, :40]
    result = orientation_histograms(square, CELL_LAYOUTS[8]).view(2, 9, 8, 5, 5)[:, 4]
    turned = orientation_histograms(square.rot90(-1, (2, 3)), CELL_LAYOUTS[8]).view(2, 9, 8, 5, 5)[
        :, 4
    ]
    assert torch.allclose(turned, result.roll(2, 1).rot90(-1, (2, 3)), atol=1e-7)


def test_histograms_are_the_same_bytes_twice(gray):
    first, second = (orientation_histograms(gray.float(), CELL_LAYOUTS[8]) for _ in range(2))
    assert torch.equal(first, second)


def test_standardized_channels_have_mean_0_and_deviation_1(gray):
    flat = (
        standardize_features(orientation_histograms(gray, CELL_LAYOUTS[8]))
        .transpose(0, 1)
        .flatten(1)
    )
    assert flat.mean(1).abs().max() < 1e-9
    assert (flat.std(1) - 1).abs().max() < 1e-3


def test_a_constant_picture_has_no_features():
    features = orientation_histograms(torch.full((2, 1, 32, 32), 0.3), CELL_LAYOUTS[8])
    assert standardize_features(features).abs().max() < 1e-3


def test_histograms_have_the_gradients_of_finite_differences(gray):
    small = gray[:1, :, :9, :10].clone().requires_grad_()

    def compute(image):
        return orientation_histograms(image, CELL_LAYOUTS[8])

    assert torch.autograd.gradcheck(compute, small, fast_mode=True)


def test_luma_weighs_red_green_and_blue():
    frames = torch.eye(3).view(3, 3, 1, 1)
    assert torch.allclose(compute_luma(frames).flatten(), torch.tensor([0.299, 0.587, 0.114]))


def test_smoothing_keeps_constant_maps():
    assert torch.allclose(blur_by_matrix(torch.full((1, 2, 3, 5), 7.0), 4.0), torch.tensor(7.0))

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.places import GOLDEN

from mrx.ops.stencils import laplacian_of_gaussian, reflect_depthwise, second_difference

WITH_FLOAT32_SUM = {"s1.1_k9": 1e-4, "s0.9_k7": 5e-5, "s1.1_k11": 1e-3}


def stored(prefix):
    with np.load(GOLDEN / "appearance_mbpm_kernels.npz") as file:
        return {key.removeprefix(prefix): file[key] for key in file if key.startswith(prefix)}


def parameters(key):
    sigma, size = re.fullmatch(r"s([\d.]+)_k(\d+)", key).groups()
    return int(size), float(sigma)


@pytest.mark.parametrize(("scale", "prefix"), [("released", "norm64_"), ("paper", "raw64_")])
def test_kernels_are_the_stored_ones_in_float64(scale, prefix):
    for key, expected in stored(prefix).items():
        kernel = laplacian_of_gaussian(*parameters(key), scale=scale).kernel.numpy()
        assert np.abs(kernel - expected).max() <= 1e-12 * np.abs(expected).max(), key


def test_kernels_equal_the_released_float32_ones_up_to_rounding():
    for key, expected in stored("official32_").items():
        kernel = laplacian_of_gaussian(*parameters(key)).kernel.numpy()
        tolerance = WITH_FLOAT32_SUM.get(key, 3e-6)
        assert np.abs(kernel - expected).max() <= tolerance * np.abs(kernel).max(), key


def test_the_default_kernel_has_the_gain_of_the_specification():
    kernel = laplacian_of_gaussian(9, 1.1).kernel
    assert kernel[4, 4].item() == pytest.approx(278.398, abs=1e-3)
    assert kernel.abs().sum().item() == pytest.approx(1589.45, abs=1e-2)
    assert kernel.sum().item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("scale", ["released", "paper"])
@pytest.mark.parametrize(("size", "sigma"), [(3, 0.9), (7, 0.9), (9, 1.1), (11, 2.0)])
def test_the_factors_make_the_kernel(size, sigma, scale):
    kernel, first, second = laplacian_of_gaussian(size, sigma, scale=scale)
    made = torch.outer(first, second) + torch.outer(second, first)
    torch.testing.assert_close(made, kernel, rtol=0, atol=1e-14 * kernel.abs().max().item())


def test_paper_scale_is_the_released_kernel_times_its_sum():
    paper = laplacian_of_gaussian(9, 1.1, scale="paper").kernel
    released = laplacian_of_gaussian(9, 1.1).kernel
    torch.testing.assert_close(released * paper.sum(), paper)


@pytest.mark.parametrize("size", [13, 15, 31])
def test_a_kernel_sum_of_rounding_is_refused_in_released_scale(size):
    with pytest.raises(ValueError, match=f"sigma=1.1, size={size}: .* rounding"):
        laplacian_of_gaussian(size, 1.1)
    assert laplacian_of_gaussian(size, 1.1, scale="paper").kernel.shape == (size, size)


@pytest.mark.parametrize(("size", "sigma"), [(8, 1.1), (0, 1.1), (9, 0.0), (9, -1.0)])
def test_kernels_that_cannot_be_sampled_are_refused(size, sigma):
    with pytest.raises(ValueError, match=r"odd number of taps|must be above 0"):
        laplacian_of_gaussian(size, sigma)


def test_depthwise_reflects_without_the_edge_pixel():
    image, weight = torch.randn(2, 3, 6, 9).double(), torch.randn(3, 1, 5, 5).double()
    padded = np.pad(image.numpy(), [(0, 0), (0, 0), (2, 2), (2, 2)], mode="reflect")
    expected = F.conv2d(torch.from_numpy(padded), weight, groups=3)
    torch.testing.assert_close(reflect_depthwise(image, weight), expected)


def test_second_difference_is_the_sum_of_products_for_any_taps():
    before, now, after = torch.randn(3, 2, 4, 5, 6).double()
    taps = torch.randn(4, 3).double()
    expected = torch.einsum("tbchw,ct->bchw", torch.stack([before, now, after]), taps)
    torch.testing.assert_close(second_difference(before, now, after, taps), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_second_difference_of_equal_moments_is_exactly_zero(dtype):
    now = torch.randn(1, 3, 8, 8).to(dtype)
    taps = (torch.tensor([-1.0, 2.0, -1.0]) / 3).to(dtype).expand(3, 3)
    assert not second_difference(now, now, now, taps).any()

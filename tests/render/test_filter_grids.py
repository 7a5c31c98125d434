"""Test grids and pages of convolution filters."""

import numpy as np
import pytest
import torch

from mrx import render
from mrx.errors import ShapeError, UsageError
from mrx.render.diverging import diverging_table
from mrx.render.figures import (
    FilterPanel,
    KernelPanel,
    PageSize,
    draw_filters_page,
    draw_kernels_page,
)


def test_filters_of_colors_stand_around_gray_in_their_order():
    weights = np.zeros((4, 3, 2, 2))
    weights[1, :, 0, 1] = [1, 0, -1]
    drawn = render.filters_to_rgb(weights, cell=1, gap=2)
    assert drawn.shape == (2 + 2 * 4, 2 + 2 * 4, 3)
    assert drawn[2, 7].tolist() == [255, 128, 1]
    tiles = drawn[2:-2, 2:-2].reshape(-1, 3)
    assert np.unique(tiles, axis=0).tolist() == [[128] * 3, [255, 128, 1], [255] * 3]


def test_one_scale_holds_for_all_filters_unless_each_has_its_own():
    weights = torch.ones(2, 3, 3, 3)
    weights[1] = 0.5
    one = render.filters_to_rgb(weights, cell=1, gap=1)
    each = render.filters_to_rgb(weights, cell=1, gap=1, each=True)
    assert (one[2, 2].tolist(), one[2, -2].tolist()) == ([255] * 3, [192] * 3)
    assert (each[2, 2].tolist(), each[2, -2].tolist()) == ([255] * 3, [255] * 3)


def test_time_goes_to_the_right():
    weights = torch.zeros(1, 3, 4, 5, 5)
    weights[0, :, 2] = 1
    drawn = render.filters_to_rgb(weights, cell=2, gap=1)[3:-3, 3:-3]
    assert drawn.shape == (10, 4 * 10 + 3, 3)
    assert (drawn[:, 22:32] == 255).all()
    assert (drawn[:, :10] == 128).all()


def test_filters_of_other_inputs_have_a_map_per_input():
    weights = torch.zeros(6, 2, 5, 5)
    weights[0, 1] = -1
    drawn = render.filters_to_rgb(weights, cell=3, gap=2)
    blue = np.argwhere((drawn == diverging_table()[0]).all(2))
    left = 3 * 2 + (15 + 2) + 2 + 1
    assert (blue.min(0).tolist(), blue.max(0).tolist()) == ([7, left], [21, left + 14])
    deep = render.filters_to_rgb(torch.zeros(1, 2, 4, 5, 5), cell=3, gap=2)
    assert deep.shape == (2 * 17 + 2 + 12, 4 * 17 + 3 * 2 + 12, 3)


def test_weights_of_a_wrong_shape_are_refused():
    with pytest.raises(ShapeError, match="filters must be"):
        render.filters_to_rgb(np.ones((3, 3)))


def test_panels_have_a_bar_each_unless_they_share_a_scale():
    panels = [FilterPanel("a", torch.randn(4, 3, 7, 7)), FilterPanel("b", torch.randn(4, 1, 7, 7))]
    one = draw_filters_page(panels, PageSize(), each=False, same_scale=True).shape[1]
    two = draw_filters_page(panels, PageSize(), each=False, same_scale=False).shape[1]
    assert one + 40 < two


def test_a_page_that_would_take_gigabytes_is_refused():
    deep = FilterPanel("deep", torch.zeros(1).expand(512, 512, 3, 3))
    with pytest.raises(UsageError, match=r"million pixels\. Draw one input"):
        draw_filters_page([deep], PageSize(), each=False, same_scale=False)


def test_kernels_on_a_page_share_one_scale():
    kernel = torch.zeros(5, 5)
    kernel[2, 2] = 1
    taps = torch.tensor([-1.0, 2, -1])
    page = draw_kernels_page(
        [KernelPanel("a", kernel, taps), KernelPanel("b", 2 * kernel, 2 * taps)], PageSize()
    )
    full = (page == diverging_table()[254]).all(2).sum(0)
    half = (page == diverging_table()[127 + 64]).all(2).sum(0)
    assert np.flatnonzero(half > 20).max() < page.shape[1] / 2 < np.flatnonzero(full > 20).min()


def test_a_scale_makes_everything_larger():
    kernel = KernelPanel("", torch.eye(5), torch.ones(3))
    small, large = (draw_kernels_page([kernel], PageSize(scale)).shape for scale in (1, 2))
    assert [round(a / b, 1) for a, b in zip(large[:2], small[:2], strict=True)] == [2, 2]

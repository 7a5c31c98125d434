"""Test heat, gray, magnitudes and signed maps."""

import numpy as np
import pytest
import torch

from mrx import render
from mrx.errors import ShapeError, UsageError
from mrx.render.heat import heat_table


def lightness(colors):
    """Return L* of sRGB colors ``(N, 3)``."""
    shares = colors / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def test_heat_grows_evenly_in_lightness():
    steps = np.diff(lightness(heat_table()))
    assert steps.min() > 0.05
    assert steps.max() < 3 * steps.mean()


def test_heat_has_no_gray_that_could_be_taken_for_unknown():
    table = heat_table().astype(int)
    assert np.abs(table - render.UNKNOWN).max(1).min() > 20


def test_heat_goes_from_low_to_high_and_no_further():
    drawn = render.heat_to_rgb(np.array([[-5.0, 1, 3, 5, 99]]), low=1, high=5)[0]
    np.testing.assert_array_equal(drawn, heat_table()[[0, 0, 128, 255, 255]])


def test_heat_has_its_own_maximum_for_each_map():
    values = np.random.default_rng(0).uniform(size=(2, 6, 7))
    values[1] *= 8
    drawn = render.heat_to_rgb(values)
    np.testing.assert_array_equal(drawn[0], render.heat_to_rgb(values[0]))
    assert drawn[0].max() == drawn[1].max()


def test_heat_of_zeros_is_dark():
    assert (render.heat_to_rgb(np.zeros((3, 4))) == heat_table()[0]).all()
    assert (render.heat_to_rgb(np.zeros((3, 4)), low=7) == heat_table()[0]).all()


@pytest.mark.parametrize("bounds", [(1, 1), (2, 1), (0, np.nan)])
def test_invalid_ends_of_heat_are_refused(bounds):
    with pytest.raises(UsageError, match="low below high"):
        render.heat_to_rgb(np.ones((2, 2)), low=bounds[0], high=bounds[1])


def test_signed_is_middle_gray_at_0_and_keeps_the_colors():
    maps = np.array([[0, 2, -2, 9], [0, 0, 1, -9], [0, -2, 0, 0]], float)[:, None]
    drawn = render.signed_to_rgb(maps, bound=2)[0].tolist()
    assert drawn == [[128, 128, 128], [255, 128, 1], [1, 192, 128], [255, 1, 128]]


def test_signed_of_one_channel_is_gray():
    drawn = render.signed_to_rgb(np.array([[[1.0, -1, 0]]]), bound=1)
    assert drawn.tolist() == [[[255] * 3, [1] * 3, [128] * 3]]


def test_signed_draws_the_stored_bytes_of_a_shard():
    raw = np.random.default_rng(0).integers(1, 256, (3, 9, 8), np.uint8)
    values = raw.astype(np.float32) * np.float32(501.4 / 127) - np.float32(128 * 501.4 / 127)
    np.testing.assert_array_equal(render.signed_to_rgb(values, bound=501.4), raw.transpose(1, 2, 0))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e9])
def test_unknown_values_are_gray_in_every_view(value):
    maps = np.zeros((3, 2, 2))
    maps[1, 0, 1] = value
    for drawn in (
        render.signed_to_rgb(maps, bound=1),
        render.signed_to_rgb(maps),
        render.heat_to_rgb(maps[1]),
        render.heat_to_rgb(render.magnitude(maps), high=1),
        render.confidence_to_rgb(maps[1]),
    ):
        assert drawn[0, 1].tolist() == list(render.UNKNOWN)
        assert drawn[1, 1].tolist() == drawn[0, 0].tolist() != list(render.UNKNOWN)


def test_drawing_does_not_change_its_input():
    maps = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    maps[0, 0, 0] = np.nan
    before = maps.copy()
    for draw in (render.signed_to_rgb, render.hue_to_rgb, render.heat_to_rgb, render.magnitude):
        draw(maps)
    render.flow_to_rgb(maps[:2])
    np.testing.assert_array_equal(maps, before)


def test_confidence_is_not_stretched():
    drawn = render.confidence_to_rgb(np.array([[0, 0.5, 1], [0.2, -1, 3]]))
    assert drawn[..., 0].tolist() == [[0, 128, 255], [51, 0, 255]]
    assert (drawn == drawn[..., :1]).all()


def test_confidence_of_cells_becomes_squares():
    drawn = render.confidence_to_rgb(torch.rand(2, 1, 3, 5), stride=4)
    assert drawn.shape == (2, 1, 12, 20, 3)
    with pytest.raises(UsageError, match="stride=0"):
        render.confidence_to_rgb(np.ones((2, 2)), stride=0)


def test_magnitude_is_the_norm_of_the_channels():
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    np.testing.assert_allclose(render.magnitude(maps), np.linalg.norm(maps, axis=1), rtol=1e-6)
    one = render.magnitude(torch.full((1, 2, 2), -3.0))
    assert (one == 3).all()
    with pytest.raises(ShapeError, match="magnitude takes maps"):
        render.magnitude(np.ones((4, 5)))

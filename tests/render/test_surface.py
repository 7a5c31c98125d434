"""Test surfaces of kernels, their colors and their axes."""

import numpy as np
import pytest
import torch

from mrx import render
from mrx.errors import ShapeError, UsageError
from mrx.render.axes import choose_tap_offsets, choose_ticks
from mrx.render.diverging import diverging_table
from mrx.render.surface import natural_limits


def bump(row, column, height, size=9):
    heights = np.zeros((size, size))
    heights[row, column] = height
    return heights


def where(picture, channel):
    """Find the pixels in which one channel far exceeds the others."""
    others = np.delete(picture.astype(int), channel, axis=2).max(2)
    return np.argwhere(picture[..., channel] - others > 40)


RED, BLUE = 0, 2
BOX = {"limits": (-1, 1), "bound": 1}


def test_a_higher_peak_is_drawn_higher():
    tops = [where(render.surface(bump(4, 4, h), **BOX), RED)[0] for h in (0.5, 0.75, 1)]
    rows = [row for row, _ in tops]
    assert rows[0] > rows[1] + 10
    assert rows[1] > rows[2] + 10
    assert np.ptp([column for _, column in tops]) <= 2


def test_the_first_row_is_at_the_back_and_first_column_at_left():
    def top(row, column):
        return where(render.surface(bump(row, column, 1), **BOX), RED)[0]

    assert top(1, 4)[0] < top(4, 4)[0] < top(7, 4)[0]
    assert top(4, 1)[1] < top(4, 4)[1] < top(4, 7)[1]


def test_a_ridge_hides_a_hole_behind_it_but_not_one_in_front():
    hole = bump(4, 4, -0.4)
    behind, before = hole.copy(), hole.copy()
    behind[2], before[6] = 1, 1
    alone, unhidden, hidden = (
        len(where(render.surface(heights, limits=(-1, 1), bound=0.2), BLUE))
        for heights in (hole, behind, before)
    )
    assert alone > 300
    assert unhidden == alone
    assert hidden == 0


@pytest.mark.parametrize("height", [0.0, 1.0])
def test_a_flat_surface_has_one_color(height):
    picture = render.surface(np.full((5, 7), height), limits=(-1, 1), bound=4)
    inside = picture[:, 60:-60].reshape(-1, 3)
    colors, counts = np.unique(inside, axis=0, return_counts=True)
    # The three most frequent colors are the face, white and the walls.
    face = colors[np.argsort(counts)[-3:]]
    shade = render.diverging_to_rgb(np.array([[height]]), bound=4)[0, 0] / 255
    share = face / 255 / shade
    assert min(np.ptp(share, axis=1)) < 0.02
    assert len(where(picture, BLUE)) == 0


def test_one_box_for_two_maps_keeps_their_heights_comparable():
    low, high = bump(4, 4, 1), bump(4, 4, 2)
    limits = natural_limits(low, torch.from_numpy(high))
    tops = [where(render.surface(k, limits=limits, bound=2), RED)[0][0] for k in (low, high)]
    assert limits == (0, 2)
    assert tops[0] > tops[1] + 40


def test_a_surface_takes_tensors_and_is_as_wide_as_asked():
    heights = torch.randn(7, 5, dtype=torch.bfloat16, requires_grad=True)
    picture = render.surface(heights, size=301, text=12)
    same = render.surface(heights.detach().float().numpy(), size=301, text=12)
    assert (picture.shape[1], picture.dtype) == (301, np.uint8)
    np.testing.assert_array_equal(picture, same)


def test_invalid_surfaces_are_refused():
    with pytest.raises(ShapeError, match="2x2 known values"):
        render.surface(np.ones((1, 4)))
    with pytest.raises(ShapeError, match="2x2 known values"):
        render.surface(np.full((3, 3), np.nan))
    with pytest.raises(ShapeError, match="one map"):
        render.surface(np.ones((3, 4, 4)))
    with pytest.raises(UsageError, match="first value must be below"):
        render.surface(np.ones((3, 3)), limits=(1, 1))
    with pytest.raises(UsageError, match="too small"):
        render.surface(np.ones((3, 3)), size=60)


def test_zero_is_white_and_signs_are_mirrored_in_lightness():
    table = diverging_table().astype(float)
    gray = table @ [0.2126, 0.7152, 0.0722]
    assert table[127].tolist() == [255, 255, 255]
    assert (np.diff(gray[:128]) > 0).all()
    assert (np.diff(gray[127:]) < 0).all()
    assert np.abs(gray - gray[::-1]).max() < 25
    assert (table[:127, 2] > table[:127, 0]).all()
    assert (table[128:, 0] > table[128:, 2]).all()


def test_diverging_colors_end_at_the_bound_and_unknown_is_gray():
    drawn = render.diverging_to_rgb(np.array([[-9.0, -2, 0, 2, 9, np.nan]]), bound=2)[0]
    table = diverging_table()
    np.testing.assert_array_equal(drawn[:5], table[[0, 0, 127, 254, 254]])
    assert tuple(drawn[5]) == render.UNKNOWN
    assert (render.diverging_to_rgb(torch.zeros(2, 4, 5)) == 255).all()
    with pytest.raises(UsageError, match="bound"):
        render.diverging_to_rgb(np.ones((2, 2)), bound=0)


def test_a_kernel_map_has_a_cell_per_tap_and_axes():
    drawn = render.kernel_map(bump(1, 2, 3.0, 5), bound=3, cell=20)
    rows, columns = np.nonzero((drawn == diverging_table()[254]).all(2))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, 20)
    assert len(rows) == 400
    assert (drawn[:, :10] < 128).any()  # numbers of the axes
    assert (drawn[-12:] < 128).any()


def test_a_bar_goes_from_the_bound_down_to_its_negative():
    bar = render.color_bar(0.3, length=200)
    inside = bar[8:-8, 3]
    np.testing.assert_array_equal(inside[[0, -1]], diverging_table()[[253, 1]])
    assert (np.diff(inside[:90, 2].astype(int)) >= 0).all()
    grays = render.color_bar(0.3, kind="signed", length=200)[8:-8, 3]
    assert np.ptp(grays.astype(int), axis=1).max() == 0


def test_weights_in_a_row_have_their_number_and_color():
    row = render.weights_row(torch.tensor([-1.0, 2.0, 0.0]), cell=40)
    first, second, third = np.split(row, 3, axis=1)
    np.testing.assert_array_equal(second[3, 3], diverging_table()[254])
    assert (third[3, 3] == 255).all()
    assert second.max() == 255  # white text on dark
    assert first.min() < 20
    with pytest.raises(ShapeError, match="weights_row takes"):
        render.weights_row(np.ones((2, 2)))


@pytest.mark.parametrize("span", [(-1, 1), (0, 0.0041), (-37.2, 317), (-3e-8, 9e-8), (5, 6)])
def test_ticks_are_few_and_inside(span):
    found = choose_ticks(*span)
    assert 2 <= len(found) <= 6
    assert span[0] - 1e-12 <= found[0] <= found[-1] <= span[1] + 1e-12
    assert np.allclose(np.diff(found), found[1] - found[0])


def test_offsets_count_from_the_middle_tap():
    assert choose_tap_offsets(7) == [-3, -2, -1, 0, 1, 2, 3]
    assert choose_tap_offsets(4) == [-2, -1, 0, 1]
    assert choose_tap_offsets(21) == [-10, -5, 0, 5, 10]

"""Test arrows, overlays, text, legends and grids."""

import numpy as np
import pytest
import torch

from mrx import render
from mrx.errors import ShapeError, UsageError
from mrx.render.text import measure_text

FRAME = np.full((60, 80, 3), 90, np.uint8)


def right(size, height=60, width=80):
    return np.broadcast_to(np.float32([size, 0])[:, None, None], (2, height, width))


def drawn_at(picture, under=90):
    return np.argwhere((picture != under).any(2))


def test_an_arrow_starts_in_the_middle_and_points_along_the_flow():
    picture = render.quiver(FRAME[:20, :60], right(3.0, 20, 60), max_flow=3, spacing=60)
    _, columns = drawn_at(picture).T
    assert 28 <= columns.min() <= 30
    assert columns.max() >= 59
    rows = drawn_at(picture)[:, 0]
    assert abs((rows.min() + rows.max()) / 2 - 10) <= 1


def test_an_arrow_is_a_spacing_long_at_the_bound_and_two_at_most():
    def length(size):
        flow = np.full((2, 60, 80), np.nan, np.float32)
        flow[:, :20, :20] = right(size, 20, 20)
        columns = drawn_at(render.quiver(FRAME, flow, max_flow=2, spacing=20))[:, 1]
        return np.ptp(columns)

    assert abs(length(2) - 20) <= 5  # for the outline and its soft edges
    assert abs(length(200) - 40) <= 5


def test_still_points_are_dots_and_unknown_flow_is_not_drawn():
    still = drawn_at(render.quiver(FRAME, right(0), max_flow=1))
    assert 0 < len(still) < 12 * 20
    np.testing.assert_array_equal(render.quiver(FRAME, right(np.nan), max_flow=1), FRAME)


def test_arrows_without_a_frame_are_on_white():
    picture = render.quiver(None, torch.ones(2, 33, 35))
    assert picture.shape == (33, 35, 3)
    assert (picture[0, 0] == 255).all()


def test_quiver_refuses_a_frame_of_another_size():
    with pytest.raises(ShapeError, match="heights and widths must be equal"):
        render.quiver(FRAME[:10], right(1))
    with pytest.raises(UsageError, match="spacing=2"):
        render.quiver(FRAME, right(1), spacing=2)
    with pytest.raises(ShapeError, match="one flow"):
        render.quiver(FRAME, right(1)[None])


def test_overlay_mixes_by_its_share_and_leaves_both_as_they_were():
    picture = np.full_like(FRAME, 190)
    assert (render.overlay(FRAME, picture, 0.25) == 115).all()
    share = np.zeros((60, 80))
    share[:30] = 1
    mixed = render.overlay(FRAME, picture, share)
    assert (mixed[:30] == 190).all()
    assert (mixed[30:] == 90).all()
    assert (FRAME == 90).all()


def test_overlay_takes_gray_tensors_and_enlarges_small_pictures():
    small = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    mixed = render.overlay(torch.zeros(1, 9, 12, dtype=torch.uint8), small, 1.0)
    assert mixed.shape == (9, 12, 3)
    np.testing.assert_array_equal(mixed[[0, 8]][:, [0, 4, 11]], small)
    with pytest.raises(UsageError, match="share"):
        render.overlay(FRAME, FRAME, 1.5)


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7, 1), (3, 5, 7), (1, 5, 7), (5, 7)])
def test_a_frame_of_any_layout_is_a_picture(shape):
    assert render.frame_to_rgb(np.zeros(shape, np.uint8)).shape == (5, 7, 3)
    assert render.frame_to_rgb(torch.zeros(shape, dtype=torch.uint8)).shape == (5, 7, 3)


def test_a_frame_of_floats_is_refused():
    with pytest.raises(ShapeError, match="a frame must be uint8"):
        render.frame_to_rgb(np.zeros((5, 7, 3)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tvl1 λ=0.15", "tvl1 lambda=0.15"),
        ("Σ → Ω", "sigma -> omega"),
        ("naïve Ångström", "naive Angstrom"),
        ("320×240 … “x”", '320x240 ... "x"'),
        ("日本.mp4", "??.mp4"),
        ("a\tb", "a?b"),
    ],
)
def test_text_that_the_font_cannot_draw_becomes_ascii(text, expected):
    assert render.to_ascii(text) == expected


def test_text_is_drawn_within_its_box_in_soft_ink():
    page = np.full((40, 200, 3), 255, np.uint8)
    render.draw_text(page, "Hg 8.37 px", (10, 20), height=20)
    height, width = measure_text("Hg 8.37 px", 20)
    rows, columns = drawn_at(page, 255).T
    assert (height, rows.min() >= 10, rows.max() < 30) == (20, True, True)
    assert columns.min() >= 20
    assert columns.max() < 20 + width
    assert page.min() < 60
    assert len(np.unique(page)) > 20


@pytest.mark.parametrize("other", ["0px", "0_", "0"])
def test_all_text_has_the_same_baseline(other):
    def zero(text):
        page = np.full((20, 80, 3), 255, np.uint8)
        render.draw_text(page, text, (0, 0), height=20)
        return drawn_at(page[:, : measure_text("0", 20)[1] - 3], 255)[:, 0]

    assert zero(other).max() == zero("0").max() == zero("0g").max()


def test_text_that_hangs_over_the_edge_is_cut():
    page = np.full((12, 20, 3), 255, np.uint8)
    render.draw_text(page, "a long name", (-3, -5))
    before = page.copy()
    for at in ((50, 50), (-50, 2), (2, -500)):
        render.draw_text(page, "outside", at)
    np.testing.assert_array_equal(page, before)
    assert page.min() < 255
    with pytest.raises(UsageError, match="text of 3 pixels"):
        render.draw_text(page, "tiny", (0, 0), height=3)


def test_a_label_darkens_the_corner_of_a_copy():
    named = render.label(FRAME, "tvl1")
    assert (named[:4, :4] < 90).all()
    assert named.max() > 200
    assert (named[30:] == 90).all()
    assert (FRAME == 90).all()
    np.testing.assert_array_equal(render.label(FRAME, ""), FRAME)


def test_the_legend_of_the_wheel_has_its_directions():
    legend = render.wheel_legend(8.37, size=71)
    y, x = 4 + 35, (legend.shape[1] - 71) // 2 + 35
    assert legend[y - 4, x + 30, 0] == 255
    assert legend[y + 30, x, 2] < 80  # yellow below
    assert legend[y, x - 30, 0] < 80  # cyan at the left
    assert (legend[0] == 255).all()
    assert legend[80:].min() < 80  # the radius as text
    other = render.wheel_legend(1.23, size=71)
    assert (other[80:, :70] != legend[80:, :70]).any()


@pytest.mark.parametrize("kind", ["heat", "signed", "gray", "hue"])
def test_a_bar_has_its_two_ends(kind):
    bar = render.bar_legend(-2, 2, kind=kind, units="px", length=100)
    assert bar.shape[1] == 108
    assert bar.dtype == np.uint8
    with pytest.raises(UsageError, match="kind=rainbow"):
        render.bar_legend(0, 1, kind="rainbow")


def test_a_bar_grows_for_long_numbers():
    assert render.bar_legend(-123456, 123456, units="a.u.", length=20).shape[1] > 28


@pytest.mark.parametrize("corner", ["top left", "top right", "bottom left", "bottom right"])
def test_a_legend_stands_in_its_corner(corner):
    legend = np.zeros((10, 20, 3), np.uint8)
    rows, columns = drawn_at(render.inset(FRAME, legend=legend, corner=corner)).T
    assert (rows.min(), rows.max()) == ((0, 9) if "top" in corner else (50, 59))
    assert (columns.min(), columns.max()) == ((0, 19) if "left" in corner else (60, 79))


def test_a_legend_larger_than_the_picture_is_cut():
    assert render.inset(FRAME, legend=np.zeros((100, 100, 3), np.uint8)).max() == 0
    with pytest.raises(UsageError, match="corner=middle"):
        render.inset(FRAME, legend=FRAME, corner="middle")


def test_a_grid_has_its_pictures_in_place():
    pictures = [
        [np.full((10, 15, 3), 40 * r + 10 * c, np.uint8) for c in range(3)] for r in range(2)
    ]
    page = render.grid(pictures, margin=5)
    assert page.shape == (5 + 2 * 15, 5 + 3 * 20, 3)
    for r, c in np.ndindex(2, 3):
        assert (page[5 + 15 * r : 15 + 15 * r, 5 + 20 * c : 20 + 20 * c] == 40 * r + 10 * c).all()
    assert (page[:5] == 255).all()
    assert (page[15:20] == 255).all()


def test_a_ragged_grid_with_gaps_centers_its_pictures():
    large, small = np.zeros((11, 13, 3), np.uint8), np.zeros((5, 3, 3), np.uint8)
    page = render.grid([[large, None, small], [small]], margin=1)
    assert page.shape == (1 + 12 + 6, 1 + 14 + 1 + 4, 3)
    assert (page == 0).all(2).sum() == 11 * 13 + 2 * 15
    assert (page[4:9, 16:19] == 0).all()


def test_a_grid_leaves_room_for_names_and_titles():
    plain = render.grid([[FRAME, FRAME]])
    named = render.grid([[FRAME, FRAME]], names=["tvl1\nfast"], titles=["a", "b"], height=12)
    side = named.shape[1] - plain.shape[1]
    assert side == max(measure_text(t, 12)[1] for t in ("tvl1", "fast")) + 4
    assert named.shape[0] - plain.shape[0] == 15
    assert named[:, :side].min() < 60
    assert named[:15, side:].min() < 60
    np.testing.assert_array_equal(named[19:, side + 4 :], plain[4:, 4:])


def test_a_long_title_widens_its_column():
    assert render.grid([[FRAME]], titles=["t = 12.34 s, and much more"]).shape[1] > 100


def test_invalid_grids_are_refused():
    with pytest.raises(ShapeError, match="at least one picture"):
        render.grid([])
    with pytest.raises(ShapeError, match="a picture must be uint8"):
        render.grid([[FRAME.astype(float)]])
    with pytest.raises(UsageError, match="names: 2 for 1 rows"):
        render.grid([[FRAME]], names=["a", "b"])

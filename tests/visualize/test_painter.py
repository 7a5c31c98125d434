"""Panels, labels, legends and scales of pictures."""

import numpy as np
import pytest
from support.videos import make_texture

from mrx import render
from mrx.errors import UsageError
from mrx.visualize.moments import MethodTrack, Moment
from mrx.visualize.painter import SEAM, Painter
from mrx.visualize.picture_options import PictureOptions
from mrx.visualize.picture_size import PictureSizer

FLOW = MethodTrack("tvl1", ("dx", "dy"), "px", {})
SLOW = MethodTrack("pa", ("pa0",), "a.u.", {})
PLAIN = {"label": "none", "alone": True}


def painter(*channels, units="px"):
    track = MethodTrack("ms", channels, units, {})
    made = Painter([track], PictureOptions(legend=True))
    made.measure_moment(moment(len(channels)))
    return made


def moment(channels):
    maps = np.linspace(0, 1, channels * 8 * 9, dtype=np.float32).reshape(channels, 8, 9)
    return Moment(0, 0.0, None, (maps,), ((0, 1),), (0.0,), (8, 9))


def flow(left, right, *, frame=None, number=0, height=24, width=32):
    """Make a moment whose halves move right by `left` and `right` pixels."""
    maps = np.zeros((2, height, width), np.float32)
    maps[0, :, : width // 2], maps[0, :, width // 2 :] = left, right
    time = number / 10
    return Moment(number, time, frame, (maps,), ((number, number + 1),), (time,), (height, width))


def test_displacement_and_confidence_have_a_legend_each():
    made = painter("dx", "dy", "confidence")
    wheel, bar = made.track_painters[0].draw_legends(last=True)
    assert np.array_equal(bar, render.legend(["confidence"], units="px", scale=1.0))
    assert wheel.shape != bar.shape
    assert np.array_equal(made.track_painters[0].draw_legends(last=False)[1], bar)


@pytest.mark.parametrize(("last", "places"), [(True, [False, True]), (False, [True, False])])
def test_parts_of_one_kind_share_a_legend(last, places):
    made = painter("pa0", "pa1", units="a.u.")
    legends = made.track_painters[0].draw_legends(last=last)
    assert [legend is not None for legend in legends] == places


@pytest.mark.parametrize("style", ["side-by-side", "hsv", "magnitude", "signed"])
def test_even_motion_keeps_its_color_beside_faster_motion(style):
    moments = [flow(1, speed) for speed in (1, 2, 4, 8)]
    made = Painter([FLOW], PictureOptions(style=style, **PLAIN))
    for one in moments:
        made.measure_moment(one)
    pictures = [made.draw_panels(one)[:24] for one in moments]
    assert all(np.array_equal(one[:, :16], pictures[0][:, :16]) for one in pictures)
    assert not np.array_equal(pictures[0][:, 16:32], pictures[3][:, 16:32])


def test_a_scale_for_each_picture_changes_colors_of_even_motion():
    made = Painter([FLOW], PictureOptions(per_frame_scale=True, **PLAIN))
    slow, fast = made.draw_panels(flow(1, 1)), made.draw_panels(flow(1, 8))
    assert not np.array_equal(slow[:, :16], fast[:, :16])


def test_full_color_is_at_max_flow():
    made, one = Painter([FLOW], PictureOptions(max_flow=2, **PLAIN)), flow(1, 5)
    made.measure_moment(one)
    expected = render.picture(one.maps[0], FLOW.channels, units="px", scale=2.0)
    np.testing.assert_array_equal(made.draw_panels(one), expected)


def test_each_style_makes_another_picture():
    frame = make_texture(24, 32)
    styles = [style for style in render.STYLES["displacement"] if style != "signed"]
    made = [Painter([FLOW], PictureOptions(style=style, max_flow=9, **PLAIN)) for style in styles]
    pictures = {one.draw_panels(flow(1, 8, frame=frame)).tobytes() for one in made}
    signed = Painter([FLOW], PictureOptions(style="signed", max_flow=9, **PLAIN)).draw_panels(
        flow(1, 8)
    )
    assert len(pictures) == len(styles) == 5
    assert signed.shape == (2 * 24 + 3 * SEAM, 32 + 2 * SEAM, 3)


def test_an_unfit_style_is_refused_with_a_list_of_fitting_ones():
    said = "--style wheel: pa has no such style; it has side-by-side, magnitude, signed, overlay"
    with pytest.raises(UsageError, match=said):
        Painter([SLOW], PictureOptions(style="wheel"))


def test_a_grid_has_times_on_top_and_legends_at_the_right():
    moments = [flow(1, 2, number=n) for n in (3, 14)]
    made = Painter([FLOW], PictureOptions(legend=True, max_flow=2))
    options = {"units": "px", "scale": 2.0}
    row = [render.picture(one.maps[0], FLOW.channels, **options) for one in moments]
    row.append(render.legend(FLOW.channels, **options))
    expected = render.grid([row], names=["tvl1"], titles=["0.30 s", "1.40 s", ""])
    np.testing.assert_array_equal(made.draw_grid(moments), expected)


def test_a_map_that_began_before_its_column_tells_its_own_time():
    map_ = np.ones((1, 24, 64), np.float32)
    fast = flow(1, 2, number=3, width=64)
    both = Moment(3, 0.3, None, (fast.maps[0], map_), ((3, 4), (0, 5)), (0.3, 0.0), (24, 64))
    made = Painter([FLOW, SLOW], PictureOptions(max_flow=2))
    top = render.picture(fast.maps[0], FLOW.channels, units="px", scale=2.0)
    below = render.picture(map_, SLOW.channels, units="a.u.", scale=1.0)
    rows = [[top], [render.label(below, "0.00 s")]]
    expected = render.grid(rows, names=["tvl1", "pa"], titles=["0.30 s"])
    np.testing.assert_array_equal(made.draw_grid([both]), expected)


def test_cells_are_enlarged_to_the_frame_even_without_it():
    cells = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    one = Moment(0, 0.0, None, (cells,), ((0, 1),), (0.0,), (24, 32))
    made = Painter([SLOW], PictureOptions(**PLAIN))
    small = render.picture(
        cells, SLOW.channels, units="a.u.", scale=made.track_painters[0].style.scale
    )
    np.testing.assert_array_equal(made.draw_panels(one), small.repeat(8, 0).repeat(8, 1))
    assert made.draw_views(one)[0].size == (24, 32)


def test_a_drawing_that_grows_has_no_color_between_its_own():
    one, colors = flow(1, 8), {}
    for scale in (1, 1.7):
        picture = Painter([FLOW], PictureOptions(max_flow=9, scale=scale, **PLAIN)).draw_panels(one)
        colors[scale] = {tuple(color) for color in picture.reshape(-1, 3)}
    assert colors[1.7] == colors[1]
    frame = PictureSizer(1.7).draw_frame(flow(1, 8, frame=make_texture(24, 32)))
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 24 * 32


def test_too_large_a_picture_is_refused_before_it_is_drawn(monkeypatch):
    monkeypatch.setattr(render, "picture", lambda *_, **__: pytest.fail("drawn"))
    made, one = Painter([FLOW], PictureOptions(scale=300, alone=True)), flow(1, 2)
    assert made.sizer.check_size(one, rows=1, columns=1) is None
    with pytest.raises(UsageError, match="--scale 300: a picture of 19200x7200 is too large"):
        made.draw_grid([one, one])
    larger = Painter([FLOW], PictureOptions(scale=600, alone=True))
    for draw in (larger.draw_panels, larger.draw_views):
        with pytest.raises(UsageError, match="--scale 600: a picture of 19200x14400"):
            draw(one)


def test_a_label_is_wrapped_to_its_panel():
    dark, size = np.full((48, 90, 3), 200, np.uint8), 14
    written = render.label(dark, "tvl1 preset=fast")
    first, second = (render.label(dark, word) for word in ("tvl1", "preset=fast"))
    np.testing.assert_array_equal(written[2 : 2 + size, :28], first[2 : 2 + size, :28])
    np.testing.assert_array_equal(written[2 + size : 2 + 2 * size], second[2 : 2 + size])
    assert (written[:, -1] == 200).all()

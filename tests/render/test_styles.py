import numpy as np
import pytest
import torch

from mrx import methods, render
from mrx.errors import ShapeError, UsageError

FLOW = ("dx", "dy")
COLORS = ("red", "green", "blue")
MATCH = ("dx", "dy", "confidence")
FRAME = np.random.default_rng(1).integers(0, 256, (33, 35, 3), np.uint8)


def maps(channels, seed=0, shape=(33, 35)):
    return np.random.default_rng(seed).normal(size=(channels, *shape)).astype(np.float32)


@pytest.mark.parametrize("name", methods.list_method_names())
def test_every_method_is_drawn_in_every_style_that_fits_its_maps(name):
    method = methods.find_method(name)
    module = method.build_module(method.complete_parameters({}))
    given = torch.from_numpy(maps(len(module.channels)))
    kind = render.kind_of(module.channels, module.units)
    for style in ("auto", *render.STYLES[kind]):
        options = {"units": module.units, "style": style}
        drawn = render.picture(given, module.channels, **options, frame=FRAME)
        assert (drawn.shape, drawn.dtype) == ((33, 35, 3), np.uint8)
        scale = render.new_scale(module.channels, **options)
        scale.add(render.measure(given, module.channels, **options))
        drawn = render.picture(given, module.channels, **options, scale=scale, frame=FRAME)
        assert len(np.unique(drawn)) > 5
        key = render.legend(module.channels, **options, scale=scale)
        assert key.shape[2] == 3


def test_displacements_are_drawn_by_the_wheel():
    flow = maps(2)
    drawn = render.picture(flow, FLOW, units="px", scale=2.5)
    np.testing.assert_array_equal(drawn, render.flow_to_rgb(flow, max_flow=2.5))
    own = render.picture(flow, FLOW, units="px")
    np.testing.assert_array_equal(own, render.flow_to_rgb(flow))


def test_a_stack_draws_its_first_pair_unless_asked_for_another():
    channels, stack = ("x1", "y1", "x2", "y2"), maps(4)
    first, second = render.parts(channels, units="px")
    drawn = render.picture(stack, channels, units="px", scale=3)
    np.testing.assert_array_equal(drawn, render.flow_to_rgb(stack[first], max_flow=3))
    drawn = render.picture(stack[second], channels[second], units="px", scale=3)
    np.testing.assert_array_equal(drawn, render.flow_to_rgb(stack[2:], max_flow=3))


def test_colors_are_drawn_by_hue_or_signed():
    colors = maps(3)
    drawn = render.picture(colors, COLORS, units="a.u.", scale=3)
    np.testing.assert_array_equal(drawn, render.hue_to_rgb(colors, bound=3))
    drawn = render.picture(colors, COLORS, units="a.u.", style="signed", scale=3)
    np.testing.assert_array_equal(drawn, render.signed_to_rgb(colors, bound=3))


def test_change_is_drawn_as_heat_one_map_at_a_time():
    channels = ("pa0", "pa1", "pa2")
    assert render.parts(channels, units="a.u.") == [slice(i, i + 1) for i in range(3)]
    change = np.abs(maps(3))
    drawn = render.picture(change, channels, units="a.u.", scale=2)
    np.testing.assert_array_equal(drawn, render.heat_to_rgb(change[0], high=2))


def test_matching_draws_a_wheel_and_confidence_from_0_to_1():
    found = maps(3, shape=(4, 4))
    top, below = render.parts(MATCH, units="px")
    drawn = render.picture(found[below], MATCH[below], units="px", scale=7)
    np.testing.assert_array_equal(drawn, render.confidence_to_rgb(found[2]))
    drawn = render.picture(found, MATCH, units="px", scale=7, frame=FRAME)
    np.testing.assert_array_equal(
        drawn[:32, :32], render.displacement_to_rgb(found[top], stride=8, max_flow=7)
    )
    np.testing.assert_array_equal(drawn[32], drawn[31])  # the last cells extend to the edge


def test_confidence_does_not_count_for_the_scale():
    found = maps(3)
    found[2] = 100
    assert render.measure(found, MATCH, units="px").shape == (1, 33, 35)
    assert render.measure(found[2:], MATCH[2:], units="px").shape == (0, 33, 35)


@pytest.mark.parametrize(
    ("channels", "units", "style", "count"),
    [
        (("x1", "y1", "x2", "y2"), "px", "auto", 2),
        (COLORS, "a.u.", "auto", 1),
        (COLORS, "a.u.", "signed", 3),
        (("pa0", "pa1"), "a.u.", "auto", 2),
    ],
)
def test_each_picture_has_its_own_measure(channels, units, style, count):
    given = np.stack([maps(len(channels), seed) for seed in range(3)])
    measured = render.measure(given, channels, units=units, style=style)
    assert measured.shape == (3, count, 33, 35)
    assert (measured >= 0).all()


def test_signed_style_draws_each_displacement_component():
    assert len(render.parts(MATCH, units="px", style="signed")) == 3
    flow = maps(2)
    drawn = render.picture(flow, FLOW, units="px", style="signed", scale=2)
    np.testing.assert_array_equal(drawn, render.signed_to_rgb(flow[:1], bound=2))


def test_an_overlay_shows_the_frame_where_nothing_moves():
    flow = np.zeros((2, 33, 35), np.float32)
    flow[0, :10] = 5
    drawn = render.picture(flow, FLOW, units="px", style="overlay", frame=FRAME)
    np.testing.assert_array_equal(drawn[10:], FRAME[10:])
    assert drawn[:10, :, 0].mean() > 180
    with pytest.raises(UsageError, match="needs the frame"):
        render.picture(flow, FLOW, units="px", style="overlay")


def test_a_batch_is_drawn_one_by_one():
    given = np.stack([maps(2, seed) for seed in range(3)])
    for style in render.STYLES["displacement"]:
        drawn = render.picture(given, FLOW, units="px", style=style, frame=FRAME)
        assert drawn.shape == (3, 33, 35, 3)
        one = render.picture(given[1], FLOW, units="px", style=style, frame=FRAME)
        np.testing.assert_array_equal(drawn[1], one)


def test_confidence_has_no_overlay():
    with pytest.raises(UsageError, match="overlay does not fit confidence: choose from auto, mag"):
        render.picture(maps(1), ("confidence",), units="px", style="overlay", frame=FRAME)


def test_an_unfit_style_is_refused_and_the_fitting_ones_listed():
    with pytest.raises(UsageError, match="hsv does not fit color: choose from auto, wheel"):
        render.picture(maps(3), COLORS, units="a.u.", style="hsv")
    with pytest.raises(UsageError, match="style=plaid: choose from auto, wheel, hsv"):
        render.picture(maps(3), COLORS, units="a.u.", style="plaid")


def test_maps_of_other_channels_are_refused():
    with pytest.raises(ShapeError, match=r"C channels .*'dx', 'dy'.*, got \(3, 33, 35\)"):
        render.picture(maps(3), FLOW, units="px")


@pytest.mark.parametrize("channels", [FLOW, COLORS])
def test_maps_of_bytes_or_half_floats_look_like_those_of_floats(channels):
    units = "px" if channels == FLOW else "a.u."
    given, bound = maps(len(channels)).clip(-2, 2), 4.0
    step = np.float32(bound / 127)
    as_bytes = np.rint(given / step).astype(np.float32) * step
    half = given.astype(np.float16)
    exact, coarse, fine = (
        render.picture(m, channels, units=units, style="magnitude", scale=bound).astype(int)
        for m in (given, as_bytes, half)
    )
    steepest = np.abs(np.diff(render.heat.heat_table().astype(int), axis=0)).max()
    assert np.abs(fine - exact).max() <= steepest
    assert np.abs(coarse - exact).max() <= 3 * steepest

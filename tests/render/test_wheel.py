import numpy as np
import pytest
import torch
from support import flows

from mrx import render
from mrx.errors import ShapeError, UsageError

RED, YELLOW, WHITE = [255, 0, 0], [255, 255, 0], [255, 255, 255]


def constant(x, y, *, height=5, width=7):
    return np.broadcast_to(np.float32([x, y])[:, None, None], (2, height, width))


def color(x, y, max_flow=1.0):
    picture = render.flow_to_rgb(constant(x, y), max_flow=max_flow)
    assert (picture == picture[0, 0]).all()
    return picture[0, 0].tolist()


def by_baker(x, y):
    """Compute the color of one vector as the C code of Baker et al. does."""
    wheel, radius = (
        flows.load_golden_arrays("appearance_flowvis3")["colorwheel"] / 255,
        np.hypot(x, y),
    )
    place = (np.arctan2(-y, -x) / np.pi + 1) / 2 * 54
    before = int(place)
    hue = wheel[before] + (place - before) * (wheel[(before + 1) % 55] - wheel[before])
    return np.floor(255 * (1 - radius * (1 - hue) if radius <= 1 else 0.75 * hue))


def planes(golden, name):
    return golden[name].transpose(2, 0, 1)


def test_the_wheel_has_the_colors_of_baker():
    expected = flows.load_golden_arrays("appearance_flowvis3")["colorwheel"]
    np.testing.assert_array_equal(render.color_wheel(), expected)


def test_each_direction_has_its_color_and_still_is_white():
    assert color(1, 0) == RED
    assert color(0, 0) == color(-0.0, -0.0) == WHITE
    red, green, blue = color(0, 1)
    assert (red, blue) == (255, 0)
    assert green > 220
    red, green, blue = color(-1, 0)
    assert red == 0
    assert min(green, blue) > 200
    red, green, blue = color(0, -1)
    assert blue == 255
    assert green == 0


def test_every_vector_is_within_two_levels_of_bakers_code():
    x, y = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 20, 30))
    picture = render.flow_to_rgb(np.stack([x, y]), max_flow=1)
    inside = np.abs(np.hypot(x, y) - 1) > 0.01
    expected = [by_baker(*vector) for vector in zip(x[inside], y[inside], strict=True)]
    assert np.abs(picture[inside] - np.array(expected)).max() <= 2


def test_half_the_bound_is_half_as_strong():
    assert color(1, 0, max_flow=2) == [255, 127, 127]


def test_colors_beyond_the_bound_are_equally_dark():
    assert color(1.001, 0) == RED
    assert color(1.1, 0) == color(50, 0) == color(9e8, 0) == [191, 0, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e9, 1.7e9])
def test_unknown_flow_is_gray_and_changes_nothing_else(value):
    flow = constant(2, 0).copy()
    flow[1, 2, 3] = value
    picture = render.flow_to_rgb(flow)
    assert picture[2, 3].tolist() == list(render.UNKNOWN)
    picture[2, 3] = RED
    assert (picture == RED).all()


def test_a_wholly_unknown_field_is_gray():
    assert (render.flow_to_rgb(constant(np.nan, 0)) == render.UNKNOWN).all()


def test_noise_of_a_still_scene_stays_pale():
    noise = np.random.default_rng(0).normal(0, 1e-3, (2, 9, 9))
    assert render.flow_to_rgb(noise).min() > 240


def test_one_wild_vector_does_not_whiten_the_rest():
    flow = constant(1, 0, height=40, width=40).copy()
    flow[:, 5, 5] = 100
    assert render.flow_to_rgb(flow)[0, 0, 1] < 60


def test_a_batch_is_drawn_one_by_one_each_by_its_own_maximum():
    flows_ = (
        np.random.default_rng(0).normal(size=(2, 3, 2, 5, 7)) * np.arange(1, 4)[:, None, None, None]
    )
    pictures = render.flow_to_rgb(flows_)
    assert pictures.shape == (2, 3, 5, 7, 3)
    np.testing.assert_array_equal(pictures[1, 2], render.flow_to_rgb(flows_[1, 2]))
    assert render.flow_to_rgb(flows_[:0]).shape == (0, 3, 5, 7, 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_are_drawn_as_arrays_are(dtype):
    flow = torch.randn(2, 9, 11, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = render.flow_to_rgb(flow.double().numpy(), max_flow=2)
    leaf = flow.clone().requires_grad_()
    np.testing.assert_array_equal(render.flow_to_rgb(leaf, max_flow=2), expected)


def test_a_strided_view_is_drawn_as_its_copy_is():
    flow = np.random.default_rng(0).normal(size=(9, 11, 2)).astype(np.float32)
    view = flow.transpose(2, 0, 1)
    np.testing.assert_array_equal(render.flow_to_rgb(view), render.flow_to_rgb(view.copy()))


def test_flow_of_bytes_or_half_floats_looks_like_that_of_floats():
    flow = np.random.default_rng(0).uniform(-4, 4, (2, 40, 50)).astype(np.float32)
    flow *= 0.95 * np.minimum(1, 4 / np.hypot(*flow))  # no color beyond the bound
    step = 4 / 127
    as_bytes = np.rint(flow / step) * np.float32(step)
    seam = (np.abs(flow[1]) < step) & (flow[0] > 0)  # Baker's wheel jumps from crimson to red
    flow[:, seam] = as_bytes[:, seam] = 0
    picture, coarse, half = (
        render.flow_to_rgb(f, max_flow=4).astype(int)
        for f in (flow, as_bytes, flow.astype(np.float16))
    )
    # The green of the wheel's steepest part grows by 64 levels in a 54th of a turn.
    steepest = 1 + 64 * 54 / (2 * np.pi * 255)
    assert np.abs(coarse - picture).max() <= 255 * np.sqrt(2) / 254 * steepest + 2
    assert np.abs(half - picture).max() <= 2


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 1, 9), (2, 7, 1), (2, 33, 35)])
def test_odd_sizes_are_drawn(shape):
    assert render.flow_to_rgb(np.ones(shape)).shape == (*shape[1:], 3)


@pytest.mark.parametrize("shape", [(3, 5, 7), (5, 7, 2), (5, 7), (2, 0, 7)])
def test_maps_of_a_wrong_shape_are_refused_with_their_shape(shape):
    with pytest.raises(ShapeError, match=r"flow_to_rgb takes maps \(\.\.\., 2, H, W\), got "):
        render.flow_to_rgb(np.ones(shape))


@pytest.mark.parametrize("bound", [0, -1, np.nan, np.inf])
def test_an_invalid_bound_is_refused(bound):
    with pytest.raises(UsageError, match=r"max_flow=.*above 0"):
        render.flow_to_rgb(constant(1, 0), max_flow=bound)


def test_hsv_is_black_where_still_and_has_the_hue_of_motion():
    def one(x, y):
        return render.flow_to_hsv(constant(x, y), max_flow=1)[0, 0].tolist()

    assert one(0, 0) == [0, 0, 0]
    assert one(1, 0) == one(5, 0) == RED
    assert one(-1, 0) == [0, 255, 255]
    assert one(0, 1)[1:] == [255, 0]
    assert one(np.nan, 0) == list(render.UNKNOWN)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("in0", "rgb0"), ("in1", "rgb1"), ("in_zero", "rgb_zero"), ("in_axes", "rgb_axes")],
)
def test_three_channels_have_the_hue_of_the_released_code(given, expected):
    golden = flows.load_golden_arrays("appearance_flowvis3")
    maps = planes(golden, given)
    off = np.abs(render.hue_to_rgb(maps).astype(int) - golden[expected])
    assert off.max() <= (maps.dtype == np.float32)
    assert (off > 0).mean() <= 0.001


def test_three_clipped_channels_have_the_hue_of_released_code():
    golden = flows.load_golden_arrays("appearance_flowvis3")
    for number, clip in ((0, 1), (1, 300)):
        drawn = render.hue_to_rgb(planes(golden, f"in{number}"), clip=clip)
        np.testing.assert_array_equal(drawn, golden[f"clip{number}"])


def test_a_norm_that_rounds_beyond_1_is_as_in_released_code():
    # Large float32 values, for which the released code's 1e-5 is lost.
    maps = np.random.default_rng(337).normal(0, 900, (3, 2, 2)).astype(np.float32)
    norm = np.sqrt(np.square(maps).sum(0))
    place = np.unravel_index(norm.argmax(), norm.shape)
    full = render.hue_to_rgb(maps, bound=float(norm.max()))[place].astype(int)
    np.testing.assert_allclose(render.hue_to_rgb(maps)[place], 0.75 * full, atol=1)


def test_blue_first_is_the_picture_backwards():
    golden = flows.load_golden_arrays("appearance_flowvis3")
    np.testing.assert_array_equal(
        render.hue_to_rgb(planes(golden, "in0"))[..., ::-1], golden["bgr0"]
    )


def test_with_a_bound_equal_vectors_have_equal_hues_in_every_map():
    maps = np.random.default_rng(0).normal(size=(2, 3, 6, 5)).astype(np.float32)
    maps[1] *= 3
    maps[:, :, 2, 2] = [1, -2, 0.5]
    first, second = render.hue_to_rgb(maps, bound=4)[:, 2, 2]
    np.testing.assert_array_equal(first, second)
    own = render.hue_to_rgb(maps)[:, 2, 2]
    assert (own[0] != own[1]).any()


def test_three_channels_beyond_the_bound_are_darker():
    maps = np.float32([3, 1, 2])[:, None, None]
    full, beyond = (render.hue_to_rgb(maps * k, bound=np.sqrt(14))[0, 0] for k in (1, 2))
    np.testing.assert_allclose(beyond, 0.75 * full, atol=1)


def test_an_unknown_channel_grays_its_pixel_alone():
    maps = np.random.default_rng(0).normal(size=(3, 5, 6))
    broken = maps.copy()
    broken[1, 2, 3] = np.nan
    drawn, expected = render.hue_to_rgb(broken, bound=9), render.hue_to_rgb(maps, bound=9)
    expected[2, 3] = render.UNKNOWN
    np.testing.assert_array_equal(drawn, expected)


def test_displacements_of_cells_become_squares():
    cells = np.random.default_rng(0).normal(size=(4, 2, 3, 5))
    picture = render.displacement_to_rgb(cells, stride=8, max_flow=3)
    assert picture.shape == (4, 24, 40, 3)
    np.testing.assert_array_equal(picture[:, 3::8, 7::8], render.flow_to_rgb(cells, max_flow=3))
    assert (picture[:, :8, :8] == picture[:, :1, :1]).all()

import numpy as np
import pytest
import torch

from mrx import render
from mrx.errors import UsageError


def filled(*maps, **options):
    scale = render.Scale(**options)
    for values in maps:
        scale.add(values)
    return scale


def test_the_bound_is_within_1_256_above_the_percentile():
    values = np.random.default_rng(0).lognormal(size=(6, 90, 110))
    scale = filled(*values, share=0.97)
    exact = np.quantile(values, 0.97, method="inverted_cdf")
    assert exact <= scale.bound <= exact * (1 + 1 / 256)


def test_the_order_and_the_grouping_of_maps_do_not_matter():
    values = np.random.default_rng(0).normal(size=(6, 20, 30))
    bounds = {filled(*values).bound, filled(*values[::-1]).bound, filled(values).bound}
    assert len(bounds) == 1


def test_tensors_count_as_arrays_do():
    values = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    assert filled(values).bound == filled(values.numpy()).bound


def test_memory_does_not_grow_with_the_clip():
    scale = render.Scale()
    before = {k: getattr(v, "nbytes", 8) for k, v in vars(scale).items()}
    for i in range(50):
        scale.add(np.full((10, 10), float(i)))
    assert {k: getattr(v, "nbytes", 8) for k, v in vars(scale).items()} == before
    assert sum(before.values()) < 350_000


def test_constant_motion_is_its_own_bound():
    assert filled(np.full((5, 5), 3.7, np.float32), headroom=1.2).bound == np.float32(3.7)


def test_constant_motion_keeps_its_color_beside_changing_motion():
    clip = np.zeros((12, 2, 20, 30), np.float32)
    clip[:, 0, :, 10:] = np.linspace(0, 8, 12)[:, None, None]
    clip[:, :, 5:15, 2:8] = np.float32([2, -1])[:, None, None]
    scale = filled(*render.magnitude(clip))
    pictures = [render.flow_to_rgb(flow, max_flow=scale.bound) for flow in clip]
    colors = np.unique([picture[5:15, 2:8] for picture in pictures])
    assert len(colors) == 3
    own = [render.flow_to_rgb(flow)[10, 4].tolist() for flow in clip]
    assert len(set(map(tuple, own))) > 3


def test_a_small_object_over_a_still_ground_is_not_noise():
    values = np.zeros((100, 100))
    values[:5, :5] = 6
    values += np.random.default_rng(0).uniform(0, 1e-3, values.shape)
    assert filled(values).bound > 5.9


def test_a_few_wild_values_are_noise():
    values = np.full((100, 100), 2.0)
    values[:3, :3] = 500
    assert filled(values).bound == pytest.approx(2, rel=1 / 256)


def test_unknown_values_do_not_count():
    assert filled(np.array([1, np.nan, np.inf, -np.inf, 1.7e9, -2.0])).bound == 2


@pytest.mark.parametrize("values", [np.zeros((3, 3)), np.empty(0), np.array([np.nan])])
def test_without_motion_the_bound_is_the_least_one_above_0(values):
    assert filled(values, least=0.1).bound == 0.1
    assert filled(values).bound == 1
    assert render.Scale().bound == 1


@pytest.mark.parametrize("value", [1e-30, 1e-45, 3.4e8, 9.99e8])
def test_very_small_and_very_large_values_count(value):
    assert filled(np.float32([value])).bound == np.float32(value)


def test_larger_values_and_headroom_raise_the_bound():
    values = np.random.default_rng(0).exponential(size=(50, 50))
    plain, roomy = filled(values), filled(values, headroom=1.2)
    assert roomy.bound == pytest.approx(1.2 * plain.bound)
    plain.add(values * 3)
    assert plain.bound > roomy.bound


@pytest.mark.parametrize("options", [{"share": 0}, {"share": 2}, {"least": -1}, {"headroom": 0.5}])
def test_invalid_options_are_refused(options):
    with pytest.raises(UsageError, match=f"{next(iter(options))}="):
        render.Scale(**options)

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from hypothesis.strategies import floats

from mrx import kernels
from mrx.errors import InputError
from mrx.job import Storage
from mrx.shards.encoding import (
    Encoding,
    ValueStatistics,
    decode_maps,
    encode_maps,
    encode_on_device,
    split_statistics,
)

maps = arrays(np.float32, (2, 1, 3, 4), elements=floats(-20, 20, width=32))


def round_trip(values, *, units="px", **storage):
    encoding = Encoding.from_storage(Storage(**storage), units=units, bound=20.0)
    statistics = ValueStatistics()
    raw = encode_maps(torch.from_numpy(values), encoding, statistics)
    return decode_maps(raw, scale=encoding.scale, offset=encoding.offset), raw, statistics


@settings(deadline=None)
@given(maps)
def test_float32_is_exact(values):
    assert np.array_equal(round_trip(values, dtype="float32")[0], values)


@settings(deadline=None)
@given(maps)
def test_float16_is_within_its_rounding(values):
    assert np.allclose(round_trip(values, dtype="float16")[0], values, rtol=2**-11, atol=2**-24)


@settings(deadline=None)
@given(maps)
def test_q16_is_within_half_of_a_64th_pixel(values):
    back, raw, _ = round_trip(values, dtype="q16")
    assert raw.dtype == np.int16
    assert abs(back - values).max() <= 1 / 128 + 1e-6


@settings(deadline=None)
@given(maps)
def test_uint8_is_within_half_a_step_inside_the_bound(values):
    back, raw, statistics = round_trip(values, dtype="uint8")
    assert raw.dtype == np.uint8
    assert abs(back - values).max() <= 20 / 254 + 1e-5
    assert statistics.clipped == 0


@pytest.mark.parametrize("dtype", ["float16", "float32", "q16", "uint8"])
def test_zero_is_exact_in_every_type(dtype):
    assert (round_trip(np.zeros((1, 1, 2, 2), np.float32), dtype=dtype)[0] == 0).all()


def test_clipped_values_are_counted():
    values = np.array([0, 5, 25, -40], np.float32).reshape(1, 1, 2, 2)
    back, _, statistics = round_trip(values, dtype="uint8")
    assert statistics.to_attributes()["clipped_fraction"] == 0.5
    assert back.ravel()[2:] == pytest.approx([20, -20], abs=1e-5)


def test_float16_clips_rather_than_overflow():
    values = np.full((1, 1, 1, 2), 1e6, np.float32)
    back, _, statistics = round_trip(values, dtype="float16")
    assert np.isfinite(back).all()
    assert statistics.clipped == 2


def test_q16_of_other_units_uses_the_bound():
    values = np.array([1234.5, -2000], np.float32).reshape(1, 1, 1, 2)
    encoding = Encoding.from_storage(Storage(dtype="q16"), units="a.u.", bound=2000.0)
    back = decode_maps(
        encode_maps(torch.from_numpy(values), encoding, ValueStatistics()),
        scale=encoding.scale,
        offset=0,
    )
    assert abs(back - values).max() <= 2000 / 32767


@pytest.mark.parametrize("dtype", ["q16", "uint8"])
def test_nan_cannot_become_an_integer(dtype):
    values = np.array([np.nan, 1], np.float32).reshape(1, 1, 1, 2)
    with pytest.raises(InputError, match="NaN or infinity cannot be stored"):
        round_trip(values, dtype=dtype)


def test_statistics_are_those_of_the_floats():
    values = np.array([[-3.0, 1.0], [2.0, 6.0]], np.float32).reshape(1, 1, 2, 2)
    attributes = round_trip(values, dtype="float16")[2].to_attributes()
    assert attributes == {
        "clipped_fraction": 0.0,
        "nan_count": 0,
        "min": -3.0,
        "max": 6.0,
        "absmean": 3.0,
    }


@pytest.mark.parametrize("backend", kernels.list_backends())
def test_statistics_are_those_of_the_finite_values(backend):
    values = np.array([np.nan, -3, np.inf, 1, -np.inf, 7e4], np.float32).reshape(1, 1, 2, 3)
    before = kernels.set_backend(backend)
    try:
        back, _, statistics = round_trip(values, dtype="float16")
    finally:
        kernels.set_backend(before)
    assert statistics.to_attributes() == {
        "clipped_fraction": 1 / 6,
        "nan_count": 3,
        "min": -3.0,
        "max": 7e4,
        "absmean": pytest.approx((3 + 1 + 7e4) / 3),
    }
    assert np.array_equal(back.ravel(), [np.nan, -3, np.inf, 1, -np.inf, 65504], equal_nan=True)


def test_a_map_without_a_finite_value_has_no_extremes():
    values = np.full((1, 1, 2, 2), np.nan, np.float32)
    attributes = round_trip(values, dtype="float32")[2].to_attributes()
    assert attributes == {"clipped_fraction": 0.0, "nan_count": 4}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_device_encodes_nan_as_the_cpu_does(dtype):
    values = torch.tensor([[np.nan, -3, np.inf, 1, -np.inf, 7e4], [1, 2, 3, 4, 5, 6]])
    maps = values.view(2, 1, 2, 3)
    encoding = Encoding.from_storage(Storage(dtype=dtype), units="px", bound=20.0)
    raw, numbers = encode_on_device(maps, encoding)
    for i, found in enumerate(split_statistics(numbers, 6, encoding)):
        expected = ValueStatistics()
        on_cpu = encode_maps(maps[i], encoding, expected)
        assert found == expected
        assert np.array_equal(raw[i].numpy(), on_cpu, equal_nan=True)


@pytest.mark.parametrize(
    ("units", "channels", "dtype"),
    [
        ("px", ("dx", "dy"), "q16"),
        ("px", ("dx", "dy", "confidence"), "float16"),
        ("a.u.", ("red",), "float16"),
    ],
)
def test_auto_chooses_by_units_and_channels(units, channels, dtype):
    encoding = Encoding.from_storage(Storage(), units=units, bound=20.0, channels=channels)
    assert encoding.dtype_name == dtype


def test_a_bound_that_was_asked_for_is_taken():
    encoding = Encoding.from_storage(Storage(dtype="uint8", bound=127.0), units="px", bound=20.0)
    assert (encoding.scale, encoding.offset) == (1.0, -128.0)

import dataclasses
import json
import math
from functools import partial
from typing import get_args

import pytest

from mrx.checks import list_choices
from mrx.cli.options import format_exact_bytes, parse_bytes, parse_size
from mrx.errors import UsageError
from mrx.job import (
    Decoding,
    Job,
    ManifestRow,
    Source,
    Storage,
    Windowing,
)
from mrx.kernels import Backend
from mrx.settings import describe_difference, hash_settings


def settings(**methods):
    return Job("out").collect_settings(methods)


def test_settings_of_another_order_have_the_same_hash():
    one = settings(mbpm={"a": 1, "b": 2}, pa={})
    other = settings(pa={}, mbpm={"b": 2, "a": 1})
    assert hash_settings(one) == hash_settings(other)


def test_options_without_effect_on_maps_are_no_settings():
    assert "compression" not in settings(mbpm={})
    assert "device" not in settings(mbpm={})


def test_a_difference_names_both_sides():
    made = Job("out").collect_settings({"mbpm": {"sigma": 1.1, "weights": "abc"}})
    asked = Job("out").collect_settings({"mbpm": {"sigma": 2.0}})
    assert describe_difference(made, asked) == (
        "made with mbpm.sigma=1.1, mbpm.weights=abc, asked for mbpm.sigma=2.0, mbpm.weights=default"
    )


def test_a_parameter_of_a_later_version_is_named():
    made, asked = settings(tvl1={"stack": 1}), settings(tvl1={"stack": 1, "light": None})
    assert describe_difference(made, asked) == (
        "made with tvl1.light=no such parameter, asked for tvl1.light=default"
    )


def test_other_methods_are_named_alone():
    assert describe_difference(settings(mbpm={"sigma": 1}), settings(pa={"seed": 0})) == (
        "made with method=mbpm, asked for method=pa"
    )


def test_a_row_survives_its_json():
    row = ManifestRow("a\n日", "ok", n_out={"mbpm": 3}, warnings=("x",), size=3, mtime=1.5)
    assert ManifestRow.from_json(row.to_json()) == row


def test_a_row_of_an_older_mrx_has_no_fingerprint_and_run_0():
    row = ManifestRow("a", "ok", fingerprint="0123456789abcdef", run=3)
    assert ManifestRow.from_json(row.to_json()) == row
    old = {k: v for k, v in dataclasses.asdict(row).items() if k not in ("fingerprint", "run")}
    assert ManifestRow.from_json(json.dumps(old)) == ManifestRow("a", "ok")


def test_a_row_and_its_source_have_one_stamp():
    source = Source("a", "/a", "frames", end=2.0, mtime=1.5, fingerprint="0123456789abcdef")
    row = ManifestRow.of_source(source, "ok")
    assert row.stamp == source.stamp == (-1.0, 1.5, -1.0, 2.0, "0123456789abcdef")
    assert dataclasses.replace(source, fingerprint=None).stamp == (-1.0, 1.5, -1.0, 2.0, "")


@pytest.mark.parametrize(
    "text", ["340", "x", "0x5", "-1x5", "axb", "²x²", "٣x٣", f"{'9' * 5000}x1"]
)
def test_a_bad_size_is_refused(text):
    with pytest.raises(UsageError, match="give width x height"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "GiB", "2XB", "much", "inf", "nan", "1e999"])
def test_bad_bytes_are_refused(text):
    with pytest.raises(UsageError, match="bad size"):
        parse_bytes(text)


POSITIVE = [(Decoding, "fps"), (Decoding, "image_fps"), (Storage, "bound")]


@pytest.mark.parametrize(("part", "name"), POSITIVE)
@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, "25"])
def test_rates_and_bounds_are_finite_and_above_0(part, name, value):
    with pytest.raises(UsageError, match=f"^{name} must be a finite number above 0, not {value}$"):
        part(**{name: value})


WHOLE = [
    *((Decoding, name) for name in ("short_side", "max_pixels")),
    *((Windowing, name) for name in ("step", "dilation", "segments")),
    *((Storage, name) for name in ("videos_per_shard", "shard_size")),
]


@pytest.mark.parametrize(("part", "name"), WHOLE)
@pytest.mark.parametrize("value", [0, -1, 2.5, math.inf, "3"])
def test_counts_are_whole_numbers_from_1(part, name, value):
    with pytest.raises(UsageError, match=f"^{name} must be a positive integer, not {value}$"):
        part(**{name: value})


@pytest.mark.parametrize("size", [(0, 5), (5,), (5, 5, 5), (5, 2.5), (math.inf, 5)])
def test_a_size_is_two_whole_numbers(size):
    with pytest.raises(UsageError, match="size must be a width and a height in whole pixels"):
        Decoding(size=size)


@pytest.mark.parametrize(
    "times",
    [
        *({"start": -1.0}, {"start": math.nan}, {"start": math.inf}),
        *({"end": 0.0}, {"end": math.inf}, {"end": math.nan}, {"start": 2.0, "end": 2.0}),
    ],
)
def test_a_range_goes_forward(times):
    with pytest.raises(UsageError, match=r"^(start|end) must be a finite number"):
        Decoding(**times)


CHOICES = [
    *((Decoding, "on_error"), (Windowing, "tail"), (Storage, "dtype"), (Storage, "compression")),
    (partial(Job, "out"), "backend"),
]


@pytest.mark.parametrize(("part", "name"), CHOICES)
def test_a_choice_is_one_of_those_offered(part, name):
    with pytest.raises(UsageError, match=f"^{name} must be one of .+, not other$"):
        part(**{name: "other"})


def test_a_job_offers_the_backends_of_the_kernels():
    assert list_choices(Job, "backend") == ("auto", *get_args(Backend))


@pytest.mark.parametrize("count", [Storage.shard_size, 1, 1000, 1023, 1536 * 1024**2, 1024**4 + 1])
def test_written_bytes_are_read_back_exactly(count):
    assert parse_bytes(format_exact_bytes(count)) == count


def test_none_is_accepted_only_by_optional_fields():
    Decoding(short_side=None, fps=None, size=None)
    Windowing(step=None, dilation=None, segments=None)
    with pytest.raises(UsageError, match="image_fps must be a finite number"):
        dataclasses.replace(Decoding(), image_fps=None)


@pytest.mark.parametrize("output", ["", " ", "s3://b/x", "file:///tmp/x"])
def test_an_output_is_a_local_folder(output):
    with pytest.raises(UsageError, match="give a local folder"):
        Job(output)


def test_a_job_names_each_method_once_and_configures_no_other():
    with pytest.raises(UsageError, match="no method: give at least one"):
        Job("out", methods=())
    with pytest.raises(UsageError, match=r"duplicate method \(pa, mbpm, pa\): give each"):
        Job("out", methods=("pa", "mbpm", "pa"))
    with pytest.raises(
        UsageError, match=r"parameters for mbmp: it is not among the methods \(pa\)"
    ):
        Job("out", methods=("pa",), parameters={"mbmp": {}})
    with pytest.raises(UsageError, match=r"weights for mbpm: it is not among the methods \(pa\)"):
        Job("out", methods=("pa",), weights={"mbpm": "x.pt"})

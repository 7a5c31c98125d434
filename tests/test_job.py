import dataclasses
import math

import pytest

from mrx.cli.options import parse_bytes, parse_size
from mrx.errors import UsageError
from mrx.job import (
    Decoding,
    Job,
    ManifestRow,
    Storage,
    Windowing,
    describe_difference,
    hash_settings,
)


def settings(**methods):
    return Job("out").collect_settings(methods)


def test_settings_agree_whatever_their_order():
    one = settings(mbpm={"a": 1, "b": 2}, pa={})
    other = settings(pa={}, mbpm={"b": 2, "a": 1})
    assert hash_settings(one) == hash_settings(other)


def test_what_does_not_touch_the_numbers_is_no_setting():
    assert "compression" not in settings(mbpm={})
    assert "device" not in settings(mbpm={})


def test_a_difference_names_both_sides():
    made = Job("out").collect_settings({"mbpm": {"sigma": 1.1, "weights": "abc"}})
    asked = Job("out").collect_settings({"mbpm": {"sigma": 2.0}})
    assert describe_difference(made, asked) == (
        "made with mbpm.sigma=1.1, mbpm.weights=abc, asked for mbpm.sigma=2.0, mbpm.weights=default"
    )


def test_other_methods_are_named_alone():
    assert describe_difference(settings(mbpm={"sigma": 1}), settings(pa={"seed": 0})) == (
        "made with method=mbpm, asked for method=pa"
    )


def test_a_row_survives_its_json():
    row = ManifestRow("a\n日", "ok", n_out={"mbpm": 3}, warnings=("x",), size=3, mtime=1.5)
    assert ManifestRow.from_json(row.to_json()) == row


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
def test_what_is_a_rate_or_a_bound_is_finite_and_above_0(part, name, value):
    with pytest.raises(UsageError, match=f"^{name} is a finite number above 0, not {value}$"):
        part(**{name: value})


WHOLE = [
    *((Decoding, name) for name in ("short_side", "max_pixels")),
    *((Windowing, name) for name in ("step", "dilation", "segments")),
    *((Storage, name) for name in ("videos_per_shard", "shard_size")),
]


@pytest.mark.parametrize(("part", "name"), WHOLE)
@pytest.mark.parametrize("value", [0, -1, 2.5, math.inf, "3"])
def test_what_is_counted_is_a_whole_number_from_1(part, name, value):
    with pytest.raises(UsageError, match=f"^{name} is a whole number of at least 1, not {value}$"):
        part(**{name: value})


@pytest.mark.parametrize("size", [(0, 5), (5,), (5, 5, 5), (5, 2.5), (math.inf, 5)])
def test_a_size_is_two_whole_numbers(size):
    with pytest.raises(UsageError, match="size is a width and a height in whole pixels"):
        Decoding(size=size)


@pytest.mark.parametrize(
    "times",
    [
        *({"start": -1.0}, {"start": math.nan}, {"start": math.inf}),
        *({"end": 0.0}, {"end": math.inf}, {"end": math.nan}, {"start": 2.0, "end": 2.0}),
    ],
)
def test_a_range_goes_forward(times):
    with pytest.raises(UsageError, match=r"^(start|end) is a finite number"):
        Decoding(**times)


CHOICES = [
    *((Decoding, "on_error"), (Windowing, "tail"), (Storage, "dtype"), (Storage, "compression")),
]


@pytest.mark.parametrize(("part", "name"), CHOICES)
def test_a_choice_is_one_of_those_offered(part, name):
    with pytest.raises(UsageError, match=f"^{name} is one of .+, not other$"):
        part(**{name: "other"})


def test_none_stands_only_where_it_means_something():
    Decoding(short_side=None, fps=None, size=None)
    Windowing(step=None, dilation=None, segments=None)
    with pytest.raises(UsageError, match="image_fps is a finite number"):
        dataclasses.replace(Decoding(), image_fps=None)


@pytest.mark.parametrize("output", ["", " ", "s3://b/x", "file:///tmp/x"])
def test_an_output_is_a_folder_of_this_machine(output):
    with pytest.raises(UsageError, match="give a folder of this machine"):
        Job(output)


def test_a_job_names_each_method_once_and_gives_nothing_to_others():
    with pytest.raises(UsageError, match="no method: give at least one"):
        Job("out", methods=())
    with pytest.raises(UsageError, match="a method is named twice: pa, mbpm, pa"):
        Job("out", methods=("pa", "mbpm", "pa"))
    with pytest.raises(
        UsageError, match=r"parameters for mbmp: it is not among the methods \(pa\)"
    ):
        Job("out", methods=("pa",), parameters={"mbmp": {}})
    with pytest.raises(UsageError, match=r"weights for mbpm: it is not among the methods \(pa\)"):
        Job("out", methods=("pa",), weights={"mbpm": "x.pt"})

import pytest

from mrx.errors import UsageError
from mrx.job import Job, Row, difference, parse_bytes, parse_size, settings_hash


def settings(**methods):
    return Job("out").settings(methods)


def test_settings_agree_whatever_their_order():
    one = settings(mbpm={"a": 1, "b": 2}, pa={})
    other = settings(pa={}, mbpm={"b": 2, "a": 1})
    assert settings_hash(one) == settings_hash(other)


def test_what_does_not_touch_the_numbers_is_no_setting():
    assert "compression" not in settings(mbpm={})
    assert "device" not in settings(mbpm={})


def test_a_difference_names_both_sides():
    made = Job("out").settings({"mbpm": {"sigma": 1.1, "weights": "abc"}})
    asked = Job("out").settings({"mbpm": {"sigma": 2.0}})
    assert difference(made, asked) == (
        "made with mbpm.sigma=1.1, mbpm.weights=abc, asked for mbpm.sigma=2.0, mbpm.weights=default"
    )


def test_other_methods_are_named_alone():
    assert difference(settings(mbpm={"sigma": 1}), settings(pa={"seed": 0})) == (
        "made with method=mbpm, asked for method=pa"
    )


def test_a_row_survives_its_json():
    row = Row("a\n日", "ok", n_out={"mbpm": 3}, warnings=("x",), size=3, mtime=1.5)
    assert Row.from_json(row.to_json()) == row


@pytest.mark.parametrize("text", ["340", "x", "0x5", "-1x5", "axb"])
def test_a_bad_size_is_refused(text):
    with pytest.raises(UsageError, match="give width x height"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "GiB", "2XB", "much"])
def test_bad_bytes_are_refused(text):
    with pytest.raises(UsageError, match="bad size"):
        parse_bytes(text)

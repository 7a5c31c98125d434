import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers, none, sampled_from
from places import GOLDEN

from mrx.errors import UsageError
from mrx.windows.plan import Rule, count, plan


def test_a_dropped_tail_leaves_out_what_does_not_fit():
    assert plan(8, Rule(length=3, step=3)) == [[0, 1, 2], [3, 4, 5]]


def test_a_repeated_tail_repeats_the_last_frame():
    windows = plan(12, Rule(length=10, step=6, tail="repeat"))
    assert windows == [list(range(10)), [6, 7, 8, 9, 10, 11, 11, 11, 11, 11]]


@pytest.mark.parametrize("n", range(14))
def test_triples_are_floor_or_ceil_of_a_third(n):
    assert len(plan(n, Rule(length=3, step=3))) == n // 3
    assert len(plan(n, Rule(length=3, step=3, tail="repeat"))) == -(-n // 3)


@given(n=integers(0, 60), step=integers(1, 9), dilation=integers(1, 9))
def test_pairs_are_every_step_with_the_gap_between(n, step, dilation):
    pairs = plan(n, Rule(length=2, step=step, dilation=dilation))
    assert pairs == [[i, i + dilation] for i in range(0, n - dilation, step)]


@given(
    n=integers(0, 50),
    length=integers(1, 8),
    dilation=integers(1, 4),
    segments=integers(1, 9),
    tail=sampled_from(["drop", "repeat"]),
)
def test_segments_give_all_or_nothing_and_stay_inside(n, length, dilation, segments, tail):
    rule = Rule(length=length, step=1, dilation=dilation, segments=segments, tail=tail)
    windows = plan(n, rule)
    assert len(windows) == (segments if n >= rule.needs and n > 0 else 0)
    assert all(0 <= i < n for window in windows for i in window)
    assert windows == sorted(windows)


@given(
    n=integers(0, 60),
    length=integers(1, 8),
    step=integers(1, 9),
    dilation=integers(1, 4),
    segments=none() | integers(1, 9),
    tail=sampled_from(["drop", "repeat"]),
    first=integers(0, 5),
)
def test_windows_are_counted_as_the_plan_makes_them(
    n, length, step, dilation, segments, tail, first
):
    rule = Rule(length=length, step=step, dilation=dilation, segments=segments, tail=tail)
    assert count(n, rule, first=first) == len(plan(n, rule, first=first))


def test_counting_the_windows_of_a_header_that_lies_takes_no_time():
    assert count(10**15, Rule(length=3, step=1)) == 10**15 - 2


def test_the_windows_of_the_dynamic_image_authors(golden_windows):
    rule = Rule(length=10, step=6, tail="repeat")
    assert plan(12, rule) == golden_windows["win12"].tolist()
    assert plan(27, rule) == golden_windows["win27"].tolist()
    assert plan(27, rule, first=2) == golden_windows["win27_train"].tolist()


@pytest.fixture
def golden_windows():
    return np.load(GOLDEN / "appearance_dynimg_frames_a.npz")


@pytest.mark.parametrize("name", ["length", "step", "dilation", "segments"])
def test_a_rule_refuses_what_is_below_one(name):
    with pytest.raises(UsageError, match=f"{name}=0"):
        Rule(**{"length": 3, "step": 3, name: 0})

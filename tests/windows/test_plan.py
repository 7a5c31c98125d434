from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import booleans, integers, none, sampled_from
from support.places import GOLDEN

from mrx.errors import UsageError
from mrx.windows.plan import WindowRule, count_windows, plan_starts, plan_windows


def test_a_dropped_tail_leaves_out_incomplete_windows():
    assert plan_windows(8, WindowRule(length=3, step=3)) == [[0, 1, 2], [3, 4, 5]]


def test_a_repeated_tail_repeats_the_last_frame():
    windows = plan_windows(12, WindowRule(length=10, step=6, tail="repeat"))
    assert windows == [list(range(10)), [6, 7, 8, 9, 10, 11, 11, 11, 11, 11]]


@pytest.mark.parametrize("n", range(14))
def test_triples_are_floor_or_ceil_of_a_third(n):
    assert len(plan_windows(n, WindowRule(length=3, step=3))) == n // 3
    assert len(plan_windows(n, WindowRule(length=3, step=3, tail="repeat"))) == -(-n // 3)


@given(n=integers(0, 60), step=integers(1, 9), dilation=integers(1, 9))
def test_pairs_are_every_step_with_the_gap_between(n, step, dilation):
    pairs = plan_windows(n, WindowRule(length=2, step=step, dilation=dilation))
    assert pairs == [[i, i + dilation] for i in range(0, n - dilation, step)]


@given(
    n=integers(0, 50),
    length=integers(1, 8),
    dilation=integers(1, 4),
    segments=integers(1, 9),
    tail=sampled_from(["drop", "repeat"]),
)
def test_segments_give_all_or_nothing_and_stay_inside(n, length, dilation, segments, tail):
    rule = WindowRule(length=length, step=1, dilation=dilation, segments=segments, tail=tail)
    windows = plan_windows(n, rule)
    assert len(windows) == (segments if n >= rule.min_frames and n > 0 else 0)
    assert all(0 <= i < n for window in windows for i in window)
    assert windows == sorted(windows)


@given(n=integers(0, 90), segments=integers(2, 9), length=integers(1, 3))
def test_windows_across_segments_use_adjacent_segment_centers(n, segments, length):
    rule = WindowRule(
        length=length, step=3, dilation=4, segments=segments, across_segments=length <= segments
    )
    centers = [
        frame for (frame,) in plan_windows(n, WindowRule(length=1, step=1, segments=segments))
    ]
    if rule.across_segments and n >= segments:
        chosen = [centers[i : i + length] for i in range(segments - length + 1)]
        assert plan_windows(n, rule) == chosen
        assert all(a < b for window in chosen for a, b in pairwise(window))
    elif rule.across_segments:
        assert plan_windows(n, rule) == []


def test_a_repeated_tail_repeats_frames_across_segments():
    rule = WindowRule(length=2, step=1, segments=4, across_segments=True, tail="repeat")
    assert plan_windows(2, rule) == [[0, 0], [0, 1], [1, 1]]


def test_one_segment_has_no_neighbor():
    with pytest.raises(UsageError, match=r"segments=1: windows of 2 frames, .* Give a dilation"):
        WindowRule(length=2, step=1, segments=1, across_segments=True)


@given(
    n=integers(0, 60),
    length=integers(1, 8),
    step=integers(1, 9),
    dilation=integers(1, 4),
    segments=none() | integers(1, 9),
    tail=sampled_from(["drop", "repeat"]),
    first=integers(0, 5),
    across_segments=booleans(),
)
def test_windows_are_counted_as_the_plan_makes_them(
    n, length, step, dilation, segments, tail, first, across_segments
):
    rule = WindowRule(length=length, step=step, dilation=dilation, segments=segments, tail=tail)
    if across_segments and segments is not None and segments >= length:
        rule = replace(rule, across_segments=True)
    assert count_windows(n, rule, first=first) == len(plan_windows(n, rule, first=first))
    assert [*plan_starts(n, rule, first=first)] == [
        w[0] for w in plan_windows(n, rule, first=first)
    ]


def test_windows_of_a_huge_frame_count_are_counted_at_once():
    assert count_windows(10**15, WindowRule(length=3, step=1)) == 10**15 - 2


def test_the_windows_of_the_dynamic_image_authors(golden_windows):
    rule = WindowRule(length=10, step=6, tail="repeat")
    assert plan_windows(12, rule) == golden_windows["win12"].tolist()
    assert plan_windows(27, rule) == golden_windows["win27"].tolist()
    assert plan_windows(27, rule, first=2) == golden_windows["win27_train"].tolist()


@pytest.fixture
def golden_windows():
    return np.load(GOLDEN / "appearance_dynimg_frames_a.npz")


@pytest.mark.parametrize("name", ["length", "step", "dilation", "segments"])
def test_a_rule_refuses_values_below_one(name):
    with pytest.raises(UsageError, match=f"{name}=0"):
        WindowRule(**{"length": 3, "step": 3, name: 0})

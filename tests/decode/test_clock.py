from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers, lists

from mrx.decode.clock import FrameClock, TimedFrame, resample_frames, select_range
from mrx.decode.tally import DecodeTally


def frames(times):
    return [TimedFrame(None, i, t) for i, t in enumerate(times)]


def picked(times, fps):
    tally = DecodeTally()
    taken = [f.frame_number for f in resample_frames(frames(times), fps, tally)]
    return taken, tally.warnings


def test_half_the_rate_takes_every_second_frame():
    assert picked([i / 10 for i in range(6)], 5)[0] == [0, 2, 4]


def test_double_the_rate_shows_every_frame_twice():
    assert picked([0.0, 0.1, 0.2], 20)[0] == [0, 0, 1, 1, 2, 2]


def test_the_same_rate_keeps_frames_at_times_rounded_to_ms():
    times = [round(i / 30, 3) for i in range(90)]
    assert picked(times, 30)[0] == list(range(90))


def test_a_long_gap_is_filled_for_a_second_and_reported():
    taken, warnings = picked([0.0, 90000.0], 25)
    assert taken == [0] * 25 + [1] * 25
    assert "gap of 90000.0 s" in warnings[0]


@given(steps=lists(floats(0.001, 3.0), max_size=30), fps=floats(0.5, 60))
def test_a_rate_goes_forward_and_repeats_for_at_most_a_second(steps, fps):
    times = [sum(steps[:i]) for i in range(len(steps) + 1)]
    taken, _ = picked(times, fps)
    assert taken == sorted(taken)
    assert max(map(taken.count, taken), default=1) <= max(1, round(fps))
    assert taken[0] == 0


@given(stamps=lists(integers(-5, 40) | lists(integers(), max_size=0), max_size=40))
def test_times_increase_for_any_timestamps_of_the_container(stamps):
    clock = FrameClock(25.0, by_index=False)
    times = [clock.read_time(None if s == [] else float(s), i) for i, s in enumerate(stamps)]
    assert all(a < b for a, b in pairwise(times))


def test_good_times_are_kept_as_they_are():
    clock = FrameClock(25.0, by_index=False)
    assert [clock.read_time(t, i) for i, t in enumerate([11.4, 11.5, 13.0])] == [11.4, 11.5, 13.0]
    assert clock.num_repaired == 0
    assert clock.is_variable


def test_an_index_clock_counts_frames():
    clock = FrameClock(20.0, by_index=True)
    assert [clock.read_time(t, i) for i, t in enumerate([3.0, 1.0, 2.0])] == [0.0, 0.05, 0.1]


def test_a_range_is_half_open_and_counts_from_its_first_frame():
    taken = list(select_range(frames([0.0, 1.0, 2.0, 3.0]), 1.0, 3.0))
    assert [(f.frame_number, f.time) for f in taken] == [(0, 1.0), (1, 2.0)]


@pytest.mark.parametrize(("start", "end"), [(None, None), (0.0, None), (None, 9.0)])
def test_an_open_range_takes_all(start, end):
    assert len(list(select_range(frames([0.0, 1.0]), start, end))) == 2

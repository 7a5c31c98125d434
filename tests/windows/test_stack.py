import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import booleans, integers, lists, sampled_from

from mrx.errors import ShapeError
from mrx.records import Frames
from mrx.windows.plan import WindowRule, plan_windows
from mrx.windows.stack import WindowStacker


def stream(positions, chunks):
    """Frames whose only pixel is their position, cut into runs of these lengths."""
    where = np.array(positions, np.int64)
    frames = Frames(
        torch.tensor(positions, dtype=torch.uint8).reshape(-1, 1, 1, 1),
        where,
        where * 10,
        where / 2,
    )
    begin = 0
    for chunk in chunks:
        yield frames[begin : begin + chunk]
        begin += chunk
    yield frames[begin:]


def windows_of(stack, frames):
    clips = [clip for run in frames if len(run) for clip in stack.push_frames(run)]
    clips += stack.finish_stream()
    taken = [row for clip in clips for row in clip.data.flatten(1).tolist()]
    ends = [row for clip in clips for row in clip.index.tolist()]
    times = [row for clip in clips for row in clip.time.tolist()]
    return taken, ends, times


@settings(deadline=None)
@given(
    n=integers(0, 40),
    length=integers(1, 8),
    step=integers(1, 9),
    dilation=integers(1, 4),
    tail=sampled_from(["drop", "repeat"]),
    chunks=lists(integers(1, 7), max_size=12),
)
def test_streaming_agrees_with_the_plan(n, length, step, dilation, tail, chunks):
    rule = WindowRule(length=length, step=step, dilation=dilation, tail=tail)
    expected = plan_windows(n, rule)
    taken, ends, times = windows_of(WindowStacker(rule), stream(range(n), chunks))
    assert taken == expected
    assert ends == [[w[0] * 10, w[-1] * 10] for w in expected]
    assert times == [[w[0] / 2, w[-1] / 2] for w in expected]


@settings(deadline=None)
@given(
    n=integers(0, 40),
    length=integers(1, 6),
    dilation=integers(1, 4),
    segments=integers(1, 9),
    tail=sampled_from(["drop", "repeat"]),
    chunks=lists(integers(1, 5), max_size=8),
    sparse=booleans(),
    across_segments=booleans(),
)
def test_segments_agree_with_the_plan_from_all_or_wanted_frames(
    n, length, dilation, segments, tail, chunks, sparse, across_segments
):
    across = across_segments and segments >= length
    rule = WindowRule(length, 1, dilation, segments, across, tail)
    stack = WindowStacker(rule, frames=n)
    positions = sorted(stack.list_wanted_positions()) if sparse else range(n)
    taken, ends, _ = windows_of(stack, stream(positions, chunks))
    assert taken == plan_windows(n, rule)
    assert ends == [[w[0] * 10, w[-1] * 10] for w in taken]


def test_windows_in_one_piece_are_views_of_the_frames():
    frames = next(iter(stream(range(12), [12])))
    (clips,) = WindowStacker(WindowRule(length=3, step=3)).push_frames(frames)
    assert clips.data.shape == (4, 3, 1, 1, 1)
    assert clips.data.untyped_storage().data_ptr() == frames.data.untyped_storage().data_ptr()


def test_no_more_frames_are_held_than_a_window_needs():
    stack = WindowStacker(WindowRule(length=3, step=1, dilation=2))
    for run in stream(range(40), [4] * 10):
        if len(run):
            list(stack.push_frames(run))
    assert len(stack._held_frames) == 4


@pytest.mark.parametrize(("limit", "largest"), [(100, 99), (1, 3)])
def test_many_segments_come_in_order_in_batches_of_bounded_bytes(monkeypatch, limit, largest):
    monkeypatch.setattr("mrx.windows.stack.GATHER_BYTES", limit)
    rule = WindowRule(length=3, step=1, segments=400)
    stack = WindowStacker(rule, frames=60)
    clips = [clip for run in stream(range(60), [55]) for clip in stack.push_frames(run)]
    assert max(clip.data.nbytes for clip in clips) == largest
    assert [row for clip in clips for row in clip.data.flatten(1).tolist()] == plan_windows(
        60, rule
    )


def test_segments_must_know_the_length():
    with pytest.raises(ValueError, match="number of frames"):
        WindowStacker(WindowRule(length=3, step=3, segments=2))


def test_frames_that_change_their_size_are_refused():
    stack = WindowStacker(WindowRule(length=3, step=3))
    one, two = np.array([0]), np.array([1])
    list(stack.push_frames(Frames(torch.zeros(1, 4, 4, 3, dtype=torch.uint8), one, one, one / 1)))
    with pytest.raises(ShapeError, match="changed from"):
        list(
            stack.push_frames(Frames(torch.zeros(1, 5, 4, 3, dtype=torch.uint8), two, two, two / 1))
        )


@pytest.mark.parametrize(("values", "sizes"), [(24, [2, 2, 1]), (1, [1] * 5), (60, [5])])
def test_a_batch_has_no_more_maps_than_asked_for_but_one(values, sizes):
    frames = Frames(torch.zeros(15, 2, 2, 3, dtype=torch.uint8), *[np.arange(15)] * 3)
    clips = list(
        WindowStacker(WindowRule(length=3, step=3), batch_values=values).push_frames(frames)
    )
    assert [len(clip.data) for clip in clips] == sizes
    assert np.concatenate([clip.index for clip in clips]).tolist() == [
        [first, first + 2] for first in range(0, 15, 3)
    ]

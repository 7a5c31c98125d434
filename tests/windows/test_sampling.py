"""Exact agreement with the index functions of the papers' loaders."""

import numpy as np
import pytest
from support.places import GOLDEN

from mrx.errors import UsageError
from mrx.windows import sampling

UNUSED = -1000000
NORMAL, TWICE, DENSE = range(3)


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "appearance_sampling.npz")


def used(row):
    """Golden starts count from 1; rows are padded."""
    return [int(start) - 1 for start in row if start != UNUSED]


def test_starts_for_testing_equal_the_official_ones(golden):
    for (frames, segments, length, mode), expected in zip(
        golden["rows"].tolist(), golden["test"], strict=True
    ):
        if mode == DENSE:
            starts = sampling.ten_dense_starts(frames, segments, length)
        else:
            starts = sampling.center_starts(frames, segments, length, twice=mode == TWICE)
        assert starts == used(expected), (frames, segments, length, mode)


def test_validation_starts_equal_the_official_ones(golden):
    for (frames, segments, length, mode), expected in zip(
        golden["rows"].tolist(), golden["val"], strict=True
    ):
        if mode == DENSE:
            draw = np.random.RandomState(7).randint
            starts = sampling.dense_starts(frames, segments, length, draw)
        else:
            starts = sampling.validation_starts(frames, segments, length)
        assert starts == used(expected), (frames, segments, length, mode)


def test_training_starts_equal_the_official_ones_for_equal_draws(golden):
    for (frames, segments, length, mode, seed), expected in zip(
        golden["train_rows"].tolist(), golden["train"], strict=True
    ):
        draw = np.random.RandomState(seed).randint
        choose = sampling.dense_starts if mode == DENSE else sampling.random_starts
        assert choose(frames, segments, length, draw) == used(expected)


def test_frames_past_the_end_are_the_last_one(golden):
    expected = [int(i) - 1 for i in golden["expand_20_25_29_of30_len3"]]
    assert sampling.list_read_frames([19, 24, 28], 3, frames=30) == expected


@pytest.mark.parametrize("choose", [sampling.center_starts, sampling.validation_starts])
def test_a_video_shorter_than_a_window_is_refused(choose):
    with pytest.raises(UsageError, match="window of 6 frames does not fit in a video of 5"):
        choose(5, 8, 6)

"""A few real kills and full disks; `kills.py` is the script for many."""

import pytest
from kills import disturb_runs


@pytest.mark.slow
def test_killed_and_cut_runs_are_completed_by_the_next(tmp_path):
    runs = disturb_runs(tmp_path, kills=6, cuts=4, seed=3)
    print(dict(runs.outcomes))
    assert not runs.broken, "\n".join(runs.broken)

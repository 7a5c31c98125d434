"""Every method on real clips of all kinds, resumed and verified."""

import numpy as np
import pytest
from support.command import mrx, read_summary, run_process
from support.places import REAL_CLIPS

import mrx as library

METHODS = {
    "mbpm": (3, 3),
    "dynamic-image": (6, 6),
    "pa": (6, 6),
    "tvl1": (2, 1),
    "tvnet": (2, 1),
    "ms": (5, 4),
}
"""The frames from the first to the last of each method's windows, and their step."""


@pytest.mark.slow
def test_every_method_on_every_real_clip(real_clips, tmp_path):
    words = ["extract", real_clips, "-o", tmp_path / "out", "--short-side", "72"]
    words += ["-p", "tvl1.preset=fast"]
    words += [w for name in METHODS for w in ("-m", name)]
    ran = run_process(*words)
    assert ran.returncode == 0, ran.stderr
    with library.open(tmp_path / "out") as shards:
        assert shards.keys() == REAL_CLIPS.keys()
        for key, frames in REAL_CLIPS.items():
            assert shards[key].attrs["n_frames_decoded"] == frames
            assert min(shards[key]["mbpm"].shape[2:]) == 72
            for name, (span, step) in METHODS.items():
                maps = shards[key][name]
                assert len(maps) == (frames - span) // step + 1
                assert np.isfinite(maps[:]).all()
                assert (np.diff(maps.items["start"]) > 0).all()
    assert mrx("verify", tmp_path / "out").code == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.h5")}
    again = mrx(*words, "--json")
    assert (read_summary(again)["before"], again.code) == (7, 0)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.h5")} == before

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.command import mrx as run_mrx
from support.command import read_manifest
from support.videos import write_clip

import mrx
from mrx.job import Storage
from mrx.methods.mbpm import MBPM
from mrx.pipeline.value_warnings import describe_value_problems
from mrx.shards.encoding import Encoding, ValueStatistics, encode_maps


def describe(values, *, units="px", **storage):
    encoding = Encoding.from_storage(Storage(**storage), units=units, bound=20.0)
    statistics = ValueStatistics()
    encode_maps(torch.tensor(values).view(1, 1, -1), encoding, statistics)
    run = SimpleNamespace(method=SimpleNamespace(name="tvl1"), encoding=encoding)
    return list(describe_value_problems(run, statistics))


def test_float16_overflow_warns_at_the_first_value():
    assert describe([99_002.0] + [0.0] * 9999, dtype="float16") == [
        "tvl1: 0.01 % of the values are beyond 65504, the largest of float16, and were clipped: "
        "use --dtype float32"
    ]


@pytest.mark.parametrize(("clipped", "warns"), [(1, False), (2, True)])
def test_integers_warn_above_a_thousandth_clipped(clipped, warns):
    values = [30.0] * clipped + [0.0] * (1000 - clipped)
    expected = [
        "tvl1: 0.2 % of the values are beyond 20, the bound of uint8, and were clipped: use a "
        "larger --bound or --dtype float16"
    ]
    assert describe(values, dtype="uint8") == (expected if warns else [])


def test_nan_and_infinity_warn_in_floats():
    values = [np.nan, -np.inf, np.inf, 1.0]
    assert describe(values, units="a.u.") == [
        "tvl1: 3 of 4 values are NaN or infinite; they are stored as they are"
    ]


def test_values_within_the_range_do_not_warn():
    assert describe([0.0, 511.9]) == describe([65504.0], dtype="float16") == []


@pytest.fixture
def nan_maps(monkeypatch):
    """Let mbpm make a map that is NaN in one place and infinite in another."""
    extract = MBPM.extract

    def extract_nan(self, frames):
        maps = extract(self, frames).clone()
        maps[0, 0, 0, :2] = torch.tensor([np.nan, np.inf])
        return maps

    monkeypatch.setattr(MBPM, "extract", extract_nan)


def test_a_map_with_nan_is_stored_counted_and_verified(nan_maps, tmp_path):
    clip, out = write_clip(tmp_path / "a.mp4", 6), tmp_path / "out"
    ran = run_mrx("extract", clip, "-o", out)
    assert ran.stderr.count("values are NaN or infinite") == 1
    with mrx.open(out) as shards:
        maps = shards["a.mp4"]["mbpm"]
        finite = np.isfinite(maps[:])
        assert maps.attrs["nan_count"] == (~finite).sum() > 0
        assert maps.attrs["max"] == pytest.approx(maps[:][finite].max(), rel=1e-3)
        assert np.isinf(maps[0, 0, 0, 1])
    assert run_mrx("verify", out).code == 0
    for words in (["ls", f"{out}::a.mp4"], ["ls", out, "--json"], ["ls", out, "--jsonl"]):
        json.loads(run_mrx(*words).stdout, parse_constant=pytest.fail)
    assert len(read_manifest(out)["a.mp4"]["warnings"]) == 1


def test_a_video_with_nan_fails_where_integers_are_stored(nan_maps, tmp_path):
    clip, out = write_clip(tmp_path / "a.mp4", 6), tmp_path / "out"
    ran = run_mrx("extract", clip, "-o", out, "--dtype", "q16")
    assert ran.code == 1
    assert "NaN or infinity cannot be stored as q16" in read_manifest(out)["a.mp4"]["reason"]

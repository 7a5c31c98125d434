"""Stored types, tolerances and estimated sizes, through the command line."""

import json
import subprocess
import sys

import numpy as np
import pytest
from support.command import mrx, read_summary
from support.videos import write_clip

import mrx as library


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "a.mp4", 9)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def stored_facts(out, method):
    with library.open(out) as shards:
        maps = shards["a.mp4"][method]
        return maps.attrs["dtype"], str(maps.dataset.dtype)


def test_auto_stores_flow_in_q16_and_the_rest_in_float16(clip, out):
    mrx("extract", clip, "-o", out, "-m", "mbpm", "-m", "tvnet", "-m", "ms")
    assert stored_facts(out, "tvnet") == ("q16", "int16")
    assert stored_facts(out, "mbpm") == stored_facts(out, "ms") == ("float16", "float16")


def test_each_method_records_its_own_storage(clip, out):
    mrx("extract", clip, "-o", out, "-m", "mbpm", "-m", "tvnet", "--bound", "9")
    with library.open(out) as shards:
        settings = json.loads(shards["a.mp4"].group.file.attrs["settings_json"])
    assert settings["methods"]["tvnet"]["dtype"] == "q16"
    assert settings["methods"]["tvnet"]["bound"] == 9
    assert settings["methods"]["mbpm"]["dtype"] == "float16"
    assert "bound" not in settings["methods"]["mbpm"]
    assert "dtype" not in settings


def test_another_type_in_the_same_folder_is_refused(clip, out):
    mrx("extract", clip, "-o", out)
    ran = mrx("extract", clip, "-o", out, "--dtype", "float32")
    assert ran.code == 4
    assert "made with mbpm.dtype=float16, asked for mbpm.dtype=float32" in ran.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--dtype", "q16"], "--tolerance stores float32 with a bounded error, so dtype q16"),
        (["--compression", "gzip"], "--tolerance has its own compression, so compression gzip"),
    ],
)
def test_a_tolerance_excludes_other_types_and_filters(clip, out, words, text):
    ran = mrx("extract", clip, "-o", out, "--tolerance", "0.1", *words)
    assert ran.code == 2
    assert text in ran.stderr


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_a_tolerance_is_a_positive_number(clip, out, value):
    ran = mrx("extract", clip, "-o", out, "--tolerance", value)
    assert ran.code == 2
    assert "--tolerance must be a finite number above 0" in ran.stderr


def test_a_tolerance_bounds_every_value(clip, out, tmp_path):
    pytest.importorskip("hdf5plugin", reason="hdf5plugin is not installed")
    exact = tmp_path / "exact"
    mrx("extract", clip, "-o", exact, "-m", "mbpm", "-m", "tvnet", "--dtype", "float32")
    ran = mrx("extract", clip, "-o", out, "-m", "mbpm", "-m", "tvnet", "--tolerance", "0.05")
    assert ran.code == 0
    with library.open(out) as found, library.open(exact) as expected:
        for method in ("mbpm", "tvnet"):
            maps = found["a.mp4"][method]
            error = np.abs(maps[:].astype(np.float64) - expected["a.mp4"][method][:])
            assert 0 < error.max() <= maps.attrs["tolerance"] == 0.05
            assert maps.attrs["compressor"].startswith("SZ3 of hdf5plugin")
            assert maps.dataset.chunks[:2] == (1, 1)
    assert mrx("verify", out).code == 0


@pytest.mark.parametrize("words", [["--tolerance", "1"], ["--compression", "blosc2"]])
def test_open_imports_the_filters_by_itself(clip, out, words):
    pytest.importorskip("hdf5plugin", reason="hdf5plugin is not installed")
    mrx("extract", clip, "-o", out, *words)
    code = f"import mrx; print(mrx.open({str(out)!r})['a.mp4']['mbpm'][:].shape)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert ran.stdout == "(3, 3, 64, 80)\n"


@pytest.mark.parametrize(
    "words", [["--tolerance", "1"], ["--compression", "blosc"], ["--compression", "blosc2"]]
)
def test_writing_names_the_package_that_is_missing(clip, out, monkeypatch, words):
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    ran = mrx("extract", clip, "-o", out, *words)
    assert ran.code == 5
    assert f"no hdf5plugin: {words[0]}" in ran.stderr
    assert "pip install 'mrx[small]'" in ran.stderr


def test_reading_names_the_package_that_is_missing(clip, out, monkeypatch):
    pytest.importorskip("hdf5plugin", reason="hdf5plugin is not installed")
    mrx("extract", clip, "-o", out, "--tolerance", "1")
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with (
        library.open(out) as shards,
        pytest.raises(library.errors.MissingError, match=r"missing filter .*mrx\[small\]"),
    ):
        shards["a.mp4"]["mbpm"][0]
    assert mrx("verify", out).code == 5


@pytest.mark.parametrize(
    "words",
    [["-m", "tvnet"], ["-m", "mbpm", "--compression", "lzf"], ["-m", "mbpm", "--tolerance", "2"]],
)
def test_a_dry_run_estimates_the_compressed_size(clip, out, words):
    if "--tolerance" in words:
        pytest.importorskip("hdf5plugin", reason="hdf5plugin is not installed")
    planned = read_summary(mrx("extract", clip, "-o", out, "--dry-run", "--json", *words))
    ran = read_summary(mrx("extract", clip, "-o", out, "--json", *words))
    assert planned["bytes"] == pytest.approx(ran["bytes"], rel=0.2)
    assert planned["duration"] == pytest.approx(ran["duration"])
    assert not planned["shards"]


def test_a_dry_run_estimates_videos_beyond_the_sample(tmp_path, out):
    (tmp_path / "clips").mkdir()
    for i in range(6):
        write_clip(tmp_path / "clips" / f"{i}.mp4", 9)
    ran = mrx("extract", tmp_path / "clips", "-o", out, "--dry-run", "--jsonl", "-m", "tvnet")
    sizes = [json.loads(line)["bytes"] for line in ran.stdout.splitlines()]
    assert len(sizes) == 6
    assert max(sizes) == pytest.approx(min(sizes), rel=0.01)


def test_a_dry_run_goes_on_where_a_sample_fails(clip, out, monkeypatch):
    def fail(*arguments):
        raise ValueError("injected")

    monkeypatch.setattr("mrx.pipeline.size_estimate.compute_motion", fail)
    ran = mrx("extract", clip, "-o", out, "--dry-run", "-m", "tvnet")
    assert ran.code == 0
    assert "its size is estimated without a sample: internal error in compute" in ran.stderr
    assert ran.stdout.split()[1:3] == ["163.8", "kB"]

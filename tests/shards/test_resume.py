"""Tests of a later run in the same folder: the work it does again, and the work it leaves."""

import json

import pytest
from support import videos
from support.command import mrx, read_keys, read_manifest, read_rows

import mrx as library


@pytest.fixture
def clip(tmp_path):
    return videos.write_clip(tmp_path / "a.mp4", 30)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_a_changed_range_is_done_again(clip, tmp_path, out):
    table = tmp_path / "list.csv"
    for start, end, first in ((0, 0.36, 0.0), (0.6, 1.2, 0.6)):
        table.write_text(f"path,key,start,end\n{clip},turn,{start},{end}\n")
        assert mrx("extract", table, "-o", out).code == 0
        with library.open(out) as shards:
            assert shards["turn"]["mbpm"].items["start"][0] == pytest.approx(first)
    assert "1 of 1 videos are done already" in mrx("extract", table, "-o", out).stderr


def test_overwrite_of_one_share_is_refused(clip, out):
    mrx("extract", clip, "-o", out)
    ran = mrx("extract", clip, "-o", out, "--overwrite", "--shard", "0/2")
    assert ran.code == 2
    assert "--overwrite does not work with --shard" in ran.stderr
    assert read_keys(out) == ["a.mp4"]


def test_overwrite_leaves_other_files_alone(clip, out):
    mrx("extract", clip, "-o", out)
    (out / "manifest-train.jsonl").write_text("{}")
    mrx("extract", clip, "-o", out, "--overwrite")
    assert (out / "manifest-train.jsonl").exists()


def test_the_default_step_by_its_number_is_the_same_output(clip, out):
    mrx("extract", clip, "-o", out)
    ran = mrx("extract", clip, "-o", out, "--step", "3")
    assert (ran.code, "1 of 1 videos are done already" in ran.stderr) == (0, True)


def test_a_bound_that_floats_do_not_use_is_the_same_output(clip, out):
    mrx("extract", clip, "-o", out)
    assert mrx("extract", clip, "-o", out, "--bound", "7").code == 0


def test_failures_of_an_earlier_run_are_reported_with_a_remedy(tmp_path, out):
    (tmp_path / "bad.mp4").write_bytes(b"no")
    mrx("extract", tmp_path / "bad.mp4", "-o", out)
    ran = mrx("extract", tmp_path / "bad.mp4", "-o", out)
    assert ran.code == 1
    assert "1 failed in an earlier run; --retry-failed tries them again" in ran.stderr


def test_a_wrong_backend_fails_the_run_and_not_its_videos(clip, out, monkeypatch):
    monkeypatch.setenv("MRX_BACKEND", "abacus")
    ran = mrx("extract", clip, "-o", out)
    assert (ran.code, "backend abacus: choose from" in ran.stderr) == (2, True)
    monkeypatch.delenv("MRX_BACKEND")
    assert mrx("extract", clip, "-o", out).code == 0


def test_passwords_of_urls_are_written_nowhere(out):
    address = "http://user:secret@127.0.0.1:9/a.mp4"
    ran = mrx("extract", address, "-o", out, "--jsonl")
    assert read_rows(ran)[0]["status"] == "failed"
    assert "secret" not in json.dumps(read_manifest(out)) + ran.stdout + ran.stderr

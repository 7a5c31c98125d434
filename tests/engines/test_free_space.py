import json

import pytest
from support.command import mrx, read_summary
from support.videos import write_clip

from mrx.engines import free_space
from mrx.engines.free_space import SpaceWatch, read_free_bytes
from mrx.job import ManifestRow, Source


def make_sources(sizes):
    return [Source(str(i), f"/{i}", size=size) for i, size in enumerate(sizes)]


def follow(watch, rows):
    return [watch.follow_row(ManifestRow(str(i), "ok", bytes=size)) for i, size in enumerate(rows)]


@pytest.fixture
def little_space(monkeypatch):
    monkeypatch.setattr("mrx.engines.run.read_free_bytes", lambda folder: 1000)
    monkeypatch.setattr(free_space, "read_free_bytes", lambda folder: 1000)


def test_videos_left_are_compared_by_the_size_of_files(little_space, tmp_path):
    watch = SpaceWatch(tmp_path, make_sources([10, 10, 10, 101]))
    *early, warning = follow(watch, [100, 100, 100])
    assert early == ["", ""]
    assert warning.startswith("the 1 videos left need about 1.0 kB")
    assert "has 1.0 kB free: use another disk, --tolerance, or a smaller --dtype" in warning


def test_videos_of_unknown_size_count_alike(little_space, tmp_path):
    sources = make_sources([None, 10, 10, 1000, 10])
    assert follow(SpaceWatch(tmp_path, sources), [300] * 4) == [""] * 4


def test_the_warning_is_given_once(little_space, tmp_path):
    watch = SpaceWatch(tmp_path, make_sources([10] * 9))
    assert [bool(text) for text in follow(watch, [900] * 8)] == [False] * 2 + [True] + [False] * 5


def test_the_free_space_of_a_folder_to_come_is_known(tmp_path):
    assert read_free_bytes(tmp_path / "not" / "yet") > 0


def test_a_dry_run_warns_past_the_free_space(little_space, tmp_path):
    clip = write_clip(tmp_path / "a.mp4", 6)
    ran = mrx("extract", clip, "-o", tmp_path / "out", "--dry-run", "--json")
    summary = read_summary(ran)
    assert summary["free_bytes"] == 1000
    assert summary["bytes"] == 61440
    assert summary["bytes_per_hour"] == round(61440 / 0.24 * 3600)
    assert summary["warnings"] == [
        f"the 1 videos to extract need about 61.4 kB, and {tmp_path / 'out'} has 1.0 kB free: use "
        "another disk, --tolerance, or a smaller --dtype"
    ]
    assert f"warning: {summary['warnings'][0]}\n" in ran.stderr


def test_a_run_tells_its_bytes_and_those_of_an_hour(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", 6)
    ran = mrx("extract", clip, "-o", tmp_path / "out", "--json")
    summary = json.loads(ran.stdout)
    assert (summary["bytes"], summary["duration"]) == (61448, 0.24)
    assert summary["warnings"] == []
    assert "61.4 kB, 921.7 MB an hour of video -> " in ran.stderr

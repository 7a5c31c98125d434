"""A method added to an output folder, and the identity of the videos in it."""

import os
import shutil

import pytest
from support import videos
from support.command import mrx, read_contents, read_manifest, read_rows, read_summary

import mrx as library


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "videos").mkdir()
    for i in range(3):
        videos.write_clip(tmp_path / "videos" / f"{i}.mp4", 10 + i, seed=i)
    return tmp_path / "videos"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def read_maps(out):
    return {place: contents[:3] for place, contents in read_contents(out).items()}


def test_a_method_added_later_gives_the_same_maps(folder, out, tmp_path):
    mrx("extract", folder, "-o", tmp_path / "once", "-m", "mbpm", "-m", "pa")
    mrx("extract", folder, "-o", out, "-m", "mbpm")
    ran = mrx("extract", folder, "-o", out, "-m", "pa")
    assert (ran.code, "3 ok, 0 skipped" in ran.stderr) == (0, True)
    assert read_maps(out) == read_maps(tmp_path / "once")
    assert mrx("verify", out).code == 0


def test_only_the_missing_methods_are_made(folder, out):
    mrx("extract", folder, "-o", out, "-m", "mbpm")
    videos.write_clip(folder / "new.mp4", 10)
    ran = mrx("extract", folder, "-o", out, "-m", "mbpm", "-m", "pa", "--jsonl")
    made = {row["key"]: sorted(row["n_out"]) for row in read_rows(ran)}
    assert made == {"0.mp4": ["pa"], "1.mp4": ["pa"], "2.mp4": ["pa"], "new.mp4": ["mbpm", "pa"]}
    assert read_manifest(out)["0.mp4"]["methods"] == ["pa"]
    again = mrx("extract", folder, "-o", out, "-m", "mbpm", "-m", "pa", "--json")
    assert (read_summary(again)["before"], read_summary(again)["frames"]) == (4, 0)


def test_a_dry_run_estimates_only_the_missing_methods(folder, out):
    mrx("extract", folder, "-o", out, "-m", "mbpm")
    ran = mrx("extract", folder, "-o", out, "-m", "mbpm", "-m", "pa", "--dry-run", "--jsonl")
    assert [sorted(row["n_out"]) for row in read_rows(ran)] == [["pa"]] * 3


def test_all_methods_are_listed_and_opened(folder, out):
    mrx("extract", folder, "-o", out, "-m", "mbpm")
    mrx("extract", folder, "-o", out, "-m", "pa")
    with library.open(out) as shards:
        assert {key: set(recording) for key, recording in shards.items()} == {
            f"{i}.mp4": {"mbpm", "pa"} for i in range(3)
        }
    assert len(mrx("ls", out).stdout.splitlines()) == 6


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (("-m", "mbpm", "-p", "sigma=2"), "mbpm.sigma=2.0"),
        (("-m", "pa", "--short-side", "32"), "short_side=32"),
        (("-m", "pa", "--segments", "2"), "segments=2"),
    ],
)
def test_other_settings_are_refused_by_name(folder, out, options, difference):
    mrx("extract", folder, "-o", out, "-m", "mbpm")
    ran = mrx("extract", folder, "-o", out, *options)
    assert ran.code == 4
    assert difference in ran.stderr
    assert "Use another -o or --overwrite" in ran.stderr


def test_a_video_too_short_for_the_new_method_stays_ok(folder, out):
    videos.write_clip(folder / "0.mp4", 4)
    mrx("extract", folder, "-o", out, "-m", "mbpm")
    words = ("extract", folder, "-o", out, "-m", "mbpm", "-m", "dynamic-image")
    first = mrx(*words, "--json")
    assert "no dynamic-image: too short" in first.stderr
    again = mrx(*words, "--json")
    assert (read_summary(first)["ok"], read_summary(again)["before"]) == (3, 3)


def test_a_video_skipped_by_one_method_is_tried_with_another(folder, out):
    videos.write_clip(folder / "0.mp4", 4)
    assert "1 skipped" in mrx("extract", folder, "-o", out, "-m", "dynamic-image").stderr
    assert "3 ok, 0 skipped" in mrx("extract", folder, "-o", out, "-m", "mbpm").stderr


def test_folders_with_the_same_names_are_told_apart(folder, out, tmp_path):
    twin = tmp_path / "twin"
    shutil.copytree(folder, twin)
    for i in range(3):
        size = max((root / f"{i}.mp4").stat().st_size for root in (folder, twin))
        for root in (folder, twin):
            os.truncate(root / f"{i}.mp4", size)
            os.utime(root / f"{i}.mp4", (1e9, 1e9))
    mrx("extract", folder, "-o", out)
    before = read_maps(out)
    for options in ((), ("-m", "pa"), ("--dry-run",)):
        ran = mrx("extract", twin, "-o", out, *options)
        assert ran.code == 2
        assert "two sources for key 0.mp4" in ran.stderr
        assert "and so for 2 more keys" in ran.stderr
    assert read_maps(out) == before
    assert mrx("extract", twin, "-o", out, "--root", tmp_path).code == 0
    assert len(library.open(out)) == 6
    assert mrx("extract", twin, "-o", out, "--overwrite").code == 0


def test_videos_that_moved_are_done_and_a_note_says_so(folder, out, tmp_path):
    mrx("extract", folder, "-o", out)
    folder.rename(tmp_path / "elsewhere")
    ran = mrx("extract", tmp_path / "elsewhere", "-o", out)
    assert (ran.code, "3 ok (3 before)" in ran.stderr) == (0, True)
    assert "3 videos lie at another path than before" in ran.stderr

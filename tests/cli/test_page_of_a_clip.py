import re
import signal
import subprocess
import sys

import pytest
from support.command import mrx
from support.pages import list_names, read_page
from support.videos import write_clip

from mrx.visualize import draw

# The command, but after the first moment it reports and waits for a signal. A background job is
# started with SIGINT ignored, and would pass that on.
PAUSED_PAGE = """
import signal, sys, time
from mrx.cli import main
from mrx.visualize.page import Page

def add_moment_and_pause(page, *arguments, add_moment=Page.add_moment):
    add_moment(page, *arguments)
    print("paused", flush=True)
    time.sleep(60)

signal.signal(signal.SIGINT, signal.default_int_handler)
Page.add_moment = add_moment_and_pause
main()
"""


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("in") / "a.mp4", 14)


def test_a_page_has_a_panel_for_each_picture_and_its_size(tmp_path, video):
    ran = mrx("visualize", video, "-m", "mbpm", "-m", "pa", "-o", tmp_path / "a.html")
    about, moments = read_page(tmp_path / "a.html")
    assert list_names(about) == ["video", "mbpm", *(f"pa pa{i}" for i in range(5))]
    assert [moment[0]["number"] for moment in moments] == [0, 3, 6, 9]
    assert [moment[2]["window"] for moment in moments] == [[0, 5], [0, 5], [6, 11], [6, 11]]
    assert re.fullmatch(r".*a\.html: 0\.\d MB, 4 pictures per panel\n", ran.stderr)
    assert (ran.code, ran.stdout, about["rate"]) == (0, "", pytest.approx(25 / 3))


def test_options_of_films_hold_for_pages(tmp_path, video):
    what = ["-m", "mbpm", "-p", "mbpm.size=7", "--alone", "--label", "parameters", "--fps", 5]
    mrx("visualize", video, *what, "--every", 2, "--scale", 0.5, "-o", tmp_path / "a.html")
    about, moments = read_page(tmp_path / "a.html")
    assert list_names(about) == ["mbpm size=7"]
    assert (about["rate"], [moment[0]["number"] for moment in moments]) == (5, [0, 6])
    assert about["panels"][0]["picture"] == moments[0][0]["values"]["size"] == [32, 40]
    assert about["panels"][0]["size"] == [64, 80]


def test_a_scale_for_each_picture_has_no_legend(tmp_path, video):
    what = ["-m", "mbpm", "-m", "ms", "--per-frame-scale", "--label", "none"]
    mrx("visualize", video, *what, "-o", tmp_path / "a.html")
    about, _ = read_page(tmp_path / "a.html")
    legends = [panel["legend"] for panel in about["panels"]]
    assert list_names(about)[-1] == "ms confidence"
    assert [legend is not None for legend in legends] == [False, False, False, True]
    assert not any(panel["titled"] for panel in about["panels"])


def test_a_shard_makes_the_page_of_its_video_or_one_without_it(tmp_path):
    video = write_clip(tmp_path / "a.mp4", 9)
    mrx("extract", video, "-o", tmp_path / "out")
    mrx("visualize", f"{tmp_path / 'out'}::a.mp4", "-o", tmp_path / "with.html")
    video.unlink()
    ran = mrx("visualize", tmp_path / "out", "-o", tmp_path / "without.html")
    whole, bare = read_page(tmp_path / "with.html"), read_page(tmp_path / "without.html")
    assert (list_names(whole[0]), list_names(bare[0])) == (["video", "mbpm"], ["mbpm"])
    assert [m[1]["values"] for m in whole[1]] == [m[0]["values"] for m in bare[1]]
    assert "frames are left out" in ran.stderr


def test_a_large_page_gives_a_warning_with_a_remedy(tmp_path, video, monkeypatch):
    monkeypatch.setattr(draw, "LARGE_PAGE", 1e4)
    ran = mrx("visualize", video, "-o", tmp_path / "a.html")
    quiet = mrx("-q", "visualize", video, "-o", tmp_path / "a.html")
    assert ran.stderr.count("Show less with --every, --frames or --scale") == 1
    assert quiet.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_page_that_was_stopped_leaves_nothing(tmp_path, sent):
    video = write_clip(tmp_path / "a.mp4", 6)
    command = [sys.executable, "-c", PAUSED_PAGE, "visualize", video, "-o", tmp_path / "a.html"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        reported = run.stdout.readline()
        unfinished = [p.name for p in tmp_path.iterdir() if p.suffix == ".html"]
        run.send_signal(sent)
        run.communicate(timeout=60)
    assert (reported, len(unfinished)) == (b"paused\n", 1)
    assert run.returncode == 128 + sent
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_options_that_no_page_has_are_refused(tmp_path, video):
    grid = mrx("visualize", video, "--compare", "-o", tmp_path / "a.html")
    short = mrx("visualize", video, "--frames", "13:", "-o", tmp_path / "a.html")
    assert (grid.code, short.code) == (2, 1)
    assert "--compare makes one .png" in grid.stderr
    assert list(tmp_path.iterdir()) == []

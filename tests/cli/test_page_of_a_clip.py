import re
import signal
import time

import pytest
from support.command import mrx, start
from support.pages import names, read
from support.videos import clip

from mrx.visualize import draw


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return clip(tmp_path_factory.mktemp("in") / "a.mp4", 14)


def test_a_page_has_a_panel_for_each_picture_and_says_its_size(tmp_path, video):
    ran = mrx("visualize", video, "-m", "mbpm", "-m", "pa", "-o", tmp_path / "a.html")
    about, moments = read(tmp_path / "a.html")
    assert names(about) == ["video", "mbpm", *(f"pa pa{i}" for i in range(5))]
    assert [moment[0]["number"] for moment in moments] == [0, 3, 6, 9]
    assert [moment[2]["window"] for moment in moments] == [[0, 5], [0, 5], [6, 11], [6, 11]]
    assert re.fullmatch(r".*a\.html: 0\.\d MB, 4 pictures a panel\n", ran.stderr)
    assert (ran.code, ran.stdout, about["rate"]) == (0, "", pytest.approx(25 / 3))


def test_options_of_films_hold_for_pages(tmp_path, video):
    what = ["-m", "mbpm", "-p", "mbpm.size=7", "--alone", "--label", "parameters", "--fps", 5]
    mrx("visualize", video, *what, "--every", 2, "--scale", 0.5, "-o", tmp_path / "a.html")
    about, moments = read(tmp_path / "a.html")
    assert names(about) == ["mbpm size=7"]
    assert (about["rate"], [moment[0]["number"] for moment in moments]) == (5, [0, 6])
    assert about["panels"][0]["picture"] == moments[0][0]["values"]["size"] == [32, 40]
    assert about["panels"][0]["size"] == [64, 80]


def test_a_scale_for_each_picture_has_no_legend(tmp_path, video):
    what = ["-m", "mbpm", "-m", "ms", "--per-frame-scale", "--label", "none"]
    mrx("visualize", video, *what, "-o", tmp_path / "a.html")
    about, _ = read(tmp_path / "a.html")
    legends = [panel["legend"] for panel in about["panels"]]
    assert names(about)[-1] == "ms confidence"
    assert [legend is not None for legend in legends] == [False, False, False, True]
    assert not any(panel["titled"] for panel in about["panels"])


def test_a_shard_makes_the_page_of_its_video_or_one_without_it(tmp_path):
    video = clip(tmp_path / "a.mp4", 9)
    mrx("extract", video, "-o", tmp_path / "out")
    mrx("visualize", f"{tmp_path / 'out'}::a.mp4", "-o", tmp_path / "with.html")
    video.unlink()
    ran = mrx("visualize", tmp_path / "out", "-o", tmp_path / "without.html")
    whole, bare = read(tmp_path / "with.html"), read(tmp_path / "without.html")
    assert (names(whole[0]), names(bare[0])) == (["video", "mbpm"], ["mbpm"])
    assert [m[1]["values"] for m in whole[1]] == [m[0]["values"] for m in bare[1]]
    assert "frames are left out" in ran.stderr


def test_a_large_page_is_warned_of_with_the_way_out(tmp_path, video, monkeypatch):
    monkeypatch.setattr(draw, "LARGE_PAGE", 1e4)
    ran = mrx("visualize", video, "-o", tmp_path / "a.html")
    quiet = mrx("-q", "visualize", video, "-o", tmp_path / "a.html")
    assert ran.stderr.count("show less by --every, --frames or --scale") == 1
    assert quiet.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_page_that_was_stopped_leaves_nothing(tmp_path, sent):
    video = clip(tmp_path / "a.mp4", 60, height=240, width=320)
    with start("visualize", video, "-m", "mbpm", "--step", "1", "-o", tmp_path / "a.html") as run:
        while not any(p.suffix == ".html" for p in tmp_path.iterdir()) and run.poll() is None:
            time.sleep(0.01)
        run.send_signal(sent)
        run.communicate(timeout=60)
    assert run.returncode == 128 + sent
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_what_fits_no_page_is_refused(tmp_path, video):
    grid = mrx("visualize", video, "--compare", "-o", tmp_path / "a.html")
    short = mrx("visualize", video, "--frames", "13:", "-o", tmp_path / "a.html")
    assert (grid.code, short.code) == (2, 1)
    assert "--compare makes one .png" in grid.stderr
    assert list(tmp_path.iterdir()) == []

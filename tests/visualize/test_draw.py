"""Drawing of clips: choice of moments, scales, and protection of inputs."""

from typing import get_args

import cv2
import numpy as np
import pytest
from support.videos import write_clip, write_images

import mrx
from mrx.checks import list_choices
from mrx.errors import InputError, OutputError, UsageError
from mrx.job import Decoding, Job, Storage
from mrx.kernels import choose_backend
from mrx.render import Style
from mrx.visualize import draw as draw_module
from mrx.visualize.draw import DrawRequest, _write_clip, check_output_differs, visualize_shard
from mrx.visualize.moments import MethodTrack, Moment
from mrx.visualize.painter import Painter
from mrx.visualize.picture_options import PictureOptions
from mrx.visualize.stored import StoredMoments


class Fake:
    """A clip whose k-th moment moves by k + 1 pixels."""

    tracks = (MethodTrack("tvl1", ("dx", "dy"), "px", {}),)

    def __init__(self, times):
        self.times = times

    def estimate_rate(self):
        return 10.0

    def list_warnings(self):
        return []

    def iter_moments(self):
        for k, time in enumerate(self.times):
            maps = np.full((2, 24, 32), k + 1.0, np.float32)
            yield Moment(k, time, None, (maps,), ((k, k + 1),), (time,), (24, 32))


def show(clip, output, **look):
    """Write a clip and return the messages."""
    said = []
    _write_clip(
        clip, "a.mp4", DrawRequest(str(output), (0, None), PictureOptions(**look), said.append)
    )
    return said


def picture(path):
    return cv2.imread(str(path))[..., ::-1]


def even(count):
    return [k / 10 for k in range(count)]


@pytest.mark.parametrize(("count", "places"), [(16, (2, 6, 10, 14)), (5, (0, 1, 3, 4))])
def test_a_grid_shows_the_middles_of_equal_parts(tmp_path, count, places):
    film, look = Fake(even(count)), PictureOptions(columns=4)
    show(film, tmp_path / "a.png", columns=4)
    painter, moments = Painter(film.tracks, look), list(film.iter_moments())
    for moment in moments:
        painter.measure_moment(moment)
    expected = painter.draw_grid([moments[place] for place in places])
    np.testing.assert_array_equal(picture(tmp_path / "a.png"), expected)


def test_a_video_is_drawn_with_the_backend_of_the_job(tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr(draw_module, "_write_clip", lambda *_: used.append(choose_backend()))
    clip = write_clip(tmp_path / "a.mp4", 6)
    request = DrawRequest(str(tmp_path / "a.png"), (0, None), PictureOptions(), used.append)
    draw_module.visualize_video(str(clip), Job("out", backend="torch"), request)
    assert used == ["torch"]


def test_the_options_offer_the_styles_of_render():
    styles = list_choices(PictureOptions, "style")
    assert styles == ("side-by-side", *(s for s in get_args(Style) if s != "auto"))


def test_one_picture_is_on_the_scale_of_its_clip(tmp_path):
    film = Fake(even(8))
    show(film, tmp_path / "a.png")
    show(film, tmp_path / "own.png", per_frame_scale=True)
    show(film, tmp_path / "all")
    one, own = picture(tmp_path / "a.png"), picture(tmp_path / "own.png")
    np.testing.assert_array_equal(one, picture(tmp_path / "all" / "000000.png"))
    assert not np.array_equal(one, own)


@pytest.mark.parametrize(
    ("times", "options", "off"),
    [
        (even(6), {}, None),
        ([0, 0.1, 0.2, 0.7, 0.8], {}, "up to 0.40 s"),
        ([0, 0.1, 0.2, 0.7, 0.8], {"fps": 10}, None),
    ],
)
def test_a_film_of_uneven_times_reports_its_largest_time_error(tmp_path, times, options, off):
    said = show(Fake(times), tmp_path / "a.mp4", **options)
    assert len(said) == (off is not None)
    assert all(f"off by {off}" in text for text in said)


def test_nothing_is_written_among_the_frames_that_are_read(tmp_path):
    folder = write_images(tmp_path / "in", range(3), name="{:03d}.png")
    for name in ("001.png", "new.PNG"):
        with pytest.raises(UsageError, match="is among the frames of the input"):
            check_output_differs(str(folder), output=str(folder / name))
    with pytest.raises(UsageError, match="is the input"):
        check_output_differs(str(folder), output=str(folder))
    check_output_differs(str(folder), output=str(tmp_path / "a.png"))


@pytest.fixture
def shard(tmp_path):
    """A shard of two videos."""
    clips = [write_clip(tmp_path / f"{name}.mp4", 6, seed=i) for i, name in enumerate("ab")]
    storage = Storage(dtype="float32")
    decoding = Decoding(short_side=None, on_error="fail")
    mrx.extract(clips, tmp_path / "out", method=("mbpm", "ms"), storage=storage, decoding=decoding)
    return tmp_path / "out"


def draw(shard, output, *names, **look):
    said = []
    visualize_shard(
        str(shard), names, DrawRequest(str(output), (0, None), PictureOptions(**look), said.append)
    )
    return said


def test_the_video_behind_a_shard_is_not_written_over(shard, tmp_path):
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(UsageError, match="is the input"):
        draw(f"{shard}::a.mp4", tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_one_key_that_fails_does_not_end_the_others(shard, tmp_path, monkeypatch):
    def read(self, places, real=StoredMoments._read_maps):
        if self.path and self.video.source.key == "a.mp4":
            raise InputError("broken on purpose")
        return real(self, places)

    monkeypatch.setattr(StoredMoments, "_read_maps", read)
    said = []
    showing = DrawRequest(str(tmp_path / "all"), (0, None), PictureOptions(), said.append)
    with pytest.raises(InputError, match="1 of 2 videos could not be drawn"):
        visualize_shard(str(shard), ("mbpm",), showing)
    assert said == ["failed: a.mp4: broken on purpose"]
    assert [p.parent.name for p in (tmp_path / "all").rglob("*.png")] == ["b.mp4"] * 2


def test_a_nonempty_folder_is_refused_before_any_drawing(shard, tmp_path):
    (tmp_path / "all" / "b.mp4").mkdir(parents=True)
    (tmp_path / "all" / "b.mp4" / "x").touch()
    with pytest.raises(OutputError, match=r"output is not empty \(.*b\.mp4\): give a new folder"):
        draw(shard, tmp_path / "all")
    assert not (tmp_path / "all" / "a.mp4").exists()


def test_cells_have_the_frame_size_even_without_the_video(shard, tmp_path):
    for video in tmp_path.glob("*.mp4"):
        video.unlink()
    said = draw(f"{shard}::a.mp4", tmp_path / "a.png", "ms", alone=True)
    assert picture(tmp_path / "a.png").shape == (2 * 64 + 3 * 2, 80 + 2 * 2, 3)
    assert "frames are left out" in said[0]

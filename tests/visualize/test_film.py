import io
import shutil
import subprocess
from itertools import pairwise

import av
import cv2
import numpy as np
import pytest
from support.videos import make_frames

from mrx.errors import OutputError, ShapeError, UsageError
from mrx.render import flow_to_rgb
from mrx.visualize import film
from mrx.visualize.film import find_output_kind

BLOCK = 16


def open_film(output, rate, **options):
    return film.open_film(str(output), rate, kind=find_output_kind(str(output)), **options)


def write(output, pictures, *, rate=12.5, stdout=None):
    with open_film(output, rate, stdout=stdout) as writer:
        for picture in pictures:
            writer.add_picture(picture)


def read(source):
    with av.open(source) as container:
        stream = container.streams.video[0]
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
        return frames, float(stream.average_rate), stream.codec.name


def wheel(height=96, width=128):
    """Make blocks in the colors of the wheel, and slices of the blocks' centers."""
    y, x = np.mgrid[: height // BLOCK, : width // BLOCK].astype(np.float32)
    flow = np.stack([x - x.mean(), y - y.mean()])
    blocks = flow_to_rgb(flow, max_flow=np.hypot(*flow).max() * 0.9)
    return blocks.repeat(BLOCK, 0).repeat(BLOCK, 1), (slice(BLOCK // 2, None, BLOCK),) * 2


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "-"])
def test_a_film_has_color_tags_and_the_colors_of_the_wheel(tmp_path, name):
    picture, middles = wheel()
    path, stream = tmp_path / name, io.BytesIO()
    write(name if name == "-" else path, [picture] * 3, stdout=stream)
    with av.open(io.BytesIO(stream.getvalue() or path.read_bytes())) as container:
        frame = next(container.decode(video=0))
    tags = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
    shown = frame.to_ndarray(format="rgb24").astype(int)
    assert tags == (1, 1, 1, 13)  # BT.709, limited range, BT.709, sRGB
    assert np.abs(shown[middles] - picture[middles]).max() <= 8


@pytest.mark.parametrize(("name", "off"), [("a.mp4", 3), ("a.webm", 3), ("a.gif", 5)])
@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not here")
def test_ffmpeg_shows_the_colors_of_the_wheel(tmp_path, name, off):
    picture, middles = wheel(720, 1280)
    write(tmp_path / name, [picture])
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / name, "-frames:v", "1"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    shown = np.frombuffer(raw, np.uint8).reshape(picture.shape).astype(int)
    assert np.abs(shown[middles] - picture[middles]).max() <= 24
    assert np.abs(shown[middles] - picture[middles]).mean() < off


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "h264"), ("a.webm", "vp9")])
def test_a_film_has_the_pictures_at_the_rate_and_even_sides(tmp_path, name, codec):
    pictures = make_frames(10, 45, 61)
    write(tmp_path / name, pictures)
    frames, rate, found = read(str(tmp_path / name))
    assert (len(frames), frames[0].shape, rate, found) == (10, (46, 62, 3), 12.5, codec)
    assert np.abs(frames[7][:45, :61].astype(int) - pictures[7]).mean() < 12
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_gif_keeps_the_size_and_the_colors(tmp_path):
    pictures = make_frames(10, 45, 61)
    write(tmp_path / "a.gif", pictures, rate=10)
    frames, rate, _ = read(str(tmp_path / "a.gif"))
    assert (len(frames), frames[0].shape, rate) == (10, (45, 61, 3), 10)
    assert np.abs(frames[7].astype(int) - pictures[7]).mean() < 12


def test_still_parts_of_a_gif_keep_their_colors(tmp_path):
    pictures = make_frames(12, 45, 90)
    for picture in pictures:
        picture[:, :45] = pictures[0][:, :45]
    write(tmp_path / "a.gif", pictures, rate=10)
    frames, _, _ = read(str(tmp_path / "a.gif"))
    changes = [(a[:, :45] != b[:, :45]).any() for a, b in pairwise(frames)]
    assert sum(changes) <= 2


def test_a_gif_of_new_colors_shows_them(tmp_path):
    black, (picture, middles) = np.zeros((96, 128, 3), np.uint8), wheel()
    write(tmp_path / "a.gif", [black, black, picture], rate=10)
    frames, _, _ = read(str(tmp_path / "a.gif"))
    assert not frames[1].any()
    assert np.abs(frames[2][middles].astype(int) - picture[middles]).max() <= 4


def test_a_stream_needs_no_seek():
    class Pipe(io.RawIOBase):
        def __init__(self):
            self.data = b""

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    write("-", make_frames(10, 45, 61), stdout=pipe)
    frames, _, codec = read(io.BytesIO(pipe.data))
    assert (len(frames), frames[0].shape, codec) == (10, (46, 62, 3), "h264")


def test_a_png_is_the_first_picture_and_a_folder_has_all(tmp_path):
    pictures = make_frames(3, 45, 61)
    write(tmp_path / "a.png", pictures)
    write(tmp_path / "all", pictures)
    first = cv2.imread(str(tmp_path / "a.png"))[..., ::-1]
    names = sorted(p.name for p in (tmp_path / "all").iterdir())
    third = cv2.imread(str(tmp_path / "all" / "000002.png"))[..., ::-1]
    assert names == ["000000.png", "000001.png", "000002.png"]
    assert (first == pictures[0]).all()
    assert (third == pictures[2]).all()


def test_a_film_that_was_given_up_leaves_nothing(tmp_path):
    def fail():
        yield from make_frames(3)
        raise KeyError

    with pytest.raises(KeyError):
        write(tmp_path / "a.mp4", fail())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_given_up_is_as_it_was_before(tmp_path):
    def fail():
        yield from make_frames(3)
        raise KeyError

    (tmp_path / "there").mkdir()
    for name in ("there", "new"):
        with pytest.raises(KeyError):
            write(tmp_path / name, fail())
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_pictures_of_another_size_are_refused(tmp_path):
    pictures = [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)]
    with pytest.raises(ShapeError, match=r"one size \(8, 8, 3\), got \(8, 9, 3\)"):
        write(tmp_path / "a.mp4", pictures)


@pytest.mark.parametrize(("name", "rate"), [("a.gif", 60), ("a.mp4", 1e-4), ("a.webm", 2000)])
def test_rates_that_no_film_has_are_refused(tmp_path, name, rate):
    with pytest.raises(
        UsageError, match=rf"bad rate \({rate:.5g} pictures per second\): .* at most"
    ):
        open_film(tmp_path / name, rate)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif"])
@pytest.mark.parametrize("rate", [0.5, 10, 24000 / 1001, 50])
def test_a_film_lasts_as_long_as_its_pictures(tmp_path, name, rate):
    write(tmp_path / name, make_frames(12, 32, 32), rate=rate)
    with av.open(str(tmp_path / name)) as container:
        frames = list(container.decode(video=0))
        assert container.duration / av.time_base == pytest.approx(12 / rate, abs=0.011)
    assert frames[11].time == pytest.approx(11 / rate, abs=0.006)


def test_outputs_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UsageError, match=r"give a name in \.mp4"):
        find_output_kind("a.avi")
    with pytest.raises(OutputError, match="no such folder"):
        open_film(tmp_path / "none" / "a.mp4", 25)
    with pytest.raises(OutputError, match="not empty"):
        open_film(tmp_path / "full", 25)

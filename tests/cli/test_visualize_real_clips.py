"""All kinds of output of all methods for all real clips, read back by PyAV and OpenCV."""

import io

import av
import cv2
import pytest
from support.command import mrx
from support.places import REAL_CLIPS, SHARED

import mrx as library
from mrx import methods

CLIPS = SHARED / "data" / "video"
SMALL = ("--short-side", 45, "--end", 0.7)
SEAM, RATE = 2, 7.5
FILMS = {"a.mp4": "h264", "a.webm": "vp9", "a.gif": "gif", "-": "h264"}
pytestmark = pytest.mark.skipif(not CLIPS.is_dir(), reason="../shared/data/video is not here")


def all_methods():
    return [word for name in methods.list_method_names() for word in ("-m", name)]


def expected(shard, clip):
    """Return the expected count and size of the pictures with the panels of all methods."""
    with library.open(shard) as found:
        maps = [found[clip][name] for name in methods.list_method_names()]
        height, width = found[clip]["tvl1"].shape[-2:]
        columns, rows = 1 + len(maps), len(found[clip]["pa"].attrs["channels"])
        size = (rows * (height + SEAM) + SEAM, columns * (width + SEAM) + SEAM)
        return max(map(len, maps)), size


def opened(source):
    """Return the count, size, rate, last time and codec that PyAV reads from a film."""
    with av.open(source) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert not any(frame.is_corrupt for frame in frames)
        last = frames[-1]
        size, codec = (last.height, last.width), stream.codec.name
        return len(frames), size, float(stream.average_rate), last.time, codec


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    clips = [CLIPS / name for name in REAL_CLIPS]
    ran = mrx("extract", *clips, *all_methods(), "-o", folder, *SMALL)
    assert ran.code == 0, ran.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("output", FILMS)
@pytest.mark.parametrize("clip", REAL_CLIPS)
def test_a_film_of_a_real_clip_opens_again(tmp_path, monkeypatch, shards, clip, output):
    monkeypatch.chdir(tmp_path)
    ran = mrx("visualize", f"{shards}::{clip}", "-o", output, "--fps", RATE)
    assert (ran.code, ran.stderr) == (0, "")
    source = io.BytesIO(ran.stdout_bytes) if output == "-" else output
    count, size, rate, last, codec = opened(source)
    pictures, (height, width) = expected(shards, clip)
    if output != "a.gif":
        height, width = height + height % 2, width + width % 2
    assert (count, size, codec) == (pictures, (height, width), FILMS[output])
    assert rate == pytest.approx(RATE, rel=0.03)
    assert last == pytest.approx((count - 1) / RATE, abs=0.006)


@pytest.mark.slow
@pytest.mark.parametrize("clip", REAL_CLIPS)
def test_pictures_of_a_real_clip_open_again(tmp_path, shards, clip):
    count, (height, width) = expected(shards, clip)
    for output in ("a.png", "all"):
        ran = mrx("visualize", f"{shards}::{clip}", "-o", tmp_path / output)
        assert (ran.code, ran.stderr) == (0, "")
    pictures = [cv2.imread(str(path)) for path in sorted((tmp_path / "all").iterdir())]
    assert [picture.shape for picture in pictures] == [(height, width, 3)] * count
    assert cv2.imread(str(tmp_path / "a.png")).shape == (height, width, 3)


@pytest.mark.slow
@pytest.mark.parametrize("clip", REAL_CLIPS)
def test_a_real_clip_itself_makes_the_film_that_its_shard_makes(tmp_path, shards, clip):
    frames = ("--frames", "0:6")
    ran = mrx("visualize", CLIPS / clip, *all_methods(), *SMALL, "-o", tmp_path / "a.mp4", *frames)
    assert (ran.code, ran.stderr) == (0, "")
    _, (height, width) = expected(shards, clip)
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    found = [capture.get(name) for name in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)]
    count = sum(1 for _ in iter(lambda: capture.read()[0], False))
    assert found == [height + height % 2, width + width % 2]
    assert count == 6

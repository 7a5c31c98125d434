import io

import av
import cv2
import numpy as np
import pytest
from videos import moving

from mrx.errors import OutputError, UsageError
from mrx.sinks.film import kind_of, open_film


def write(output, pictures, *, rate=12.5, stdout=None):
    with open_film(str(output), rate, stdout=stdout) as film:
        for picture in pictures:
            film.put(picture)


def read(source):
    with av.open(source) as container:
        stream = container.streams.video[0]
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
        return frames, float(stream.average_rate), stream.codec.name


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "h264"), ("a.webm", "vp9")])
def test_a_film_has_the_pictures_at_the_rate_and_even_sides(tmp_path, name, codec):
    pictures = moving(10, 45, 61)
    write(tmp_path / name, pictures)
    frames, rate, found = read(str(tmp_path / name))
    assert (len(frames), frames[0].shape, rate, found) == (10, (46, 62, 3), 12.5, codec)
    assert np.abs(frames[7][:45, :61].astype(int) - pictures[7]).mean() < 12
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_gif_keeps_the_size_and_the_colors(tmp_path):
    pictures = moving(10, 45, 61)
    write(tmp_path / "a.gif", pictures, rate=10)
    frames, rate, _ = read(str(tmp_path / "a.gif"))
    assert (len(frames), frames[0].shape, rate) == (10, (45, 61, 3), 10)
    assert np.abs(frames[7].astype(int) - pictures[7]).mean() < 12


def test_a_stream_needs_no_seek():
    class Pipe(io.RawIOBase):
        def __init__(self):
            self.data = b""

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    write("-", moving(10, 45, 61), stdout=pipe)
    frames, _, codec = read(io.BytesIO(pipe.data))
    assert (len(frames), frames[0].shape, codec) == (10, (46, 62, 3), "h264")


def test_a_png_is_the_first_picture_and_a_folder_has_all(tmp_path):
    pictures = moving(3, 45, 61)
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
        yield from moving(3)
        raise KeyError

    with pytest.raises(KeyError):
        write(tmp_path / "a.mp4", fail())
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_said(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UsageError, match=r"give a name in \.mp4"):
        kind_of("a.avi")
    with pytest.raises(OutputError, match="there is no folder"):
        open_film(str(tmp_path / "none" / "a.mp4"), 25)
    with pytest.raises(OutputError, match="not empty"):
        open_film(str(tmp_path / "full"), 25)

"""Moments, computed from a video and read from a shard."""

from itertools import pairwise

import numpy as np
import pytest
from support.command import mrx as command
from support.videos import write_clip

import mrx
from mrx import render
from mrx.errors import FormatError
from mrx.job import Decoding, Job, Source, Storage, Windowing
from mrx.visualize import draw
from mrx.visualize.computed import ComputedMoments
from mrx.visualize.stored import StoredMoments

TURN = 64 * 54 / (2 * np.pi * 255)  # the steepest part of the wheel, in shares of 1 for a radian
AS_IT_IS = Decoding(short_side=None)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("in") / "a.mp4", 12)


def stored(video, folder, *methods, **options):
    mrx.extract(video, folder, method=methods, storage=Storage(dtype="float32"), **options)
    with mrx.open(folder) as found:
        return list(StoredMoments(found["a.mp4"], methods, (0, None)).iter_moments())


def test_computed_and_stored_moments_are_the_same(video, tmp_path):
    names = ("mbpm", "dynamic-image")
    job = Job("-", methods=names, decoding=AS_IT_IS)
    computed = ComputedMoments(job, Source("a.mp4", str(video), "file"), (0, None)).iter_moments()
    found = stored(video, tmp_path, *names, decoding=AS_IT_IS)
    assert [m.number for m in found] == [0, 3, 6, 9]
    for one, other in zip(computed, found, strict=True):
        assert one.number == other.number
        np.testing.assert_array_equal(one.frame, other.frame)
        for maps, same in zip(one.maps, other.maps, strict=True):
            np.testing.assert_array_equal(maps, same)


def test_windows_with_the_same_first_frame_show_that_frame(video, tmp_path):
    steps = {"windowing": Windowing(step=1)}
    once = stored(video, tmp_path / "once", "mbpm", **steps)
    twice = stored(video, tmp_path / "twice", "mbpm", decoding=Decoding(fps=50), **steps)
    frames = {moment.number: moment.frame for moment in once}
    shared = [(a, b) for a, b in pairwise(twice) if a.number == b.number and a.number in frames]
    assert len(shared) > 5
    for moment, other in shared:
        np.testing.assert_array_equal(moment.frame, frames[moment.number])
        np.testing.assert_array_equal(other.frame, frames[moment.number])
        assert (moment.maps[0] != other.maps[0]).any()


@pytest.fixture(scope="module")
def shards(video, tmp_path_factory):
    folder = tmp_path_factory.mktemp("types")
    for dtype in ("float16", "uint8"):
        storage = Storage(dtype=dtype)
        mrx.extract(
            video, folder / dtype, method=("mbpm", "tvl1", "pa"), decoding=AS_IT_IS, storage=storage
        )
    return folder


@pytest.mark.parametrize(
    ("name", "style", "levels"),
    [
        ("tvl1", "wheel", 255 * (1 + TURN)),
        ("tvl1", "signed", 127),
        ("mbpm", "signed", 127),
        ("pa", "signed", 127),
        ("pa", "magnitude", 255 * 4),  # of heat, a step is up to 4
    ],
)
def test_bytes_look_like_half_floats_up_to_the_recorded_step(shards, name, style, levels):
    drawn = []
    for dtype in ("float16", "uint8"):
        with mrx.open(shards / dtype) as found:
            maps = found["a.mp4"][name]
            step = float(maps.attrs["scale"]) if dtype == "uint8" else 0.0
            channels, units = list(maps.attrs["channels"]), maps.attrs["units"]
            drawn.append(maps[:])
    half, coarse = drawn
    full = 1.001 * float(render.magnitude(half).max())  # no color beyond it
    first = render.parts(channels, units=units, style=style)[0]
    off = (abs(half - coarse) > 0.51 * step + 2**-11 * abs(half)).any(1)  # beyond the bound
    if style == "wheel":
        off |= (half[:, 0] > 0) & (abs(half[:, 1]) < step)  # crimson jumps to red
    options = {"units": units, "style": style, "scale": full}
    one, other = (render.picture(m[:, first], channels[first], **options) for m in drawn)
    apart = np.hypot(1, style == "wheel") * (step / 2 + 2**-11 * full)
    assert off.mean() < 0.05
    assert np.abs(one.astype(int) - other)[~off].max() <= levels * apart / full + 2


def test_maps_computed_again_for_drawing_look_the_same(video, tmp_path, monkeypatch):
    words = ("visualize", video, "-m", "mbpm", "-m", "tvl1", "--legend", "-o")
    assert command(*words, tmp_path / "kept").code == 0
    monkeypatch.setattr(draw, "KEPT_BYTES", 100_000)
    assert command(*words, tmp_path / "again").code == 0
    kept, again = (sorted((tmp_path / name).iterdir()) for name in ("kept", "again"))
    assert len(kept) == 11
    assert [p.read_bytes() for p in kept] == [p.read_bytes() for p in again]


def damage(path):
    """Overwrite the second half of a film with zeros, keeping its size."""
    data = bytearray(path.read_bytes())
    start = (data.index(b"mdat") + len(data)) // 2
    data[start:] = bytes(len(data) - start)
    path.write_bytes(data)


@pytest.mark.parametrize("on_error", ["skip", "fail"])
def test_frames_lost_from_a_damaged_video_are_gray(tmp_path, on_error):
    video = write_clip(tmp_path / "a.mp4", 60, options={"g": "1"}, flags="faststart")
    decoding = Decoding(short_side=None, on_error=on_error)
    mrx.extract(video, tmp_path / "out", method="mbpm", decoding=decoding)
    damage(video)
    with mrx.open(tmp_path / "out") as found:
        made = StoredMoments(found["a.mp4"], ["mbpm"], (0, None))
        first, second = (list(made.iter_moments()) for _ in range(2))
        warned = " ".join(made.list_warnings())
    frames = [moment.frame for moment in first]
    assert frames[0].std() > 10
    assert (frames[-1] == 80).all()
    assert all(np.array_equal(a, b.frame) for a, b in zip(frames, second, strict=True))
    assert warned.count(f"{video}: damaged") == 1
    assert ("frames are left out" in warned) == (on_error == "fail")


def test_damaged_maps_of_a_shard_give_a_format_error(video, tmp_path):
    mrx.extract(video, tmp_path, method="mbpm")
    (path,) = tmp_path.glob("*.h5")
    with mrx.open(tmp_path) as found:
        offset = found["a.mp4"]["mbpm"].dataset.id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 99] = bytes(99)
    path.write_bytes(data)
    with mrx.open(path) as found, pytest.raises(FormatError, match="broken shard"):
        list(StoredMoments(found["a.mp4"], ["mbpm"], (0, None)).iter_moments())

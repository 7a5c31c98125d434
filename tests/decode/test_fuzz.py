"""Containers with random damage: each video is decoded or refused, never an internal error."""

import random
from collections import Counter
from types import SimpleNamespace

import pytest
from support import videos

from mrx.decode.pyav import decode_frames
from mrx.decode.tally import DecodeTally
from mrx.decode.video import open_video
from mrx.errors import DecodeError
from mrx.job import Decoding

OPTIONS = Decoding(short_side=None, max_pixels=1_000_000)
MUTANTS = 2000
CONTAINERS = {
    "a.mp4": {},
    "a.mkv": {},
    "a.ts": {},
    "a.avi": {"codec": "mpeg4", "options": {}},
    "a.webm": {"codec": "libvpx-vp9", "options": {}},
    "a.flv": {"codec": "flv1", "options": {}},
    "a.gif": {"codec": "gif", "options": {}, "pix_fmt": "rgb8"},
    "a.mov": {"codec": "mjpeg", "options": {}, "pix_fmt": "yuvj420p"},
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    return {
        name: videos.write_clip(folder / name, 8, height=32, width=48, **options).read_bytes()
        for name, options in CONTAINERS.items()
    }


def damage_bytes(data, chance):
    """Change, remove or insert a few bytes, half of them among the headers."""
    damaged = bytearray(data)
    for _ in range(chance.choice([1, 3, 10, 40])):
        place = chance.randrange(len(damaged) if chance.random() < 0.5 else 500)
        kind = chance.randrange(5)
        if kind == 0:
            damaged[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            damaged[place] = chance.choice([0, 127, 128, 255])
        elif kind == 2:
            del damaged[place : place + chance.randrange(1, 9)]
        elif kind == 3:
            damaged[place:place] = chance.randbytes(chance.randrange(1, 9))
        else:
            damaged[place : place + 4] = chance.randbytes(4)
    return bytes(damaged)


def read_outcome(path):
    """Decode a video, and return how that ended."""
    try:
        video = open_video(path, OPTIONS)
        count = sum(len(run["rgb"].data) for run in video.read_frames())
    except DecodeError:
        return "refused"
    video.tally.describe_damage()
    video.tally.to_attributes()
    return "decoded" if count else "empty"


@pytest.mark.slow
def test_no_damaged_container_is_an_internal_error(originals, tmp_path):
    outcomes = Counter()
    for seed in range(MUTANTS):
        chance = random.Random(seed)
        name = chance.choice(list(originals))
        path = tmp_path / f"mutant.{name.split('.')[1]}"
        path.write_bytes(damage_bytes(originals[name], chance))
        outcomes[read_outcome(path)] += 1
    assert outcomes["refused"] > MUTANTS / 4
    assert outcomes["decoded"] > MUTANTS / 4


def test_a_stream_that_appears_late_ends_the_video():
    # PyAV has no place for it. One in thousands of damaged .flv files has one.
    def demux(stream):
        raise IndexError("list index out of range")
        yield

    frame = SimpleNamespace(width=8, height=8, is_corrupt=False)
    stream = SimpleNamespace(width=8, height=8, decode=lambda packet: [frame])
    tally = DecodeTally()
    found = list(decode_frames(SimpleNamespace(demux=demux), stream, tally, OPTIONS))
    assert found == [frame]
    assert "cut off before its end (a stream without a header)" in tally.describe_damage()

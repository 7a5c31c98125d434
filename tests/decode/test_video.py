import json
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import replace

import av
import cv2
import numpy as np
import pytest
import torch
from support import videos
from support.places import REAL_CLIPS

from mrx.decode import images, open_video
from mrx.decode.tally import DecodeTally
from mrx.errors import DecodeError
from mrx.job import Decoding, Source

NATIVE = Decoding(short_side=None)


def read(path, options=NATIVE, color="rgb", wanted=None):
    video = open_video(path, options)
    runs = [chunk[color] for chunk in video.read_frames([color], wanted)]
    return (
        video,
        torch.cat([run.data for run in runs]).numpy(),
        np.concatenate([run.time for run in runs]),
    )


def plainly(path):
    """Read all frames with PyAV's own conversion."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def by_opencv(path):
    """Read all frames with OpenCV, converted to RGB."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        good, frame = capture.read()
        if not good:
            break
        frames.append(frame[..., ::-1])
    capture.release()
    return np.stack(frames)


def test_frames_equal_pyavs_own_at_native_size(tmp_path):
    path = videos.write_clip(tmp_path / "a.mp4", 30)
    assert np.array_equal(read(path)[1], plainly(path))


def test_frames_equal_opencvs_at_native_size(tmp_path):
    path = videos.write_clip(tmp_path / "a.mp4", 30)
    difference = read(path)[1].astype(int) - by_opencv(path)
    assert abs(difference).max() <= 2


@pytest.mark.parametrize("name", REAL_CLIPS)
def test_real_clips_have_all_their_frames_at_increasing_times(real_clips, name):
    video, frames, times = read(real_clips / name, replace(NATIVE, short_side=64))
    assert len(frames) == REAL_CLIPS[name] == video.tally.frames
    assert (np.diff(times) > 0).all()
    assert not video.tally.describe_damage()


@pytest.mark.parametrize("name", REAL_CLIPS)
def test_real_clips_look_as_opencv_sees_them(real_clips, name):
    video = open_video(real_clips / name, NATIVE)
    ours = next(iter(video.read_frames()))["rgb"].data[:12].numpy().astype(int)
    capture = cv2.VideoCapture(str(real_clips / name))
    theirs = np.stack([capture.read()[1][..., ::-1] for _ in range(len(ours))])
    capture.release()
    assert abs(ours - theirs).max() <= 2


def test_gray_is_opencvs_gray_of_a_gray_film(real_clips):
    _, gray, _ = read(real_clips / "chaplin_bw.mp4", color="gray")
    _, rgb, _ = read(real_clips / "chaplin_bw.mp4")
    theirs = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in rgb[:5]])
    assert abs(gray[:5, ..., 0].astype(int) - theirs).mean() < 1.5


@pytest.mark.parametrize("name", ["untagged.mp4", "mjpeg.avi"])
def test_gray_from_luma_equals_the_reformatters(odd, name):
    _, gray, _ = read(odd / name, color="gray")
    with av.open(str(odd / name)) as container:
        theirs = np.stack([f.to_ndarray(format="gray") for f in container.decode(video=0)])
    assert np.array_equal(gray[..., 0], theirs)


def test_gray_of_709_is_the_gray_of_its_rgb(odd):
    _, gray, _ = read(odd / "full709.mp4", color="gray")
    _, rgb, _ = read(odd / "full709.mp4")
    theirs = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in rgb])
    assert abs(gray[..., 0].astype(int) - theirs).max() <= 1


def test_color_range_and_matrix_are_applied(odd):
    """Compare with YUV → RGB in float64 by the tagged matrix, with nearest chroma."""
    with av.open(str(odd / "full709.mp4")) as container:
        frame = next(container.decode(video=0))
        planes = frame.to_ndarray(format="yuv420p").astype(float)
    height, width = frame.height, frame.width
    y = planes[:height]
    u, v = (
        planes[height + k * height // 4 : height + (k + 1) * height // 4]
        .reshape(height // 2, width // 2)
        .repeat(2, 0)
        .repeat(2, 1)
        - 128
        for k in (0, 1)
    )
    exact = np.stack([y + 1.5748 * v, y - 0.1873 * u - 0.4681 * v, y + 1.8556 * u], -1)
    ours = read(odd / "full709.mp4")[1][0]
    difference = ours - np.clip(exact, 0, 255)
    assert abs(difference).max() <= 4
    assert abs(difference).mean() <= 1


def test_scaling_agrees_with_antialiased_bilinear(real_clips):
    options = Decoding(short_side=128)
    ours = next(iter(open_video(real_clips / "apple_roll.mp4", options).read_frames()))["rgb"].data[
        :3
    ]
    full = next(iter(open_video(real_clips / "apple_roll.mp4", NATIVE).read_frames()))["rgb"].data[
        :3
    ]
    theirs = torch.nn.functional.interpolate(
        full.permute(0, 3, 1, 2).float(), size=ours.shape[1:3], mode="bilinear", antialias=True
    )
    difference = ours.permute(0, 3, 1, 2).float() - theirs
    assert difference.abs().mean() <= 2
    assert difference.mean().abs() <= 2


def test_only_the_wanted_positions_are_converted(tmp_path):
    path = videos.write_clip(tmp_path / "a.mp4", 20)
    _, everything, _ = read(path)
    video = open_video(path, NATIVE)
    assert video.count_frames() == 20
    runs = [chunk["rgb"] for chunk in video.read_frames(["rgb"], {3, 4, 11})]
    assert [p for run in runs for p in run.position] == [3, 4, 11]
    assert np.array_equal(torch.cat([r.data for r in runs]), everything[[3, 4, 11]])
    assert video.tally.frames_selected == 20


def test_start_and_end_are_seconds_after_the_first_frame(odd):
    video, frames, times = read(odd / "start10s.ts", replace(NATIVE, start=0.4, end=0.8))
    assert len(frames) == 10
    assert times[0] == pytest.approx(video.tally.first_time) == pytest.approx(11.8, abs=0.1)


LONG = {
    "long.mp4": ("libx264", {"g": "50", "bf": "2"}),
    "long.mkv": ("libx264", {"g": "50", "bf": "2"}),
    "long.ts": ("libx264", {"g": "50", "bf": "2"}),  # seeks to no key frame: the next is late
    "no_key_after_it.ts": ("libx264", {"g": "1000"}),
    "gray_without_key.ts": ("mpeg4", {"g": "50"}),  # its decoder invents what is missing
    "guessed_times.mpg": ("mpeg2video", {"g": "50", "bf": "2"}),
}


@pytest.mark.parametrize("start", [10.2, 12.0, 15.96])
@pytest.mark.parametrize("name", LONG)
def test_a_range_that_is_sought_equals_one_that_is_decoded(tmp_path, name, start, monkeypatch):
    codec, options = LONG[name]
    path = videos.write_video(
        tmp_path / name, videos.make_frames(450, 32, 32, speed=1), codec=codec, options=options
    )
    ranged = replace(NATIVE, start=start, end=start + 1)
    video, sought, times = read(path, ranged)
    monkeypatch.setattr("mrx.decode.frame_reader.SEEK_SECONDS", 1e9)
    plain, decoded, their_times = read(path, ranged)
    assert len(decoded) == 25
    assert np.array_equal(sought, decoded)
    assert np.array_equal(times, their_times)
    assert video.tally.describe_damage() == plain.tally.describe_damage() == ""


def test_an_indexed_container_is_decoded_from_the_start_time(tmp_path):
    path = videos.write_video(
        tmp_path / "a.mkv", videos.make_frames(450, 32, 32, speed=1), options={"g": "50"}
    )
    video, frames, _ = read(path, replace(NATIVE, start=14.0))
    assert (len(frames), video.tally.frames) == (100, 100)


def test_a_seek_that_misses_leaves_nothing_in_the_tally(tmp_path):
    path = videos.write_video(
        tmp_path / "a.ts", videos.make_frames(450, 32, 32, speed=1), options={"g": "1000"}
    )
    video, frames, _ = read(path, replace(NATIVE, start=15.0))
    tally = video.tally
    assert (len(frames), tally.frames, tally.packets) == (75, 450, 450)
    assert (tally.frames_lost, tally.partial, tally.first_error) == (0, False, "")


def test_resetting_a_tally_clears_the_damage_too():
    tally = DecodeTally("stop", frames=3, truncated=True, encrypted=True, partial=True)
    tally.record_error(DecodeError("broken"))
    tally.reset_counts()
    assert tally == DecodeTally("stop")


def test_a_source_s_own_range_goes_before_the_options(tmp_path):
    path = videos.write_clip(tmp_path / "a.mp4", 25)
    video = open_video(path, replace(NATIVE, end=0.2))
    video.options = replace(video.options, end=0.2)
    assert sum(len(c["rgb"]) for c in video.read_frames()) == 5
    own = type(video)(Source(key="a", path=str(path), end=0.4), replace(NATIVE, end=0.2))
    assert sum(len(c["rgb"]) for c in own.read_frames()) == 10


def test_a_rate_is_taken_by_timestamp(odd):
    _, frames, _ = read(odd / "vfr.mp4", replace(NATIVE, fps=25))
    assert len(frames) == 50


def test_a_gap_of_a_day_is_not_filled(odd):
    video, frames, _ = read(odd / "pts_gap.mkv", replace(NATIVE, fps=25))
    assert len(frames) <= 52
    assert "gap" in video.tally.warnings[0]


def odd_entries():
    names = "rot90.mp4 rot180.mp4 odd_321x243.avi px1.webm uhd4k.mp4 bframes.mp4 editlist_cut.mp4"
    more = "raw.h264 av1.mp4 anim.gif packed_b.avi interlaced.mp4 two_videos.mkv frames_sthv1"
    return [*names.split(), *more.split()]


@pytest.mark.parametrize("name", odd_entries())
def test_odd_files_give_the_frames_and_size_expected(odd, name):
    expected = {e["file"]: e for e in json.loads((odd / "expected.json").read_text())}[name]
    _, frames, _ = read(odd / name)
    size = expected["size"] or [320, 240]
    assert frames.shape == (expected["frames"], size[1], size[0], 3)


def test_interlaced_frames_are_all_different_pictures(odd):
    _, frames, _ = read(odd / "interlaced.mp4")
    assert len({frame.tobytes() for frame in frames}) == 20
    assert 113 <= frames.mean() <= 115


@pytest.mark.parametrize("name", ["eyemakeup.avi"])
def test_decreasing_times_of_an_avi_are_replaced_by_the_index(real_clips, name):
    video, _, times = read(real_clips / name)
    assert video.tally.facts["clock"] == "index"
    assert np.allclose(np.diff(times), 1 / 25)


def test_flipped_bits_are_counted_and_reported(odd):
    video, frames, _ = read(odd / "bitflip.mp4")
    tally = video.tally
    assert (len(frames), tally.errors, tally.frames_corrupt) == (99, 1, 19)
    assert "1 packets undecodable, 19 frames corrupt" in tally.describe_damage()


def test_stop_ends_a_damaged_video_before_the_damage(odd):
    _, frames, _ = read(odd / "bitflip.mp4", replace(NATIVE, on_error="stop"))
    assert 0 < len(frames) < 99


def test_on_error_fail_refuses_a_damaged_video(odd):
    with pytest.raises(DecodeError, match="damaged"):
        read(odd / "bitflip.mp4", replace(NATIVE, on_error="fail"))


def test_a_truncated_file_gives_its_whole_frames_and_a_report(tmp_path):
    path = videos.write_clip(tmp_path / "a.mp4", 60, flags="faststart")
    whole = plainly(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    video, frames, _ = read(path)
    assert 20 < len(frames) < 60
    assert np.array_equal(frames[:15], whole[:15])
    assert "damaged" in video.tally.describe_damage()


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.avi"])
def test_a_file_cut_between_packets_reports_what_is_missing(tmp_path, name):
    codecs = {"a.webm": "libvpx-vp9", "a.avi": "mpeg4"}
    options = {"codec": codecs[name], "options": {}} if name in codecs else {}
    path = videos.write_clip(tmp_path / name, 60, **options)
    whole, *_ = read(path)
    assert not whole.tally.describe_damage()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    video, frames, _ = read(path)
    assert 10 < len(frames) < 55
    attributes = video.tally.to_attributes()
    assert attributes["truncated"]
    assert abs(attributes["frames_lost"] + len(frames) - 60) <= 1
    assert re.search(
        r"frames lost, cut off before its end \(.* came\)", video.tally.describe_damage()
    )


def test_a_part_of_a_whole_file_is_not_taken_for_a_cut_one(tmp_path):
    path = videos.write_clip(tmp_path / "a.mkv", 400, options={"g": "20"})
    for options in ({"start": 12.0}, {"end": 3.0}, {"start": 12.0, "end": 13.0}):
        video, *_ = read(path, replace(NATIVE, **options))
        assert not video.tally.describe_damage()


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.avi"])
def test_a_whole_file_that_starts_late_or_has_gaps_is_whole(tmp_path, name):
    path = tmp_path / name
    codec = "mpeg4" if name == "a.avi" else "libx264"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        start = 0 if name == "a.avi" else 1500
        for i in range(40):
            picture = np.full((48, 64, 3), 5 * i, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = start + 3 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video, frames, _ = read(path)
    assert len(frames) >= 38
    assert not video.tally.describe_damage()


def test_a_title_in_another_encoding_does_not_matter(tmp_path):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "cafe in Paris"
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in range(0, 200, 20):
            picture = np.full((48, 64, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    assert b"cafe in" in data
    path.write_bytes(data.replace(b"cafe in", b"caf\xe9 in"))
    assert len(read(path)[1]) == 10


def test_a_codec_without_a_decoder_is_named(tmp_path):
    path = videos.write_clip(tmp_path / "a.mp4", 5)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(DecodeError, match="no decoder for codec zzzz"):
        read(path)


def test_a_stream_without_its_first_key_frame_reports_the_damage(tmp_path):
    path = videos.write_clip(tmp_path / "a.ts", 50, options={"g": "25"})
    data = path.read_bytes()
    path.write_bytes(data[: 188 * 3] + data[188 * 12 :])
    video, frames, _ = read(path)
    assert 0 < len(frames) < 50
    assert video.tally.describe_damage()


def test_flipped_bits_in_mpeg4_are_found_without_a_decode_error(tmp_path):
    path = videos.write_clip(
        tmp_path / "a.avi", 60, height=120, width=160, codec="mpeg4", options={}
    )
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 2, len(data) - 3000, 301):
        data[place] ^= 0x5A
    path.write_bytes(data)
    video, frames, _ = read(path)
    assert (len(frames), video.tally.errors) == (60, 0)
    assert "frames corrupt" in video.tally.describe_damage()


def test_a_size_change_in_mid_stream_is_scaled_and_reported(odd):
    video, frames, times = read(odd / "midres.ts")
    assert frames.shape == (20, 120, 160, 3)
    assert (np.diff(times) > 0).all()
    assert "size changes" in video.tally.warnings[0]


def test_other_angles_than_right_ones_are_kept_and_reported(odd):
    video, frames, _ = read(odd / "rot45.mp4")
    assert frames.shape[1:3] == (120, 160)
    assert "no right angle" in video.tally.warnings[0]


def test_rotation_can_be_left_alone(odd):
    assert read(odd / "rot90.mp4", replace(NATIVE, rotate=False))[1].shape[1:3] == (120, 160)


def test_a_cover_image_is_not_decoded_as_the_video(tmp_path):
    path = tmp_path / "both.mkv"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 320, 240, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        film = container.add_stream("libx264", rate=25)
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        picture = av.VideoFrame.from_ndarray(videos.make_texture(240, 320), format="rgb24")
        container.mux(cover.encode(picture))
        for image in videos.make_frames(10, 48, 64):
            container.mux(film.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(film.encode(None))
    assert read(path)[1].shape == (10, 48, 64, 3)


def test_a_gap_in_a_folder_of_images_is_reported(tmp_path):
    folder = videos.write_images(tmp_path / "frames", [1, 2, 4, 5])
    video, frames, _ = read(folder)
    assert len(frames) == 4
    assert video.tally.warnings == ["missing image numbers: 3"]


def test_a_truncated_and_an_empty_image_are_named_and_left_out(tmp_path):
    folder = videos.write_images(tmp_path / "frames", range(1, 7))
    whole = (folder / "00003.jpg").read_bytes()
    (folder / "00003.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "00004.jpg").write_bytes(b"")
    video, frames, _ = read(folder)
    assert len(frames) == 4
    assert "2 images unreadable (00003.jpg is cut off" in video.tally.describe_damage()


def test_links_and_pipes_among_images_are_named_and_left_out(tmp_path):
    folder = videos.write_images(tmp_path / "frames", range(1, 6))
    (folder / "00001.jpg").unlink()
    (folder / "00001.jpg").symlink_to("nowhere.jpg")
    (folder / "00004.jpg").unlink()
    os.mkfifo(folder / "00004.jpg")
    video, frames, _ = read(folder)
    assert len(frames) == 3
    assert "2 images unreadable (00001.jpg: no such file" in video.tally.describe_damage()
    assert video.estimate_extent()[:3] == (5, 64, 48)


def test_an_image_that_vanishes_counts_as_one_unreadable_image(tmp_path, monkeypatch):
    folder = videos.write_images(tmp_path / "frames", range(1, 4))
    monkeypatch.setattr("mrx.decode.images.why_unreadable", lambda path: None)
    (folder / "00002.jpg").unlink()
    (folder / "00002.jpg").symlink_to("nowhere.jpg")
    video, frames, _ = read(folder)
    assert len(frames) == 2
    assert "00002.jpg: no such file or directory" in video.tally.describe_damage()


def png_header(width, height):
    """Return a PNG header of this size, without image data."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = zlib.crc32(chunk).to_bytes(4)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + checksum


def test_an_image_that_opencv_refuses_is_one_unreadable_image(tmp_path):
    folder = videos.write_images(tmp_path / "frames", range(1, 4), name="{:05d}.png")
    (folder / "00002.png").write_bytes(png_header(2**21, 1))
    video, frames, _ = read(folder)
    assert len(frames) == 2
    assert "1 images unreadable (00002.png" in video.tally.describe_damage()


def test_a_huge_image_is_refused_by_its_header(tmp_path):
    folder = videos.write_images(tmp_path / "frames", range(1, 4), name="{:05d}.png")
    (folder / "00002.png").write_bytes(png_header(30000, 30000))
    with pytest.raises(DecodeError, match="too large: 30000x30000, the limit"):
        read(folder)


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp"])
def test_images_hold_the_limit_of_pixels(tmp_path, ending):
    folder = videos.write_images(tmp_path / "frames", range(2), name="{:05d}." + ending)
    with pytest.raises(DecodeError, match="too large: 64x48, the limit is 3000"):
        read(folder, replace(NATIVE, max_pixels=3000))
    with pytest.raises(DecodeError, match="too large: 64x48"):
        open_video(folder, replace(NATIVE, max_pixels=3000)).estimate_extent()


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_the_header_of_an_image_tells_the_size_that_is_decoded(tmp_path, ending):
    path = videos.write_images(tmp_path, [0], name="{:05d}." + ending) / f"00000.{ending}"
    assert images._read_header_size(path.read_bytes()) == (64, 48)
    assert images._read_header_size(path.read_bytes()[:20]) == (0, 0)


def test_stop_ends_a_folder_before_its_first_unreadable_image(tmp_path):
    folder = videos.write_images(tmp_path / "frames", range(1, 7))
    (folder / "00004.jpg").write_bytes(b"")
    assert len(read(folder, replace(NATIVE, on_error="stop"))[1]) == 3


def test_a_name_that_is_not_utf8_is_reported_in_utf8(tmp_path):
    folder = videos.write_images(tmp_path / "frames", range(1, 4))
    for path in folder.iterdir():
        path.rename(folder / os.fsdecode(b"\xe9" + os.fsencode(path.name)))
    (folder / os.fsdecode(b"\xe900002.jpg")).write_bytes(b"")
    damage = read(folder)[0].tally.describe_damage()
    assert damage.encode() == b"damaged: 1 images unreadable (\\udce900002.jpg: empty file)"


def test_images_equal_those_that_opencv_reads(tmp_path):
    folder = videos.write_images(tmp_path / "frames", range(3))
    theirs = [cv2.imread(str(p))[..., ::-1] for p in sorted(folder.iterdir())]
    assert np.array_equal(read(folder)[1], np.stack(theirs))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("audio_only.mp4", "no video stream; it holds audio"),
        ("cover_art.mp3", "only an attached picture"),
        ("encrypted.mp4", "encrypted: nothing decodable"),
        ("zero.mp4", "empty file"),
        ("text.mp4", "not a video"),
        ("trunc_moov_end.mp4", "moov atom not found"),
        ("no_key_at_all.ts", "no key frame"),
        ("bomb_gif_20000.gif", "too large: 20000x20000"),
        ("bomb_h264_16384x8704.mp4", "too large: 16384x8704"),
        ("loop.mp4", "too many levels of symbolic links"),
        ("fifo.mp4", "not a regular file"),
        ("clip.mp4", "is a directory without frames"),
    ],
)
def test_unreadable_files_give_a_reason(odd, name, reason):
    with pytest.raises(DecodeError, match=reason):
        read(odd / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_reported(odd):
    with pytest.raises(DecodeError, match="permission denied"):
        read(odd / "noperm.mp4")


def test_a_decompression_bomb_takes_little_memory(odd):
    program = """
import resource, sys
from mrx.decode import open_video
from mrx.errors import DecodeError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    list(open_video(sys.argv[1]).read_frames())
except DecodeError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    bomb = str(odd / "bomb_h264_16384x8704.mp4")
    ran = subprocess.run([sys.executable, "-c", program, bomb], capture_output=True, text=True)
    assert int(ran.stdout) < 500_000, ran.stderr


def test_a_fifo_does_not_hang(odd):
    began = time.monotonic()
    with pytest.raises(DecodeError, match="not a regular file"):
        read(odd / "fifo.mp4")
    assert time.monotonic() - began < 1


def test_two_readings_are_the_same_bit_for_bit(tmp_path):
    path = videos.write_clip(tmp_path / "a.mp4", 30)
    assert np.array_equal(read(path)[1], read(path)[1])


def test_headers_are_only_an_estimate(odd):
    video = open_video(odd / "liar_frames.avi", NATIVE)
    frames, width, height, _ = video.estimate_extent()
    assert frames < 10_000
    assert (width, height) == (160, 120)

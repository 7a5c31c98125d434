"""`--decoder nvdec`: torchcodec must deliver what PyAV delivers, or the video fails.

Most tests replace torchcodec by a small stand-in with the part of its `VideoDecoder` that mrx uses,
as its documentation describes it; it decodes with PyAV and fails in the ways a test asks for. Tests
named ``really`` run torchcodec itself, on the CPU or a GPU, and are skipped if it is not installed.
"""

import importlib.util
import io
import json
import sys
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest
import torch
from support import videos
from support.command import mrx, read_contents, read_rows

import mrx as library
from mrx.decode import nvdec, open_video
from mrx.errors import DecodeError, MissingError
from mrx.job import Decoding, Job

CPU = torch.device("cpu")
NATIVE = {"short_side": None}
REAL_NAMES = ("apple_roll.mp4", "pillow_hands.mp4", "pancake.mkv")


class StandIn:
    """torchcodec's VideoDecoder, decoding with PyAV and with faults to choose."""

    brighter = 0
    later = 0.0
    turned = False
    breaks_at = None
    cpu_fallback = ""

    def __init__(self, source, *, stream_index=None, dimension_order="NCHW", device=None):
        assert dimension_order == "NHWC"
        with av.open(source) as container:
            frames = list(container.decode(container.streams[stream_index or 0]))
        data = np.stack([f.to_ndarray(format="rgb24") for f in frames]) + np.uint8(self.brighter)
        self.data = torch.from_numpy(data.swapaxes(1, 2).copy() if self.turned else data)
        self.times = torch.tensor([f.time + self.later for f in frames], dtype=torch.float64)

    def __len__(self):
        return len(self.data)

    def get_frames_in_range(self, start, stop):
        if self.breaks_at is not None and stop > self.breaks_at:
            raise RuntimeError("decode, /there/Decoder.cpp:7, Could not push packet: it is bad")
        return SimpleNamespace(data=self.data[start:stop], pts_seconds=self.times[start:stop])


@pytest.fixture
def stand_in(monkeypatch):
    """Return a function that replaces torchcodec by a stand-in with the given faults."""

    def install(**errs):
        package, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
        package.decoders, package.__version__ = decoders, "9.9"
        decoders.VideoDecoder = type("VideoDecoder", (StandIn,), errs)
        opened = decoders.VideoDecoder
        if "probe" in errs:
            decoders.VideoDecoder = lambda source, **how: opened(
                io.BytesIO(source), dimension_order="NHWC"
            )
        monkeypatch.setitem(sys.modules, "torchcodec", package)
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)

    return install


@pytest.fixture
def really():
    if importlib.util.find_spec("torchcodec") is None:
        pytest.skip("torchcodec is not installed")


@pytest.fixture
def clip(tmp_path):
    return videos.write_clip(tmp_path / "a.mp4", 30)


def read(path, decoder, device=CPU, **options):
    video = open_video(path, Decoding(decoder=decoder, **options), device)
    runs = [run["rgb"] for run in video.read_frames()]
    return (
        np.concatenate([run.data.numpy() for run in runs]),
        np.concatenate([run.time for run in runs]),
        video.tally,
    )


@pytest.mark.parametrize("asked", [{}, {"fps": 7.0}, {"start": 0.3, "end": 0.9}])
def test_frames_times_and_counts_are_pyavs(clip, stand_in, asked):
    stand_in()
    one, other = read(clip, "pyav", **NATIVE, **asked), read(clip, "nvdec", **NATIVE, **asked)
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[1], other[1])
    attributes = [tally.to_attributes() for *_, tally in (one, other)]
    assert {n for n in attributes[0] if attributes[0][n] != attributes[1][n]} <= {
        *("decoder", "pix_fmt", "color_range", "color_space")
    }
    assert attributes[0]["decoder"] == f"pyav {av.__version__}"
    assert attributes[1]["decoder"] == "torchcodec 9.9 cpu"


def test_positions_that_are_wanted_are_the_same_frames(clip, stand_in):
    stand_in()
    video = open_video(clip, Decoding(decoder="nvdec", **NATIVE))
    assert video.count_frames() == 30
    (run,) = [run["rgb"] for run in video.read_frames(positions={3, 29})]
    assert run.index.tolist() == [3, 29]
    assert np.array_equal(run.data.numpy(), read(clip, "pyav", **NATIVE)[0][[3, 29]])


@pytest.mark.parametrize(
    ("errs", "text"),
    [
        ({"brighter": 60}, r"from the CPU decoder's by \d+\.\d levels of 255 in the mean"),
        ({"later": 0.03}, r"first frame is at 0\.030 s, the CPU decoder's at 0\.000 s"),
        ({"turned": True}, r"first frame is 64x80, the CPU decoder's 80x64"),
        ({"cpu_fallback": "Video not supported"}, r"used the CPU \(Video not supported\)"),
        ({"breaks_at": 0}, r"stops at frame 0 of 30 \(Could not push packet: it is bad\)"),
        ({"breaks_at": 9}, r"stops at frame 9 of 30 \(Could not push packet: it is bad\)"),
    ],
)
def test_a_difference_from_the_cpu_decoder_fails_and_names_pyav(clip, stand_in, errs, text):
    stand_in(**errs)
    with pytest.raises(DecodeError, match=rf"{text}.*\. Use --decoder pyav$"):
        read(clip, "nvdec")


def test_rounding_of_another_decoder_is_no_difference(clip, stand_in):
    stand_in(brighter=1, later=0.015)
    assert read(clip, "nvdec")[0].shape == (30, 64, 80, 3)


def test_at_damage_the_video_may_end_with_the_last_good_frame(clip, stand_in):
    stand_in(breaks_at=9)
    frames, _, tally = read(clip, "nvdec", on_error="stop")
    assert len(frames) == 9
    assert tally.describe_damage().startswith(
        "damaged: cut off before its end (torchcodec stops at frame 9"
    )


def test_containers_with_unreliable_times_are_refused(tmp_path, stand_in):
    stand_in()
    path = videos.write_clip(tmp_path / "a.avi", 5, codec="mpeg4")
    with pytest.raises(DecodeError, match=r"those in avi are unreliable\. Use --decoder"):
        read(path, "nvdec")


def test_urls_are_left_to_pyav(clip, stand_in):
    stand_in()
    with pytest.raises(DecodeError, match=r"nvdec cannot read a URL\. Use --decoder pyav"):
        read(f"file://{clip}", "nvdec")


def test_folders_of_images_are_read_on_the_cpu(tmp_path, stand_in):
    stand_in()
    folder = videos.write_images(tmp_path / "frames", range(5))
    one, other = read(folder, "pyav"), read(folder, "nvdec")
    assert np.array_equal(one[0], other[0])
    assert one[2].to_attributes() == other[2].to_attributes()
    assert one[2].facts["decoder"].startswith("opencv ")


def test_without_torchcodec_a_run_ends_before_any_work(clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    ran = mrx("extract", clip, "-o", tmp_path / "out", "--decoder", "nvdec")
    assert ran.code == 5
    assert "torchcodec is not installed: pip install 'mrx[nvdec]'. Use --decoder" in ran.stderr
    assert not list((tmp_path / "out").glob("*.h5"))
    with pytest.raises(MissingError, match="torchcodec is not installed"):
        read(clip, "nvdec")


def test_an_unloadable_torchcodec_reports_its_requirements(tmp_path, monkeypatch):
    (tmp_path / "torchcodec").mkdir()
    text = r"Could not load libtorchcodec. Likely causes:\n1. FFmpeg"
    (tmp_path / "torchcodec" / "__init__.py").write_text(f"raise RuntimeError('{text}')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    assert nvdec.why_nvdec_unusable(CPU) == (
        "torchcodec does not load (Could not load libtorchcodec.): it needs FFmpeg's shared "
        "libraries and a PyTorch for NVIDIA GPUs"
    )


def test_without_a_gpu_a_run_ends_before_any_work(clip, tmp_path, stand_in):
    stand_in()
    for command in (["extract", clip, "-o", tmp_path / "out"], ["visualize", clip, "-o", "a.gif"]):
        ran = mrx(*command, "--decoder", "nvdec", "--device", "cpu")
        assert ran.code == 5
        assert "it needs an NVIDIA GPU, and methods compute on cpu" in ran.stderr


@pytest.mark.parametrize(
    ("errs", "text"),
    [
        ({}, ""),
        ({"breaks_at": 0}, r"torchcodec cannot decode on meta (Could not push packet: it is bad)"),
        ({"cpu_fallback": "NVcuvid unavailable"}, "meta cannot decode H.264 (NVcuvid unavailable)"),
    ],
)
def test_a_test_frame_is_decoded_before_any_work(stand_in, errs, text):
    stand_in(probe=True, **errs)
    assert nvdec.why_nvdec_unusable(torch.device("meta")) == text


@pytest.fixture
def usable(stand_in, monkeypatch):
    """Let a run on the CPU decode with the stand-in."""
    stand_in()
    monkeypatch.setattr(nvdec, "why_nvdec_unusable", lambda device: "")


@pytest.mark.usefixtures("usable")
def test_the_decoder_stands_in_the_attributes(clip, tmp_path):
    for decoder, name in (("pyav", f"pyav {av.__version__}"), ("nvdec", "torchcodec 9.9 cpu")):
        out = tmp_path / decoder
        mrx("extract", clip, "-o", out, "--decoder", decoder)
        with library.open(out) as shards:
            assert shards["a.mp4"].attrs["decoder"] == name
    one, other = read_contents(tmp_path / "pyav"), read_contents(tmp_path / "nvdec")
    assert one["a.mp4", "mbpm"][:3] == other["a.mp4", "mbpm"][:3]


@pytest.mark.usefixtures("usable")
def test_one_folder_holds_maps_of_one_decoder(clip, tmp_path):
    mrx("extract", clip, "-o", tmp_path / "out")
    ran = mrx("extract", clip, "-o", tmp_path / "out", "--decoder", "nvdec")
    assert ran.code == 4
    assert "made with decoder=default, asked for decoder=nvdec" in ran.stderr


def test_settings_name_the_decoder_unless_it_is_the_default():
    assert "decoder" not in Job("out").collect_settings({})
    assert Job("out", decoding=Decoding(decoder="nvdec")).collect_settings({})["decoder"] == "nvdec"


@pytest.mark.usefixtures("usable")
def test_a_failed_video_gives_its_reason_and_the_others_finish(clip, tmp_path):
    videos.write_clip(tmp_path / "b.avi", 9, codec="mpeg4")
    ran = mrx("extract", tmp_path, "-o", tmp_path / "out", "--decoder", "nvdec", "--jsonl")
    ended = {row["key"]: (row["status"], row["reason"]) for row in read_rows(ran)}
    assert (ran.code, ended["a.mp4"]) == (1, ("ok", ""))
    assert ended["b.avi"][0] == "failed"
    assert "Use --decoder pyav" in ended["b.avi"][1]


@pytest.mark.usefixtures("usable")
def test_a_shard_made_by_nvdec_is_drawn_with_the_default_decoder(clip, tmp_path, monkeypatch):
    mrx("extract", clip, "-o", tmp_path / "out", "--decoder", "nvdec")
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    ran = mrx("visualize", tmp_path / "out", "-o", tmp_path / "a.gif")
    assert (ran.code, (tmp_path / "a.gif").stat().st_size > 0) == (0, True)


def test_doctor_tells_whether_nvdec_is_usable(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    facts = json.loads(mrx("doctor", "--json").stdout)
    assert facts["nvdec"] == "torchcodec is not installed: pip install 'mrx[nvdec]'"


@pytest.mark.usefixtures("usable")
def test_doctor_names_an_installed_torchcodec():
    assert json.loads(mrx("doctor", "--json").stdout)["nvdec"].startswith("torchcodec 9.9 ")


@pytest.mark.usefixtures("really")
def test_the_real_torchcodec_gives_the_frames_of_pyav(clip):
    one, other = read(clip, "pyav", **NATIVE), read(clip, "nvdec", **NATIVE)
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[1], other[1])
    assert other[2].facts["decoder"].startswith("torchcodec 0.")


@pytest.mark.slow
@pytest.mark.usefixtures("really")
@pytest.mark.parametrize("name", REAL_NAMES)
def test_the_real_torchcodec_gives_pyavs_frames_of_real_clips(real_clips, name):
    one, other = (
        read(real_clips / name, "pyav", **NATIVE),
        read(real_clips / name, "nvdec", **NATIVE),
    )
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[1], other[1])


@pytest.mark.usefixtures("really")
def test_the_real_torchcodec_applies_the_display_rotation(odd):
    one, other = (
        read(odd / "rot90.mp4", "pyav", **NATIVE),
        read(odd / "rot90.mp4", "nvdec", **NATIVE),
    )
    assert np.array_equal(one[0], other[0])
    assert one[2].facts["rotation"] == other[2].facts["rotation"] == -90
    for name, options in (("rot45.mp4", {}), ("rot90.mp4", {"rotate": False})):
        with pytest.raises(DecodeError, match="is 120x160, the CPU decoder's 160x120"):
            read(odd / name, "nvdec", **options)


@pytest.mark.usefixtures("really")
@pytest.mark.parametrize("name", ["start10s.ts", "midres.ts", "bitflip.mp4", "hevc10.mp4"])
def test_videos_beyond_the_real_torchcodec_fail_and_name_pyav(odd, name):
    with pytest.raises(DecodeError, match="Use --decoder pyav"):
        read(odd / name, "nvdec")


@pytest.mark.gpu
@pytest.mark.usefixtures("really")
def test_a_real_gpu_gives_nearly_the_frames_of_pyav(device, real_clips):
    if why := nvdec.why_nvdec_unusable(device):
        pytest.skip(why)
    path = real_clips / "apple_roll.mp4"
    one, other = read(path, "pyav", **NATIVE), read(path, "nvdec", device, **NATIVE)
    assert np.array_equal(one[1], other[1])
    levels = np.abs(one[0].astype(np.int16) - other[0]).mean(axis=(1, 2, 3))
    assert levels.max() <= nvdec.MAX_LEVEL_DIFFERENCE

"""Tests of the devices of `mrx extract`, its decode threads, and the times of its stages."""

import pytest
import torch
from support import videos
from support.command import mrx, read_summary, run_process

from mrx.pipeline.timing import STAGE_NAMES

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="has the devices asked for")


@pytest.fixture
def clip(tmp_path):
    return videos.write_clip(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("options", "device"),
    [(["--device", "cuda:0"], "cuda:0"), (["--devices", "cpu,7"], "cuda:7")],
)
def test_an_absent_device_is_reported_before_any_work(clip, tmp_path, options, device):
    ran = run_process("extract", clip, "-o", tmp_path / "out", *options)
    assert ran.returncode == 5
    assert f"no device {device}: this machine has cpu" in ran.stderr.decode()
    assert not list((tmp_path / "out").glob("*.h5"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cpu", "--devices", "0,1"], "--device cpu and --devices 0,1: give one"),
        (["--devices", "0,0"], "bad devices (cuda:0, cuda:0): give one or more, each once"),
        (["--devices", ","], "give one or more, each once"),
        (["--devices", "0,1", "--workers", "1"], "too few workers (1): there are 2 devices"),
        (["--devices", "0,1", "--workers", "0"], "too many devices (cuda:0, cuda:1)"),
        (["--devices", "cpu,auto"], "devices cpu, auto are cpu, cpu: name each once"),
        (["--batch", "0"], "--batch"),
    ],
)
def test_invalid_options_are_refused(clip, tmp_path, options, message):
    words = () if "--workers" in options else ("--workers", "2")
    ran = mrx("extract", clip, "-o", tmp_path / "out", *options, *words)
    assert ran.code == 2
    assert message in ran.stderr


@pytest.mark.parametrize("threads", ["0", "2"])
def test_the_summary_tells_where_the_time_went(clip, tmp_path, threads):
    ran = mrx(
        *("extract", clip, "-o", tmp_path / "out", "--json", "-v"), "--decode-threads", threads
    )
    (worker,) = read_summary(ran)["workers"]
    assert (worker["device"], worker["threads"]) == ("cpu", int(threads))
    assert set(worker["busy"]) == set(STAGE_NAMES)
    assert all(0 <= share <= 1.01 for share in worker["busy"].values())
    assert worker["busy"]["decode"] > 0
    assert "takes most of the time" in read_summary(ran)["bottleneck"]
    assert f"cpu, {worker['seconds']:.1f} s" in ran.stderr
    assert read_summary(ran)["bottleneck"] in ran.stderr


def test_without_verbose_no_bottleneck_is_printed(clip, tmp_path):
    assert "takes most" not in mrx("extract", clip, "-o", tmp_path / "out").stderr

import io
import signal
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from support.command import mrx, run_process, start_process
from support.videos import write_clip, write_images


def read(source):
    with av.open(source) as container:
        stream = container.streams.video[0]
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
        return frames, float(stream.average_rate)


def picture(path):
    return cv2.imread(str(path))[..., ::-1]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("in") / "a.mp4", 14)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif"])
def test_every_film_has_a_picture_for_each_window(tmp_path, video, name):
    ran = mrx("visualize", video, "-m", "mbpm", "-m", "pa", "-o", tmp_path / name, "--fps", 5)
    frames, rate = read(str(tmp_path / name))
    width, height = 3 * 80 + 4 * 2, 5 * 64 + 6 * 2
    assert (ran.code, ran.stdout, ran.stderr) == (0, "", "")
    assert (len(frames), rate, frames[0].shape) == (4, 5, (height, width, 3))


def test_a_film_is_as_fast_as_it_was_filmed(tmp_path, video):
    mrx("visualize", video, "-m", "mbpm", "--step", 1, "-o", tmp_path / "a.mp4", "--every", 2)
    frames, rate = read(str(tmp_path / "a.mp4"))
    assert (len(frames), rate) == (6, 12.5)


def test_frames_select_windows_and_each_shows_its_first_frame(tmp_path, video):
    mrx("visualize", video, "-o", tmp_path / "p", "--frames", "3:7", "--label", "none")
    names = sorted(p.name for p in (tmp_path / "p").iterdir())
    with av.open(str(video)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    shown = picture(tmp_path / "p" / "000001.png")[2:66, 2:82]
    assert names == ["000000.png", "000001.png"]
    assert np.abs(shown.astype(int) - frames[6]).mean() < 3
    assert np.abs(shown.astype(int) - frames[5]).mean() > 5


def test_a_slower_method_holds_its_map(tmp_path, video):
    what = ["-m", "mbpm", "-p", "mbpm.size=9", "-m", "pa", "--step", 2, "--alone"]
    ran = mrx("visualize", video, *what, "-o", tmp_path / "p", "--label", "parameters")
    assert (ran.code, len(list((tmp_path / "p").iterdir()))) == (0, 5 + 1)


def test_a_folder_of_images_and_one_picture(tmp_path):
    folder = write_images(tmp_path / "in", range(1, 8))
    mrx("visualize", folder, "-m", "mbpm", "-o", tmp_path / "a.png", "--scale", 2, "--alone")
    assert picture(tmp_path / "a.png").shape == (96, 128, 3)


def test_a_stream_comes_alone_on_stdout(video):
    ran = run_process("visualize", video, "-m", "mbpm", "-o", "-")
    frames, _ = read(io.BytesIO(ran.stdout))
    assert (ran.returncode, ran.stderr, len(frames)) == (0, b"", 4)


def test_a_closed_stdout_ends_the_run_by_sigpipe(video):
    with start_process("visualize", video, "-m", "tvl1", "-o", "-", "--scale", "4") as running:
        running.stdout.read(10)
        running.stdout.close()
        said = running.stderr.read()
        code = running.wait(60)
    assert (code, said) == (128 + signal.SIGPIPE, b"")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is not here")
def test_a_full_stdout_is_an_error_in_one_line(video):
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "mrx", "visualize", video, "-m", "mbpm", "-o", "-"]
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    said = "error: cannot write (-): No space left on device\n"
    assert (ran.returncode, ran.stderr) == (4, said)


def test_compare_makes_a_grid_with_time_to_the_right(tmp_path, video):
    out = tmp_path / "a.png"
    what = ["-m", "mbpm", "--compare", "--columns", 3, "--label", "none"]
    assert mrx("visualize", video, *what, "-o", out).code == 0
    assert picture(out).shape == (2 * 64 + 3 * 4, 3 * 80 + 4 * 4, 3)


def test_a_shard_of_any_type_looks_like_the_computed_maps(tmp_path, video):
    mrx("visualize", video, "-o", tmp_path / "computed")
    shown = {}
    for kind in ("float16", "uint8"):
        mrx("extract", video, "-o", tmp_path / kind, "--dtype", kind)
        source = f"{tmp_path / kind}::a.mp4"
        ran = mrx("visualize", source, "-o", tmp_path / f"p{kind}")
        assert (ran.code, ran.stderr) == (0, "")
        shown[kind] = picture(tmp_path / f"p{kind}" / "000002.png").astype(int)
    computed = picture(tmp_path / "computed" / "000002.png")
    assert np.abs(shown["float16"] - computed).max() <= 2
    assert np.abs(shown["uint8"] - computed).mean() < 3


def test_a_shard_without_its_video_shows_panels_alone(tmp_path):
    video = write_clip(tmp_path / "a.mp4", 9)
    mrx("extract", video, "-o", tmp_path / "out")
    video.unlink()
    shard = tmp_path / "out" / "shard-00000.h5"
    ran = mrx("visualize", shard, "-o", tmp_path / "a.png")
    assert picture(tmp_path / "a.png").shape == (64, 80, 3)
    assert "frames are left out" in ran.stderr


def test_several_keys_need_a_folder_or_a_name(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "in").mkdir(exist_ok=True)
        write_clip(tmp_path / "in" / f"{name}.mp4", 6)
    mrx("extract", tmp_path / "in", "-o", tmp_path / "out")
    refused = mrx("visualize", tmp_path / "out", "-o", tmp_path / "a.mp4")
    mrx("visualize", tmp_path / "out", "-o", tmp_path / "p")
    assert refused.code == 2
    assert "has 2 videos: name one" in refused.stderr
    assert len(list((tmp_path / "p" / "b.mp4").iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["-o", "a.avi"], 2, "bad output (a.avi)"),
        (["-o", "none/a.mp4"], 4, "no such folder none"),
        (
            ["-o", "a.mp4", "--style", "quiver"],
            2,
            "--style quiver: mbpm has no such style; it has side-by-side, wheel, mag",
        ),
        (["-o", "a.mp4", "--max-flow", "3"], 2, "no displacements among mbpm"),
        (["-o", "a.mp4", "--max-flow", "x"], 2, "bad --max-flow (x)"),
        (["-o", "a.mp4", "--frames", "5:2"], 2, "bad --frames (5:2)"),
        (["-o", "a.mp4", "--frames", "90:"], 2, "the video has only 14 frames"),
        (["-o", "a.mp4", "--frames", "13:"], 1, "too short"),
        (["-o", "a.mp4", "--scale", "0"], 2, "--scale is a finite number"),
        (["-o", "a.mp4", "--compare"], 2, "--compare makes one .png"),
        (["-o", "a.mp4", "-m", "nope"], 2, "no method nope"),
        (["-o", "a.mp4", "--device", "cuda:99"], 5, "no device cuda:99"),
        (["-o", "a.mp4", "--legend", "--per-frame-scale"], 2, "--legend shows one scale"),
        (["-o", "a.mp4", "--columns", "2"], 2, "--columns is for --compare"),
        (["-o", "a.png", "--fps", "5"], 2, "--fps is for films and pages"),
        (["-o", "a.png", "--compare", "--fps", "5"], 2, "--fps is for films and pages"),
        (["-o", "a.mp4", "--max-flow", "2", "--per-frame-scale"], 2, "--max-flow is one scale"),
        (["-o", "a.png", "--scale", "400"], 2, "--scale 400: a picture of 64000x25600"),
        (["-o", "a.mp4", "--stack", "2"], 2, "none of these methods takes a stack: mbpm"),
    ],
)
def test_options_that_do_not_fit_give_an_error_of_one_line(
    tmp_path, monkeypatch, video, words, code, text
):
    monkeypatch.chdir(tmp_path)
    ran = mrx("visualize", video, *words)
    assert (ran.code, ran.stderr.count("\n")) == (code, 1)
    assert text in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_missing_and_unreadable_inputs_are_refused(tmp_path, video):
    broken = tmp_path / "b.mp4"
    broken.write_bytes(b"no video at all" * 99)
    out = tmp_path / "a.gif"
    missing = mrx("visualize", tmp_path / "c.mp4", "-o", out)
    unreadable = mrx("visualize", broken, "-o", out)
    same = mrx("visualize", video, "-o", video)
    shard = mrx("visualize", tmp_path / "no.h5::a.mp4", "-o", out)
    assert (missing.code, unreadable.code, same.code, shard.code) == (3, 1, 2, 3)
    assert "no.h5)" in shard.stderr
    assert "b.mp4: not a video" in unreadable.stderr
    assert "is the input" in same.stderr
    assert not out.exists()


def test_the_command_loads_nothing_heavy_before_it_works():
    code = (
        "import sys, mrx.cli.visualize_command\n"
        "print(sorted({'torch', 'numpy', 'av', 'cv2', 'h5py'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"

"""`mrx extract -m ms` from end to end: its pairs, its weights, and what its shards tell."""

import cv2
import numpy as np
import pytest
from support import videos
from support.command import mrx, read_manifest
from support.flows import load_golden_arrays
from support.official import motion_squeeze_state, save_official

import mrx as library
from mrx.models.msnet import MSNet


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def maps_of(out, method="ms"):
    """The maps of a folder's only video, the first and last frame of each, and attributes."""
    with library.open(out) as shards:
        ((_, recording),) = shards.items()
        maps = recording[method]
        ends = np.stack([maps.items["first"], maps.items["last"]], 1)
        return maps[:], [tuple(pair) for pair in ends.tolist()], dict(maps.attrs)


def test_segments_are_matched_with_their_neighbors(tmp_path, out):
    path = videos.write_clip(tmp_path / "a.mp4", 30)
    assert mrx("extract", path, "-m", "ms", "--segments", "4", "-o", out).code == 0
    maps, pairs, attributes = maps_of(out)
    assert pairs == [(3, 11), (11, 18), (18, 26)]
    assert (attributes["segments"], attributes["dilation"]) == (4, 0)
    steps = -2 * np.diff(pairs, axis=1).ravel()  # the picture goes left, 2 pixels a frame
    assert np.allclose(np.median(maps[:, 0], axis=(1, 2)), steps, atol=0.3)


def test_a_dilation_puts_pairs_inside_of_segments(tmp_path, out):
    path = videos.write_clip(tmp_path / "a.mp4", 30)
    options = ["--segments", "3", "--dilation", "2"]
    assert mrx("extract", path, "-m", "ms", *options, "-o", out).code == 0
    assert maps_of(out)[1] == [(4, 6), (14, 16), (23, 25)]
    ran = mrx("extract", path, "-m", "ms", "--segments", "3", "-o", out)
    assert ran.code == 4
    assert "made with ms.dilation=2, asked for ms.dilation=0" in ran.stderr


def test_whole_cells_for_adjacent_frames_are_warned_about(tmp_path, out):
    path = videos.write_clip(tmp_path / "a.mp4", 30)
    words = ["extract", path, "-m", "ms", "--dilation"]
    coarse = mrx(*words, "1", "-p", "preset=paper", "-o", out)
    assert "a.mp4: ms: cells of 8 pixels are matched as a whole, which is coarse" in coarse.stderr
    drawn = mrx("visualize", path, "-m", "ms", "-p", "preset=paper", "-o", tmp_path / "a.png")
    assert "coarse for frames 4 apart" in drawn.stderr
    for options in (["8", "-p", "preset=paper"], ["1"]):
        ran = mrx(*words, *options, "-o", out, "--overwrite")
        assert (ran.code, "coarse" in ran.stderr) == (0, False)


def test_other_methods_keep_their_windows_beside_it(tmp_path, out):
    path = videos.write_clip(tmp_path / "a.mp4", 30)
    mrx("extract", path, "-m", "ms", "-m", "mbpm", "--segments", "4", "-o", out)
    assert [first for first, _ in maps_of(out, "mbpm")[1]] == [3, 10, 17, 24]
    assert maps_of(out)[1] == [(3, 11), (11, 18), (18, 26)]


def test_too_few_frames_or_segments_are_reported(tmp_path, out):
    path = videos.write_clip(tmp_path / "a.mp4", 5)
    mrx("extract", path, "-m", "ms", "--segments", "8", "-o", out)
    assert read_manifest(out)["a.mp4"]["reason"] == "too short (5 frames, needs 8)"
    ran = mrx("extract", path, "-m", "ms", "--segments", "1", "-o", tmp_path / "one")
    assert ran.code == 2
    assert "segments=1: windows of 2 frames" in ran.stderr


@pytest.mark.parametrize(("stride", "covered"), [(4, (84, 52)), (8, (80, 48))])
def test_the_area_that_whole_cells_cover_is_recorded(tmp_path, out, stride, covered):
    path = videos.write_clip(tmp_path / "a.mp4", 6, height=54, width=86)
    mrx("extract", path, "-m", "ms", "-m", "mbpm", "-p", f"ms.stride={stride}", "-o", out)
    maps, _, attributes = maps_of(out)
    assert (attributes["covered_width"], attributes["covered_height"]) == covered
    assert (maps.shape[3] * stride, maps.shape[2] * stride) == covered
    whole = maps_of(out, "mbpm")[2]
    assert (whole["covered_width"], whole["covered_height"]) == (86, 54)


@pytest.mark.parametrize("window", [["--dilation", "1"], ["--segments", "4"]])
def test_a_checkpoint_of_the_released_code_gives_its_flow(tmp_path, out, window):
    file = load_golden_arrays("matching_net_R18_ms")
    state = motion_squeeze_state(MSNet(18, 11, segments=4), file)
    save_official(state, tmp_path / "official.pth.tar")
    (tmp_path / "clip").mkdir()
    for i, frame in enumerate(file["x"]):
        image = np.ascontiguousarray(frame.transpose(1, 2, 0)[..., ::-1])
        cv2.imwrite(str(tmp_path / "clip" / f"{i:05d}.png"), image)
    options = ["-p", "preset=paper", "-p", "features=resnet18", "-p", "shift=zero", "--stack", "3"]
    options += ["--weights", tmp_path / "official.pth.tar", "--dtype", "float32", *window]
    assert mrx("extract", tmp_path / "clip", "-m", "ms", *options, "-o", out).code == 0
    maps, pairs, attributes = maps_of(out)
    found = maps[0].reshape(3, 3, 8, 8)
    assert pairs == [(0, 3)]
    assert list(attributes["channels"][:3]) == ["x1", "y1", "confidence1"]
    assert attributes["reduction"]
    assert attributes["shift"] == "zero"
    assert np.abs(found[:, :2] / (7 * 8) - file["flow"]).max() < 1e-5
    assert np.abs(found[:, 2:] - file["conf"]).max() < 1e-5

import json
import shutil
import subprocess
import sys

import pytest
import torch
from support import videos
from support.command import mrx

from mrx import methods
from mrx.bench.bench_records import BenchRow, quantile
from mrx.bench.compare import BaseResult
from mrx.bench.floor import estimate_map_cost
from mrx.bench.texture_clip import decode_clip, make_texture_windows
from mrx.cli.bench_command import parse_batches, parse_tolerance
from mrx.errors import UsageError

TINY = ("--size", "64x48", "--frames", 8, "--batch", "1,2", "--repeats", 2)
ROWS = ["mbpm kernel, batch 1", "mbpm kernel, batch 2", "mbpm decoding", "mbpm whole way"]
LENIENT = ("--tolerance", "1000000%")  # larger than any noise


def bench(*arguments):
    return mrx("bench", *arguments)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return a file with the JSON output of a benchmark of MBPM."""
    path = tmp_path_factory.mktemp("bench") / "base.json"
    path.write_text(bench("-m", "mbpm", *TINY, "--json").stdout)
    return path


def changed(base, folder, change):
    """Return a copy of the base with a change applied."""
    found = json.loads(base.read_text())
    change(found)
    path = folder / "changed.json"
    path.write_text(json.dumps(found))
    return path


def row(name, *, p25, p50):
    return BenchRow(name, "mbpm", "kernel", "maps", 9, p25, p50, 2 * p50, 3 * p50)


def test_the_json_is_one_object_of_settings_machine_and_rows(base):
    found = json.loads(base.read_text())
    assert found["mrx_bench"] == 1
    assert (found["settings"]["size"], found["settings"]["frames"]) == ([64, 48], 8)
    assert found["settings"]["methods"]["mbpm"]["sigma"] == 1.1
    assert {"mrx", "torch", "kernels"} <= found["machine"]["versions"].keys()
    assert {"device", "cores", "load_before", "load_after"} <= found["machine"].keys()
    assert [row["name"] for row in found["rows"]] == ROWS


def test_every_row_has_its_median_spread_and_details(base):
    *kernels, decoding, whole = json.loads(base.read_text())["rows"]
    for found in (*kernels, decoding, whole):
        assert 0 < found["p25"] <= found["p50"] <= found["p75"] <= found["p95"]
        assert found["samples"] == 2
        assert found["per_second"] == pytest.approx(1 / found["p50"])
    assert [found["batch"] for found in kernels] == [1, 2]
    assert kernels[0]["floor"]["bytes"] == 64512
    assert list(whole["busy"]) == ["decode", "transfer", "compute", "pack", "write"]
    assert "takes most of the time" in whole["bottleneck"]
    assert whole["to_decoding"]["p50"] > 0


def test_the_table_is_on_stdout_and_the_machine_on_stderr(base):
    ran = bench("-m", "mbpm", *TINY, "--compare", base, *LENIENT)
    lines = ran.stdout.splitlines()
    assert ran.code == 0
    assert [line[: len(name)] for line, name in zip(lines[1:], ROWS, strict=False)] == ROWS
    assert "to base" in lines[0]
    assert "8 frames of 64x48" in ran.stderr


def test_a_faster_base_is_reported_with_its_row_and_exit_code_1(base, tmp_path):
    def faster(found):
        found["rows"][1]["p50"] /= 1e9

    path = changed(base, tmp_path, faster)
    ran = bench("-m", "mbpm", *TINY, "--compare", path, "--json", *LENIENT)
    assert ran.code == 1
    assert "slower: mbpm kernel, batch 2 runs at" in ran.stderr
    slow = [row["name"] for row in json.loads(ran.stdout)["compared"] if row["slower"]]
    assert slow == ["mbpm kernel, batch 2"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--frames", 9), "made with frames=8, asked for frames=9"),
        (("--size", "48x64"), "size=[64, 48], asked for size=[48, 64]"),
        (("--batch", "1"), "batch=[1, 2], asked for batch=[1]"),
        (("-p", "sigma=0.9"), "made with mbpm.sigma=1.1, asked for mbpm.sigma=0.9"),
    ],
)
def test_a_base_of_other_settings_is_refused_before_any_work(base, more, words):
    ran = bench("-m", "mbpm", *TINY, *more, "--compare", base)
    assert (ran.code, ran.stdout) == (2, "")
    assert words in ran.stderr


def test_a_base_of_another_kind_of_device_is_refused(base, tmp_path):
    path = changed(base, tmp_path, lambda found: found["settings"].update(device="cuda"))
    ran = bench("-m", "mbpm", *TINY, "--device", "cpu", "--compare", path)
    assert ran.code == 2
    assert "made with device=cuda, asked for device=cpu" in ran.stderr


def test_a_base_of_other_methods_is_refused(base):
    with pytest.raises(UsageError, match=r"other methods \(.*\): mbpm, asked for pa"):
        BaseResult.read_json(str(base)).check_settings({"methods": {"pa": {}}})


def test_methods_of_one_side_only_are_not_compared(base):
    settings = json.loads(base.read_text())["settings"]
    settings["methods"]["pa"] = {"seed": 0}
    BaseResult.read_json(str(base)).check_settings(settings)


NO_TIME = '{"mrx_bench": 1, "rows": [{"name": "a", "p50": 0}], "settings": {"methods": {}}}'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot read the base"),
        ("{", "not the output of mrx bench --json"),
        ("[]", "not the output of mrx bench --json"),
        ('{"mrx_bench": 9}', "its format is 9, this mrx reads 1"),
        ('{"mrx_bench": 1, "rows": [], "settings": 3}', "not the output of mrx bench --json"),
        (NO_TIME, "a median is not a positive number"),
    ],
)
def test_a_file_that_is_no_base_is_refused(tmp_path, text, words):
    path = tmp_path / "base.json"
    if text is not None:
        path.write_text(text)
    ran = bench("-m", "mbpm", *TINY, "--compare", path)
    assert (ran.code, ran.stdout) == (2, "")
    assert words in ran.stderr


def test_only_a_row_with_a_slow_lower_quartile_is_slower():
    rows = [
        row("noisy", p25=1.05, p50=2.0),
        row("slow", p25=1.2, p50=1.3),
        row("new", p25=9, p50=9),
    ]
    base = BaseResult("base.json", {}, {"noisy": 1.0, "slow": 1.0, "gone": 1.0})
    compared = base.compare_rows(rows, tolerance=0.1)
    assert [(one.name, one.slower) for one in compared] == [("noisy", False), ("slow", True)]
    assert [one.ratio for one in compared] == pytest.approx([0.5, 1 / 1.3])


def test_a_row_ten_times_slower_than_its_base_is_a_regression():
    found = [row("kernel", p25=0.9, p50=1.0)]
    assert not BaseResult("", {}, {"kernel": 1.0}).compare_rows(found, tolerance=0.1)[0].slower
    assert BaseResult("", {}, {"kernel": 0.1}).compare_rows(found, tolerance=0.1)[0].slower


def test_an_absent_device_is_exit_5():
    ran = bench("-m", "mbpm", *TINY, "--device", "cuda:63")
    assert (ran.code, ran.stdout) == (5, "")
    assert "no device cuda:63: this machine has cpu" in ran.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--frames", 2), "mbpm cannot be measured on 2 frames: a window has 3"),
        (("--size", "4x4"), "mbpm cannot be measured: too small (4x4, needs 5x5)"),
        (("--batch", "1,0"), "bad --batch (1,0)"),
        (("--tolerance", "-1"), "bad --tolerance (-1)"),
        (("--input", "nowhere.mp4"), "--frames is the length of the generated clip"),
        (("-m", "nothing"), "nothing"),
    ],
)
def test_invalid_options_are_refused(options, words):
    ran = bench(*TINY, *options)
    assert (ran.code, ran.stdout) == (2, "")
    assert words in ran.stderr


def test_an_input_is_measured_in_its_own_size_and_length(tmp_path):
    clip = videos.write_clip(tmp_path / "clip.mp4", 9, height=48, width=64)
    ran = bench(
        "-m", "tvl1", "-p", "preset=fast", "--input", clip, "--batch", 1, "--repeats", 1, "--json"
    )
    found = json.loads(ran.stdout)
    assert (found["settings"]["size"], found["settings"]["frames"]) == ([64, 48], 9)
    assert found["settings"]["input"] == f"clip.mp4, {clip.stat().st_size} bytes"
    missing = bench("--input", tmp_path / "nowhere.mp4")
    assert (missing.code, missing.stdout) == (2, "")
    assert "no such file" in missing.stderr
    assert "it is a folder" in bench("--input", tmp_path).stderr


def test_decode_threads_decode_while_the_device_computes():
    ran = bench("-m", "mbpm", *TINY, "--decode-threads", 2, "--json")
    *_, decoding, whole = json.loads(ran.stdout)["rows"]
    assert (decoding["decode_threads"], whole["decode_threads"]) == (2, 2)
    assert whole["busy"]["decode"] > 0


def test_the_count_of_mbpm_is_that_of_the_formula():
    module = methods.find_method("mbpm").build_module({})
    counted = estimate_map_cost("mbpm", module, 48, 64, frames=3, itemsize=4)
    assert counted.bytes == 3 * 3 * 3072 + 3 * 3072 * 4  # three frames in, a map out
    assert counted.operations == 3 * 3072 * (81 * 2 + 5)  # 81 taps in space, 3 in time
    assert counted.compute_rates(0.001) == pytest.approx(
        {"gb_per_s": 0.064512, "gflop_per_s": 1.539072}
    )


def test_tvl1_cost_follows_levels_warps_and_iterations():
    given = {"preset": "opencv-cuda", "inner": "30", "levels": "2", "epsilon": "0"}
    method = methods.find_method("tvl1")
    counted = estimate_map_cost(
        "tvl1", method.build_module(method.complete_parameters(given)), 48, 64, frames=1, itemsize=2
    )
    pixels = 48 * 64 + 38 * 51
    assert counted.operations == 5 * pixels * (30 * 56 + 150)
    assert counted.bytes == 3072 * (1 + 2 * 2)


def test_default_tvl1_work_at_256x340_costs_two_gigaflop():
    given = {"preset": "opencv-cuda", "inner": "30", "epsilon": "0"}
    method = methods.find_method("tvl1")
    counted = estimate_map_cost(
        "tvl1",
        method.build_module(method.complete_parameters(given)),
        256,
        340,
        frames=1,
        itemsize=2,
    )
    assert counted.operations == pytest.approx(1.98e9, rel=0.01)
    assert counted.bytes == 435200


@pytest.mark.parametrize("name", methods.list_method_names())
def test_every_method_has_a_count_of_bytes(name):
    counted = estimate_map_cost(
        name, methods.find_method(name).build_module({}), 64, 80, frames=1, itemsize=4
    )
    assert counted.bytes > 64 * 80
    assert (counted.operations is None) == (name == "ms")


def test_early_stops_leave_the_operations_unknown():
    method = methods.find_method("tvl1")
    module = method.build_module(method.complete_parameters({"preset": "opencv"}))
    assert estimate_map_cost("tvl1", module, 48, 64, frames=1, itemsize=4).operations is None


@pytest.mark.parametrize("name", ["mbpm", "tvl1"])
def test_windows_move_and_lie_as_the_decoder_leaves_them(name):
    module = methods.find_method(name).build_module({})
    found = make_texture_windows(module, 4, (40, 32), torch.device("cpu"))
    assert found.shape == (4, module.length, 3 if name == "mbpm" else 1, 32, 40)
    assert found.permute(0, 1, 3, 4, 2).is_contiguous()
    assert not torch.equal(found[0, 0], found[1, 0])
    assert torch.equal(found[0, 0, :, 1:, 2:], found[0, 1, :, :-1, :-2])


@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_bare_decoding_sees_every_frame(tmp_path, color):
    clip = videos.write_clip(tmp_path / "clip.mp4", 9)
    assert decode_clip(str(clip), (80, 64), color) == 9
    assert decode_clip(str(clip), (40, 32), color) == 9


def test_a_quantile_lies_between_its_neighbors():
    assert [quantile([4.0, 1.0, 2.0], share) for share in (0, 0.25, 0.5, 1)] == [1, 1.5, 2, 4]
    assert quantile([3.0], 0.95) == 3


@pytest.mark.parametrize(("text", "share"), [("10%", 0.1), ("0.1", 0.1), ("200%", 2.0), ("0", 0.0)])
def test_a_tolerance_is_a_share(text, share):
    assert parse_tolerance(text) == pytest.approx(share)


def test_batches_are_named_once_each():
    assert parse_batches("1, 8,8,32") == (1, 8, 32)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_a_base_into_a_file_and_the_comparison_after_it(tmp_path):
    tiny = " ".join(map(str, TINY))
    line = (
        f"mrx bench -m mbpm {tiny} --json | tee base.json ; "
        f"mrx bench -m mbpm {tiny} --compare base.json || echo slower"
    )
    script = f'mrx() {{ "{sys.executable}" -m mrx "$@"; }}\n{line}'
    ran = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    first, *rest = ran.stdout.splitlines()
    assert json.loads(first) == json.loads((tmp_path / "base.json").read_text())
    assert ("slower: " in ran.stderr) == (rest[-1] == "slower")

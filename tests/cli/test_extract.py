"""`mrx extract` as its users meet it: what it says, writes and returns."""

import json
import os
import signal
import subprocess
import sys

import click
import cv2
import h5py
import numpy as np
import pytest
from support import videos
from support.command import mrx, read_manifest, read_rows, read_summary, run_process, start_process

import mrx as library
from mrx import cli
from mrx.cli.report import ProgressReport
from mrx.engines.run import Summary
from mrx.methods.table import METHOD_MODULES


@pytest.fixture
def clips(tmp_path):
    folder = tmp_path / "videos"
    (folder / "day 1").mkdir(parents=True)
    videos.write_clip(folder / "a.mp4", 12)
    videos.write_clip(folder / "day 1" / "b.mp4", 7, seed=1)
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_extracting_a_folder_prints_a_summary(clips, out):
    ran = mrx("extract", clips, "-o", out)
    assert ran.code == 0
    assert "2 inputs: 2 ok, 0 skipped, 0 failed in" in ran.stderr
    assert ran.stdout == ""
    with library.open(out) as shards:
        assert {k: shards[k]["mbpm"].shape for k in shards} == {
            "a.mp4": (4, 3, 64, 80),
            "day 1/b.mp4": (2, 3, 64, 80),
        }


def test_the_same_command_again_does_nothing(clips, out):
    mrx("extract", clips, "-o", out)
    before = {p: p.stat().st_mtime_ns for p in out.glob("*.h5")}
    ran = mrx("extract", clips, "-o", out, "--json")
    assert ran.code == 0
    assert "2 of 2 videos are done already, 0 left" in ran.stderr
    assert (read_summary(ran)["ok"], read_summary(ran)["before"]) == (2, 2)
    assert {p: p.stat().st_mtime_ns for p in out.glob("*.h5")} == before


def test_only_new_videos_are_extracted(clips, out):
    mrx("extract", clips, "-o", out)
    videos.write_clip(clips / "c.mp4", 6)
    ran = mrx("extract", clips, "-o", out, "--jsonl")
    assert [row["key"] for row in read_rows(ran)] == ["c.mp4"]


def test_a_changed_video_is_extracted_again_with_new_maps(clips, out):
    mrx("extract", clips, "-o", out)
    videos.write_clip(clips / "a.mp4", 30)
    mrx("extract", clips, "-o", out)
    with library.open(out) as shards:
        assert len(shards["a.mp4"]["mbpm"]) == 10
        assert len(list(shards.rows())) == 2


def test_other_parameters_are_refused_and_change_no_file(clips, out):
    mrx("extract", clips, "-o", out)
    before = sorted((p.name, p.stat().st_mtime_ns) for p in out.iterdir())
    ran = mrx("extract", clips, "-o", out, "--step", "2")
    assert ran.code == 4
    assert "output exists with other parameters" in ran.stderr
    assert (
        "made with mbpm.step=3, asked for mbpm.step=2. Use another -o or --overwrite" in ran.stderr
    )
    assert sorted((p.name, p.stat().st_mtime_ns) for p in out.iterdir()) == before


def test_overwrite_replaces_the_shards(clips, out):
    mrx("extract", clips, "-o", out)
    (out / "notes.txt").write_text("mine")
    assert mrx("extract", clips, "-o", out, "--step", "1", "--overwrite").code == 0
    with library.open(out) as shards:
        assert len(shards["a.mp4"]["mbpm"]) == 10
    assert (out / "notes.txt").read_text() == "mine"


def test_a_failure_is_recorded_and_retried_only_on_request(clips, out):
    bad = clips / "bad.mp4"
    bad.write_bytes(b"this is no video")
    ran = mrx("extract", clips, "-o", out)
    assert ran.code == 1
    assert "failed: bad.mp4: not a video" in ran.stderr
    assert read_manifest(out)["bad.mp4"]["status"] == "failed"
    again = mrx("extract", clips, "-o", out, "--jsonl")
    assert (again.code, read_rows(again)) == (1, [])
    stamp = bad.stat()
    videos.write_clip(bad, 9)
    os.utime(bad, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    retried = mrx("extract", clips, "-o", out, "--jsonl", "--retry-failed")
    assert retried.code == 0
    assert [row["status"] for row in read_rows(retried)] == ["ok"]


@pytest.mark.parametrize("frames", [1, 2])
def test_a_video_too_short_is_skipped_and_no_failure(tmp_path, out, frames):
    path = videos.write_clip(tmp_path / "short.mp4", frames)
    ran = mrx("extract", path, "-o", out, "--jsonl")
    assert ran.code == 0
    assert read_rows(ran)[0]["reason"] == f"too short ({frames} frames, needs 3)"
    assert read_rows(ran)[0]["status"] == "skipped"
    assert "0 ok, 1 skipped" in ran.stderr
    assert mrx("extract", path, "-o", out, "--jsonl").stdout == ""


def test_a_video_too_small_is_skipped(tmp_path, out):
    path = videos.write_clip(tmp_path / "small.mp4", 6, height=4, width=100)
    assert read_rows(mrx("extract", path, "-o", out, "--jsonl"))[0]["reason"] == (
        "too small (100x4, needs 5x5)"
    )


@pytest.mark.parametrize("n", [2, 3, 5, 6, 7, 11, 12, 13, 24, 25])
def test_no_window_is_lost_at_any_length(tmp_path, out, n):
    path = videos.write_clip(tmp_path / "a.mp4", n, height=32, width=32)
    mrx("extract", path, "-o", out, "-m", "mbpm", "--tail", "repeat")
    with library.open(out) as shards:
        assert len(shards["a.mp4"]["mbpm"]) == -(-n // 3)
        assert shards["a.mp4"]["mbpm"].items["last"][-1] == n - 1


def test_several_methods_in_one_decode_agree_with_one_at_a_time(clips, tmp_path):
    names = list(METHOD_MODULES)
    mrx("extract", clips, "-o", tmp_path / "all", *(w for n in names for w in ("-m", n)))
    for name in names:
        mrx("extract", clips, "-o", tmp_path / name, "-m", name)
        with library.open(tmp_path / "all") as both, library.open(tmp_path / name) as one:
            for key in one:
                assert np.array_equal(both[key][name][:], one[key][name][:])
                assert np.array_equal(both[key][name].items, one[key][name].items)


def test_a_video_too_short_for_one_method_keeps_the_others(tmp_path, out):
    path = videos.write_clip(tmp_path / "a.mp4", 4)
    ran = mrx("extract", path, "-o", out, "-m", "mbpm", "-m", "pa")
    assert ran.code == 0
    assert "warning: a.mp4: no pa: too short (4 frames, needs 6)" in ran.stderr
    with library.open(out) as shards:
        assert list(shards["a.mp4"]) == ["mbpm"]


def test_a_stack_is_set_for_the_methods_with_that_parameter(clips, out):
    ran = mrx("extract", clips, "-o", out, "-m", "tvl1", "-m", "mbpm", "--stack", "5")
    assert ran.code == 0, ran.stderr
    with library.open(out) as shards:
        assert shards["a.mp4"]["mbpm"].shape == (4, 3, 64, 80)
        flow = shards["a.mp4"]["tvl1"]
        assert flow.shape == (7, 10, 64, 80)
        assert list(flow.attrs["channels"][:2]) == ["x1", "y1"]
        assert (flow.attrs["units"], flow.attrs["preset"]) == ("px", "matched")
        assert np.array_equal(flow[0, 2:4], flow[1, :2])
        assert json.loads(flow.attrs["params_json"])["stack"] == 5


@pytest.mark.parametrize("backend", ["opencv", "torch"])
def test_the_backend_that_is_asked_for_computes(clips, tmp_path, backend):
    flows = {}
    before = dict(os.environ)
    for name in ("auto", backend):
        mrx("extract", clips, "-o", tmp_path / name, "-m", "tvl1", "--backend", name)
        with library.open(tmp_path / name) as shards:
            flows[name] = shards["a.mp4"]["tvl1"][:]
    assert np.abs(flows["auto"] - flows[backend]).mean() < 0.01
    assert dict(os.environ) == before


def test_worker_processes_use_the_backend_of_the_job(clips, out):
    mrx("extract", clips, "-o", out, "--backend", "torch", "--workers", "1")
    with h5py.File(out / "shard-00000.h5") as shard:
        assert json.loads(shard.attrs["versions"])["kernels"] == "torch"


def test_segments_are_the_centers_of_equal_parts(tmp_path, out):
    path = videos.write_clip(tmp_path / "a.mp4", 30)
    mrx("extract", path, "-o", out, "--segments", "4", "--dtype", "float32")
    mrx("extract", path, "-o", tmp_path / "dense", "--step", "1", "--dtype", "float32")
    with library.open(out) as shards, library.open(tmp_path / "dense") as dense:
        starts = shards["a.mp4"]["mbpm"].items["first"]
        assert starts.tolist() == [3, 10, 17, 24]
        assert np.allclose(shards["a.mp4"]["mbpm"][:], dense["a.mp4"]["mbpm"][starts], atol=1e-3)


def test_a_csv_gives_keys_ranges_and_labels(clips, tmp_path, out):
    table = tmp_path / "list.csv"
    table.write_text(
        f"path,key,start,end,label\n{clips}/a.mp4,first,0,0.24,3\n{clips}/a.mp4,second,0.24,,jump\n"
    )
    assert mrx("extract", table, "-o", out).code == 0
    with library.open(out) as shards:
        assert [len(shards[k]["mbpm"]) for k in ("first", "second")] == [2, 2]
        assert shards["second"].attrs["label"] == "jump"
        assert [row["label"] for row in shards.rows()] == [3, -1]
        assert shards["second"]["mbpm"].items["start"][0] == pytest.approx(0.24)


def test_a_bad_row_of_a_csv_is_wrong_usage_before_any_work(clips, tmp_path, out):
    (tmp_path / "x.csv").write_text(
        f"path,start\n{clips / 'a.mp4'},\n{clips / 'day 1/b.mp4'},0.5\n"
    )
    ran = mrx("extract", tmp_path / "x.csv", "-o", out, "--end", "0.2")
    assert ran.code == 2
    assert "x.csv, line 3): start 0.5 is not before end 0.2 of --end." in ran.stderr
    assert not out.exists()


def test_images_replaced_in_place_are_extracted_again(tmp_path, out):
    folder = tmp_path / "frames" / "f"
    folder.mkdir(parents=True)
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((16, 16, 3), 9 * i, np.uint8))
    words = ("extract", tmp_path / "frames", "-o", out, "--json")
    assert read_summary(mrx(*words))["ok"] == 1
    assert read_summary(mrx(*words))["before"] == 1
    before = folder.stat()
    cv2.imwrite(str(folder / "1.png"), np.full((16, 16, 3), 200, np.uint8))
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = read_summary(mrx(*words))
    assert (again["ok"], again["before"]) == (1, 0)


def test_a_video_in_a_shard_without_a_row_gets_one(clips, out):
    words = ("extract", clips, "-o", out)
    mrx(*words)
    whole = read_manifest(out)
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join(n for n in lines if '"a.mp4"' not in n))
    for _ in range(2):
        assert mrx(*words).code == 0
        assert read_manifest(out)["a.mp4"]["status"] == "ok"
    assert read_manifest(out).keys() == whole.keys()
    assert len((out / "manifest.jsonl").read_text().splitlines()) == len(lines)


def test_foreign_files_named_like_manifests_are_kept(clips, out, tmp_path):
    out.mkdir()
    (out / "manifest-0of9.jsonl").write_text("mine\n")
    (out / "manifest.jsonl").symlink_to(tmp_path / "elsewhere")
    ran = mrx("extract", clips, "-o", out, "--overwrite")
    assert ran.code == 4
    assert "Move it away, or use another -o" in ran.stderr
    assert not (tmp_path / "elsewhere").exists()
    (out / "manifest.jsonl").unlink()
    assert mrx("extract", clips, "-o", out, "--overwrite").code == 0
    assert (out / "manifest-0of9.jsonl").read_text() == "mine\n"


def test_dry_run_writes_nothing_and_estimates(clips, out):
    ran = mrx("extract", clips, "-o", out, "--dry-run")
    assert ran.code == 0
    assert [line.split() for line in ran.stdout.splitlines()] == [
        ["12", "122.9", "kB", "a.mp4"],
        ["7", "61.4", "kB", "day", "1/b.mp4"],
    ]
    assert "2 inputs: 2 to extract (about 184.3 kB, 873.1 MB an hour of video)" in ran.stderr
    assert not out.exists()


def test_print_path_gives_each_finished_shard(clips, out):
    ran = mrx("extract", clips, "-o", out, "--print", "path", "--videos-per-shard", "1")
    assert ran.stdout.splitlines() == [str(out / f"shard-0000{i}.h5") for i in (0, 1)]


def test_stdout_stays_empty_when_everything_failed(tmp_path, out):
    (tmp_path / "bad.mp4").write_bytes(b"no")
    ran = mrx("extract", tmp_path / "bad.mp4", "-o", out, "--print", "path")
    assert (ran.code, ran.stdout) == (1, "")


def test_shards_rotate_by_size(clips, out):
    mrx("extract", clips, "-o", out, "--shard-size", "1kB")
    assert len(list(out.glob("shard-*.h5"))) == 2


@pytest.mark.parametrize("dtype", ["float16", "float32", "q16", "uint8"])
@pytest.mark.parametrize("compression", ["none", "gzip", "lzf"])
def test_every_type_and_filter_reads_back(tmp_path, out, dtype, compression):
    path = videos.write_clip(tmp_path / "a.mp4", 9)
    mrx("extract", path, "-o", out, "--dtype", dtype, "--compression", compression)
    mrx("extract", path, "-o", tmp_path / "exact", "--dtype", "float32")
    with library.open(out) as shards, library.open(tmp_path / "exact") as exact:
        stored = shards["a.mp4"]["mbpm"]
        bound = stored.attrs.get("bound", 0)
        step = {"float16": 0.5, "float32": 0, "q16": bound / 32767, "uint8": bound / 127}[dtype]
        inside = np.clip(exact["a.mp4"]["mbpm"][:], *((-bound, bound) if bound else (None, None)))
        assert abs(stored[:] - inside).max() <= step


def test_blosc_needs_its_package(clips, out, monkeypatch):
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    ran = mrx("extract", clips, "-o", out, "--compression", "blosc")
    assert ran.code == 5
    assert "pip install 'mrx[small]'" in ran.stderr


def test_blosc_reads_back(clips, out):
    pytest.importorskip("hdf5plugin", reason="hdf5plugin is not installed")
    mrx("extract", clips, "-o", out, "--compression", "blosc")
    with library.open(out) as shards:
        assert np.isfinite(shards["a.mp4"]["mbpm"][:]).all()


def test_parameters_change_the_maps_and_are_stored_as_attributes(clips, out):
    mrx("extract", clips, "-o", out, "-p", "sigma=1.5", "-p", "scale=paper")
    with library.open(out) as shards:
        attributes = shards["a.mp4"]["mbpm"].attrs
        assert json.loads(attributes["params_json"])["sigma"] == 1.5
        assert abs(shards["a.mp4"]["mbpm"][:]).max() < 20


def test_attributes_describe_the_video_and_its_maps(clips, out):
    mrx("extract", clips, "-o", out)
    with h5py.File(out / "shard-00000.h5") as file:
        video = file["videos/a.mp4"].attrs
        assert (video["n_frames_decoded"], video["avg_fps"], video["orig_w"]) == (12, 25.0, 80)
        assert (video["codec"], video["clock"], video["scaling"]) == ("h264", "pts", "none")
        maps = file["videos/a.mp4/mbpm"].attrs
        assert list(maps["channels"]) == ["red", "green", "blue"]
        assert (maps["units"], maps["step"], maps["scale"], maps["offset"]) == ("a.u.", 3, 1, 0)
        assert maps["min"] < 0 < maps["max"]
        assert "libswscale" in file.attrs["versions"]


def test_the_environment_sets_options(clips, out):
    environment = {"MRX_EXTRACT_OUTPUT": str(out), "MRX_EXTRACT_STEP": "1"}
    assert mrx("extract", clips, env=environment).code == 0
    with library.open(out) as shards:
        assert len(shards["a.mp4"]["mbpm"]) == 10


def commands():
    return {name: cli.main.get_command(click.Context(cli.main), name) for name in cli.COMMANDS}


OPTIONS = [
    pytest.param(name, long, option, id=f"{name}{long}")
    for name, command in commands().items()
    for option in command.params
    for long in option.opts
    if long.startswith("--")
]


@pytest.mark.parametrize(("name", "long", "option"), OPTIONS)
def test_every_option_has_a_variable_of_its_own_name(name, long, option, monkeypatch):
    command = commands()[name]
    value = getattr(option.type, "choices", ["1"])[0]
    monkeypatch.setenv(f"MRX_{name}_{long[2:]}".replace("-", "_").upper(), value)
    needed = [p for p in command.params if isinstance(p, click.Argument) and p.required]
    words = [getattr(p.type, "choices", ["x"])[0] for p in needed]
    others = [p for p in command.params if isinstance(p, click.Option) and p.name != option.name]
    words += [word for p in others if p.required for word in (p.opts[-1], "x")]
    context = command.make_context(name, words, cli.main.make_context("mrx", [name, *words]))
    assert context.get_parameter_source(option.name) is click.core.ParameterSource.ENVIRONMENT


def test_a_variable_takes_several_values(clips, out):
    environment = {
        "MRX_EXTRACT_METHOD": "mbpm pa",
        "MRX_EXTRACT_PARAM": "mbpm.size=5 pa.n_length=4",
    }
    assert mrx("extract", clips, "-o", out, env=environment).code == 0
    with library.open(out) as shards:
        assert sorted(shards["a.mp4"]) == ["mbpm", "pa"]
        assert len(shards["a.mp4"]["pa"]) == 3


@pytest.fixture
def sigint_heeded():
    """A job in the background is started with SIGINT ignored, and so would be what it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint_heeded")
def test_sigint_before_the_run_begins_is_one_line_and_130():
    with start_process("extract", "-", stdin=subprocess.PIPE) as waiting:
        waiting.stdin.write(b"\n" * 2**17)  # more than a pipe holds: it is being read now
        waiting.stdin.flush()
        waiting.send_signal(signal.SIGINT)
        told = waiting.communicate(timeout=60)[1]
    assert (waiting.returncode, told) == (130, b"stopped by SIGINT\n")


def test_quiet_and_verbose_work_before_and_after_the_command(clips, out):
    videos.write_clip(clips / "short.mp4", 2)
    for i, words in enumerate((["-q", "extract"], ["extract", "-q"])):
        assert mrx(*words, clips, "-o", out / str(i), "--workers", "0").stderr == ""
    for i, words in enumerate((["-v", "extract"], ["extract", "--verbose"])):
        ran = mrx(*words, clips, "-o", out / f"v{i}", "--workers", "0")
        assert "skipped: short.mp4: too short" in ran.stderr


def test_two_v_after_the_command_add_the_traceback_of_an_error(clips, out):
    ran = mrx("extract", clips, "-o", out, "-vv", "--step", "0")
    assert "Traceback" in ran.stderr
    assert "UsageError" in ran.stderr


def test_a_note_is_printed_even_if_quiet(capsys):
    report = ProgressReport(verbose=0, quiet=True, progress=True, output="nothing")
    report.note("set aside broken-\n1")
    assert capsys.readouterr() == ("", "set aside broken-%0A1\n")


def test_quiet_hides_the_report_of_saved_videos(capsys):
    for quiet, told in ((True, ""), (False, "recovered 3 videos from a killed run\n")):
        report = ProgressReport(verbose=0, quiet=quiet, progress=True, output="nothing")
        report.begin(Summary("out", salvaged=3), left=0)
        report.close()
        assert capsys.readouterr().err == told


def test_endings_are_taken_with_blanks_dots_and_capitals(clips, out):
    (clips / "a.mp4").rename(clips / "a.xyz")
    ran = mrx("extract", clips, "-o", out, "--ext", " .MP4, xyz,", "--jsonl")
    assert sorted(row["key"] for row in read_rows(ran)) == ["a.xyz", "day 1/b.mp4"]


USAGE = [
    (["-m", "mbpmm"], 2, "no method mbpmm: choose from mbpm, dynamic-image, pa"),
    (["-p", "sigm=1"], 2, "mbpm has no parameter sigm; it has sigma=1.1, size=9"),
    (["-p", "sigma"], 2, "bad -p (sigma): give NAME=VALUE"),
    (["-p", "sigma=much"], 2, "mbpm.sigma=much: not of type float"),
    (["-p", "scale=big"], 2, "mbpm.scale=big: choose from released, paper"),
    (["-p", "size=4"], 2, "odd"),
    (["-m", "pa", "-m", "mbpm", "-p", "sigma=1"], 2, "pa has no parameter sigma"),
    (["--weights", "nowhere.pt"], 2, "nowhere.pt"),
    (["--stack", "5"], 2, "stack=5: none of these methods takes a stack: mbpm"),
    (
        ["-m", "tvl1", "--stack", "5", "-p", "stack=3"],
        2,
        "conflicting stack values 5 and 3: give one",
    ),
    (["-m", "tvl1", "-p", "cubic=nan"], 2, "tvl1: cubic=nan: must be in -2..0"),
    (["-m", "tvl1", "--stack", "0"], 2, "tvl1: stack=0: must be at least 1"),
    (
        ["-m", "tvl1", "-p", "preset=best"],
        2,
        "choose from matched, accurate, fast, opencv, opencv-cuda",
    ),
    (["-m", "ms", "--dtype", "uint8"], 2, "uint8 cannot store ms's confidence"),
    (["-m", "ms", "--stack", "2", "--dtype", "uint8"], 2, "uint8 cannot store ms's confidence"),
    (["-m", "ms", "-p", "features=resnet18", "-p", "refinement=none"], 2, "stride=4: resnet18"),
    (["--backend", "abacus"], 2, "Invalid value for '--backend'"),
    (["--step", "0"], 2, "error: --step must be a positive integer, not 0"),
    (["--short-side", "0"], 2, "error: --short-side must be a positive integer, not 0"),
    (["--fps", "nan"], 2, "error: --fps must be a finite number above 0, not nan"),
    (["--fps", "inf"], 2, "error: --fps must be a finite number above 0, not inf"),
    (["--image-fps", "0"], 2, "error: --image-fps must be a finite number above 0, not 0"),
    (["--timeout", "-1"], 2, "error: --timeout is a finite number of seconds, or 0, not -1"),
    (["--timeout", "nan"], 2, "error: --timeout is a finite number of seconds, or 0, not nan"),
    (["--size", "²x²"], 2, "bad size (²x²): give width x height"),
    (["--size", "340"], 2, "bad size (340): give width x height"),
    (
        ["--start", "3", "--end", "2"],
        2,
        "error: --end must be a finite number above start=3, not 2",
    ),
    (["--shard-size", "big"], 2, "bad size (big)"),
    (["--shard-size", "inf"], 2, "bad size (inf)"),
    (["--shard-size", "0"], 2, "error: --shard-size must be a positive integer, not 0"),
    (["--bound", "-1"], 2, "error: --bound must be a finite number above 0, not -1"),
    (["--bound", "nan"], 2, "error: --bound must be a finite number above 0, not nan"),
    (["--output", ""], 2, "bad output (): give a local folder"),
    (["--output", "s3://b/x"], 2, "bad output (s3://b/x): give a local folder"),
    (["--shard", "8/8"], 2, "bad shard (8/8)"),
    (["--shard", "auto"], 2, "SLURM_ARRAY_TASK_ID"),
    (["--device", "cuda:7"], 5, "no device cuda:7: this machine has cpu"),
    (["--device", "abacus"], 5, "no device abacus"),
    (["--dtype", "int4"], 2, "Invalid value for '--dtype'"),
    (["--no-such-option"], 2, "No such option"),
]


@pytest.mark.parametrize(("options", "code", "text"), USAGE)
def test_invalid_options_give_a_clear_error_and_write_no_shard(clips, out, options, code, text):
    ran = mrx("extract", clips, "-o", out, *options)
    assert ran.code == code
    assert text in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not list(out.glob("*.h5"))


def test_no_input_is_its_own_exit_code(tmp_path, out):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere.mp4"):
        ran = mrx("extract", tmp_path / name, "-o", out)
        assert ran.code == 3, ran.stderr
        assert name in ran.stderr
    assert mrx("extract", "-o", out).code == 2


def test_two_inputs_with_one_key_are_an_error_before_any_work(clips, out):
    videos.write_clip(clips / "day 1" / "a.mp4", 6)
    ran = mrx("extract", clips, "-o", out, "--key", "stem")
    assert ran.code == 2
    assert str(clips / "a.mp4") in ran.stderr
    assert str(clips / "day 1" / "a.mp4") in ran.stderr
    assert not out.exists()


def test_a_missing_input_fails_unless_it_is_allowed(clips, tmp_path, out):
    names = tmp_path / "list.txt"
    names.write_text(f"{clips}/a.mp4\r\n\r\n# a comment\r\n{clips}/gone.mp4\r\n")
    ran = mrx("extract", f"@{names}", "-o", out, "--jsonl")
    assert ran.code == 1
    assert (read_rows(ran)[0]["status"], read_rows(ran)[0]["reason"]) == ("failed", "no such file")
    allowed = mrx("extract", f"@{names}", "-o", tmp_path / "out2", "--missing-ok")
    assert allowed.code == 0
    assert "1 ok, 1 skipped" in allowed.stderr


def test_an_output_that_is_a_file_or_named_like_one_is_refused(clips, tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "one.h5"):
        ran = mrx("extract", clips, "-o", tmp_path / name)
        assert ran.code == 2
        assert "give a folder" in ran.stderr


def test_max_failures_stops_the_run(tmp_path, out):
    for i in range(6):
        (tmp_path / f"bad{i}.mp4").write_bytes(b"no video")
    ran = mrx("extract", tmp_path, "-o", out, "--max-failures", "2")
    assert ran.code == 1
    assert "3 failed, 3 not reached" in ran.stderr
    assert "stopped: more than 2 inputs failed" in ran.stderr


def test_a_full_run_after_all_shares_has_nothing_left(tmp_path, out):
    (tmp_path / "videos").mkdir()
    for i in range(5):
        videos.write_clip(tmp_path / "videos" / f"{i}.mp4", 6)
    for share in ("0/2", "1/2"):
        assert mrx("extract", tmp_path / "videos", "-o", out, "--shard", share).code == 0
    ran = mrx("extract", tmp_path / "videos", "-o", out)
    assert "5 of 5 videos are done already, 0 left" in ran.stderr
    with library.open(out) as shards:
        assert len(shards) == 5


def test_a_url_is_an_input(clips, out, served):
    ran = mrx("extract", f"{served}/a.mp4", "-o", out, "--jsonl")
    assert ran.code == 0, ran.stderr
    assert read_rows(ran)[0]["n_out"] == {"mbpm": 4}


@pytest.fixture
def served(clips):
    import http.server
    import threading
    from functools import partial

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(clips))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_parent_of_workers_loads_nothing_heavy(clips, out):
    program = (
        "import sys; from mrx.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'cv2', 'av', 'h5py', 'numba'} & sys.modules.keys()\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    words = ["extract", str(clips), "-o", str(out), "--workers", "2"]
    ran = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "2 ok" in ran.stderr


def test_names_that_are_not_utf8_are_found_again(tmp_path, out):
    path = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    videos.write_clip(tmp_path / "a.mp4", 6).rename(os.fsdecode(path))
    assert run_process("extract", path, "-o", out, "--workers", "0").returncode == 0
    listed = run_process("ls", out, "--jsonl")
    assert json.loads(listed.stdout)["key"] == "caf%E9.mp4"


def test_relative_and_absolute_calls_give_the_same_keys(clips, out, tmp_path, monkeypatch):
    monkeypatch.chdir(clips)
    mrx("extract", "day 1", "a.mp4", "-o", out)
    ran = mrx("extract", clips / "day 1", clips / "a.mp4", "-o", out)
    assert "2 of 2 videos are done already" in ran.stderr

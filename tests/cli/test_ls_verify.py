"""`mrx ls`, `mrx verify`, `mrx methods`, `mrx doctor`, `mrx completion`."""

import csv
import io
import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from support import videos
from support.command import mrx

import mrx as library
from mrx.methods.table import METHOD_MODULES


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    videos.write_clip(folder / "a.mp4", 12)
    videos.write_clip(folder / "short.mp4", 2)
    (folder / "bad.mp4").write_bytes(b"no")
    mrx("extract", folder, "-o", tmp_path / "out", "-m", "mbpm", "-m", "pa")
    return tmp_path / "out"


def listed(*arguments):
    return [json.loads(line) for line in mrx("ls", *arguments, "--jsonl").stdout.splitlines()]


def test_ls_lists_extracted_failed_and_skipped_videos(out):
    found = [(r["key"], r["status"], r.get("method"), r.get("n_out")) for r in listed(out)]
    assert sorted(found, key=str) == [
        ("a.mp4", "ok", "mbpm", 4),
        ("a.mp4", "ok", "pa", 2),
        ("bad.mp4", "failed", "mbpm,pa", None),
        ("short.mp4", "skipped", "mbpm,pa", None),
    ]


def test_ls_shows_the_failure_of_a_video_in_an_older_shard(out, tmp_path):
    (tmp_path / "videos" / "a.mp4").write_bytes(b"no more")
    mrx("extract", tmp_path / "videos", "-o", out, "-m", "mbpm", "-m", "pa")
    failed = [r["key"] for r in listed(out, "--status", "failed")]
    assert sorted(failed) == ["a.mp4", "bad.mp4"]
    assert [r["key"] for r in listed(out, "--status", "ok")] == ["a.mp4", "a.mp4"]


def test_ls_hides_a_failure_that_was_repaired_later(out, tmp_path):
    bad = tmp_path / "videos" / "bad.mp4"
    stamp = bad.stat()
    manifest = (out / "manifest.jsonl").read_text()
    header = manifest.splitlines()[0]
    videos.write_clip(bad, 9)
    mrx("extract", tmp_path / "videos", "-o", out, "-m", "mbpm", "-m", "pa")
    assert listed(out, "--status", "failed") == []
    row = next(json.loads(line) for line in manifest.splitlines() if '"bad.mp4"' in line)
    new = bad.stat()
    for size, shown in ((stamp.st_size, ["bad.mp4"]), (new.st_size, [])):
        again = json.dumps({**row, "size": size, "mtime": new.st_mtime, "run": 9})
        (out / "manifest-0of2.jsonl").write_text(f"{header}\n{again}\n")
        assert [r["key"] for r in listed(out, "--status", "failed")] == shown


def test_ls_lists_a_key_of_two_manifests_by_the_later_run(out):
    header, *rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    row = next(row for row in rows if row["key"] == "bad.mp4")
    for i, (run, told) in enumerate([(row["run"] + 1, "still bad"), (0, row["reason"])]):
        other = {**row, "reason": "still bad", "run": run}
        lines = [json.dumps(header), json.dumps(other)]
        (out / "manifest-0of2.jsonl").write_text("\n".join(lines) + "\n")
        # The times of the files tell nothing.
        os.utime(out / "manifest.jsonl", (i, i))
        found = listed(out, "--status", "failed")
        assert [(r["key"], r["reason"]) for r in found] == [("bad.mp4", told)]


def test_ls_filters_by_status_and_by_column(out):
    assert [r["key"] for r in listed(out, "--status", "failed")] == ["bad.mp4"]
    assert [r["n_out"] for r in listed(out, "--where", "method=pa")] == [2]
    assert mrx("ls", out, "--where", "colour=red").code == 2


def test_ls_speaks_json_and_csv_and_to_people(out):
    assert len(json.loads(mrx("ls", out, "--json").stdout)) == 4
    table = list(csv.DictReader(io.StringIO(mrx("ls", out, "--csv").stdout)))
    assert [row["key"] for row in table if row["method"] == "mbpm"] == ["a.mp4"]
    assert "ok       mbpm           4x3x64x80           25.00 fps     0.48 s  a.mp4" in (
        mrx("ls", out).stdout
    )


def test_ls_of_one_video_shows_its_attributes_and_statistics(out):
    shown = json.loads(mrx("ls", f"{out}/shard-00000.h5::a.mp4").stdout)
    assert shown["n_frames_decoded"] == 12
    assert shown["methods"]["mbpm"]["shape"] == [4, 3, 64, 80]
    assert shown["methods"]["mbpm"]["absmean"] > 0
    assert json.loads(mrx("ls", f"{out}::a.mp4").stdout) == shown
    missing = mrx("ls", f"{out}/shard-00000.h5::z.mp4")
    assert (missing.code, "no such key (z.mp4)" in missing.stderr) == (2, True)


def test_ls_reads_paths_from_stdin(out):
    assert len(mrx("ls", "-", "--jsonl", input=f"{out}\n").stdout.splitlines()) == 4


def test_ls_refuses_a_missing_output(tmp_path):
    assert mrx("ls", tmp_path / "nowhere").code == 3


def test_verify_of_a_good_output_is_quiet_and_zero(out):
    ran = mrx("verify", out)
    assert (ran.code, ran.stdout, ran.stderr) == (0, "", "no problems\n")


def test_verify_takes_quiet_before_and_after_the_command(out):
    for words in (["-q", "verify"], ["verify", "-q"]):
        assert mrx(*words, out).output == ""


def test_repair_touches_shards_only(out):
    (out / "manifest.jsonl").rename(out / "notes.h5")
    for name in ("notes.h5", "shard-1.h5"):
        (out / name).write_text("mine")
        ran = mrx("verify", out / "shard-00000.h5", out / name, "--repair")
        assert ran.code == 2
        assert f"not a shard ({out / name})" in ran.stderr
        assert (out / name).read_text() == "mine"


def test_a_bad_map_is_named_removed_and_extracted_again(out, tmp_path):
    with h5py.File(out / "shard-00000.h5", "r+") as file:
        file["videos/a.mp4/mbpm"][2] = np.nan
    ran = mrx("verify", out, "--jsonl")
    assert ran.code == 1
    assert "a.mp4" in [json.loads(line)["key"] for line in ran.stdout.splitlines()]
    repaired = mrx("verify", out, "--repair")
    assert "kept 0 videos, 1 to extract again" in repaired.stderr
    again = mrx(
        *("extract", tmp_path / "videos", "-o", out, "-m", "mbpm", "-m", "pa", "--retry-failed")
    )
    assert "1 ok, 1 skipped, 1 failed" in again.stderr
    assert mrx("verify", out).code == 0
    with library.open(out) as shards:
        assert np.isfinite(shards["a.mp4"]["mbpm"][:]).all()


def test_a_truncated_shard_stops_extract_until_it_is_repaired(out, tmp_path):
    shard = out / "shard-00000.h5"
    os.truncate(shard, shard.stat().st_size // 2)
    words = ("extract", tmp_path / "videos", "-o", out, "-m", "mbpm", "-m", "pa")
    ran = mrx(*words)
    assert ran.code == 4
    assert ran.stderr.startswith(f"error: broken shard ({shard}): truncated. mrx verify --repair")
    assert mrx("verify", out, "--repair").code == 1
    assert mrx(*words).code == 1
    with library.open(out) as shards:
        assert len(shards["a.mp4"]["mbpm"]) == 4


def test_a_shard_of_a_newer_format_is_left_alone(out, tmp_path):
    with h5py.File(out / "shard-00000.h5", "r+") as file:
        file.attrs["mrx_format"] = 7
    for words in (["extract", tmp_path / "videos", "-o", out], ["ls", out], ["verify", out]):
        ran = mrx(*words)
        assert ran.code == (1 if words[0] == "verify" else 4)
        assert "format 7, this mrx reads format 2" in ran.stderr + ran.stdout
        assert "Traceback" not in ran.stderr


def test_a_shard_that_another_process_writes_to_is_named(out):
    program = (
        "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(out / "shard-00000.h5")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        other.stdout.readline()
        ran = mrx("ls", out)
        other.communicate(b"\n")
    assert ran.code == 4
    assert "shard is open in another process" in ran.stderr


def test_methods_lists_each_with_its_windows():
    names = [line.split()[0] for line in mrx("methods").stdout.splitlines()]
    assert names == list(METHOD_MODULES)


def test_methods_tells_the_parameters_of_one():
    text = mrx("methods", "mbpm").stdout
    assert "-p sigma=1.1" in text
    assert "3 RGB frames, step 3 -> 3 channels (red, green, blue)" in text
    known = json.loads(mrx("methods", "pa", "--json").stdout)
    assert (known["length"], known["step"], len(known["channels"])) == (6, 6, 5)


def test_an_unknown_method_is_refused_with_a_list_of_the_known():
    ran = mrx("methods", "raft")
    assert (ran.code, "choose from mbpm, dynamic-image, pa" in ran.stderr) == (2, True)


def test_doctor_tells_versions_devices_and_kernels():
    facts = json.loads(mrx("doctor", "--json").stdout)
    assert "cpu" in facts["devices"]
    assert facts["kernels"][-1] == "torch"
    assert facts["triton"]
    assert "libavcodec" in mrx("doctor").stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(shell):
    assert "_MRX_COMPLETE" in mrx("completion", shell).stdout


def test_every_command_has_a_help_text():
    for command in ("extract", "methods", "ls", "verify", "doctor", "completion"):
        ran = mrx(command, "--help")
        assert ran.code == 0
        assert ran.stdout.count("\n") > 5


def test_version_names_the_libraries_that_affect_the_maps():
    text = mrx("--version").stdout
    assert all(name in text for name in ("mrx 0.", "torch", "av", "h5py"))


def test_help_is_instant_and_loads_nothing_heavy():
    program = (
        "import sys, time; from mrx.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'cv2', 'av', 'h5py'} & sys.modules.keys()\n"
        "assert time.process_time() < 0.3, time.process_time()"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr

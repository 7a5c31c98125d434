"""Hostile and unusual files: every one ends as expected.json says, and the run goes on."""

import json
import os

import pytest
from support.command import read_rows, run_process

import mrx

pytestmark = pytest.mark.slow

FRAME_BY_FRAME = ("-m", "dynamic-image", "-p", "length=1", "--step", "1", "--no-resize")
CYCLE = "sub/up"


def expectations(odd):
    entries = json.loads((odd / "expected.json").read_text())
    for entry in entries:
        if entry["file"] == "noperm.mp4" and os.geteuid() == 0:
            entry |= {"frames": 24, "size": [160, 120]}
    return entries


def as_expected(row, entry, shards):
    if entry["frames"] is None:
        return row["status"] == "failed" and row["reason"]
    few, many = entry["frames"] if isinstance(entry["frames"], list) else [entry["frames"]] * 2
    if row["status"] != "ok" or not few <= row["frames"] <= many:
        return False
    count, _, height, width = shards[row["key"]]["dynamic-image"].shape
    return count == row["frames"] and [width, height] == (entry["size"] or [320, 240])


def test_every_odd_file_of_a_list_ends_as_expected(odd, tmp_path):
    entries = expectations(odd)
    names = b"\0".join(os.fsencode(odd / entry["file"]) for entry in entries)
    ran = run_process(
        *("extract", "-0", "-", "-o", tmp_path / "out", *FRAME_BY_FRAME, "--jsonl"),
        *("--compression", "lzf"),
        stdin=names,
    )
    assert ran.returncode == 1
    by_path = {row["path"]: row for row in read_rows(ran)}
    with mrx.open(tmp_path / "out") as shards:
        wrong = [
            (entry["file"], by_path[str(odd / entry["file"])])
            for entry in entries
            if not as_expected(by_path[str(odd / entry["file"])], entry, shards)
        ]
    assert not wrong
    ok = sum(entry["frames"] is not None for entry in entries)
    closing = ran.stderr.decode().splitlines()[-1]
    assert f"72 inputs: {ok} ok, 0 skipped, {72 - ok} failed" in closing
    assert run_process("verify", tmp_path / "out").returncode == 0


def test_a_scan_of_the_odd_folder_takes_only_known_videos(odd, tmp_path):
    ran = run_process("extract", odd, "-o", tmp_path / "out", *FRAME_BY_FRAME, "--jsonl")
    entries = {str(odd / entry["file"]): entry for entry in expectations(odd)}
    taken = {row["path"]: row for row in read_rows(ran)}
    passed_over = {os.path.relpath(path, odd) for path in entries.keys() - taken.keys()}
    assert passed_over == {
        *(".hidden.mp4", "noextension", "trailing.mp4 ", "cover_art.mp3"),
        *("clip.mp4", "frames_empty", CYCLE),
    }
    assert taken.keys() <= entries.keys()
    with mrx.open(tmp_path / "out") as shards:
        assert all(as_expected(row, entries[path], shards) for path, row in taken.items())
    assert ran.returncode == 1
    assert "passed over in folders: 1 hidden" in ran.stderr.decode()


def test_reasons_name_the_cause_in_one_line(odd, tmp_path):
    names = ["audio_only.mp4", "zero.mp4", "fifo.mp4", "loop.mp4", "encrypted.mp4", "frames_empty"]
    ran = run_process("extract", *(odd / n for n in names), "-o", tmp_path / "out", "--jsonl")
    reasons = [row["reason"] for row in sorted(read_rows(ran), key=lambda row: row["key"])]
    assert reasons == [
        "no video stream; it holds audio",
        "encrypted: nothing decodable (12 packets, 11 errors)",
        "not a regular file",
        "is a directory without frames",
        "too many levels of symbolic links",
        "empty file",
    ]
    assert b"Traceback" not in ran.stderr

import json
import os
import subprocess
import sys

import pytest

from mrx import manifest
from mrx.errors import OutputError
from mrx.job import ManifestRow
from mrx.manifest import (
    Manifest,
    check_manifest,
    is_own_manifest,
    is_share_free,
    list_manifests,
    lock_output,
    lock_salvage,
    merge_rows,
    read_rows,
)

SETTINGS = {"methods": {"mbpm": {}}}


def written(folder, *keys, share=""):
    opened = Manifest(folder, share, SETTINGS)
    for key in keys:
        opened.append_row(ManifestRow(key, "failed", f"because of {key}"))
    opened.close()
    return next(iter(folder.glob("manifest*.jsonl")))


def test_rows_come_back_with_the_settings(tmp_path):
    settings, rows = read_rows(written(tmp_path, "a", "b"))
    assert settings == SETTINGS
    assert rows["b"] == ManifestRow("b", "failed", "because of b")


def test_the_last_row_of_a_key_is_read(tmp_path):
    written(tmp_path, "a")
    opened = Manifest(tmp_path, "", SETTINGS)
    opened.append_row(ManifestRow("a", "ok"))
    opened.close()
    assert read_rows(tmp_path / "manifest.jsonl")[1]["a"].status == "ok"


def test_a_torn_line_is_skipped_and_the_next_line_is_read(tmp_path):
    path = written(tmp_path, "a")
    path.write_text(path.read_text() + '{"key": "torn", "sta')
    written(tmp_path, "b")
    assert read_rows(path)[1].keys() == {"a", "b"}


def test_each_share_writes_its_own_manifest(tmp_path):
    assert written(tmp_path, "a", share="3of8").name == "manifest-3of8.jsonl"


def test_any_name_is_read_back_unchanged(tmp_path):
    path = written(tmp_path, "caf%E9 日本\u2028.mp4")
    assert path.read_text().isascii()
    assert "caf%E9 日本\u2028.mp4" in read_rows(path)[1]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_run_of_all_stands_alone_and_shares_stand_side_by_side(tmp_path):
    with lock_output(tmp_path, "0of2"), lock_output(tmp_path, "1of2"):
        with (
            pytest.raises(OutputError, match="being written by another run"),
            lock_output(tmp_path, ""),
        ):
            pass
        with (
            pytest.raises(OutputError, match="split the work with --shard"),
            lock_output(tmp_path, "0of2"),
        ):
            pass
    with lock_output(tmp_path, ""):
        pass


def test_other_jsonl_files_are_no_manifests(tmp_path):
    written(tmp_path, "a")
    (tmp_path / "manifest-train.jsonl").write_text('{"key": 1}')
    assert [p.name for p in list_manifests(tmp_path)] == ["manifest.jsonl"]


def test_lines_that_are_no_rows_are_passed_over(tmp_path):
    path = written(tmp_path, "a")
    path.write_bytes(path.read_bytes() + b'{"key": "b"}\n\xff\xfe\n[]\n')
    assert read_rows(path)[1].keys() == {"a"}


# Files of others


def make_foreign_files(folder):
    folder.mkdir()
    (folder / "text").write_text("keep\n")
    (folder / "link").symlink_to("text")
    (folder / "loose").symlink_to("nowhere")
    (folder / "rows").write_text('{"key": "a", "status": "ok"}\n{"mrx_format": 1}\n')
    (folder / "blank").write_text("\nkeep\n")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    return sorted(folder.iterdir())


def test_a_foreign_manifest_is_refused_and_left_as_it_is(tmp_path):
    for path in make_foreign_files(tmp_path / "others"):
        out = tmp_path / f"out-{path.name}"
        out.mkdir()
        named = out / "manifest.jsonl"
        path.rename(named)
        before = named.lstat()
        assert not is_own_manifest(named)
        assert list_manifests(out) == []
        message = r"^not a file of mrx \(.*manifest\.jsonl\): .* Move it away, or use another -o$"
        for act in (lambda out=out: check_manifest(out, ""), lambda out=out: written(out, "a")):
            with pytest.raises(OutputError, match=message):
                act()
        after = named.lstat()
        assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_link_to_a_manifest_of_mrx_is_not_followed(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    path = written(tmp_path / "a", "a")
    before = path.read_bytes()
    (tmp_path / "b" / "manifest.jsonl").symlink_to(path)
    with pytest.raises(OutputError, match="does not follow links"):
        written(tmp_path / "b", "b")
    with pytest.raises(OutputError, match="does not follow links"):
        read_rows(tmp_path / "b" / "manifest.jsonl")
    assert path.read_bytes() == before
    assert list_manifests(tmp_path / "b") == []


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    for name in (".lock", ".lock-gate", ".lock-0of2", ".lock-of2"):
        out = tmp_path / name
        out.mkdir()
        (out / name).symlink_to(tmp_path / "target")
        with (
            pytest.raises(OutputError, match=rf"not a file of mrx \(.*{name}\)"),
            lock_output(out, "0of2"),
        ):
            pass
    assert not (tmp_path / "target").exists()


def test_a_manifest_cut_off_anywhere_is_continued(tmp_path):
    whole = written(tmp_path, "a").read_bytes()
    for end in range(len(whole) + 1):
        (tmp_path / "manifest.jsonl").write_bytes(whole[:end])
        assert is_own_manifest(tmp_path / "manifest.jsonl")
        settings, rows = read_rows(written(tmp_path, "b"))
        assert settings == SETTINGS
        assert "b" in rows
        assert is_own_manifest(tmp_path / "manifest.jsonl")


def test_a_manifest_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    path = written(tmp_path, "a")

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OutputError, match=r"^cannot read \(.*\.jsonl\): Permission denied$"):
        list_manifests(tmp_path)
    assert path.exists()


def test_a_line_is_written_whole_even_in_parts(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))
    assert read_rows(written(tmp_path, "a", "b"))[1].keys() == {"a", "b"}


# Rows of several runs


def test_of_two_manifests_the_row_of_the_later_run_counts():
    old, new = ManifestRow("a", "failed", run=2), ManifestRow("a", "ok", run=3)
    other = ManifestRow("b", "ok")
    assert merge_rows([{"a": old, "b": other}, {"a": new}]) == {"a": new, "b": other}
    assert merge_rows([{"a": new}, {"a": old, "b": other}]) == {"a": new, "b": other}


# Locks of several processes

HOLD = """
import sys
from pathlib import Path
from mrx.errors import OutputError
from mrx.manifest import lock_output
input()  # all begin at once
try:
    with lock_output(Path(sys.argv[1]), sys.argv[2]):
        print("in", flush=True)
        input()
except OutputError as error:
    print(error, flush=True)
"""


class Holder:
    """A process that takes the lock of a share when told, and holds it until told."""

    def __init__(self, folder, share):
        self.share = share
        command = [sys.executable, "-c", HOLD, str(folder), share]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def begin(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def read_answer(self):
        return self.process.stdout.readline().strip()

    def end(self, kill=False):
        if kill:
            self.process.kill()
        self.process.communicate(None if kill or self.process.poll() is not None else "\n")


@pytest.fixture
def hold(tmp_path):
    holders = []

    def start(*shares):
        started = [Holder(tmp_path, share) for share in shares]
        holders.extend(started)
        for holder in started:
            holder.begin()
        return started, [holder.read_answer() for holder in started]

    yield start
    for holder in holders:
        holder.end(kill=True)


def test_a_share_of_another_count_is_refused_in_one_line(tmp_path, hold):
    (first, second), told = hold("0of2", "1of2")
    assert told == ["in", "in"]
    (_,), (refusal,) = hold("1of3")
    assert refusal == (
        f"output is being written by another run ({tmp_path}): it has --shard 0/2, this one "
        "--shard 1/3. Wait until it ends, give all runs the same N, or use another -o"
    )
    first.end()
    second.end(kill=True)
    assert hold("1of3")[1] == ["in"]


def test_a_run_without_shares_stands_alone_among_processes(tmp_path, hold):
    (whole,), told = hold("")
    assert told == ["in"]
    assert "being written by another run" in hold("0of2")[1][0]
    whole.end()
    assert hold("0of2")[1] == ["in"]
    assert "being written by another run" in hold("")[1][0]


def test_runs_that_begin_at_once_agree_on_one_count(tmp_path, hold):
    for _ in range(3):
        holders, told = hold("0of2", "0of3", "1of2", "1of3", "2of3", "0of4")
        inside = [h.share for h, text in zip(holders, told, strict=True) if text == "in"]
        counts = {share.partition("of")[2] for share in inside}
        assert len(counts) == 1
        # All shares of the count that came first are in: no test refused one of them.
        assert len(inside) == {"2": 2, "3": 3, "4": 1}[counts.pop()]
        for holder in holders:
            holder.end()


def test_a_share_is_free_once_its_process_has_ended(tmp_path, hold):
    assert is_share_free(tmp_path / "gone", "0of2")
    assert is_share_free(tmp_path, "0of2")
    assert is_share_free(tmp_path, "")
    (killed, ended), _ = hold("0of2", "1of2")
    assert not is_share_free(tmp_path, "0of2")
    assert not is_share_free(tmp_path, "1of2")
    assert is_share_free(tmp_path, "")
    assert is_share_free(tmp_path, "0of3")
    killed.end(kill=True)
    assert is_share_free(tmp_path, "0of2")
    assert not is_share_free(tmp_path, "1of2")
    ended.end()
    (whole,), _ = hold("")
    assert not is_share_free(tmp_path, "")
    whole.end()
    assert is_share_free(tmp_path, "")


def test_a_test_of_a_share_disturbs_no_run_that_begins(tmp_path, hold):
    code = (
        "import sys\nfrom pathlib import Path\nfrom mrx.manifest import is_share_free\n"
        "while True: is_share_free(Path(sys.argv[1]), sys.argv[2])"
    )
    askers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), share])
        for share in ("", "0of2")
    ]
    try:
        for share in ("", "0of2", "") * 3:
            (holder,), told = hold(share)
            assert told == ["in"]
            holder.end()
    finally:
        for asker in askers:
            asker.kill()
            asker.wait()


def test_a_gate_that_stays_held_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "GATE_SECONDS", 0.05)
    with (
        manifest._hold_gate(tmp_path),
        pytest.raises(OutputError, match=r"holds .*\.lock-gate and does not go on\. End it"),
        lock_output(tmp_path, ""),
    ):
        pass


def test_a_salvage_waits_for_that_of_another_process(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom mrx.manifest import lock_salvage\n"
        "print('begun', flush=True)\n"
        "with lock_salvage(Path(sys.argv[1])): print(Path(sys.argv[1], 'left').exists())"
    )
    leftover = tmp_path / "left"
    leftover.touch()
    with lock_salvage(tmp_path):
        command = [sys.executable, "-c", code, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "begun\n"
        leftover.unlink()
    assert process.communicate()[0] == "False\n"


def test_a_salvage_waits_for_another_one_only_so_long(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "SALVAGE_SECONDS", 0.1)
    with (
        manifest.lock_salvage(tmp_path),
        pytest.raises(OutputError, match="does not go on"),
        manifest.lock_salvage(tmp_path),
    ):
        pass

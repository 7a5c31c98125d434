import json

import pytest

from mrx.errors import OutputError
from mrx.job import ManifestRow
from mrx.manifest import Manifest, list_manifests, lock_output, read_rows

SETTINGS = {"methods": {"mbpm": {}}}


def written(folder, *keys, share=""):
    manifest = Manifest(folder, share, SETTINGS)
    for key in keys:
        manifest.append_row(ManifestRow(key, "failed", f"because of {key}"))
    manifest.close()
    return next(iter(folder.glob("manifest*.jsonl")))


def test_rows_come_back_with_the_settings(tmp_path):
    settings, rows = read_rows(written(tmp_path, "a", "b"))
    assert settings == SETTINGS
    assert rows["b"] == ManifestRow("b", "failed", "because of b")


def test_the_last_row_of_a_key_is_read(tmp_path):
    written(tmp_path, "a")
    manifest = Manifest(tmp_path, "", SETTINGS)
    manifest.append_row(ManifestRow("a", "ok"))
    manifest.close()
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

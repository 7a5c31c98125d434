import os

import h5py
import numpy as np
import pytest
from support.shards import SETTINGS, make_shard

import mrx
from mrx.errors import FormatError, OutputError, UsageError
from mrx.job import ManifestRow
from mrx.manifest import Manifest, lock_output
from mrx.shards.repair import repair_shard
from mrx.shards.verify import check_output


def names(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".lock"))


def repair(path):
    """Repair a shard, and return the keys that were kept and lost."""
    result = repair_shard(path)
    return [record.key for record in result.saved], result.lost


def texts(path):
    return [str(problem) for problem in check_output(path)]


def test_a_good_folder_has_no_problem(tmp_path):
    make_shard(tmp_path, ["a", "b"])
    assert texts(tmp_path) == []


def test_one_flipped_bit_is_found_and_named(tmp_path):
    path = make_shard(tmp_path, ["a", "b"])
    with h5py.File(path) as file:
        place = file["videos/b/mbpm"].id.get_chunk_info(1).byte_offset
    data = bytearray(path.read_bytes())
    data[place + 5] ^= 1
    path.write_bytes(data)
    (problem,) = texts(tmp_path)
    assert problem == f"{path}::b: mbpm[1]: its checksum is wrong, or it cannot be read"


def test_maps_that_were_written_over_are_found(tmp_path):
    path = make_shard(tmp_path, ["a"])
    with h5py.File(path, "r+") as file:
        file["videos/a/mbpm"][2, 0, 1, 1:3] = np.nan
    assert f"{path}::a: mbpm[2]: it is not the map that was written" in texts(tmp_path)


def test_a_missing_video_of_the_manifest_is_found(tmp_path):
    make_shard(tmp_path, ["a"])
    manifest = Manifest(tmp_path, "", SETTINGS)
    for key in "ab":
        manifest.append_row(ManifestRow(key, "ok", path=f"/videos/{key}"))
    manifest.close()
    assert "::b: the manifest says ok (/videos/b), but no shard holds it" in texts(tmp_path)[0]


def test_an_index_that_differs_from_the_videos_is_found(tmp_path):
    path = make_shard(tmp_path, ["a", "b"])
    with h5py.File(path, "r+") as file:
        del file["videos/b"]
    assert f"{path}: the index does not list what the shard holds" in texts(tmp_path)


def test_items_that_do_not_fit_and_lost_attributes_are_found(tmp_path):
    path = make_shard(tmp_path, ["a"])
    with h5py.File(path, "r+") as file:
        file["videos/a/mbpm"].resize(2, 0)
        del file["videos/a/mbpm"].attrs["units"]
    found = " ".join(texts(path))
    assert "list of items does not fit its 2 maps" in found
    assert "missing attributes: units" in found


def test_a_truncated_shard_is_a_problem_not_a_crash(tmp_path):
    path = make_shard(tmp_path, ["a"])
    os.truncate(path, 1000)
    assert "its end is cut off" in texts(tmp_path)[0]


def test_leftovers_of_a_killed_run_are_reported(tmp_path):
    make_shard(tmp_path, ["a"])
    (tmp_path / ".tmp-all-host-1-aa.h5").write_bytes(b"")
    assert "was left by a killed run" in texts(tmp_path)[0]


def test_repair_keeps_whole_videos(tmp_path):
    path = make_shard(tmp_path, ["a", "b", "c"])
    with h5py.File(path, "r+") as file:
        file["videos/b/mbpm"][0] = np.inf
    assert repair(path) == (["a", "c"], ["b"])
    assert texts(tmp_path) == []
    with h5py.File(tmp_path / "shard-00001.h5") as file:
        assert sorted(file["videos"]) == ["a", "c"]
    assert names(tmp_path) == ["broken-shard-00000.h5", "shard-00001.h5"]


def test_repair_sets_a_file_aside_that_cannot_be_opened(tmp_path):
    path = make_shard(tmp_path, ["a"])
    os.truncate(path, 1000)
    assert repair(path) == ([], [])
    assert names(tmp_path) == ["broken-shard-00000.h5"]


def test_repair_does_not_touch_a_newer_format(tmp_path):
    path = make_shard(tmp_path, ["a"])
    with h5py.File(path, "r+") as file:
        file.attrs["mrx_format"] = 9
    with pytest.raises(FormatError, match="format 9"):
        repair_shard(path)
    assert path.exists()


def test_a_dangling_link_is_reported_and_repair_keeps_the_rest(tmp_path):
    path = make_shard(tmp_path, ["a", "b"])
    with h5py.File(path, "r+") as file:
        del file["videos/b"]
        file["videos/b"] = h5py.SoftLink("/nowhere")
    assert f"{path}::b: cannot be read" in texts(tmp_path)
    assert repair(path) == (["a"], ["b"])
    assert texts(tmp_path) == []


def test_a_second_broken_shard_does_not_replace_the_first(tmp_path):
    for _ in range(2):
        os.truncate(make_shard(tmp_path, ["a"]), 1000)
        repair_shard(tmp_path / "shard-00000.h5")
    assert names(tmp_path) == ["broken-shard-00000-1.h5", "broken-shard-00000.h5"]


def test_repair_touches_shards_only(tmp_path):
    (tmp_path / "manifest.jsonl").write_text("{}")
    with pytest.raises(UsageError, match="not a shard"):
        repair_shard(tmp_path / "manifest.jsonl")


def test_repair_is_refused_while_a_run_writes(tmp_path):
    path = make_shard(tmp_path, ["a"])
    with lock_output(tmp_path, "0of2"), pytest.raises(OutputError, match="being written"):
        repair_shard(path)


def test_a_key_in_two_shards_is_found(tmp_path):
    make_shard(tmp_path, ["a"])
    make_shard(tmp_path, ["a"])
    assert "shard-00001.h5::a: its mbpm is also in another shard" in texts(tmp_path)[0]


def test_damage_of_the_items_is_found(tmp_path):
    path = make_shard(tmp_path, ["a"])
    with h5py.File(path) as file:
        place = file["videos/a/mbpm.items"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place + 3] ^= 1
    path.write_bytes(data)
    found = texts(tmp_path)
    assert found[0] == f"{path}: its structure is damaged or was changed"
    assert f"{path}::a: is missing or cannot be read" in found


def test_a_shard_without_its_index_is_broken_not_a_traceback(tmp_path):
    path = make_shard(tmp_path, ["a"])
    with h5py.File(path, "r+") as file:
        del file["index"]
    with pytest.raises(FormatError, match="broken shard"):
        mrx.open(tmp_path)
    assert repair(path) == (["a"], [])
    assert texts(tmp_path) == []

import errno
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from support import shards
from support.shards import SETTINGS, add_video, make_motion, make_shard

from mrx.errors import FormatError, OutputError
from mrx.job import Job, Storage
from mrx.shards.chunks import pack_motion
from mrx.shards.encoding import Encoding
from mrx.shards.layout import list_temporaries, open_shard
from mrx.shards.repair import salvage_leftover
from mrx.shards.writer import ShardWriter


def writer(folder, share=None):
    return ShardWriter(Job(output=str(folder), share=share), SETTINGS)


def test_a_shard_has_its_name_only_when_it_is_whole(tmp_path):
    shard = writer(tmp_path)
    add_video(shard, "a.mp4")
    assert [p.name for p in tmp_path.iterdir()] == [shard.path.name]
    final = shard.seal_shard()
    assert [p.name for p in tmp_path.iterdir()] == ["shard-00000.h5"] == [final.name]


def test_a_shard_can_be_read_with_h5py_alone(tmp_path):
    with h5py.File(make_shard(tmp_path, ["day 1/a.mp4"])) as file:
        group = file["videos"]["day 1%2Fa.mp4"]
        assert (file.attrs["mrx_format"], file.attrs["complete"]) == (1, 1)
        assert group["mbpm"].chunks == (1, 1, 4, 5)
        assert group["mbpm"].fletcher32
        assert list(group["mbpm"].attrs["channels"]) == ["r"]
        values = group["mbpm"][...] * group["mbpm"].attrs["scale"]
        assert np.allclose(values, make_motion().data, atol=1e-2)
        assert group["mbpm.items"]["last"].tolist() == [2, 5, 8]
        assert file["index"]["key"][0] == b"day 1/a.mp4"
        assert file["index"]["n_out"][0] == 3


def test_an_empty_shard_vanishes(tmp_path):
    assert writer(tmp_path).seal_shard() is None
    assert not list(tmp_path.iterdir())


def test_a_dropped_video_leaves_nothing(tmp_path):
    shard = writer(tmp_path)
    add_video(shard, "a")
    shard.begin_entry("b").drop_video()
    with h5py.File(shard.seal_shard()) as file:
        assert list(file["videos"]) == ["a"]


def test_a_video_written_again_in_one_shard_stands_there_once(tmp_path):
    shard = writer(tmp_path)
    add_video(shard, "a", seed=1)
    add_video(shard, "a", seed=2)
    with h5py.File(shard.seal_shard()) as file:
        assert len(file["index"]) == 1
        assert np.allclose(file["videos/a/mbpm"][...], make_motion(seed=2).data, atol=1e-2)


def test_numbers_are_claimed_and_never_taken_twice(tmp_path):
    names = [make_shard(tmp_path, [k]).name for k in "abc"]
    assert names == ["shard-00000.h5", "shard-00001.h5", "shard-00002.h5"]
    (tmp_path / "shard-00000.h5").unlink()
    assert make_shard(tmp_path, ["d"]).name == "shard-00003.h5"


def test_shares_number_their_own_shards(tmp_path):
    make_shard(tmp_path, ["a"])
    assert make_shard(tmp_path, ["b"], share=(3, 8)).name == "shard-3of8-00000.h5"


def test_processes_that_seal_at_once_never_collide(tmp_path):
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from support.shards import make_shard\n"
        "for i in range(6): make_shard(sys.argv[2], [f'{sys.argv[3]}-{i}'])"
    )
    here = str(Path(shards.__file__).parents[1])
    command = [sys.executable, "-c", program, here, str(tmp_path)]
    running = [subprocess.Popen([*command, name]) for name in "xy"]
    assert [one.wait() for one in running] == [0, 0]
    keys = []
    for path in sorted(tmp_path.glob("shard-*.h5")):
        with h5py.File(path) as file:
            keys += file["index"]["key"].tolist()
    assert len(keys) == len(set(keys)) == 12
    assert not list_temporaries(tmp_path)


def test_names_are_claimed_on_file_systems_without_hard_links(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert [make_shard(tmp_path, [k]).name for k in "ab"] == ["shard-00000.h5", "shard-00001.h5"]
    with h5py.File(tmp_path / "shard-00001.h5") as file:
        assert file["index"]["key"].tolist() == [b"b"]


def killed(tmp_path, after):
    """A process that is killed after this statement; the temporary it leaves."""
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from mrx.job import Job\n"
        "from mrx.shards.writer import ShardWriter\n"
        "from support.shards import *\n"
        "shard = ShardWriter(Job(output=sys.argv[2]), SETTINGS)\n"
        "add_video(shard, 'a', seed=1); add_video(shard, 'b', seed=2)\n"
        f"{after}\nos.kill(os.getpid(), 9)"
    )
    here = str(Path(shards.__file__).parents[1])
    ran = subprocess.run([sys.executable, "-c", program, here, str(tmp_path)], check=False)
    assert ran.returncode == -9
    return list_temporaries(tmp_path)


@pytest.mark.parametrize("after", ["", "shard.begin_entry('c')"])
def test_finished_videos_of_a_killed_writer_are_saved(tmp_path, after):
    (orphan,) = killed(tmp_path, after)
    assert salvage_leftover(orphan, "", {}) == ["a", "b"]
    assert [p.name for p in tmp_path.iterdir()] == ["shard-00000.h5"]
    with h5py.File(tmp_path / "shard-00000.h5") as file:
        assert sorted(file) == ["index", "videos"]
        assert np.allclose(file["videos/b/mbpm"][...], make_motion(seed=2).data, atol=1e-2)


def test_a_temporary_file_with_a_final_name_is_only_removed(tmp_path):
    final = make_shard(tmp_path, ["a"])
    orphan = tmp_path / ".tmp-all-host-1-aa.h5"
    orphan.hardlink_to(final)
    assert salvage_leftover(orphan, "", {}) == []
    assert [p.name for p in tmp_path.iterdir()] == [final.name]


def test_a_temporary_that_cannot_be_opened_is_removed(tmp_path):
    orphan = tmp_path / ".tmp-all-host-1-aa.h5"
    orphan.write_bytes(b"not hdf5 at all")
    assert salvage_leftover(orphan, "", {}) == []
    assert not orphan.exists()


def test_a_temporary_that_is_being_written_is_left_alone(tmp_path):
    shard = writer(tmp_path)
    add_video(shard, "a")
    program = (
        "import sys; from pathlib import Path; from mrx.shards.repair import salvage_leftover\n"
        "salvage_leftover(Path(sys.argv[1]), '', {})"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(shard.path)], capture_output=True, text=True
    )
    assert "shard is open in another process" in ran.stderr
    assert shard.seal_shard().name == "shard-00000.h5"


def test_a_newer_format_is_refused(tmp_path):
    path = make_shard(tmp_path, ["a"])
    with h5py.File(path, "r+") as file:
        file.attrs["mrx_format"] = 2
    with pytest.raises(FormatError, match="format 2, this mrx reads format 1"):
        open_shard(path)


def test_a_truncated_shard_is_named(tmp_path):
    path = make_shard(tmp_path, ["a"])
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(FormatError, match=r"broken shard .*shard-00000\.h5\): truncated"):
        open_shard(path)


def test_a_shard_is_full_by_videos_or_by_bytes(tmp_path):
    shard = writer(tmp_path)
    add_video(shard, "a")
    assert not shard.is_full(Storage())
    assert shard.is_full(Storage(videos_per_shard=1))
    assert shard.is_full(Storage(shard_size=100))
    shard.seal_shard()


def test_a_folder_that_is_not_there_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        writer(tmp_path / "nowhere")


def test_maps_grow_by_batches(tmp_path):
    shard = writer(tmp_path)
    entry = shard.begin_entry("a")
    encoding = Encoding.from_storage(Storage(dtype="float32"), units="a.u.", bound=1.0)
    entry.create_dataset("mbpm", shape=(1, 4, 5), encoding=encoding, filters={})
    for seed in range(3):
        entry.append_maps("mbpm", pack_motion(make_motion(2, seed=seed), encoding, {}))
    assert entry.count_items() == {"mbpm": 6}
    entry.commit_video(shards.ATTRIBUTES, {"mbpm": shards.METHOD})
    with h5py.File(shard.seal_shard()) as file:
        assert np.array_equal(file["videos/a/mbpm"][4:], make_motion(2, seed=2).data)


def test_videos_in_other_shards_are_not_saved_twice(tmp_path):
    (orphan,) = killed(tmp_path, "")
    assert salvage_leftover(orphan, "", {"a": (10.0, 2.5, -1.0, -1.0)}) == ["b"]


def test_the_whole_videos_of_a_damaged_leftover_are_saved(tmp_path):
    (orphan,) = killed(tmp_path, "")
    with h5py.File(orphan, "r+") as file:
        del file["videos/a/mbpm.items"]
    assert salvage_leftover(orphan, "", {}) == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["shard-00000.h5"]


def test_newer_versions_of_videos_in_other_shards_are_saved(tmp_path):
    (orphan,) = killed(tmp_path, "")
    assert salvage_leftover(orphan, "", {"a": (9.0, 2.5, -1.0, -1.0)}) == ["a", "b"]


@pytest.mark.parametrize(
    ("label", "number"),
    [("7", 7), ("-3", -3), ("jump", -1), ("²", -1), ("--5", -1), ("20230101123456789012", -1)],
)
def test_the_index_holds_labels_that_are_numbers(tmp_path, label, number):
    shard = writer(tmp_path)
    add_video(shard, "a", label=label)
    with h5py.File(shard.seal_shard()) as file:
        assert file["index"]["label"].tolist() == [number]


def test_a_salvage_without_space_keeps_the_leftover_and_fails(tmp_path, monkeypatch):
    (orphan,) = killed(tmp_path, "")

    def full(*_):
        raise OutputError("no space left")

    monkeypatch.setattr("mrx.shards.repair.seal_file", full)
    with pytest.raises(OutputError, match="no space left"):
        salvage_leftover(orphan, "", {})
    assert [p.name for p in tmp_path.iterdir()] == [orphan.name]

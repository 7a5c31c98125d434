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
from mrx.job import DoneMaps, Job, Storage
from mrx.shards.chunks import pack_motion
from mrx.shards.contents import KnownVideos, read_known_videos
from mrx.shards.encoding import Encoding
from mrx.shards.files import may_have_foreign_writer
from mrx.shards.journal import read_journal
from mrx.shards.layout import (
    journal_path,
    list_shards,
    list_temporaries,
    open_shard,
    read_host_name,
)
from mrx.shards.repair import salvage_leftover
from mrx.shards.resume import clear_output
from mrx.shards.trailer import read_trailer
from mrx.shards.writer import ShardWriter


def writer(folder, share=None):
    return ShardWriter.for_job(Job(output=str(folder), share=share), SETTINGS)


def test_a_shard_has_its_name_only_when_it_is_whole(tmp_path):
    shard = writer(tmp_path)
    add_video(shard, "a.mp4")
    assert sorted(tmp_path.iterdir()) == sorted([shard.path, journal_path(shard.path)])
    final = shard.seal_shard()
    assert [p.name for p in tmp_path.iterdir()] == ["shard-00000.h5"] == [final.name]


def test_a_shard_can_be_read_with_h5py_alone(tmp_path):
    with h5py.File(make_shard(tmp_path, ["day 1/a.mp4"])) as file:
        group = file["videos"]["day 1%2Fa.mp4"]
        assert (file.attrs["mrx_format"], file.attrs["complete"]) == (2, 1)
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
    tmp_path.mkdir(exist_ok=True)
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from mrx.job import Job\n"
        "from mrx.shards.writer import ShardWriter\n"
        "from support.shards import *\n"
        "shard = ShardWriter.for_job(Job(output=sys.argv[2]), SETTINGS)\n"
        "add_video(shard, 'a', seed=1); add_video(shard, 'b', seed=2)\n"
        f"{after}\nos.kill(os.getpid(), 9)"
    )
    here = str(Path(shards.__file__).parents[1])
    ran = subprocess.run([sys.executable, "-c", program, here, str(tmp_path)], check=False)
    assert ran.returncode == -9
    return list_temporaries(tmp_path)


NOTHING = KnownVideos({})


def salvage(orphan, known=NOTHING):
    """Salvage a leftover, and return the keys that were saved and lost."""
    result = salvage_leftover(orphan, "", known)
    return [record.key for record in result.saved], result.lost


@pytest.mark.parametrize("after", ["", "shard.begin_entry('c')"])
def test_finished_videos_of_a_killed_writer_are_saved(tmp_path, after):
    (orphan,) = killed(tmp_path, after)
    assert salvage(orphan) == (["a", "b"], [])
    assert [p.name for p in tmp_path.iterdir()] == ["shard-00000.h5"]
    with h5py.File(tmp_path / "shard-00000.h5") as file:
        assert sorted(file) == ["index", "videos"]
        assert np.allclose(file["videos/b/mbpm"][...], make_motion(seed=2).data, atol=1e-2)


def test_a_temporary_file_with_a_final_name_is_only_removed(tmp_path):
    final = make_shard(tmp_path, ["a"])
    orphan = tmp_path / ".tmp-all-host-1-aa.h5"
    orphan.hardlink_to(final)
    assert salvage(orphan) == ([], [])
    assert [p.name for p in tmp_path.iterdir()] == [final.name]


def test_a_backup_by_hard_links_is_no_final_name(tmp_path):
    (orphan,) = killed(tmp_path / "out", "")
    backup = tmp_path / "backup.h5"
    backup.hardlink_to(orphan)
    assert salvage(orphan) == (["a", "b"], [])


def test_a_temporary_without_a_journal_is_set_aside(tmp_path):
    orphan = tmp_path / ".tmp-all-host-1-aa.h5"
    orphan.write_bytes(b"not hdf5 at all")
    result = salvage_leftover(orphan, "", NOTHING)
    assert result.aside == "broken-tmp-all-host-1-aa.h5: it has no journal"
    assert [p.name for p in tmp_path.iterdir()] == ["broken-tmp-all-host-1-aa.h5"]


def test_a_torn_hdf5_file_gives_all_that_the_journal_names(tmp_path):
    (orphan,) = killed(tmp_path, "")
    data = bytearray(orphan.read_bytes())
    data[:96] = bytes(96)  # without its superblock HDF5 does not open a file
    orphan.write_bytes(data)
    assert salvage(orphan) == (["a", "b"], [])


def test_a_temporary_that_is_being_written_is_left_alone(tmp_path):
    shard = writer(tmp_path)
    add_video(shard, "a")
    program = (
        "import sys; from pathlib import Path; from mrx.shards.repair import salvage_leftover\n"
        "from mrx.shards.contents import KnownVideos\n"
        "salvage_leftover(Path(sys.argv[1]), '', KnownVideos({}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(shard.path)], capture_output=True, text=True
    )
    assert "shard is open in another process" in ran.stderr
    assert shard.seal_shard().name == "shard-00000.h5"


def test_a_newer_format_is_refused(tmp_path):
    path = make_shard(tmp_path, ["a"])
    with h5py.File(path, "r+") as file:
        file.attrs["mrx_format"] = 3
    with pytest.raises(FormatError, match="format 3, this mrx reads format 2"):
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


def known_video(size):
    """Tell of a video `a` in another shard, whose source has this size."""
    stamp = (size, 2.5, -1.0, -1.0, "")
    return KnownVideos({"a": {"mbpm": DoneMaps(stamp, "")}})


def test_videos_in_other_shards_are_not_saved_twice(tmp_path):
    (orphan,) = killed(tmp_path, "")
    assert salvage(orphan, known_video(10.0)) == (["b"], [])


def test_the_whole_videos_of_a_damaged_leftover_are_saved(tmp_path):
    (orphan,) = killed(tmp_path, "")
    record = read_journal(journal_path(orphan)).records[0]
    data = bytearray(orphan.read_bytes())
    data[int(record.methods["mbpm"].chunks["offset"][1]) + 3] ^= 4
    orphan.write_bytes(data)
    assert salvage(orphan) == (["b"], ["a"])
    assert [p.name for p in tmp_path.iterdir()] == ["shard-00000.h5"]


def test_newer_versions_of_videos_in_other_shards_are_saved(tmp_path):
    (orphan,) = killed(tmp_path, "")
    assert salvage(orphan, known_video(9.0)) == (["a", "b"], [])


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

    monkeypatch.setattr("mrx.shards.writer.ShardWriter.seal_shard", full)
    with pytest.raises(OutputError, match="no space left"):
        salvage(orphan)
    assert sorted(tmp_path.iterdir()) == sorted([orphan, journal_path(orphan)])


def damage_journal(orphan, place):
    """Flip a bit in a journal, and return the path of the journal."""
    journal = journal_path(orphan)
    data = bytearray(journal.read_bytes())
    data[place] ^= 8
    journal.write_bytes(data)
    return journal


def test_a_damaged_journal_is_set_aside_with_its_file(tmp_path):
    (orphan,) = killed(tmp_path, "add_video(shard, 'c', seed=3)")
    frames = journal_path(orphan).read_bytes().split(b"mrxJ")[1:]
    damage_journal(orphan, sum(len(frame) + 4 for frame in frames[:2]) + 40)
    result = salvage_leftover(orphan, "", NOTHING)
    assert [record.key for record in result.saved] == ["a", "c"]
    assert "its journal is damaged, videos may be missing" in result.aside
    assert len(list(tmp_path.glob("broken-*"))) == 2


def test_a_shard_is_not_sealed_over_a_damaged_journal(tmp_path):
    shard = writer(tmp_path)
    add_video(shard, "a")
    damage_journal(shard.path, journal_path(shard.path).stat().st_size - 5)
    with pytest.raises(OutputError, match="damaged journal"):
        shard.seal_shard()
    shard.abandon_shard()
    assert not list(tmp_path.glob("shard-*"))


def test_a_known_video_that_is_damaged_is_saved_again(tmp_path):
    (orphan,) = killed(tmp_path, "")
    path = make_shard(tmp_path, ["a"])
    known = read_known_videos([path])
    assert salvage(orphan, known) == (["b"], [])
    (tmp_path / "again").mkdir()
    (orphan,) = killed(tmp_path / "again", "")
    record = read_trailer(path).contents.records[0]
    data = bytearray(path.read_bytes())
    data[int(record.methods["mbpm"].chunks["offset"][0])] ^= 1
    path.write_bytes(data)
    assert salvage(orphan, known) == (["a", "b"], [])


def test_overwrite_leaves_files_of_others_alone(tmp_path):
    make_shard(tmp_path, ["a"])
    foreign = tmp_path / "shard-00007.h5"
    foreign.write_text("mine")
    with pytest.raises(OutputError, match=r"not a shard of mrx .*00007.* Move it away"):
        clear_output(tmp_path)
    assert len(list(tmp_path.glob("shard-*"))) == 2
    foreign.unlink()
    foreign.symlink_to(tmp_path / "shard-00000.h5")
    assert [path.name for path in list_shards(tmp_path)] == ["shard-00000.h5"]


def test_leftovers_of_other_machines_wait_for_an_hour(tmp_path):
    (orphan,) = killed(tmp_path, "")
    assert not may_have_foreign_writer(orphan, read_host_name())
    assert may_have_foreign_writer(orphan, "elsewhere")
    for path in (orphan, journal_path(orphan)):
        os.utime(path, (0, 0))
    assert not may_have_foreign_writer(orphan, "elsewhere")

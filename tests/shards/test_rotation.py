"""Shards open one after another, wait for videos in flight, and are abandoned on errors."""

import pytest
from support.shards import SETTINGS, add_video, write_video

from mrx.errors import OutputError
from mrx.job import Job, Storage
from mrx.shards.contents import KnownVideos
from mrx.shards.layout import list_shards, list_temporaries
from mrx.shards.repair import salvage_leftover
from mrx.shards.rotation import ShardRotation
from mrx.shards.writer import ShardWriter


class Rotation(ShardRotation):
    """A rotation of shards of one video, with the keys of each sealed one."""

    def __init__(self, folder, videos_per_shard=1):
        self.sealed = []
        super().__init__(
            lambda: ShardWriter.for_job(Job(output=str(folder)), SETTINGS),
            Storage(videos_per_shard=videos_per_shard),
            lambda path, keys: self.sealed.append(keys),
        )


def test_no_shard_is_opened_before_it_is_needed(tmp_path):
    rotation = Rotation(tmp_path)
    rotation.seal_full_shards()
    rotation.close()
    assert list(tmp_path.iterdir()) == rotation.sealed == []


def test_a_full_shard_is_sealed_and_the_next_video_opens_another(tmp_path):
    rotation = Rotation(tmp_path)
    for key in "ab":
        add_video(rotation.get_current(), key)
        rotation.seal_full_shards()
    assert rotation.sealed == [["a"], ["b"]]
    assert len(list_shards(tmp_path)) == 2


def test_a_shard_that_is_not_full_stays_open(tmp_path):
    rotation = Rotation(tmp_path, videos_per_shard=2)
    first = rotation.get_current()
    add_video(first, "a")
    rotation.seal_full_shards()
    assert rotation.get_current() is first
    assert rotation.sealed == []
    rotation.close()
    assert rotation.sealed == [["a"]]


def test_a_full_shard_waits_for_its_videos_in_flight(tmp_path):
    rotation = Rotation(tmp_path)
    entry = rotation.get_current().begin_entry("slow")
    add_video(rotation.get_current(), "a")
    rotation.seal_full_shards()
    add_video(rotation.get_current(), "b")
    rotation.seal_full_shards()
    assert rotation.sealed == [["b"]]
    write_video(entry)
    rotation.seal_full_shards()
    assert rotation.sealed == [["b"], ["a", "slow"]]


def test_a_dropped_video_holds_up_no_shard(tmp_path):
    rotation = Rotation(tmp_path)
    entry = rotation.get_current().begin_entry("bad")
    add_video(rotation.get_current(), "a")
    rotation.seal_full_shards()
    rotation.drop_entry(entry)
    rotation.seal_full_shards()
    assert rotation.sealed == [["a"]]


def test_closing_seals_full_shards_before_the_current_one(tmp_path):
    rotation = Rotation(tmp_path)
    rotation.get_current().begin_entry("in flight")
    add_video(rotation.get_current(), "a")
    rotation.seal_full_shards()
    add_video(rotation.get_current(), "b")
    rotation.close()
    assert rotation.sealed == [["a"], ["b"]]
    assert list_temporaries(tmp_path) == []


def test_an_output_error_abandons_shards_and_keeps_whole_videos(tmp_path):
    rotation = Rotation(tmp_path, videos_per_shard=2)
    add_video(rotation.get_current(), "a")
    entry = rotation.get_current().begin_entry("b")
    with pytest.raises(OutputError, match="disk full"), rotation.abandon_on_error():
        raise OutputError("disk full")
    rotation.drop_entry(entry)
    rotation.close()
    assert rotation.sealed == []
    (leftover,) = list_temporaries(tmp_path)
    saved = salvage_leftover(leftover, "", KnownVideos({})).saved
    assert [record.key for record in saved] == ["a"]


def test_other_errors_abandon_nothing(tmp_path):
    rotation = Rotation(tmp_path)
    first = rotation.get_current()
    with pytest.raises(ValueError, match="not the disk"), rotation.abandon_on_error():
        raise ValueError("not the disk")
    assert rotation.get_current() is first
    rotation.close()


def test_a_shard_that_cannot_be_sealed_does_not_block_the_others(tmp_path, monkeypatch):
    rotation = Rotation(tmp_path)
    rotation.get_current().begin_entry("in flight")
    add_video(rotation.get_current(), "a")
    rotation.seal_full_shards()
    add_video(rotation.get_current(), "b")
    with monkeypatch.context() as patch:
        patch.setattr("mrx.shards.writer.sync_to_disk", _fail_to_sync_once())
        with pytest.raises(OutputError, match="cannot write"):
            rotation.close()
    assert rotation.sealed == [["b"]]


def _fail_to_sync_once():
    errors = [OSError("no space")]

    def sync(path):
        if errors:
            raise errors.pop()

    return sync

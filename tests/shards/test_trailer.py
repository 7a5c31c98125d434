import os
import time

import h5py
import numpy as np
import pytest
from support.shards import SETTINGS, add_video, make_shard

import mrx
from mrx.errors import FormatError
from mrx.job import Job
from mrx.shards.digest import digest_root, to_plain_value
from mrx.shards.isolation import run_isolated
from mrx.shards.record_writer import MAX_ATTRIBUTE_BYTES
from mrx.shards.seal import are_gaps_whole
from mrx.shards.trailer import combine_checksums, list_damaged_items, read_trailer
from mrx.shards.verify import check_output
from mrx.shards.video_record import CHUNK_DTYPE, read_record
from mrx.shards.writer import ShardWriter


@pytest.fixture
def shard(tmp_path):
    return make_shard(tmp_path, ["a", "b"])


def test_a_trailer_tells_every_byte_from_a_flipped_one(shard):
    data = shard.read_bytes()
    places = np.random.default_rng(1).integers(0, 8 * len(data), 400)
    for place in places:
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << (place % 8)
        shard.write_bytes(damaged)
        try:
            trailer = read_trailer(shard)
        except FormatError:
            continue
        maps = [m for record in trailer.contents.records for m in record.methods.values()]
        damaged_items = [item for m in maps for item in list_damaged_items(shard, m)]
        assert damaged_items or not are_gaps_whole(shard, trailer.seal)


def test_a_file_without_a_trailer_is_refused(shard):
    length = read_trailer(shard).seal.trailer_start
    shard.write_bytes(shard.read_bytes()[:length])
    with pytest.raises(FormatError, match="its end is cut off, damaged or changed"):
        read_trailer(shard)


def test_hdf5_reads_a_shard_in_spite_of_its_trailer(shard):
    with h5py.File(shard) as file:
        assert file["videos/a/mbpm"].shape == (3, 1, 4, 5)


def test_the_records_of_a_trailer_are_what_hdf5_reads(shard):
    for record in read_trailer(shard).contents.records:
        with h5py.File(shard) as file:
            found = read_record(file["videos"][record.key])
        assert (found.attributes, found.digest) == (record.attributes, record.digest)
        maps, expected = found.methods["mbpm"], record.methods["mbpm"]
        assert maps.attributes == expected.attributes
        assert np.array_equal(maps.items, expected.items)
        assert np.array_equal(maps.chunks["offset"], expected.chunks["offset"])


def test_the_checksum_of_several_chunks_stands_for_all_of_them():
    chunks = np.zeros(3, CHUNK_DTYPE)
    chunks["start"][:, 0] = [0, 0, 2]
    chunks["checksum"] = [5, 6, 7]
    first, second, third = combine_checksums(chunks, 3).tolist()
    assert (second, third) == (0, 7)
    chunks["checksum"] = [6, 5, 7]
    assert combine_checksums(chunks, 3)[0] != first


def test_a_digest_covers_settings_and_videos():
    attributes = {"settings_json": "{}", "complete": 1}
    digest = digest_root(attributes, [("a", "1"), ("b", "2")])
    assert digest == digest_root({**attributes, "complete": 0}, [("b", "2"), ("a", "1")])
    assert digest != digest_root({"settings_json": "{ }"}, [("a", "1"), ("b", "2")])
    assert digest != digest_root(attributes, [("a", "2"), ("b", "1")])


def test_values_are_digested_as_they_were_written():
    values = [True, 3, 0.1, "ü", ["a", "b"], [1.5, 2.0], []]
    with h5py.File.in_memory() as file:
        for i, value in enumerate(values):
            file.attrs[str(i)] = value
        assert [to_plain_value(file.attrs[str(i)]) for i in range(len(values))] == values


def test_lists_that_are_too_long_for_an_attribute_are_kept(tmp_path):
    numbers = list(range(MAX_ATTRIBUTE_BYTES))
    texts = [f"text {i}" for i in range(10_000)]
    writer = ShardWriter.for_job(Job(output=str(tmp_path)), SETTINGS)
    add_video(writer, "a", missing=numbers, warnings=texts)
    writer.seal_shard()
    with mrx.open(tmp_path) as shards:
        assert list(shards["a"].attrs["missing"]) == numbers
        assert list(shards["a"].attrs["warnings"]) == texts
        assert list(shards["a"]) == ["mbpm"]
    assert list(check_output(tmp_path)) == []


def test_work_that_crashes_or_hangs_ends_in_nothing():
    assert run_isolated(lambda: {"a": 1}, 10) == {"a": 1}
    assert run_isolated(lambda: os.kill(os.getpid(), 9), 10) is None
    assert run_isolated(lambda: 1 / 0, 10) is None
    assert run_isolated(lambda: time.sleep(60), 0.1) is None

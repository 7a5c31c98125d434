import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support import shards
from support.shards import add_video, make_motion, make_shard

import mrx
from mrx.errors import NoInputError
from mrx.job import Job, Storage
from mrx.shards.chunks import pack_motion
from mrx.shards.encoding import Encoding
from mrx.shards.writer import ShardWriter


def test_values_of_every_type_are_read_as_floats(tmp_path):
    writer = ShardWriter.for_job(Job(output=str(tmp_path)), shards.SETTINGS)
    for dtype in ("float16", "float32", "q16", "uint8"):
        entry = writer.begin_entry(dtype)
        encoding = Encoding.from_storage(Storage(dtype=dtype, bound=5.0), units="px", bound=5.0)
        entry.create_dataset("mbpm", shape=(1, 4, 5), encoding=encoding, filters={})
        entry.append_maps("mbpm", pack_motion(make_motion(9), encoding, {}))
        entry.commit_video(shards.ATTRIBUTES, {"mbpm": shards.METHOD})
    writer.seal_shard()
    with mrx.open(tmp_path) as found:
        for dtype in found:
            values = found[dtype]["mbpm"][3:9]
            assert values.dtype == np.float32
            assert np.allclose(values, make_motion(9).data[3:9], atol=5 / 127)


def test_a_recording_has_methods_items_and_attributes(tmp_path):
    make_shard(tmp_path, ["a/b.mp4"])
    with mrx.open(tmp_path) as found:
        recording = found["a/b.mp4"]
        assert list(recording) == ["mbpm"]
        assert recording["mbpm"].shape == (3, 1, 4, 5)
        assert recording["mbpm"].items["first"].tolist() == [0, 3, 6]
        assert recording.attrs["avg_fps"] == 25.0


def test_an_absent_method_is_refused_with_a_list_of_the_stored(tmp_path):
    make_shard(tmp_path, ["a"])
    with mrx.open(tmp_path) as found, pytest.raises(KeyError, match="a has no pa; it has mbpm"):
        found["a"]["pa"]


def test_the_newer_entry_of_a_key_written_twice_is_read(tmp_path):
    make_shard(tmp_path, ["a"], seed=2, share=(0, 8), run=2)
    make_shard(tmp_path, ["a"], seed=1, run=1)
    with mrx.open(tmp_path) as found:
        assert len(list(found.rows())) == len(found) == 1
        assert np.allclose(found["a"]["mbpm"][:], make_motion(seed=2).data, atol=1e-2)


def test_an_empty_folder_is_no_output(tmp_path):
    with pytest.raises(NoInputError, match="no shards in"):
        mrx.open(tmp_path)


def _sum(found, key):
    try:
        return float(found[key]["mbpm"][:].sum())
    finally:
        found.close()


@pytest.fixture(scope="module")
def forty_shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forty")
    for number in range(40):
        make_shard(folder, [f"{number:02}"], seed=number, run=number + 1)
    return folder


def test_a_handle_stays_open_while_others_are_read(forty_shards):
    with mrx.open(forty_shards) as found:
        dataset, group = found["00"]["mbpm"].dataset, found["01"].group
        expected = dataset[...]
        for key in found:
            found[key]["mbpm"][0]
        assert np.array_equal(dataset[...], expected)
        assert "mbpm" in group
        assert len(found._files) <= 33
        del dataset, group
        for key in found:
            found[key]["mbpm"][0]
        assert len(found._files) <= 32


def test_threads_share_more_shards_than_are_open(forty_shards):
    with mrx.open(forty_shards) as found:
        keys = list(found)
        expected = {key: found[key]["mbpm"][:] for key in keys}

        def read_all(seed):
            order = np.random.default_rng(seed).permutation(3 * keys)
            return all(np.array_equal(found[key]["mbpm"][:], expected[key]) for key in order)

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(read_all, range(8)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_other_processes_open_their_own_files(tmp_path, method):
    make_shard(tmp_path, ["a"])
    with mrx.open(tmp_path) as found:
        expected = float(found["a"]["mbpm"][:].sum())
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.starmap(_sum, [(found, "a")] * 4) == [expected] * 4


def test_it_can_be_pickled_while_open(tmp_path):
    make_shard(tmp_path, ["a"])
    with mrx.open(tmp_path) as found:
        found["a"]["mbpm"][0]
        with pickle.loads(pickle.dumps(found)) as again:  # noqa: S301 - our own bytes
            assert np.array_equal(again["a"]["mbpm"][1], found["a"]["mbpm"][1])


def test_few_files_stay_open(tmp_path):
    for i in range(40):
        make_shard(tmp_path, [f"v{i}"])
    with mrx.open(tmp_path) as found:
        for key in found:
            found[key]["mbpm"][0]
        assert len(found._files) <= 32


def test_added_videos_are_found(tmp_path):
    writer = ShardWriter.for_job(Job(output=str(tmp_path)), shards.SETTINGS)
    add_video(writer, "a")
    add_video(writer, "b", label="7")
    writer.seal_shard()
    with mrx.open(tmp_path) as found:
        assert {row["key"]: row["label"] for row in found.rows()} == {"a": -1, "b": 7}

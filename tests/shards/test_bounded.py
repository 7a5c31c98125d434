import io
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from hypothesis.strategies import floats, sampled_from
from support.shards import ATTRIBUTES, METHOD, SETTINGS

pytest.importorskip("hdf5plugin", reason="hdf5plugin is not installed")

from mrx.errors import MissingError
from mrx.job import Job, Storage
from mrx.kernels.checksum import fletcher32
from mrx.records import Motion
from mrx.shards.bounded import compress_channels
from mrx.shards.chunks import pack_encoded, pack_motion
from mrx.shards.compression import check_decoded, dataset_options, load_filters
from mrx.shards.contents import KnownVideos
from mrx.shards.encoding import Encoding, encode_on_device
from mrx.shards.reader import Shards
from mrx.shards.repair import salvage_leftover
from mrx.shards.verify import check_shard
from mrx.shards.writer import MethodDataset, ShardWriter

some_floats = floats(width=32, min_value=-1000, max_value=1000)
any_floats = floats(width=32)


def options(tolerance):
    return dataset_options("auto", cost="light", tolerance=tolerance)


def encoding_of(tolerance):
    return Encoding.from_storage(Storage(tolerance=tolerance), units="px", bound=20.0)


def make_motion(values):
    data = torch.from_numpy(np.asarray(values, np.float32))
    index = np.zeros((len(data), 2), np.int64)
    return Motion(data, index, index / 25)


def store_and_read(values, tolerance):
    """Write maps with a tolerance, and return what plain h5py reads, and the dataset's facts."""
    encoding = encoding_of(tolerance)
    packed = pack_motion(make_motion(values), encoding, options(tolerance))
    with h5py.File(io.BytesIO(), "w") as file:
        dataset = MethodDataset(file, "maps", packed.shape, encoding, options(tolerance))
        dataset.append_maps(packed)
        return dataset.dataset[:], dataset.statistics, dataset.dataset.chunks


@settings(deadline=None, max_examples=60)
@given(
    arrays(np.float32, array_shapes(min_dims=4, max_dims=4, max_side=24), elements=some_floats),
    sampled_from([1e-6, 0.01, 0.05, 4.0]),
)
def test_no_error_is_beyond_the_tolerance(values, tolerance):
    found, _, _ = store_and_read(values, tolerance)
    assert np.abs(found.astype(np.float64) - values).max() <= tolerance


@settings(deadline=None, max_examples=60)
@given(arrays(np.float32, (1, 2, 5, 6), elements=any_floats))
def test_values_that_sz3_cannot_bound_are_kept_exactly(values):
    found, statistics, _ = store_and_read(values, 0.05)
    for before, after in zip(values[0], found[0], strict=True):
        tame = np.isfinite(before).all() and np.abs(before).max() <= 0.05 * 2**24
        assert tame or np.array_equal(before, after, equal_nan=True)
    assert statistics.nan_count == (~np.isfinite(values)).sum()


def test_each_channel_is_a_chunk():
    found, _, chunks = store_and_read(np.zeros((2, 3, 8, 9)), 0.1)
    assert (found.shape, chunks) == ((2, 3, 8, 9), (1, 1, 8, 9))


def test_channels_without_compression_are_counted():
    values = np.zeros((2, 2, 8, 8), np.float32)
    values[1, 0, 3, 3] = np.nan
    found, statistics, _ = store_and_read(values, 0.1)
    assert np.array_equal(found, values, equal_nan=True)
    assert statistics.to_attributes()["lossless_count"] == 1


def test_a_codec_that_breaks_its_promise_is_caught():
    values = np.random.default_rng(0).normal(size=(1, 1, 32, 32)).astype(np.float32)
    # The filter is told ten times the tolerance.
    (chunk,) = compress_channels(values, 0.01, options(0.1))
    assert chunk.mask == 1
    assert chunk.data[:-4].tobytes() == values.tobytes()


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_the_last_bytes_of_a_chunk_are_its_checksum(value):
    values = np.full((1, 1, 16, 16), value, np.float32)
    (chunk,) = compress_channels(values, 0.1, options(0.1))
    assert fletcher32(chunk.data[:-4]) == chunk.data[-4:].tobytes()


def test_maps_from_a_device_make_the_same_chunks():
    values = np.random.default_rng(0).normal(size=(3, 2, 16, 20)).astype(np.float32)
    motion, encoding = make_motion(values), encoding_of(0.05)
    raw, numbers = encode_on_device(motion.data, encoding)
    one = pack_motion(motion, encoding, options(0.05))
    other = pack_encoded(raw, numbers, motion, encoding, options(0.05))
    assert [c.tobytes() for c in one.chunks] == [c.tobytes() for c in other.chunks]
    assert one.statistics[0].decoded_checksum == other.statistics[0].decoded_checksum


def test_threads_compress_at_the_same_time():
    values = np.random.default_rng(0).normal(size=(8, 2, 32, 32)).astype(np.float32)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: compress_channels(values, 0.1, options(0.1)), range(12)))
    assert len({b"".join(c.data.tobytes() for c in chunks) for chunks in made}) == 1


def write_file(path, tolerance=0.1):
    values = np.random.default_rng(0).normal(size=(2, 2, 32, 32)).astype(np.float32)
    packed = pack_motion(make_motion(values), encoding_of(tolerance), options(tolerance))
    with h5py.File(path, "w") as file:
        maps = MethodDataset(file, "maps", packed.shape, encoding_of(tolerance), options(tolerance))
        maps.append_maps(packed)
        maps.dataset.attrs.update(maps.statistics.to_attributes())


def test_a_codec_that_decompresses_other_values_is_caught(tmp_path):
    write_file(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        check_decoded(file["maps"])
        file["maps"].attrs["decoded_checksum"] += 1
        with pytest.raises(MissingError, match="the installed hdf5plugin makes other values"):
            check_decoded(file["maps"])


def test_an_old_hdf5plugin_is_refused(tmp_path, monkeypatch):
    import hdf5plugin

    write_file(tmp_path / "a.h5")
    monkeypatch.setattr(hdf5plugin, "version", "5.1.0")
    with pytest.raises(MissingError, match=r"pip install 'hdf5plugin>=6'"):
        options(0.1)
    with (
        h5py.File(tmp_path / "a.h5") as file,
        pytest.raises(MissingError, match=r"a\.h5\): 5\.1\.0 has an SZ3"),
    ):
        load_filters(file["maps"])


@pytest.mark.parametrize("compression", ["auto", "blosc", "blosc2"])
def test_a_leftover_with_foreign_filters_is_salvaged(tmp_path, compression):
    tolerance = 0.05 if compression == "auto" else None
    storage = Storage(tolerance=tolerance, compression=compression)
    encoding = Encoding.from_storage(storage, units="px", bound=20.0)
    filters = dataset_options(compression, cost="light", tolerance=tolerance)
    values = np.random.default_rng(0).normal(size=(3, 2, 24, 32)).astype(np.float32)
    if tolerance:
        values[1, 1, 5, 5] = np.inf  # a chunk that the filter is left out of
    writer = ShardWriter.for_job(Job(output=str(tmp_path)), SETTINGS)
    entry = writer.begin_entry("a.mp4")
    entry.create_dataset("mbpm", shape=values.shape[1:], encoding=encoding, filters=filters)
    entry.append_maps("mbpm", pack_motion(make_motion(values), encoding, filters))
    entry.commit_video(ATTRIBUTES, {"mbpm": METHOD})
    expected = entry.group["mbpm"][:]
    writer.abandon_shard()
    assert salvage_leftover(writer.path, "", KnownVideos({})).saved
    (shard,) = tmp_path.glob("shard-*.h5")
    assert list(check_shard(shard)) == []
    with Shards(shard) as shards:
        found = shards["a.mp4"]["mbpm"]
        assert np.array_equal(found.dataset[:], expected)
        assert found.dataset.id.get_create_plist().get_nfilters() == 2

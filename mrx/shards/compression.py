"""Compression filters of the datasets in a shard.

`auto` takes only what plain h5py reads. GB an hour of video, and CPU ms to write and to read a map,
means of three real clips at the default size (`tests/benchmarks/storage.py --clips` prints these):

    | filter                 | tvl1 as q16      | mbpm as float16   |
    |------------------------|------------------|-------------------|
    | none                   | 33.5, 1.1 + 0.3  | 16.8,  0.4 + 0.8  |
    | gzip (1, byte shuffle) |  7.6, 3.7 + 1.1  | 12.5, 10.5 + 2.9  |
    | blosc (zstd 3, bits)   |  7.4, 2.4 + 0.5  | 14.1,  4.2 + 1.3  |
    | blosc2 (zstd 3, bytes) |  7.4, 3.2 + 0.5  | 12.3,  5.1 + 1.2  |

Blosc2 saves 2 or 3 % of the bytes, and half a millisecond where TV-L1 takes a hundred: no reason to
make every reader of the files install hdf5plugin, so `auto` does not take it. Who reads the maps of
a training set many times can ask for it, as it reads at least twice as fast as gzip. It shuffles
bytes: shuffled bits take 5 % less in q16 of tvl1, and 14 % more in float16 of mbpm.
"""

from typing import Any, Literal

import h5py

from mrx.errors import MissingError
from mrx.shards.bounded import checksum_values

OWN_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
OWN_FILTERS |= {h5py.h5z.FILTER_LZF}
SZ3_FILTER = 32024
SZ3_VALUES = 9
# Older ones have an SZ3 that decompresses other values than the present one, beyond the tolerance:
# 5.1 has errors of 0.0501 in maps that 7.1 wrote with 0.05, and 7.1 of 0.0501 in those of 5.0.
MIN_SZ3_RELEASE = 6
Compression = Literal["auto", "none", "gzip", "lzf", "blosc", "blosc2"]


def dataset_options(
    compression: Compression,
    *,
    cost: Literal["light", "heavy"],
    tolerance: float | None = None,
) -> dict[str, Any]:
    """Return the compression arguments of `create_dataset` for a method of this cost.

    `auto` compresses the maps of heavy methods, which cost far more than compressing does. Only
    blosc, blosc2 and a tolerance make files that need hdf5plugin to be read.

    Raises:
        MissingError: blosc, blosc2 or a tolerance is asked for, and hdf5plugin is not installed
    """
    if tolerance is not None:
        # SZ3 compares differences that it has rounded to float32, so an error may lie a rounding
        # beyond its bound.
        bound = tolerance * (1 - 2**-20)
        plugin = _import_hdf5plugin("--tolerance")
        _check_release(plugin, "--tolerance")
        return dict(plugin.SZ3(absolute=bound))
    if compression == "auto":
        compression = "gzip" if cost == "heavy" else "none"
    match compression:
        case "none":
            return {}
        case "gzip":
            return {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        case "lzf":
            return {"compression": "lzf", "shuffle": True}
        case "blosc":
            plugin = _import_hdf5plugin("--compression blosc")
            return dict(plugin.Blosc(cname="zstd", clevel=3, shuffle=plugin.Blosc.BITSHUFFLE))
        case "blosc2":
            plugin = _import_hdf5plugin("--compression blosc2")
            return dict(plugin.Blosc2(cname="zstd", clevel=3, filters=plugin.Blosc2.SHUFFLE))


def load_filters(dataset: h5py.Dataset) -> None:
    """Load the filters that a dataset needs and HDF5 lacks.

    Raises:
        MissingError: hdf5plugin has them, and is not installed or too old
    """
    properties = dataset.id.get_create_plist()
    numbers = {properties.get_filter(i)[0] for i in range(properties.get_nfilters())}
    if numbers <= OWN_FILTERS:
        return
    try:
        # The import registers its filters.
        import hdf5plugin
    except ImportError as error:
        raise MissingError(
            f"missing filter ({dataset.file.filename}): its maps are compressed by hdf5plugin. "
            "pip install 'mrx[small]'"
        ) from error
    if SZ3_FILTER in numbers:
        _check_release(hdf5plugin, dataset.file.filename)


def check_decoded(dataset: h5py.Dataset) -> None:
    """Decompress maps with a tolerance, and compare them with those that were compressed.

    Raises:
        MissingError: the installed SZ3 makes other values of them
    """
    expected = dataset.attrs.get("decoded_checksum")
    if expected is None:
        return
    found = sum(checksum_values(dataset[item]) for item in range(len(dataset)))
    if found % 2**32 != int(expected):
        raise MissingError(
            f"other filter ({dataset.file.filename}): {dataset.name} was compressed by "
            f"{dataset.attrs.get('compressor', 'another SZ3')}, and the installed hdf5plugin makes "
            "other values of it. Install that release"
        )


def trim_filter_values(number: int, values: tuple[int, ...]) -> tuple[int, ...]:
    """Return the values with which a dataset that has this filter is created anew.

    SZ3 puts the shape of a chunk before the values that it is given, and refuses values that have
    it already. Where SZ3 is not loaded, nothing puts it there again.
    """
    shape_values = len(values) - SZ3_VALUES
    if number == SZ3_FILTER and shape_values > 0 and h5py.h5z.filter_avail(number):
        return values[shape_values:]
    return values


def describe_compressor(tolerance: float | None) -> dict[str, str]:
    """Return the attribute that names the compressor of maps with a tolerance."""
    if tolerance is None:
        return {}
    return {"compressor": f"SZ3 of hdf5plugin {_import_hdf5plugin('--tolerance').version}"}


def _check_release(plugin: Any, subject: str) -> None:
    if int(str(plugin.version).split(".")[0]) < MIN_SZ3_RELEASE:
        raise MissingError(
            f"old hdf5plugin ({subject}): {plugin.version} has an SZ3 that makes other values. "
            f"pip install 'hdf5plugin>={MIN_SZ3_RELEASE}'"
        )


def _import_hdf5plugin(option: str) -> Any:
    try:
        import hdf5plugin
    except ImportError as error:
        raise MissingError(
            f"no hdf5plugin: {option} needs it to write, and every reader of the shards to read. "
            "pip install 'mrx[small]'"
        ) from error
    return hdf5plugin

"""Compression filters of the datasets in a shard."""

from typing import Any, Literal

from mrx.errors import MissingError

Compression = Literal["auto", "none", "gzip", "lzf", "blosc"]


def dataset_options(compression: Compression, *, cost: Literal["light", "heavy"]) -> dict[str, Any]:
    """Return the compression arguments of `create_dataset` for a method of this cost.

    `auto` compresses the maps of heavy methods, which cost far more than compressing does. Every
    choice but blosc can be read with h5py alone.

    Raises:
        MissingError: blosc is asked for, and hdf5plugin is not installed
    """
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
            try:
                import hdf5plugin
            except ImportError as error:
                raise MissingError(
                    "no hdf5plugin: --compression blosc needs it to write, and every reader of the "
                    "shards to read. pip install 'mrx[blosc]'"
                ) from error
            bits = hdf5plugin.Blosc.BITSHUFFLE
            return dict(hdf5plugin.Blosc(cname="zstd", clevel=3, shuffle=bits))

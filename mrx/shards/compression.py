"""What HDF5 does to a chunk on its way to disk."""

from typing import Any, Literal

from mrx.errors import MissingError

Compression = Literal["auto", "none", "gzip", "lzf", "blosc"]


def dataset_options(compression: Compression, *, cost: Literal["light", "heavy"]) -> dict[str, Any]:
    """The arguments of `create_dataset` for a method of this cost.

    `auto` compresses where the method costs far more than compressing does. Every choice but
    blosc opens with h5py alone.
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
                    "blosc needs hdf5plugin, which is not installed. pip install 'mrx[blosc]', "
                    "here and wherever the shards are read"
                ) from error
            bits = hdf5plugin.Blosc.BITSHUFFLE
            return dict(hdf5plugin.Blosc(cname="zstd", clevel=3, shuffle=bits))

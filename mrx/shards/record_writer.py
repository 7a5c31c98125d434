"""Records of videos to HDF5: attributes, items, digests, and the index of a shard."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

from mrx.shards.attributes import write_attributes
from mrx.shards.compression import trim_filter_values
from mrx.shards.digest import digest_root
from mrx.shards.layout import (
    ATTRIBUTE_SUFFIX,
    INDEX_DTYPE,
    ITEMS_SUFFIX,
    STAMP_NAMES,
)
from mrx.shards.trailer import read_chunk
from mrx.shards.video_record import MapsRecord, VideoRecord, list_chunks

# HDF5 keeps attributes in an object's header, which holds 64 KiB.
MAX_ATTRIBUTE_BYTES = 60_000


def seal_record(record: VideoRecord) -> VideoRecord:
    """Return the record with its digest."""
    return replace(record, digest=record.compute_digest())


def write_record(group: h5py.Group, record: VideoRecord) -> None:
    """Write the attributes and items of a video whose datasets exist."""
    _write_all_attributes(group, group, "", {**record.attributes, "digest": record.digest})
    for name, maps in record.methods.items():
        _write_dataset(group, name + ITEMS_SUFFIX, maps.items, maps.items.shape)
        _write_all_attributes(group, group[name], f"{name}.", maps.attributes)


def copy_maps(group: h5py.Group, name: str, maps: MapsRecord, source: int) -> MapsRecord:
    """Copy maps from an open file, chunk by chunk, and return their record in the new place.

    Raises:
        ValueError: a chunk is damaged
    """
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_chunk(maps.chunk_shape)
    for number, flags, values in maps.filters:
        properties.set_filter(number, flags, trim_filter_values(number, values))
    space = h5s.create_simple(maps.shape, (h5s.UNLIMITED, *maps.shape[1:]))
    dtype = h5t.py_create(np.dtype(maps.dtype))
    dataset = h5py.Dataset(h5d.create(group.id, name.encode(), dtype, space, dcpl=properties))
    for chunk in maps.chunks:
        data = read_chunk(source, chunk)
        if data is None:
            raise ValueError(f"{name}[{chunk['start'][0]}] is damaged")
        start = tuple(int(n) for n in chunk["start"])
        dataset.id.write_direct_chunk(start, data, int(chunk["mask"]))
    chunks = list_chunks(dataset)
    chunks["checksum"] = maps.chunks["checksum"]
    return replace(maps, chunks=chunks)


def write_index(file: h5py.File) -> None:
    """Write the index, the digest of the shard, and the mark that it is complete."""
    rows = [row for group in file["videos"].values() for row in build_index_rows(group)]
    index = np.array(rows, INDEX_DTYPE)
    _write_dataset(file, "index", index, index.shape)
    videos = [(str(g.attrs["key"]), str(g.attrs["digest"])) for g in file["videos"].values()]
    file.attrs["digest"] = digest_root(dict(file.attrs), videos)
    # Written last: the index lists the committed videos, and `complete` says that it does.
    file.attrs["complete"] = 1


def build_index_rows(group: h5py.Group) -> list[tuple[Any, ...]]:
    """Build the rows of the index for a video, one for each method."""
    attributes = group.attrs
    names = [name for name in group if name + ITEMS_SUFFIX in group]
    shared_values = (
        float(attributes["avg_fps"]),
        float(attributes["duration"]),
        _parse_whole_number(str(attributes.get("label", ""))),
        *(attributes.get(name, -1) for name in STAMP_NAMES[:-1]),
        str(attributes.get(STAMP_NAMES[-1], "")).encode(),
        str(attributes.get("source", "")),
        str(attributes.get("digest", "")).encode(),
    )
    return [(attributes["key"], name, *group[name].shape, *shared_values) for name in names]


def _write_dataset(
    group: h5py.Group, name: str, values: Any, chunks: tuple[int, ...] | None, dtype: Any = None
) -> None:
    checked = {"chunks": chunks, "fletcher32": True} if chunks else {}
    dataset = group.create_dataset(name, data=values, dtype=dtype, **checked)
    # Its values wait in a cache. A full disk is an error here; when the dataset is closed, h5py
    # would only print it, and the video would count without them.
    dataset.flush()


def _write_all_attributes(
    group: h5py.Group,
    target: h5py.Group | h5py.Dataset,
    prefix: str,
    values: Mapping[str, Any],
) -> None:
    """Write attributes, and those that are too long as datasets of the video's group."""
    long = {name for name, value in values.items() if _count_bytes(value) > MAX_ATTRIBUTE_BYTES}
    write_attributes(target, {n: v for n, v in values.items() if n not in long})
    for name in long:
        text = h5py.string_dtype() if isinstance(values[name][0], str) else None
        _write_dataset(group, f"{prefix}{name}{ATTRIBUTE_SUFFIX}", values[name], None, text)


def _count_bytes(value: Any) -> int:
    """Return the bytes that a list takes in an attribute; a text of any length lies elsewhere."""
    # A text in a list takes 16 bytes: its length, and its place in the file's heap.
    return 16 * len(value) if isinstance(value, list) else 0


def _parse_whole_number(label: str) -> int:
    """Return the number that a label spells, or -1 if it is none that fits in 64 bits."""
    try:
        number = int(label)
    except ValueError:
        return -1
    return number if abs(number) < 2**63 else -1

"""The record of a committed video: all that is needed to write it again, but for its chunks."""

import json
import struct
from dataclasses import asdict, dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mrx.shards.digest import DigestedMaps, digest_video, to_plain_value
from mrx.shards.layout import ATTRIBUTE_SUFFIX, ITEM_DTYPE, ITEMS_SUFFIX, STAMP_NAMES, is_map_name

# start: the place of the chunk's first value in (N, C, H, W); mask: filters left out of this chunk
CHUNK_DTYPE = np.dtype(
    [("start", "u4", (4,)), ("offset", "u8"), ("size", "u8"), ("mask", "u4"), ("checksum", "u4")]
)
_LENGTH = struct.Struct("<I")
_FILTER = tuple[int, int, tuple[int, ...]]


@dataclass(frozen=True)
class MapsRecord:
    """The maps of one method of a video.

    Attributes:
        dtype: numpy's name of the stored type
        shape: of all maps, (N, C, H, W)
        chunk_shape: of a chunk
        filters: HDF5's number, flags and values of each filter, in order
        attributes: of the dataset, plain values
        items: an item for each map
        chunks: the place and checksum of each chunk in the file
    """

    dtype: str
    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    filters: tuple[_FILTER, ...]
    attributes: dict[str, Any]
    items: NDArray[Any]
    chunks: NDArray[Any]


@dataclass(frozen=True)
class VideoRecord:
    """A video of a shard.

    Attributes:
        key: its key
        attributes: of its group, plain values
        methods: method → its maps
        digest: over all of it
    """

    key: str
    attributes: dict[str, Any]
    methods: dict[str, MapsRecord]
    digest: str

    @property
    def stamp(self) -> tuple[float | str, ...]:
        """The stamp of the video's source."""
        return read_stamp(self.attributes)

    def compute_digest(self) -> str:
        """Compute the digest anew."""
        methods = {
            name: DigestedMaps(maps.dtype, maps.shape, maps.attributes, maps.items)
            for name, maps in self.methods.items()
        }
        return digest_video(self.attributes, methods)

    def to_bytes(self) -> bytes:
        """Pack the record: the length of a JSON text, the text, then all arrays."""
        arrays = [array for maps in self.methods.values() for array in (maps.items, maps.chunks)]
        methods = {
            name: {
                **{k: v for k, v in asdict(maps).items() if k not in ("items", "chunks")},
                "counts": [len(maps.items), len(maps.chunks)],
            }
            for name, maps in self.methods.items()
        }
        content = [self.key, self.attributes, methods, self.digest]
        text = json.dumps(content).encode()
        return b"".join([_LENGTH.pack(len(text)), text, *(a.tobytes() for a in arrays)])

    @classmethod
    def from_bytes(cls, data: bytes) -> "VideoRecord":
        """Unpack a record that `to_bytes` made."""
        (length,) = _LENGTH.unpack_from(data)
        end = _LENGTH.size + length
        key, attributes, described, digest = json.loads(data[_LENGTH.size : end])
        methods = {}
        for name, fields in described.items():
            arrays = []
            for dtype, count in zip((ITEM_DTYPE, CHUNK_DTYPE), fields.pop("counts"), strict=True):
                arrays.append(np.frombuffer(data, dtype, count, end))
                end += count * dtype.itemsize
            fields["shape"] = tuple(fields["shape"])
            fields["chunk_shape"] = tuple(fields["chunk_shape"])
            fields["filters"] = tuple((n, flags, tuple(v)) for n, flags, v in fields["filters"])
            methods[name] = MapsRecord(**fields, items=arrays[0], chunks=arrays[1])
        return cls(key, attributes, methods, digest)


def read_stamp(attributes: Any) -> tuple[float | str, ...]:
    """Read the stamp of a video's source from its attributes: it changes when the source does."""
    numbers = (float(attributes.get(name, -1)) for name in STAMP_NAMES[:-1])
    return *numbers, str(attributes.get(STAMP_NAMES[-1], ""))


def read_record(group: h5py.Group) -> VideoRecord:
    """Read the record of a video from its group; the checksums of chunks are those of the items.

    Raises:
        READ_ERRORS: the group is damaged
    """
    attributes = read_attributes(group)
    methods = {
        name: _read_maps_record(group, name)
        for name in group
        if is_map_name(name) and isinstance(group[name], h5py.Dataset)
    }
    digest = str(attributes.pop("digest", ""))
    return VideoRecord(str(attributes["key"]), attributes, methods, digest)


def read_attributes(group: h5py.Group, method: str = "") -> dict[str, Any]:
    """Read the attributes of a video, or of one method, as plain values, with long lists."""
    target = group[method] if method else group
    values = {name: to_plain_value(value) for name, value in target.attrs.items()}
    return {**values, **read_long_attributes(group, method)}


def read_long_attributes(group: h5py.Group, method: str = "") -> dict[str, Any]:
    """Read the lists that were too long for an attribute of a video, or of one method."""
    prefix = f"{method}." if method else ""
    values = {}
    for name in group:
        attribute = name.removeprefix(prefix).removesuffix(ATTRIBUTE_SUFFIX)
        # "mbpm.mean.attribute" is one of the method mbpm, and none of the video.
        if name == f"{prefix}{attribute}{ATTRIBUTE_SUFFIX}" and "." not in attribute:
            values[attribute] = to_plain_value(group[name][...])
    return values


def _read_maps_record(group: h5py.Group, name: str) -> MapsRecord:
    dataset = group[name]
    stored = group[name + ITEMS_SUFFIX][...]
    items = np.zeros(len(stored), ITEM_DTYPE)
    for field in stored.dtype.names:  # those of format 1 have no checksum
        items[field] = stored[field]
    attributes = read_attributes(group, name)
    return describe_maps(dataset, attributes, items, list_chunks(dataset))


def describe_maps(
    dataset: h5py.Dataset,
    attributes: dict[str, Any],
    items: NDArray[Any],
    chunks: NDArray[Any],
) -> MapsRecord:
    """Describe a dataset of maps."""
    properties = dataset.id.get_create_plist()
    filters = []
    for i in range(properties.get_nfilters()):
        number, flags, values, _ = properties.get_filter(i)
        filters.append((int(number), int(flags), tuple(int(v) for v in values)))
    return MapsRecord(
        dtype=dataset.dtype.str,
        shape=tuple(dataset.shape),
        chunk_shape=tuple(dataset.chunks),
        filters=tuple(filters),
        attributes=attributes,
        items=items,
        chunks=chunks,
    )


def list_chunks(dataset: h5py.Dataset) -> NDArray[Any]:
    """List the chunks of a dataset, in the order of their places; their checksums are not read."""
    found: list[tuple[tuple[int, ...], int, int, int, int]] = []

    def add_chunk(info: Any) -> None:
        found.append((info.chunk_offset, info.byte_offset, info.size, info.filter_mask, 0))

    dataset.id.chunk_iter(add_chunk)
    return np.array(sorted(found), CHUNK_DTYPE)

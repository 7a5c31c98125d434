"""Reading shards: floats in the method's units, for every stored type."""

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mrx.errors import MissingError, NoInputError
from mrx.shards.encoding import decode_maps
from mrx.shards.layout import (
    INDEX_DTYPE,
    ITEMS_SUFFIX,
    group_name,
    list_shards,
    open_shard,
    read_index,
)

MAX_OPEN_FILES = 32


class Shards(Mapping[str, "Recording"]):
    """Maps keys to the videos of one or more shards.

    Files are opened when they are read, at most 32 at a time and separately in every process, so
    an object can be passed to a data loader's workers. If several shards hold a key, the shard
    written last counts.

    Args:
        path: a folder of shards, or one shard
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        root = Path(path)
        self.paths = list_shards(root) if root.is_dir() else [root]
        if not self.paths:
            raise NoInputError(f"no shards in {root}: mrx extract -o {root} makes them")
        self._files: OrderedDict[Path, h5py.File] = OrderedDict()
        self._process_id = os.getpid()
        indexes = {p: read_index(p) for p in self.paths}
        written = sorted(self.paths, key=lambda p: indexes[p][0])
        self._index_rows = {p: indexes[p][1] for p in written}
        # Later shards replace the keys of earlier ones.
        self._path_of_key = {row["key"].decode(): p for p in written for row in self._index_rows[p]}

    def __getitem__(self, key: str) -> "Recording":
        return Recording(self, key, self._path_of_key[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._path_of_key)

    def __len__(self) -> int:
        return len(self._path_of_key)

    def __repr__(self) -> str:
        return f"Shards({len(self)} videos in {len(self.paths)} shards)"

    def __enter__(self) -> "Shards":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        # Open files cannot be pickled: the copy opens its own.
        return {**self.__dict__, "_files": OrderedDict()}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row for each video and method, as plain values."""
        for path, rows in self._index_rows.items():
            for row in rows:
                values = {name: row[name] for name in INDEX_DTYPE.names or ()}
                plain = {
                    n: v.decode() if isinstance(v, bytes) else v.item() for n, v in values.items()
                }
                if self._path_of_key[plain["key"]] == path:
                    yield {**plain, "shard": str(path)}

    def close(self) -> None:
        """Close the open files."""
        while self._files:
            self._files.popitem()[1].close()

    def _open_file(self, path: Path) -> h5py.File:
        # The state of the HDF5 library must not be shared after a fork.
        if self._process_id != os.getpid():
            self._files, self._process_id = OrderedDict(), os.getpid()
        if path not in self._files:
            # The first is the least recently used.
            while len(self._files) >= MAX_OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            self._files[path] = open_shard(path)
        self._files.move_to_end(path)
        return self._files[path]


class Recording(Mapping[str, "Maps"]):
    """One video: its attributes, and its `Maps` by method."""

    def __init__(self, shards: Shards, key: str, path: Path) -> None:
        self.key = key
        self.path = path
        self._shards = shards

    @property
    def group(self) -> h5py.Group:
        """The HDF5 group of the video."""
        return self._shards._open_file(self.path)["videos"][group_name(self.key)]

    @property
    def attrs(self) -> dict[str, Any]:
        """The attributes of the video."""
        return dict(self.group.attrs)

    def __getitem__(self, method: str) -> "Maps":
        if method not in self.group or method.endswith(ITEMS_SUFFIX):
            raise KeyError(f"{self.key} has no {method}; it has {', '.join(self)}")
        return Maps(self, method)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.group if not name.endswith(ITEMS_SUFFIX))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Maps:
    """The maps of one method of one video; indexing reads them as float32.

    Shape:
        - all maps: ``(N, C, H, W)``
    """

    def __init__(self, recording: Recording, method: str) -> None:
        self._recording = recording
        self.method = method

    @property
    def dataset(self) -> h5py.Dataset:
        """The HDF5 dataset of raw numbers."""
        return self._recording.group[self.method]

    @property
    def attrs(self) -> dict[str, Any]:
        """The channels, units, parameters and statistics."""
        return dict(self.dataset.attrs)

    @property
    def items(self) -> NDArray[Any]:
        """The first and last source frame of each item, and their times in seconds."""
        return self._recording.group[self.method + ITEMS_SUFFIX][...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all maps, (N, C, H, W)."""
        return tuple(self.dataset.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        dataset = self.dataset
        try:
            raw = dataset[index]
        except OSError as error:
            if "filter" in str(error) and "available" in str(error):
                raise MissingError(
                    f"missing filter ({self._recording.path}): its maps are compressed with blosc. "
                    "pip install hdf5plugin, and import it"
                ) from error
            raise
        return decode_maps(
            np.asarray(raw), scale=dataset.attrs["scale"], offset=dataset.attrs["offset"]
        )

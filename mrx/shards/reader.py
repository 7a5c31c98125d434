"""Reading shards: floats in the method's units, for every stored type."""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mrx.errors import FormatError, NoInputError
from mrx.shards.compression import load_filters
from mrx.shards.contents import find_counting_rows
from mrx.shards.encoding import decode_maps
from mrx.shards.layout import (
    INDEX_DTYPE,
    ITEMS_SUFFIX,
    READ_ERRORS,
    group_name,
    list_shards,
    make_damage_error,
    open_shard,
    read_index,
)
from mrx.shards.video_record import read_long_attributes, read_record

MAX_OPEN_FILES = 32


class Shards(Mapping[str, "Recording"]):
    """Maps keys to the videos of one or more shards.

    Files are opened when they are read, separately in every process, so an object can be passed to
    a data loader's workers. Threads may share it. Of more than 32 open files, those with no group
    or dataset in use are closed. If several shards hold the same maps, those
    of the later run count. A video is checked against its digest when it is first read.

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
        self._lock = threading.RLock()
        self._rows = find_counting_rows(read_index(path) for path in self.paths)
        self._checked: set[tuple[Path, str]] = set()

    def __getitem__(self, key: str) -> "Recording":
        return Recording(self, key, {name: path for name, (path, _) in self._rows[key].items()})

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

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
        # Neither open files nor a lock can be pickled: the copy has its own.
        return {**self.__dict__, "_files": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row for each video and method, as plain values."""
        for methods in self._rows.values():
            for path, row in methods.values():
                values = {name: row[name] for name in INDEX_DTYPE.names or ()}
                plain = {
                    n: v.decode() if isinstance(v, bytes) else v.item() for n, v in values.items()
                }
                yield {**plain, "shard": str(path)}

    def close(self) -> None:
        """Close the open files, and with them the groups and datasets that were handed out."""
        self._forget_other_process()
        with self._lock:
            while self._files:
                self._files.popitem()[1].close()

    def open_group(self, path: Path, key: str) -> h5py.Group:
        """Open the group of a video, and check it if it is opened for the first time.

        Raises:
            FormatError: it is damaged
        """
        self._forget_other_process()
        try:
            # Until the group is open, another thread could close its file.
            with self._lock:
                group = self._open_file(path)["videos"][group_name(key)]
            if (path, key) not in self._checked:
                _check_group(path, key, group)
                self._checked.add((path, key))
        except READ_ERRORS as error:
            raise make_damage_error(path, error) from error
        return group

    def _open_file(self, path: Path) -> h5py.File:
        if path not in self._files:
            self._close_unused_files()
            self._files[path] = open_shard(path)
        self._files.move_to_end(path)
        return self._files[path]

    def _forget_other_process(self) -> None:
        """Start anew after a fork."""
        # The state of the HDF5 library must not be shared, nor a lock that a thread of the other
        # process may hold.
        if self._process_id != os.getpid():
            self._files, self._lock = OrderedDict(), threading.RLock()
            self._process_id = os.getpid()

    def _close_unused_files(self) -> None:
        """Make room for a file among the open ones, as far as they are not in use."""
        # The first is the least recently used.
        for path in list(self._files):
            if len(self._files) < MAX_OPEN_FILES:
                return
            # One object is the file itself.
            if h5py.h5f.get_obj_count(self._files[path].id, h5py.h5f.OBJ_ALL) <= 1:
                self._files.pop(path).close()


class Recording(Mapping[str, "Maps"]):
    """One video: its attributes, and its `Maps` by method.

    Args:
        shards: the shards that are read
        key: of the video
        paths: method → the shard that holds its maps
    """

    def __init__(self, shards: Shards, key: str, paths: Mapping[str, Path]) -> None:
        self.key = key
        self._paths = paths
        self._shards = shards

    @property
    def path(self) -> Path:
        """The shard that was written last."""
        return list(self._paths.values())[-1]

    @property
    def group(self) -> h5py.Group:
        """The HDF5 group of the video, in the shard that was written last."""
        return self._shards.open_group(self.path, self.key)

    @property
    def attrs(self) -> dict[str, Any]:
        """The attributes of the video."""
        return _join_attributes(self.group)

    def get_path(self, method: str) -> Path:
        """Return the shard that holds the maps of a method."""
        return self._paths[method]

    def open_maps_group(self, method: str) -> h5py.Group:
        """Open the HDF5 group that holds the maps of a method."""
        return self._shards.open_group(self._paths[method], self.key)

    def __getitem__(self, method: str) -> "Maps":
        if method not in self._paths:
            raise KeyError(f"{self.key} has no {method}; it has {', '.join(self)}")
        return Maps(self, method)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


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
        with self._explain_damage():
            return self._recording.open_maps_group(self.method)[self.method]

    @property
    def attrs(self) -> dict[str, Any]:
        """The channels, units, parameters and statistics."""
        with self._explain_damage():
            return _join_attributes(self._recording.open_maps_group(self.method), self.method)

    @property
    def items(self) -> NDArray[Any]:
        """The first and last source frame of each item, and their times in seconds."""
        with self._explain_damage():
            return self._recording.open_maps_group(self.method)[self.method + ITEMS_SUFFIX][...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all maps, (N, C, H, W)."""
        return tuple(self.dataset.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        dataset = self.dataset
        load_filters(dataset)
        # A damaged chunk is an OSError; the others are those of a wrong index.
        with self._explain_damage((OSError, RuntimeError)):
            raw = np.asarray(dataset[index])
        return decode_maps(raw, scale=dataset.attrs["scale"], offset=dataset.attrs["offset"])

    @contextmanager
    def _explain_damage(self, errors: tuple[type[Exception], ...] = READ_ERRORS) -> Iterator[None]:
        try:
            yield
        except errors as error:
            path = self._recording.get_path(self.method)
            raise make_damage_error(path, error) from error


def _check_group(path: Path, key: str, group: h5py.Group) -> None:
    """Compare a video with its digest; one of format 1 has none."""
    if "digest" not in group.attrs and group.file.attrs["mrx_format"] == 1:
        return
    record = read_record(group)
    if record.key != key or record.compute_digest() != record.digest:
        raise FormatError(
            f"damaged video ({path}::{key}): its attributes or items do not fit its digest. "
            f"Run mrx verify --repair {path}, then mrx extract again"
        )


def _join_attributes(group: h5py.Group, method: str = "") -> dict[str, Any]:
    """Return attributes as h5py reads them, with those that are stored as datasets."""
    target = group[method] if method else group
    return {**read_long_attributes(group, method), **dict(target.attrs)}

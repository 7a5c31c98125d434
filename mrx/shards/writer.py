"""Writing shards: a private temporary file, a flush for each video, and a name only at the end.

A file that has its final name is never opened for writing. A run killed at any moment loses the
video in flight: what was flushed is found again by `salvage`.
"""

import errno
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mrx.errors import OutputError
from mrx.job import Job, Storage, settings_hash
from mrx.shards.attributes import write_attributes
from mrx.shards.chunks import Packed
from mrx.shards.encoding import Encoding, Statistics
from mrx.shards.layout import (
    FINAL,
    FORMAT,
    INDEX,
    ITEM,
    ITEMS,
    PARTIAL,
    STAMP,
    group_name,
    host,
    shards,
)
from mrx.version import __version__

FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what can go wrong while writing into one line that says what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # h5py raises the latter when it flushes
        text = " ".join(str(error).split())
        full = getattr(error, "errno", 0) in FULL or any(f"errno = {n}," in text for n in FULL)
        cause = "no space left, or a file-size limit" if full else text
        raise OutputError(
            f"cannot write ({path.parent}): {cause}. What was finished is kept: make room and "
            "give the same command again"
        ) from error


class ShardWriter:
    """One shard while it is written, by one process.

    Args:
        job: where to write, and what the attributes say
        settings: all that decides the numbers in it
        versions: of the libraries that made the numbers
    """

    def __init__(
        self, job: Job, settings: Mapping[str, Any], versions: Mapping[str, str] | None = None
    ) -> None:
        self.folder = Path(job.output)
        self.share = job.share_name
        name = f".tmp-{self.share or 'all'}-{host()}-{os.getpid()}-{secrets.token_hex(4)}.h5"
        self.path = self.folder / name
        with writing(self.path):
            self.file = h5py.File(self.path, "x")
            self.file.attrs.update(
                mrx_format=FORMAT,
                mrx_version=__version__,
                created=datetime.now(UTC).isoformat(),
                writer=f"{host()}:{os.getpid()}",
                complete=0,
                methods=list(settings["methods"]),
                settings_json=json.dumps(settings, sort_keys=True),
                settings_hash=settings_hash(settings),
                versions=json.dumps(versions or {}),
                shard=f"{job.share[0]}/{job.share[1]}" if job.share else "0/1",
            )
            self.file.create_group("videos")
            self.file.flush()
        self.keys: list[str] = []
        self.open_entries = 0

    def is_full(self, storage: Storage) -> bool:
        """Whether the shard has reached its size, in videos or in bytes."""
        many = len(self.keys) >= storage.videos_per_shard
        return many or self.path.stat().st_size >= storage.shard_size

    def begin(self, key: str) -> "Entry":
        """Begin a video; it does not count until it is committed."""
        with writing(self.path):
            return Entry(self, key)

    def seal(self) -> Path | None:
        """Finish the shard and give it its name; an empty one vanishes."""
        return seal(self.file, self.path, self.share)

    def abandon(self) -> None:
        """Let go of a file that could not be written to; `salvage` finds it as it lies."""
        abandon(self.file)


class Series:
    """A method's maps of one video while they are written, one chunk for each."""

    def __init__(
        self,
        group: h5py.Group,
        method: str,
        shape: Sequence[int],
        encoding: Encoding,
        filters: Mapping[str, Any],
    ) -> None:
        self.dataset = group.create_dataset(
            method,
            (0, *shape),
            encoding.dtype,
            maxshape=(None, *shape),
            chunks=(1, *shape),
            fletcher32=True,
            **filters,
        )
        self.count = 0
        self._encoding = encoding
        self._statistics = Statistics()
        self._items: list[NDArray[Any]] = []

    def put(self, packed: Packed) -> None:
        """Append maps."""
        before, self.count = self.count, self.count + len(packed)
        items = np.empty(len(packed), ITEM)
        items["first"], items["last"] = packed.index.T
        items["start"], items["end"] = packed.time.T
        self._items.append(items)
        for statistics in packed.statistics:
            self._statistics.merge(statistics)
        self.dataset.id.set_extent((self.count, *packed.shape))
        if packed.chunks is None:
            self.dataset[before:] = packed.raw
            return
        for number, chunk in enumerate(packed.chunks, start=before):
            self.dataset.id.write_direct_chunk((number, 0, 0, 0), chunk)

    def items(self) -> NDArray[Any]:
        """The source frames and times of all maps."""
        return np.concatenate(self._items) if self._items else np.empty(0, ITEM)

    def attributes(self) -> dict[str, Any]:
        """How the values are encoded, and what they were."""
        encoding = self._encoding
        return {
            "scale": encoding.scale,
            "offset": encoding.offset,
            **({} if encoding.bound is None else {"bound": encoding.bound}),
            **self._statistics.attributes(),
        }


class Entry:
    """One video while it is written."""

    def __init__(self, shard: ShardWriter, key: str) -> None:
        self.shard = shard
        self.key = key
        self.ended = False
        self._name = f"{PARTIAL}/{group_name(key)}"
        shard.file.pop(self._name, None)
        self.group = shard.file.create_group(self._name)
        shard.open_entries += 1
        self._series: dict[str, Series] = {}

    def open(
        self,
        method: str,
        *,
        shape: Sequence[int],
        encoding: Encoding,
        filters: Mapping[str, Any],
    ) -> None:
        """Make a method's dataset, still empty, for items of shape (C, H, W)."""
        with writing(self.shard.path):
            self._series[method] = Series(self.group, method, shape, encoding, filters)

    def put(self, method: str, packed: Packed) -> None:
        """Append maps to a method's dataset."""
        with writing(self.shard.path):
            self._series[method].put(packed)

    def __contains__(self, method: str) -> bool:
        return method in self._series

    def counts(self) -> dict[str, int]:
        """How many items each method has so far."""
        return {name: series.count for name, series in self._series.items()}

    def commit(
        self, attributes: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]]
    ) -> int:
        """Make the video count: attributes, its place under /videos, and a flush.

        Args:
            attributes: of the video
            methods: of each method's dataset

        Returns:
            the bytes that the video's datasets take
        """
        shard = self.shard
        with writing(shard.path):
            write_attributes(self.group, {"key": self.key, "status": "ok", **attributes})
            stored = 0
            for name, series in self._series.items():
                items = series.items()
                self.group.create_dataset(
                    name + ITEMS, data=items, chunks=items.shape, fletcher32=True
                )
                write_attributes(series.dataset, {**series.attributes(), **methods[name]})
                stored += series.dataset.id.get_storage_size()
            target = f"videos/{group_name(self.key)}"
            shard.file.pop(target, None)
            shard.file.move(self._name, target)
            shard.file.flush()
        shard.keys.append(self.key)
        self._end()
        return int(stored)

    def drop(self) -> None:
        """Forget the video: it failed, or was cancelled."""
        self._series.clear()
        self._end()
        with writing(self.shard.path):
            self.shard.file.pop(self._name, None)
            self.shard.file.flush()

    def _end(self) -> None:
        self.ended = True
        self.shard.open_entries -= 1


def abandon(file: h5py.File) -> None:
    """Close a file that could not be written to, and leave what is on disk as it lies.

    Closing would write again, and again in vain, so its descriptor is led to nowhere first.
    """
    if file:
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, file.id.get_vfd_handle())
        os.close(nowhere)
        with suppress(OSError, RuntimeError):  # nowhere has no length to be set at the end
            file.close()


def seal(file: h5py.File, path: Path, share: str) -> Path | None:
    """Write the index, mark the file complete, close, sync, and give it the next free name."""
    with writing(path):
        file.pop(PARTIAL, None)
        rows = [row for group in file["videos"].values() for row in index_rows(group)]
        if rows and not file.attrs["complete"]:
            file.pop("index", None)
            index = np.array(rows, INDEX)
            file.create_dataset("index", data=index, chunks=index.shape, fletcher32=True)
            file.attrs["complete"] = 1
        file.flush()
        file.close()
        if not rows:
            path.unlink()
            return None
        _sync(path)
        final = _publish(path, share)
        _sync(path.parent)
    return final


def index_rows(group: h5py.Group) -> list[tuple[Any, ...]]:
    """The rows of the index that a video's group stands for."""
    attributes = group.attrs
    rest = (
        float(attributes["avg_fps"]),
        float(attributes["duration"]),
        _whole_number(str(attributes.get("label", ""))),
        *(attributes.get(name, -1) for name in STAMP),
    )
    names = [name for name in group if not name.endswith(ITEMS)]
    return [(attributes["key"], name, *group[name].shape, *rest) for name in names]


def _whole_number(label: str) -> int:
    """A label that is a number, as the index holds it; -1 for any other."""
    try:
        number = int(label)
    except ValueError:
        return -1
    return number if abs(number) < 2**63 else -1


def _publish(path: Path, share: str) -> Path:
    """Give a finished file the next free number. A hard link never replaces a file."""
    prefix = f"shard-{share}-" if share else "shard-"
    matches = (FINAL.fullmatch(p.name) for p in shards(path.parent))
    taken = [int(m["number"]) for m in matches if m and (m["share"] or "") == share]
    number = max(taken, default=-1) + 1
    while True:
        final = path.parent / f"{prefix}{number:05}.h5"
        try:
            final.hardlink_to(path)
        except FileExistsError:
            number += 1
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            try:
                os.close(os.open(final, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                number += 1
                continue
            path.replace(final)
            return final
        else:
            path.unlink()
            return final


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

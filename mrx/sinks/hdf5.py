"""Writing shards: a private temporary file, a flush for each video, and a name only at the end.

A file that has its final name is never opened for writing. A run killed at any moment loses the
video in flight: what was flushed is found again by `salvage`.
"""

import errno
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mrx import __version__, kernels
from mrx.errors import OutputError
from mrx.job import Job, Storage, settings_hash
from mrx.kernels.checksum import fletcher32
from mrx.keys import group_name
from mrx.records import Motion
from mrx.sinks.encode import Encoding, Statistics, encode
from mrx.sinks.layout import FINAL, FORMAT, INDEX, ITEM, ITEMS, PARTIAL, host, open_shard, shards

FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
CHECKSUM_BYTES = 4
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what can go wrong while writing into one line that says what to do."""
    try:
        yield
    except OSError as error:
        text = str(error)
        full = error.errno in FULL or any(f"errno = {n}," in text for n in FULL)
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


class Entry:
    """One video while it is written."""

    def __init__(self, shard: ShardWriter, key: str) -> None:
        self.shard = shard
        self.key = key
        self._name = f"{PARTIAL}/{group_name(key)}"
        shard.file.pop(self._name, None)
        self.group = shard.file.create_group(self._name)
        self._statistics: dict[str, Statistics] = {}
        self._items: dict[str, list[np.ndarray[Any, Any]]] = {}
        self._encodings: dict[str, Encoding] = {}

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
            self.group.create_dataset(
                method,
                (0, *shape),
                encoding.dtype,
                maxshape=(None, *shape),
                chunks=(1, *shape),
                fletcher32=True,
                **filters,
            )
        self._encodings[method] = encoding
        self._statistics[method] = Statistics()
        self._items[method] = []

    def put(self, method: str, motion: Motion) -> None:
        """Append maps to a method's dataset."""
        raw = encode(motion.data, self._encodings[method], self._statistics[method])
        items = np.empty(len(raw), ITEM)
        items["first"], items["last"] = motion.index.T
        items["start"], items["end"] = motion.time.T
        self._items[method].append(items)
        with writing(self.shard.path):
            append(self.group[method], raw)

    def __contains__(self, method: str) -> bool:
        return method in self._items

    def counts(self) -> dict[str, int]:
        """How many items each method has so far."""
        return {name: len(self.group[name]) for name in self._items}

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
            self.group.attrs.update(key=self.key, status="ok", **attributes)
            for name, items in self._items.items():
                joined = np.concatenate(items) if items else np.empty(0, ITEM)
                self.group.create_dataset(name + ITEMS, data=joined)
                encoding = self._encodings[name]
                self.group[name].attrs.update(
                    scale=encoding.scale,
                    offset=encoding.offset,
                    **({} if encoding.bound is None else {"bound": encoding.bound}),
                    **self._statistics[name].attributes(),
                    **methods[name],
                )
            stored = sum(self.group[name].id.get_storage_size() for name in self._items)
            target = f"videos/{group_name(self.key)}"
            shard.file.pop(target, None)
            shard.file.move(self._name, target)
            shard.file.flush()
        shard.keys.append(self.key)
        return int(stored)

    def drop(self) -> None:
        """Forget the video: it failed, or was cancelled."""
        with writing(self.shard.path):
            self.shard.file.pop(self._name, None)
            self.shard.file.flush()


def append(dataset: h5py.Dataset, raw: NDArray[Any]) -> None:
    """Add items to a dataset of one item a chunk.

    Where a chunk is only checksummed, its bytes are made here and handed over as they are: that
    costs half of what the library's own way does.
    """
    before = len(dataset)
    dataset.resize(before + len(raw), 0)
    odd = raw[0].nbytes % 2 if len(raw) else 0
    if dataset.compression or dataset.shuffle or odd or kernels.backend() != "numba":
        dataset[before:] = raw
        return
    place = (0,) * (raw.ndim - 1)
    for number, item in enumerate(raw.astype(dataset.dtype, copy=False), start=before):
        chunk = np.empty(item.nbytes + CHECKSUM_BYTES, np.uint8)
        chunk[:-CHECKSUM_BYTES] = item.reshape(-1).view(np.uint8)
        chunk[-CHECKSUM_BYTES:] = np.frombuffer(fletcher32(item), np.uint8)
        dataset.id.write_direct_chunk((number, *place), chunk)


def salvage(path: Path, share: str) -> list[str]:
    """Finish a temporary file that its writer left behind; the keys that were whole in it.

    A file that cannot be opened holds nothing that can be trusted, and is removed. One that has
    a second name was finished: only the temporary name is left to remove.
    """
    if path.stat().st_nlink > 1:
        path.unlink()
        return []
    try:
        file = open_shard(path, "r+")
    except OutputError as error:
        if isinstance(error.__cause__, BlockingIOError):
            raise
        path.unlink(missing_ok=True)
        return []
    keys = [str(group.attrs["key"]) for group in file["videos"].values()]
    seal(file, path, share)
    return keys


def seal(file: h5py.File, path: Path, share: str) -> Path | None:
    """Write the index, mark the file complete, close, sync, and give it the next free name."""
    with writing(path):
        file.pop(PARTIAL, None)
        rows = [row for group in file["videos"].values() for row in index_rows(group)]
        if rows and not file.attrs["complete"]:
            file.pop("index", None)
            file.create_dataset("index", data=np.array(rows, INDEX))
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
    label = str(attributes.get("label", ""))
    whole = int(label) if label.lstrip("-").isdigit() else -1
    rest = (
        float(attributes["avg_fps"]),
        float(attributes["duration"]),
        whole,
        int(attributes.get("source_size", -1)),
        float(attributes.get("source_mtime", -1)),
    )
    names = [name for name in group if not name.endswith(ITEMS)]
    return [(attributes["key"], name, *group[name].shape, *rest) for name in names]


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

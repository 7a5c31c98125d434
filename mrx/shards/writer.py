"""Writing of shards: a private temporary file, a flush for each video, a final name at the end.

A file with its final name is never opened for writing. A run killed at any moment loses only the
videos in flight: `mrx.shards.repair.salvage_leftover` finds those that were flushed.
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
from mrx.job import Job, Storage, hash_settings
from mrx.shards.attributes import write_attributes
from mrx.shards.chunks import PackedMaps
from mrx.shards.encoding import Encoding, ValueStatistics
from mrx.shards.layout import (
    FORMAT_VERSION,
    INDEX_DTYPE,
    ITEM_DTYPE,
    ITEMS_SUFFIX,
    PARTIAL_GROUP,
    SHARD_NAME,
    STAMP_NAMES,
    group_name,
    list_shards,
    read_host_name,
)
from mrx.version import __version__

# A full disk, a file-size limit, and a full quota.
DISK_FULL_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
# The file system has no hard links, or refuses them.
NO_LINK_ERRORS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn errors of writing into an `OutputError` that says what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # h5py raises RuntimeError when a flush fails
        text = " ".join(str(error).split())
        # Some errors of HDF5 have the errno in their text only.
        full = getattr(error, "errno", 0) in DISK_FULL_ERRORS or any(
            f"errno = {n}," in text for n in DISK_FULL_ERRORS
        )
        cause = "no space left, or a file-size limit" if full else text
        raise OutputError(
            f"cannot write ({path.parent}): {cause}. Finished videos are kept: make room and run "
            "the same command again"
        ) from error


class ShardWriter:
    """A shard that one process writes.

    Args:
        job: the output folder, the share and the storage options
        settings: all settings that decide the numbers in the shard
        versions: versions of the libraries that compute the numbers

    Attributes:
        keys: the committed videos
        open_entries: the number of entries that are neither committed nor dropped
    """

    def __init__(
        self, job: Job, settings: Mapping[str, Any], versions: Mapping[str, str] | None = None
    ) -> None:
        self.folder = Path(job.output)
        self.share = job.share_name
        # The random part keeps the name unique: pids repeat, and hosts may share a name.
        name = (
            f".tmp-{self.share or 'all'}-{read_host_name()}-{os.getpid()}-{secrets.token_hex(4)}.h5"
        )
        self.path = self.folder / name
        with explain_write_errors(self.path):
            self.file = h5py.File(self.path, "x")
            self.file.attrs.update(
                mrx_format=FORMAT_VERSION,
                mrx_version=__version__,
                created=datetime.now(UTC).isoformat(),
                writer=f"{read_host_name()}:{os.getpid()}",
                complete=0,
                methods=list(settings["methods"]),
                settings_json=json.dumps(settings, sort_keys=True),
                settings_hash=hash_settings(settings),
                versions=json.dumps(versions or {}),
                shard=f"{job.share[0]}/{job.share[1]}" if job.share else "0/1",
            )
            self.file.create_group("videos")
            # From here on a kill leaves a file that opens.
            self.file.flush()
        self.keys: list[str] = []
        self.open_entries = 0

    def is_full(self, storage: Storage) -> bool:
        """Return True if the shard has reached its size in videos or in bytes."""
        has_videos = len(self.keys) >= storage.videos_per_shard
        return has_videos or self.path.stat().st_size >= storage.shard_size

    def begin_entry(self, key: str) -> "VideoEntry":
        """Begin the entry of a video, which counts only when it is committed."""
        with explain_write_errors(self.path):
            return VideoEntry(self, key)

    def seal_shard(self) -> Path | None:
        """Seal the shard and return its final path; an empty shard is removed."""
        return seal_file(self.file, self.path, self.share)

    def abandon_shard(self) -> None:
        """Close the file without writing; `salvage_leftover` rescues its flushed videos."""
        abandon_file(self.file)


class MethodDataset:
    """A growing dataset: one method's maps of one video, each in a chunk of its own."""

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
        self._statistics = ValueStatistics()
        self._items: list[NDArray[Any]] = []

    def append_maps(self, packed: PackedMaps) -> None:
        """Append maps to the dataset."""
        before, self.count = self.count, self.count + len(packed)
        items = np.empty(len(packed), ITEM_DTYPE)
        items["first"], items["last"] = packed.index.T
        items["start"], items["end"] = packed.time.T
        self._items.append(items)
        for statistics in packed.statistics:
            self._statistics.merge_counts(statistics)
        self.dataset.id.set_extent((self.count, *packed.shape))
        if packed.chunks is None:
            self.dataset[before:] = packed.raw
            return
        # The chunks are filtered already: HDF5 only stores them.
        for number, chunk in enumerate(packed.chunks, start=before):
            self.dataset.id.write_direct_chunk((number, 0, 0, 0), chunk)

    def join_items(self) -> NDArray[Any]:
        """Join the source frames and times of all maps."""
        return np.concatenate(self._items) if self._items else np.empty(0, ITEM_DTYPE)

    def build_attributes(self) -> dict[str, Any]:
        """Return the attributes on the encoding and the statistics of the values."""
        encoding = self._encoding
        return {
            "scale": encoding.scale,
            "offset": encoding.offset,
            **({} if encoding.bound is None else {"bound": encoding.bound}),
            **self._statistics.to_attributes(),
        }


class VideoEntry:
    """A video that is being written.

    Attributes:
        is_ended: True when the video is committed or dropped
    """

    def __init__(self, shard: ShardWriter, key: str) -> None:
        self.shard = shard
        self.key = key
        self.is_ended = False
        self._partial_path = f"{PARTIAL_GROUP}/{group_name(key)}"
        shard.file.pop(self._partial_path, None)
        self.group = shard.file.create_group(self._partial_path)
        shard.open_entries += 1
        self._datasets: dict[str, MethodDataset] = {}

    def create_dataset(
        self,
        method: str,
        *,
        shape: Sequence[int],
        encoding: Encoding,
        filters: Mapping[str, Any],
    ) -> None:
        """Create an empty dataset for a method's maps of shape (C, H, W)."""
        with explain_write_errors(self.shard.path):
            self._datasets[method] = MethodDataset(self.group, method, shape, encoding, filters)

    def append_maps(self, method: str, packed: PackedMaps) -> None:
        """Append maps to a method's dataset."""
        with explain_write_errors(self.shard.path):
            self._datasets[method].append_maps(packed)

    def __contains__(self, method: str) -> bool:
        return method in self._datasets

    def count_items(self) -> dict[str, int]:
        """Return the number of maps of each method so far."""
        return {name: dataset.count for name, dataset in self._datasets.items()}

    def commit_video(
        self, attributes: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]]
    ) -> int:
        """Commit the video: write its attributes, move it under /videos, and flush.

        Args:
            attributes: attributes of the video
            methods: attributes of each method's dataset

        Returns:
            the bytes that the video's maps take in the file
        """
        shard = self.shard
        with explain_write_errors(shard.path):
            write_attributes(self.group, {"key": self.key, "status": "ok", **attributes})
            stored_bytes = 0
            for name, dataset in self._datasets.items():
                items = dataset.join_items()
                self.group.create_dataset(
                    name + ITEMS_SUFFIX, data=items, chunks=items.shape, fletcher32=True
                )
                write_attributes(dataset.dataset, {**dataset.build_attributes(), **methods[name]})
                stored_bytes += dataset.dataset.id.get_storage_size()
            target = f"videos/{group_name(self.key)}"
            shard.file.pop(target, None)
            # Everything above lies under /_partial, which a salvage leaves out. Moved last, so that
            # a video under /videos is whole.
            shard.file.move(self._partial_path, target)
            # Without fsync, which takes several times as long: a flushed video survives a kill,
            # though not a power cut.
            shard.file.flush()
        shard.keys.append(self.key)
        self._mark_ended()
        return int(stored_bytes)

    def drop_video(self) -> None:
        """Remove the video: it failed, or the run ended."""
        self._datasets.clear()
        self._mark_ended()
        with explain_write_errors(self.shard.path):
            self.shard.file.pop(self._partial_path, None)
            self.shard.file.flush()

    def _mark_ended(self) -> None:
        self.is_ended = True
        self.shard.open_entries -= 1


def abandon_file(file: h5py.File) -> None:
    """Close a file that could not be written to, and leave its bytes on disk unchanged."""
    if file:
        # HDF5 writes on closing, which would fail again: its descriptor is pointed to /dev/null
        # first.
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, file.id.get_vfd_handle())
        os.close(nowhere)
        with suppress(OSError, RuntimeError):  # /dev/null cannot be truncated to a length
            file.close()


def seal_file(file: h5py.File, path: Path, share: str) -> Path | None:
    """Complete a temporary file and give it its final name; remove it if it holds no video.

    A kill between any two of these steps leaves a file that the next run can salvage, or a whole
    shard.
    """
    with explain_write_errors(path):
        file.pop(PARTIAL_GROUP, None)
        rows = [row for group in file["videos"].values() for row in build_index_rows(group)]
        if rows and not file.attrs["complete"]:
            # The index is written last: it lists the videos that were committed, and `complete`
            # says that it does.
            file.pop("index", None)
            index = np.array(rows, INDEX_DTYPE)
            file.create_dataset("index", data=index, chunks=index.shape, fletcher32=True)
            file.attrs["complete"] = 1
        file.flush()
        file.close()
        if not rows:
            path.unlink()
            return None
        # The contents go to disk before the name, or a power cut could leave a final name with
        # holes behind it. Then the folder, which holds the name.
        _sync_to_disk(path)
        final = _publish_shard(path, share)
        _sync_to_disk(path.parent)
    return final


def build_index_rows(group: h5py.Group) -> list[tuple[Any, ...]]:
    """Build the rows of the index for a video, one for each method."""
    attributes = group.attrs
    shared_values = (
        float(attributes["avg_fps"]),
        float(attributes["duration"]),
        _whole_number(str(attributes.get("label", ""))),
        *(attributes.get(name, -1) for name in STAMP_NAMES),
    )
    names = [name for name in group if not name.endswith(ITEMS_SUFFIX)]
    return [(attributes["key"], name, *group[name].shape, *shared_values) for name in names]


def _whole_number(label: str) -> int:
    """Return the number that a label spells, or -1 if it is none that fits in 64 bits."""
    try:
        number = int(label)
    except ValueError:
        return -1
    return number if abs(number) < 2**63 else -1


def _publish_shard(path: Path, share: str) -> Path:
    """Give a finished file the next free number of its share, and return its final path."""
    prefix = f"shard-{share}-" if share else "shard-"
    matches = (SHARD_NAME.fullmatch(p.name) for p in list_shards(path.parent))
    taken = [int(m["number"]) for m in matches if m and (m["share"] or "") == share]
    number = max(taken, default=-1) + 1
    while True:
        final = path.parent / f"{prefix}{number:05}.h5"
        try:
            # Workers seal at once and may choose the same number. A hard link fails if the name
            # exists; a rename would replace the other worker's shard.
            final.hardlink_to(path)
        except FileExistsError:
            number += 1
        except OSError as error:
            if error.errno not in NO_LINK_ERRORS:
                raise
            # Without hard links an empty file claims the name, which fails if it exists too. The
            # rename then replaces that file. Empty files are no shards for readers.
            try:
                os.close(os.open(final, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                number += 1
                continue
            path.replace(final)
            return final
        else:
            # A kill before this line leaves a file with two names: see `salvage_leftover`.
            path.unlink()
            return final


def _sync_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Writing of shards: a private temporary file with its journal, and a final name at the end.

A file with its final name is never opened for writing. A video counts from the moment that its
record is in the journal, which is written after its data; so a run killed at any moment loses only
the videos in flight. `mrx.shards.repair.salvage_leftover` saves the others.
"""

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mrx.errors import OutputError
from mrx.job import Job, Storage
from mrx.settings import hash_settings
from mrx.shards.chunks import PackedMaps
from mrx.shards.digest import to_plain_value
from mrx.shards.encoding import Encoding, ValueStatistics
from mrx.shards.files import (
    abandon_file,
    explain_write_errors,
    open_new_file,
    publish_shard,
    sync_to_disk,
)
from mrx.shards.journal import Journal, read_journal
from mrx.shards.layout import (
    FORMAT_VERSION,
    ITEM_DTYPE,
    PARTIAL_GROUP,
    group_name,
    journal_path,
    read_host_name,
)
from mrx.shards.record_writer import copy_maps, seal_record, write_index, write_record
from mrx.shards.trailer import append_trailer, combine_checksums, read_checksums
from mrx.shards.video_record import MapsRecord, VideoRecord, describe_maps, list_chunks
from mrx.version import __version__


class ShardWriter:
    """A shard that one process writes.

    Args:
        folder: the output folder
        share: the name of the share whose videos it holds
        header: attributes of the shard
        prefix: of the names of the temporary file and its journal

    Attributes:
        keys: the committed videos
        open_entries: the number of entries that are neither committed nor dropped
    """

    def __init__(
        self, folder: Path, share: str, header: Mapping[str, Any], *, prefix: str = ".tmp"
    ) -> None:
        self.folder = folder
        self.share = share
        # The random part keeps the name unique: pids repeat, and hosts may share a name.
        place = f"{read_host_name()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.path = folder / f"{prefix}-{share or 'all'}-{place}.h5"
        self.header = {name: to_plain_value(value) for name, value in header.items()}
        with explain_write_errors(self.path), ExitStack() as undo:
            # Before the file, so that a file without a journal is none of this format.
            self.journal = Journal(journal_path(self.path), self.header)
            undo.callback(self.journal.close)
            self.file = open_new_file(self.path)
            undo.callback(abandon_file, self.file)
            self.file.attrs.update({**self.header, "complete": 0})
            self.file.create_group("videos")
            self.file.flush()
            # To read back what HDF5 has written, outside of the library.
            self.descriptor = os.open(self.path, os.O_RDONLY)
            undo.pop_all()
        self.keys: list[str] = []
        self.open_entries = 0

    @classmethod
    def for_job(
        cls,
        job: Job,
        settings: Mapping[str, Any],
        versions: Mapping[str, str] | None = None,
        run: int = 1,
    ) -> "ShardWriter":
        """Begin a shard of a job.

        Args:
            job: the output folder and the share
            settings: all settings that decide the numbers in the shard
            versions: versions of the libraries that compute the numbers
            run: the number of the run
        """
        header = {
            "mrx_format": FORMAT_VERSION,
            "mrx_version": __version__,
            "run": run,
            "created": datetime.now(UTC).isoformat(),
            "writer": f"{read_host_name()}:{os.getpid()}",
            "methods": list(settings["methods"]),
            "settings_json": json.dumps(settings, sort_keys=True),
            "settings_hash": hash_settings(settings),
            "versions": json.dumps(versions or {}),
            "shard": f"{job.share[0]}/{job.share[1]}" if job.share else "0/1",
        }
        return cls(Path(job.output), job.share_name, header)

    def is_full(self, storage: Storage) -> bool:
        """Return True if the shard has reached its size in videos or in bytes."""
        has_videos = len(self.keys) >= storage.videos_per_shard
        return has_videos or self.path.stat().st_size >= storage.shard_size

    def begin_entry(self, key: str) -> "VideoEntry":
        """Begin the entry of a video, which counts only when it is committed."""
        with explain_write_errors(self.path):
            return VideoEntry(self, key)

    def seal_shard(self) -> Path | None:
        """Seal the shard and return its final path; an empty shard is removed.

        A kill between any two of these steps leaves a file and a journal that the next run can
        salvage, or a whole shard.
        """
        with explain_write_errors(self.path):
            self._close_descriptor()
            if not self.keys:
                self.file.close()
                self.path.unlink()
                self.journal.remove()
                return None
            self.file.pop(PARTIAL_GROUP, None)
            write_index(self.file)
            self.file.flush()
            self.file.close()
            self._check_journal()
            append_trailer(self.path, self.journal.path)
            # The contents go to disk before the name, or a power cut could leave a final name
            # with holes behind it. Then the folder, which holds the name.
            sync_to_disk(self.path)
            final = publish_shard(self.path, self.share)
            sync_to_disk(self.folder)
            # Last: until the shard has its name, the journal is the truth.
            self.journal.remove()
        return final

    def abandon_shard(self) -> None:
        """Close the files without writing; `salvage_leftover` saves the committed videos."""
        self._close_descriptor()
        self.journal.close()
        abandon_file(self.file)

    def _check_journal(self) -> None:
        """Refuse to seal what the journal does not tell: it becomes the trailer."""
        contents = read_journal(self.journal.path)
        if contents.is_damaged or {r.key for r in contents.records} != set(self.keys):
            raise OutputError(f"damaged journal ({self.journal.path}): its disk may be failing")

    def _close_descriptor(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


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
            chunks=(1, 1, *shape[1:]) if encoding.channel_chunks else (1, *shape),
            fletcher32=True,
            **filters,
        )
        self.count = 0
        self._encoding = encoding
        self.statistics = ValueStatistics()
        self._items: list[NDArray[Any]] = []

    def append_maps(self, packed: PackedMaps) -> None:
        """Append maps to the dataset."""
        before, self.count = self.count, self.count + len(packed)
        items = np.zeros(len(packed), ITEM_DTYPE)
        items["first"], items["last"] = packed.index.T
        items["start"], items["end"] = packed.time.T
        self._items.append(items)
        for statistics in packed.statistics:
            self.statistics.merge_counts(statistics)
        self.dataset.id.set_extent((self.count, *packed.shape))
        if packed.chunks is None:
            self.dataset[before:] = packed.raw
            return
        # The chunks are filtered already: HDF5 only stores them.
        for place, chunk, mask in packed.place_chunks(before):
            self.dataset.id.write_direct_chunk(place, chunk, mask)

    def make_record(self, attributes: Mapping[str, Any], descriptor: int) -> MapsRecord:
        """Make the record of all maps, with the checksums that are in the file by now."""
        # Chunks that the library filters wait in its cache.
        self.dataset.flush()
        items = np.concatenate(self._items) if self._items else np.empty(0, ITEM_DTYPE)
        chunks = list_chunks(self.dataset)
        read_checksums(descriptor, chunks)
        items["checksum"] = combine_checksums(chunks, len(items))
        plain = {**self._build_attributes(), **attributes}
        plain = {name: to_plain_value(value) for name, value in plain.items()}
        return describe_maps(self.dataset, plain, items, chunks)

    def _build_attributes(self) -> dict[str, Any]:
        """Return the attributes on the encoding and the statistics of the values."""
        encoding = self._encoding
        return {
            "scale": encoding.scale,
            "offset": encoding.offset,
            **({} if encoding.bound is None else {"bound": encoding.bound}),
            **self.statistics.to_attributes(),
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

    def collect_statistics(self) -> dict[str, ValueStatistics]:
        """Return the statistics of each method's values so far."""
        return {name: dataset.statistics for name, dataset in self._datasets.items()}

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
        with explain_write_errors(self.shard.path):
            plain = {"key": self.key, "status": "ok", **attributes}
            plain = {name: to_plain_value(value) for name, value in plain.items()}
            records = {
                name: dataset.make_record(methods[name], self.shard.descriptor)
                for name, dataset in self._datasets.items()
            }
            self._commit_record(seal_record(VideoRecord(self.key, plain, records, "")))
        return sum(int(maps.chunks["size"].sum()) for maps in records.values())

    def commit_copy(self, record: VideoRecord, source: int) -> None:
        """Commit a copy of a video, whose chunks lie in another open file."""
        with explain_write_errors(self.shard.path):
            methods = {
                name: copy_maps(self.group, name, maps, source)
                for name, maps in record.methods.items()
            }
            self._commit_record(replace(record, methods=methods))

    def _commit_record(self, record: VideoRecord) -> None:
        shard = self.shard
        write_record(self.group, record)
        target = f"videos/{group_name(self.key)}"
        shard.file.pop(target, None)
        shard.file.move(self._partial_path, target)
        # Without fsync, which takes several times as long: a flushed video survives a kill, though
        # not a power cut.
        shard.file.flush()
        # After the data: what the journal names is in the file.
        shard.journal.append_record(record)
        shard.keys.append(self.key)
        self._mark_ended()

    def drop_video(self) -> None:
        """Remove the video: it failed, or the run ended."""
        self._mark_ended()
        with explain_write_errors(self.shard.path):
            # Flushed before they are closed, which could not raise the error of a full disk.
            for dataset in self._datasets.values():
                dataset.dataset.flush()
            self._datasets.clear()
            self.shard.file.pop(self._partial_path, None)
            self.shard.file.flush()

    def _mark_ended(self) -> None:
        self.is_ended = True
        self.shard.open_entries -= 1

"""Checks of shards: structure, counts, the checksum of every chunk, NaN, and the manifest."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from mrx.errors import FormatError, OutputError
from mrx.job import ManifestRow
from mrx.manifest import list_manifests, read_rows
from mrx.shards.layout import (
    ITEM_DTYPE,
    ITEMS_SUFFIX,
    PARTIAL_GROUP,
    READ_ERRORS,
    STAMP_NAMES,
    list_shards,
    list_temporaries,
    open_shard,
    read_index,
)
from mrx.shards.writer import build_index_rows

REQUIRED_ATTRIBUTES = ("units", "channels", "scale", "offset", "params_json")


@dataclass(frozen=True)
class ShardProblem:
    """A problem of a shard, or of one video in it.

    Attributes:
        shard: the file
        key: the video; empty if the problem is the file's
        text: the problem, with the item that has it
    """

    shard: str
    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.shard}{'::' if self.key else ''}{self.key}: {self.text}"


def check_output(path: Path) -> Iterator[ShardProblem]:
    """Yield the problems of a shard, or of all shards and manifests of a folder."""
    if not path.is_dir():
        yield from check_shard(path)
        return
    stamps: dict[str, str] = {}
    for shard in list_shards(path):
        yield from check_shard(shard)
        for key, stamp in _read_index_stamps(shard).items():
            # Another stamp is no problem: the source has changed, and was extracted again.
            if stamps.get(key) == stamp:
                yield ShardProblem(str(shard), key, "is also in another shard")
            stamps[key] = stamp
    for orphan in list_temporaries(path):
        yield ShardProblem(str(orphan), "", "is being written, or was left by a killed run")
    for key, row in _ok_rows(path).items():
        if key not in stamps:
            yield ShardProblem(
                str(path), key, f"the manifest says ok ({row.path}), but no shard holds it"
            )


def check_shard(path: Path) -> Iterator[ShardProblem]:
    """Yield the problems of one shard."""
    try:
        file = open_shard(path)
    except FormatError as error:
        yield ShardProblem(str(path), "", str(error))
        return
    with file:
        if not file.attrs.get("complete"):
            yield ShardProblem(str(path), "", "was never finished")
        if PARTIAL_GROUP in file:
            yield ShardProblem(str(path), "", "holds a video that was never finished")
        for name, group in iterate_groups(file):
            for text in video_problems(group):
                yield ShardProblem(str(path), read_key(name, group), text)
        if not _is_index_right(file):
            yield ShardProblem(str(path), "", "the index does not list what the shard holds")


def video_problems(group: h5py.Group | None) -> Iterator[str]:
    """Yield the problems of one video; None is a video that cannot be opened."""
    try:
        yield from ["cannot be read"] if group is None else _group_problems(group)
    except READ_ERRORS as error:
        yield f"cannot be read: {error}"


def _group_problems(group: h5py.Group) -> Iterator[str]:
    if group.attrs.get("status") != "ok":
        yield "is not marked as whole"
    names = [name for name in group if not name.endswith(ITEMS_SUFFIX)]
    if not names:
        yield "holds no maps"
    for name in names:
        dataset = group[name]
        items = (
            group[name + ITEMS_SUFFIX][...]
            if name + ITEMS_SUFFIX in group
            else np.empty(0, ITEM_DTYPE)
        )
        if len(items) != len(dataset):
            yield f"{name}: its list of items does not fit its {len(dataset)} maps"
        elif (items["first"] > items["last"]).any() or (np.diff(items["start"]) < 0).any():
            yield f"{name}: its list of items goes back in time"
        if missing := [a for a in REQUIRED_ATTRIBUTES if a not in dataset.attrs]:
            yield f"{name}: missing attributes: {', '.join(missing)}"
        for item in range(len(dataset)):
            if text := _check_item(dataset, item):
                yield f"{name}[{item}]: {text}"


def _check_item(dataset: h5py.Dataset, item: int) -> str:
    try:
        values = dataset[item]  # HDF5 compares the checksum of the chunk
    except OSError:
        return "its checksum is wrong, or it cannot be read"
    if values.dtype.kind != "f":
        return ""
    bad = values.size - int(np.isfinite(values).sum())
    return f"{bad} values are NaN or infinite" if bad else ""


def iterate_groups(file: h5py.File) -> Iterator[tuple[str, h5py.Group | None]]:
    """Yield the name and group of each video; None is a group that cannot be opened."""
    for name in file["videos"]:
        try:
            yield name, file["videos"][name]
        except READ_ERRORS:
            yield name, None


def read_key(name: str, group: h5py.Group | None) -> str:
    """Return the key of a video, or the name of its group if the key cannot be read."""
    try:
        return str(group.attrs["key"]) if group is not None else name
    except READ_ERRORS:
        return name


def _is_index_right(file: h5py.File) -> bool:
    try:
        rows = [
            row
            for _, group in iterate_groups(file)
            if group is not None
            for row in build_index_rows(group)
        ]
        listed = [(row["key"], row["method"], row["n_out"]) for row in file["index"][...]]
    except READ_ERRORS:
        return False
    expected = [(str(row[0]).encode(), str(row[1]).encode(), row[2]) for row in rows]
    return sorted(listed) == sorted(expected)


def read_stamp(group: h5py.Group) -> tuple[float, ...]:
    """Read the stamp of a video's source: it changes when the source does."""
    return tuple(float(group.attrs.get(name, -1)) for name in STAMP_NAMES)


def _read_index_stamps(path: Path) -> dict[str, str]:
    try:
        _, rows = read_index(path)
    except OutputError:
        return {}
    return {row["key"].decode(): str([float(row[name]) for name in STAMP_NAMES]) for row in rows}


def _ok_rows(folder: Path) -> dict[str, ManifestRow]:
    rows: dict[str, ManifestRow] = {}
    for path in list_manifests(folder):
        rows |= read_rows(path)[1]
    return {key: row for key, row in rows.items() if row.status == "ok"}

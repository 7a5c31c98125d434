"""Prove that shards are whole: structure, counts, every chunk's checksum, NaN, the manifest."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mrx.errors import FormatError, OutputError
from mrx.job import Row
from mrx.manifest import manifests, read_rows
from mrx.sinks.hdf5 import index_rows, seal
from mrx.sinks.layout import FINAL, FORMAT, ITEMS, PARTIAL, open_shard, shards, temporaries

NEEDED = ("units", "channels", "scale", "offset", "params_json")


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be.

    Attributes:
        shard: the file
        key: the video, or nothing where the file itself is at fault
        text: what is wrong, and with which item
    """

    shard: str
    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.shard}{'::' if self.key else ''}{self.key}: {self.text}"


def check(path: Path) -> Iterator[Problem]:
    """Everything that is wrong with a shard, or with all shards and manifests of a folder."""
    if not path.is_dir():
        yield from check_shard(path)
        return
    held: set[str] = set()
    for shard in shards(path):
        yield from check_shard(shard)
        held |= _keys(shard)
    for orphan in temporaries(path):
        yield Problem(str(orphan), "", "left behind by a killed run; the next mrx extract saves it")
    for key, row in _ok_rows(path).items():
        if key not in held:
            yield Problem(str(path), key, f"the manifest says ok ({row.path}), no shard holds it")


def check_shard(path: Path) -> Iterator[Problem]:
    """Everything that is wrong with one shard."""
    try:
        file = open_shard(path)
    except FormatError as error:
        yield Problem(str(path), "", str(error))
        return
    with file:
        if not file.attrs.get("complete"):
            yield Problem(str(path), "", "was never finished")
        if PARTIAL in file:
            yield Problem(str(path), "", "holds a video that was never finished")
        rows: list[Any] = []
        for group in file["videos"].values():
            yield from (Problem(str(path), _key(group), text) for text in check_video(group))
            rows += index_rows(group)
        listed = sorted((r["key"], r["method"], r["n_out"]) for r in file["index"][...])
        there = sorted((str(r[0]).encode(), str(r[1]).encode(), r[2]) for r in rows)
        if listed != there:
            yield Problem(str(path), "", "the index does not list what the shard holds")


def check_video(group: h5py.Group) -> Iterator[str]:
    """Everything that is wrong with one video."""
    if group.attrs.get("status") != "ok":
        yield "is not marked as whole"
    names = [name for name in group if not name.endswith(ITEMS)]
    if not names:
        yield "holds no maps"
    for name in names:
        dataset = group[name]
        if name + ITEMS not in group or len(group[name + ITEMS]) != len(dataset):
            yield f"{name}: its list of items does not fit its {len(dataset)} maps"
        if missing := [a for a in NEEDED if a not in dataset.attrs]:
            yield f"{name}: attributes are missing: {', '.join(missing)}"
        for item in range(len(dataset)):
            if text := _check_item(dataset, item):
                yield f"{name}[{item}]: {text}"


def repair(path: Path) -> tuple[int, list[str]]:
    """Keep what is whole of a shard; the next `mrx extract` makes the rest again.

    The good videos are copied to a new shard, and the bad file is set aside under a name of its
    own. A file that cannot be opened is set aside as it is.

    Returns:
        how many videos were kept, and the keys of those that were not
    """
    aside = path.with_suffix(".h5.broken")
    match = FINAL.fullmatch(path.name)
    share = (match["share"] if match else None) or ""
    kept, lost = 0, list[str]()
    try:
        source = open_shard(path)
    except FormatError as error:
        if f"reads format {FORMAT}" in str(error):
            raise
        path.rename(aside)
        return 0, lost
    fresh = path.with_name(f".repair-{path.name}")
    fresh.unlink(missing_ok=True)
    with source, h5py.File(fresh, "x") as target:
        target.attrs.update({k: v for k, v in source.attrs.items() if k != "complete"}, complete=0)
        videos = target.create_group("videos")
        for name, group in source["videos"].items():
            if any(check_video(group)):
                lost.append(_key(group))
            else:
                source.copy(group, videos, name)
                kept += 1
    path.rename(aside)
    seal(open_shard(fresh, "r+"), fresh, share)
    return kept, lost


def _check_item(dataset: h5py.Dataset, item: int) -> str:
    try:
        values = dataset[item]
    except OSError:
        return "its checksum is wrong, or it cannot be read"
    if values.dtype.kind != "f":
        return ""
    bad = values.size - int(np.isfinite(values).sum())
    return f"{bad} values are NaN or infinite" if bad else ""


def _key(group: h5py.Group) -> str:
    return str(group.attrs.get("key", group.name))


def _keys(path: Path) -> set[str]:
    try:
        with open_shard(path) as file:
            return {_key(group) for group in file["videos"].values()}
    except OutputError:
        return set()


def _ok_rows(folder: Path) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for path in manifests(folder):
        rows |= read_rows(path)[1]
    return {key: row for key, row in rows.items() if row.status == "ok"}

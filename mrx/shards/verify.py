"""Checks of shards: every byte, structure, counts, digests, NaN, and the manifest."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from mrx.errors import FormatError, OutputError
from mrx.job import ManifestRow
from mrx.manifest import list_manifests, merge_rows, read_rows
from mrx.shards.compression import check_decoded, load_filters
from mrx.shards.digest import digest_root
from mrx.shards.isolation import run_isolated
from mrx.shards.layout import (
    ITEMS_SUFFIX,
    PARTIAL_GROUP,
    READ_ERRORS,
    group_name,
    is_map_name,
    list_shards,
    list_temporaries,
    open_shard,
    read_index,
    read_row_stamp,
)
from mrx.shards.record_writer import build_index_rows
from mrx.shards.seal import are_gaps_whole
from mrx.shards.trailer import (
    ShardTrailer,
    combine_checksums,
    list_damaged_items,
    read_checksums,
    read_trailer,
)
from mrx.shards.video_record import VideoRecord, read_record

REQUIRED_ATTRIBUTES = ("units", "channels", "scale", "offset", "params_json")
UNREADABLE = "its structure cannot be read"
READ_RATE = 10e6  # bytes a second that a slow disk reads
CHECK_SECONDS = 60.0  # for the structure of a damaged file, which HDF5 may never finish to read
Finding = tuple[str, str]
"""A key, empty for the file as a whole, and a problem."""


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
    stamps: dict[tuple[str, str], object] = {}
    for shard in list_shards(path):
        yield from check_shard(shard)
        for place, stamp in _read_index_stamps(shard).items():
            # Another stamp is no problem: the source has changed, and was extracted again.
            if stamps.get(place) == stamp:
                yield ShardProblem(str(shard), place[0], f"its {place[1]} is also in another shard")
            stamps[place] = stamp
    for orphan in list_temporaries(path):
        yield ShardProblem(str(orphan), "", "is being written, or was left by a killed run")
    keys = {key for key, _ in stamps}
    for key, row in _read_ok_rows(path).items():
        missing = [name for name in row.n_out if (key, name) not in stamps]
        if key not in keys or missing:
            what = f"its {', '.join(missing)}" if key in keys else "it"
            text = f"the manifest says ok ({row.path}), but no shard holds {what}"
            yield ShardProblem(str(path), key, text)


def check_shard(path: Path) -> Iterator[ShardProblem]:
    """Yield the problems of one shard."""
    for key, text in _find_problems(path):
        yield ShardProblem(str(path), key, text)


def _find_problems(path: Path) -> Iterator[Finding]:
    try:
        trailer = read_trailer(path)
    except FormatError as error:
        trailer = None
        without_trailer = str(error)
    if trailer and are_gaps_whole(path, trailer.seal):
        # The structure is to the bit as it was sealed, so HDF5 can be trusted with it.
        yield from check_structure(path)
        return
    if trailer is None:
        version = run_isolated(lambda: _read_version(path), CHECK_SECONDS)
        if version == 1:
            seconds = CHECK_SECONDS + path.stat().st_size / READ_RATE
            findings = run_isolated(lambda: list(check_structure(path)), seconds)
            yield from [("", UNREADABLE)] if findings is None else findings
            return
        yield "", without_trailer
    else:
        yield "", "its structure is damaged or was changed"
        yield from _find_damaged_maps(path, trailer)
    # HDF5 may loop or crash in a damaged structure; in a process of its own it may do so.
    findings = run_isolated(lambda: _compare_structure(path, trailer), CHECK_SECONDS)
    yield from [("", UNREADABLE)] if findings is None else findings


def _read_version(path: Path) -> int | None:
    try:
        with open_shard(path, checked=False) as file:
            return int(file.attrs["mrx_format"])
    except (*READ_ERRORS, OutputError):
        return None


def _find_damaged_maps(path: Path, trailer: ShardTrailer) -> Iterator[Finding]:
    for record in trailer.contents.records:
        for name, maps in record.methods.items():
            for item in list_damaged_items(path, maps):
                yield record.key, f"{name}[{item}]: its checksum is wrong"


def _compare_structure(path: Path, trailer: ShardTrailer | None) -> list[Finding]:
    """Compare what HDF5 reads with what was sealed, and check it."""
    findings = list(check_structure(path, read_maps=False))
    if trailer is None:
        return findings
    try:
        with open_shard(path, checked=False) as file:
            for record in trailer.contents.records:
                text = _compare_video(file, record)
                if text:
                    findings.append((record.key, text))
    except (*READ_ERRORS, OutputError) as error:
        findings.append(("", f"cannot be read: {error}"))
    return findings


def _compare_video(file: h5py.File, record: VideoRecord) -> str:
    """Name the first difference between a video and its record; nothing if there is none."""
    try:
        found = read_record(file["videos"][group_name(record.key)])
    except READ_ERRORS:
        return "is missing or cannot be read"
    if found.attributes != record.attributes:
        names = _list_differences(found.attributes, record.attributes)
        return f"changed attributes: {names}"
    if found.methods.keys() != record.methods.keys():
        return f"holds {', '.join(found.methods)} instead of {', '.join(record.methods)}"
    for name, maps in record.methods.items():
        other = found.methods[name]
        if other.attributes != maps.attributes:
            names = _list_differences(other.attributes, maps.attributes)
            return f"{name}: changed attributes: {names}"
        if (other.dtype, other.shape) != (maps.dtype, maps.shape):
            return f"{name}: has shape {other.shape} of {other.dtype} instead of {maps.shape}"
        if not np.array_equal(other.items, maps.items):
            return f"{name}: its list of items was changed"
        if not np.array_equal(other.chunks["offset"], maps.chunks["offset"]):
            return f"{name}: its maps were moved or written again"
    return "" if found.digest == record.digest else "its digest was changed"


def _list_differences(found: dict[str, object], expected: dict[str, object]) -> str:
    names = found.keys() | expected.keys()
    return ", ".join(sorted(n for n in names if found.get(n) != expected.get(n)))


def check_structure(path: Path, *, read_maps: bool = True) -> Iterator[Finding]:
    """Yield the problems that HDF5 can tell, in a file whose structure is whole."""
    try:
        file = open_shard(path, checked=False)
    except OutputError as error:
        yield "", str(error)
        return
    with file:
        try:
            if not file.attrs.get("complete"):
                yield "", "was never finished"
            if PARTIAL_GROUP in file:
                yield "", "holds a video that was never finished"
            for name, group in iterate_groups(file):
                texts = list(find_video_problems(group, read_maps=read_maps))
                yield from ((read_key(name, group), text) for text in texts)
                if read_maps and group is not None and not texts:
                    for method in filter(is_map_name, group):
                        check_decoded(group[method])
            yield from _check_root(file)
        except READ_ERRORS as error:
            yield "", f"cannot be read: {error}"


def find_video_problems(group: h5py.Group | None, *, read_maps: bool = True) -> Iterator[str]:
    """Yield the problems of one video; None is a video that cannot be opened."""
    try:
        if group is None:
            yield "cannot be read"
            return
        yield from _group_problems(group, read_maps=read_maps)
        if group.file.attrs["mrx_format"] > 1:
            yield from _check_digest(group)
    except READ_ERRORS as error:
        yield f"cannot be read: {error}"


def _check_digest(group: h5py.Group) -> Iterator[str]:
    record = read_record(group)
    if group.name != f"/videos/{group_name(record.key)}":
        yield f"lies under another name, {group.name}"
    if record.compute_digest() != record.digest:
        yield "its attributes, shapes or items do not fit its digest"
    with Path(group.file.filename).open("rb") as raw:
        for name, maps in record.methods.items():
            read_checksums(raw.fileno(), maps.chunks)
            if len(maps.items) != maps.shape[0]:
                continue
            checksums = combine_checksums(maps.chunks, len(maps.items))
            for item in np.flatnonzero(checksums != maps.items["checksum"]):
                yield f"{name}[{item}]: it is not the map that was written"


def _group_problems(group: h5py.Group, *, read_maps: bool) -> Iterator[str]:
    if group.attrs.get("status") != "ok":
        yield "is not marked as whole"
    names = [name for name in group if is_map_name(name)]
    if not names:
        yield "holds no maps"
    for name in names:
        dataset = group[name]
        if name + ITEMS_SUFFIX not in group:
            yield f"{name}: its list of items is missing"
            continue
        items = group[name + ITEMS_SUFFIX][...]
        if len(items) != len(dataset):
            yield f"{name}: its list of items does not fit its {len(dataset)} maps"
        elif (items["first"] > items["last"]).any() or (np.diff(items["start"]) < 0).any():
            yield f"{name}: its list of items goes back in time"
        if missing := [a for a in REQUIRED_ATTRIBUTES if a not in dataset.attrs]:
            yield f"{name}: missing attributes: {', '.join(missing)}"
        if read_maps:
            # A damaged extent may claim billions of maps; those that were written have a chunk.
            yield from _check_items(dataset, name, min(len(dataset), len(items)))


def _check_items(dataset: h5py.Dataset, name: str, count: int) -> Iterator[str]:
    load_filters(dataset)
    counted = dataset.attrs.get("nan_count")
    found, is_whole = 0, True
    for item in range(count):
        try:
            values = dataset[item]  # HDF5 compares the checksum of the chunk
        except OSError:
            yield f"{name}[{item}]: its checksum is wrong, or it cannot be read"
            is_whole = False
            continue
        bad = values.size - int(np.isfinite(values).sum())
        if bad and counted is None:
            yield f"{name}[{item}]: {bad} values are NaN or infinite"
        found += bad
    if is_whole and counted is not None and found != int(counted):
        yield f"{name}: {found} values are NaN or infinite, and {int(counted)} were when written"


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


def _check_root(file: h5py.File) -> Iterator[Finding]:
    """Compare the index and the digest of the shard with its videos."""
    for name in file.keys() - {"index", "videos", PARTIAL_GROUP}:
        yield "", f"holds {name}, which mrx did not write"
    groups = [group for _, group in iterate_groups(file) if group is not None]
    try:
        stored = file["index"][...]
        expected = [row for group in groups for row in build_index_rows(group)]
    except READ_ERRORS as error:
        yield "", f"its index cannot be read: {error}"
        return
    fields = [(n, stored.dtype[n]) for n in stored.dtype.names]
    if file.attrs["mrx_format"] == 1:
        expected = [row[: len(fields)] for row in expected]
    if _sort_rows(stored) != _sort_rows(np.array(expected, fields)):
        yield "", "the index does not list what the shard holds"
    if file.attrs["mrx_format"] > 1:
        videos = [(str(g.attrs["key"]), str(g.attrs["digest"])) for g in groups]
        if digest_root(dict(file.attrs), videos) != file.attrs.get("digest"):
            yield "", "its settings or its list of videos do not fit its digest"


def _sort_rows(rows: np.ndarray) -> list[str]:
    plain = rows.tolist()
    texts = [[v.decode() if isinstance(v, bytes) else v for v in row] for row in plain]
    return sorted(map(repr, texts))


def _read_index_stamps(path: Path) -> dict[tuple[str, str], object]:
    try:
        rows = read_index(path).rows
    except OutputError:
        return {}
    return {(row["key"].decode(), row["method"].decode()): read_row_stamp(row) for row in rows}


def _read_ok_rows(folder: Path) -> dict[str, ManifestRow]:
    rows = merge_rows(read_rows(path)[1] for path in list_manifests(folder))
    return {key: row for key, row in rows.items() if row.status == "ok"}

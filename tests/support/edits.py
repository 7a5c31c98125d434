"""Edits of a shard through h5py, each as one would make it by hand or by a faulty program.

Each edit is a function of the open file, a key, another key, a method and a random generator. It
returns what a finding of verify must name: the key, or a word in the text of a finding.
"""

import h5py
import numpy as np

INDEX, SETTINGS = "index", "settings"


def _group(file, key):
    return file["videos"][key.replace("/", "%2F")]


def delete_a_chunk(file, key, other, method, rng):
    # Made smaller and larger again, a dataset has lost its last chunk.
    dataset = _group(file, key)[method]
    count = len(dataset)
    dataset.resize(count - 1, axis=0)
    dataset.resize(count, axis=0)
    return key


def write_other_values(file, key, other, method, rng):
    dataset = _group(file, key)[method]
    dataset[rng.integers(len(dataset)), 0, 1, 2] = 7
    return key


def write_nan(file, key, other, method, rng):
    dataset = _group(file, key)[method]
    if dataset.dtype.kind == "f":
        dataset[rng.integers(len(dataset)), 0, 1, 2] = np.nan
    else:
        dataset[...] = 0
    return key


def swap_chunks(file, key, other, method, rng):
    dataset = _group(file, key)[method].id
    first, second = (dataset.get_chunk_info(i) for i in (0, 1))
    (mask, one), (other_mask, two) = (
        dataset.read_direct_chunk(info.chunk_offset) for info in (first, second)
    )
    dataset.write_direct_chunk(first.chunk_offset, two, other_mask)
    dataset.write_direct_chunk(second.chunk_offset, one, mask)
    return key


def make_fewer_maps(file, key, other, method, rng):
    _group(file, key)[method].resize(1, axis=0)
    return key


def make_more_maps(file, key, other, method, rng):
    dataset = _group(file, key)[method]
    dataset.resize(len(dataset) + int(rng.integers(1, 10**6)), axis=0)
    return key


def transpose_maps(file, key, other, method, rng):
    _replace(_group(file, key), method, lambda values: values.transpose(0, 1, 3, 2))
    return key


def reverse_channels(file, key, other, method, rng):
    _replace(_group(file, key), method, lambda values: values[:, ::-1])
    return key


def change_type(file, key, other, method, rng):
    _replace(_group(file, key), method, lambda values: values.astype("f8"))
    return key


def copy_without_chunks(file, key, other, method, rng):
    group = _group(file, key)
    old = group[method]
    values, attributes = old[...], dict(old.attrs)
    del group[method]
    group.create_dataset(method, data=values).attrs.update(attributes)
    return key


def delete_maps(file, key, other, method, rng):
    del _group(file, key)[method]
    return key


def delete_items(file, key, other, method, rng):
    del _group(file, key)[f"{method}.items"]
    return key


def shift_items(file, key, other, method, rng):
    items = _group(file, key)[f"{method}.items"]
    values = items[...]
    values["first"] += 1
    values["last"] += 1
    items[...] = values
    return key


def shift_times(file, key, other, method, rng):
    items = _group(file, key)[f"{method}.items"]
    values = items[...]
    values["start"] += 0.5
    items[...] = values
    return key


def change_a_checksum(file, key, other, method, rng):
    items = _group(file, key)[f"{method}.items"]
    values = items[...]
    values["checksum"][0] ^= 1
    items[...] = values
    return key


def swap_methods(file, key, other, method, rng):
    group = _group(file, key)
    names = [name for name in group if not name.endswith(".items")]
    if len(names) < 2:
        group.move(method, "renamed")
        return key
    for suffix in ("", ".items"):
        group.move(names[0] + suffix, "passing")
        group.move(names[1] + suffix, names[0] + suffix)
        group.move("passing", names[1] + suffix)
    return key


def add_maps(file, key, other, method, rng):
    group = _group(file, key)
    group.copy(method, "added")
    group.copy(f"{method}.items", "added.items")
    return key


def add_a_dataset(file, key, other, method, rng):
    _group(file, key)["note"] = np.arange(4)
    return key


def add_a_group(file, key, other, method, rng):
    _group(file, key).create_group("more")
    return key


def _set(name, value):
    def edit(file, key, other, method, rng):
        attributes = _group(file, key)[method].attrs
        attributes[name] = value
        return key

    edit.__name__ = f"change_{name}"
    return edit


def delete_a_map_attribute(file, key, other, method, rng):
    attributes = _group(file, key)[method].attrs
    del attributes[str(rng.choice(sorted(attributes)))]
    return key


def add_a_map_attribute(file, key, other, method, rng):
    _group(file, key)[method].attrs["note"] = "added"
    return key


def change_a_video_attribute(file, key, other, method, rng):
    attributes = _group(file, key).attrs
    name = str(rng.choice(["avg_fps", "duration", "source_size", "source_mtime", "n_frames"]))
    attributes[name] = attributes[name] + 1
    return key


def delete_a_video_attribute(file, key, other, method, rng):
    attributes = _group(file, key).attrs
    del attributes[str(rng.choice(sorted(set(attributes) - {"key"})))]
    return key


def add_a_video_attribute(file, key, other, method, rng):
    _group(file, key).attrs["label"] = "7"
    return key


def change_the_source(file, key, other, method, rng):
    _group(file, key).attrs["source"] = "/another/video.mp4"
    return key


def change_the_digest(file, key, other, method, rng):
    _group(file, key).attrs["digest"] = "0" * 64
    return key


def change_the_key(file, key, other, method, rng):
    _group(file, key).attrs["key"] = "other.mp4"
    return "other.mp4"


def change_the_status(file, key, other, method, rng):
    _group(file, key).attrs["status"] = "failed"
    return key


def rename_a_group(file, key, other, method, rng):
    file["videos"].move(key, "renamed.mp4")
    return key


def swap_groups(file, key, other, method, rng):
    videos = file["videos"]
    videos.move(key, "passing")
    videos.move(other, key)
    videos.move("passing", other)
    return key


def delete_a_video(file, key, other, method, rng):
    del file["videos"][key]
    return INDEX


def move_a_video_out(file, key, other, method, rng):
    file.move(f"videos/{key}", "elsewhere")
    return INDEX


def copy_a_video(file, key, other, method, rng):
    file["videos"].copy(key, "copied.mp4")
    return "copied.mp4", key


def link_nowhere(file, key, other, method, rng):
    del file["videos"][key]
    file["videos"][key] = h5py.SoftLink("/nowhere")
    return key


def link_to_another(file, key, other, method, rng):
    del file["videos"][key]
    file["videos"][key] = file["videos"][other]
    return key, other


def _index(name, change):
    def edit(file, key, other, method, rng):
        rows = file["index"][...]
        row = rng.integers(len(rows))
        rows[name][row] = change(rows[name][row])
        file["index"][...] = rows
        return INDEX

    edit.__name__ = f"change_{name}_in_the_index"
    return edit


def drop_an_index_row(file, key, other, method, rng):
    _write_index(file, file["index"][1:])
    return INDEX


def double_an_index_row(file, key, other, method, rng):
    rows = file["index"][...]
    _write_index(file, np.concatenate([rows, rows[:1]]))
    return INDEX


def delete_the_index(file, key, other, method, rng):
    del file["index"]
    return INDEX


def break_the_settings(file, key, other, method, rng):
    text = file.attrs["settings_json"]
    file.attrs["settings_json"] = text[: len(text) // 2]
    return SETTINGS


def change_the_settings(file, key, other, method, rng):
    file.attrs["settings_json"] = file.attrs["settings_json"].replace("null", "31", 1)
    return SETTINGS


def change_the_hash(file, key, other, method, rng):
    file.attrs["settings_hash"] = "0" * 16
    return SETTINGS


def change_the_run(file, key, other, method, rng):
    file.attrs["run"] = 999
    return SETTINGS


def delete_a_root_attribute(file, key, other, method, rng):
    del file.attrs[str(rng.choice(["settings_json", "run", "versions", "created", "writer"]))]
    return SETTINGS


def unmark_the_shard(file, key, other, method, rng):
    file.attrs["complete"] = 0
    return "never finished"


def add_a_root_dataset(file, key, other, method, rng):
    file["more"] = np.arange(3)
    return "more"


EDITS = [
    *(delete_a_chunk, write_other_values, write_nan, swap_chunks, make_fewer_maps, make_more_maps),
    *(transpose_maps, reverse_channels, change_type, copy_without_chunks, delete_maps),
    *(delete_items, shift_items, shift_times, change_a_checksum, swap_methods, add_maps),
    *(add_a_dataset, add_a_group, delete_a_map_attribute, add_a_map_attribute),
    *(_set("scale", 2.0), _set("offset", 1.0), _set("units", "miles"), _set("channels", ["z"])),
    *(_set("params_json", "{}"), _set("scale", "two"), _set("bound", 3.0)),
    *(change_a_video_attribute, delete_a_video_attribute, add_a_video_attribute),
    *(change_the_source, change_the_digest, change_the_key, change_the_status, rename_a_group),
    *(swap_groups, delete_a_video, move_a_video_out, copy_a_video, link_nowhere, link_to_another),
    *(_index("n_out", lambda n: n + 1), _index("fps", lambda n: n * 2)),
    *(_index("key", lambda text: b"other.mp4"), _index("method", lambda text: b"pa")),
    *(_index("label", lambda n: 5), _index("digest", lambda text: b"0" * 64)),
    *(_index("source", lambda text: b"/other"), _index("source_mtime", lambda n: n + 1)),
    *(drop_an_index_row, double_an_index_row, delete_the_index, break_the_settings),
    *(change_the_settings, change_the_hash, change_the_run, delete_a_root_attribute),
    *(unmark_the_shard, add_a_root_dataset),
]


def _replace(group, method, change):
    """Write a dataset again with other values, and the same attributes and kind of chunks."""
    old = group[method]
    values, attributes, chunks = change(old[...]), dict(old.attrs), old.chunks
    filters = {"compression": old.compression, "shuffle": old.shuffle}
    del group[method]
    shape = tuple(min(sizes) for sizes in zip(chunks, values.shape, strict=True))
    shape = shape[:2] + values.shape[2:]
    maxshape = (None, *values.shape[1:])
    new = group.create_dataset(
        method, data=values, chunks=shape, maxshape=maxshape, fletcher32=True, **filters
    )
    new.attrs.update(attributes)


def _write_index(file, rows):
    del file["index"]
    file.create_dataset("index", data=rows, chunks=rows.shape, fletcher32=True)

"""Damaged shards: every damage is found or has no effect, and --repair keeps what is whole."""

import os
import re
import shutil
import sys
from collections import Counter

import h5py
import numpy as np
import pytest
from support import damage, edits, videos
from support.command import mrx as command
from support.damage import find_effect, list_chunk_places, read_everything, run_each
from support.places import GOLDEN

import mrx
from mrx.errors import OutputError
from mrx.job import Decoding
from mrx.shards.layout import list_shards
from mrx.shards.repair import repair_shard
from mrx.shards.verify import check_output

# All cases, 1,000 flips, 500 outside of chunks and 200 edits, take a quarter of an hour:
# MRX_DAMAGE_SHARE=1 tries them; the suite tries a tenth.
SHARE = float(os.environ.get("MRX_DAMAGE_SHARE", "0.1"))
FLIPS, FLIPS_OUTSIDE, EDITS = (round(SHARE * count) for count in (1000, 500, 200))
KEYS = ("0.mp4", "1.mp4")
KEEP_SIZE = Decoding(short_side=None)
CHEAP = {"tvl1": {"levels": 1, "warps": 1, "outer": 1, "inner": 2}}
METHODS = ("mbpm", "tvl1")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage") / "videos"
    folder.mkdir()
    for i, key in enumerate(KEYS):
        videos.write_clip(folder / key, 7 + i, height=16, width=24, seed=i)
    return folder


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """Return folders of one shard: of each method alone, and of both."""
    root = tmp_path_factory.mktemp("whole")
    folders = {"mbpm": ("mbpm",), "tvl1": ("tvl1",), "both": METHODS}
    for name, methods in folders.items():
        assert extract(clips, root / name, methods).ok == len(KEYS)
    return {name: (root / name, methods) for name, methods in folders.items()}


def extract(clips, out, methods=METHODS):
    parameters = {name: CHEAP[name] for name in methods if name in CHEAP}
    return mrx.extract(clips, out, method=methods, parameters=parameters, decoding=KEEP_SIZE)


def report(name, results):
    """Print how often each outcome came, and return the cases with a problem."""
    results = [(case, (r, "") if isinstance(r, str) else r) for case, r in results]
    kinds = dict(Counter(outcome[0].split(":")[0] for _, outcome in results))
    sys.stdout.write(f"{name}: {len(results)} cases, {kinds}\n")
    return [(case, r) for case, r in results if r[1] or r[0].split(":")[0] not in KINDS]


KINDS = ("found", "found, and readers are told", "found, and it has no effect", "no effect")


def try_flip(folder, work, place, bit, keys):
    """Flip a bit of a copy of the only shard, and return a kind and what is wrong with it."""
    shutil.rmtree(work, ignore_errors=True)  # of a case that crashed
    shutil.copytree(folder, work)
    try:
        (shard,) = list_shards(work)
        expected, data = read_everything(shard), bytearray(shard.read_bytes())
        data[place] ^= 1 << bit
        shard.write_bytes(data)
        problems, effect = find_effect(shard, expected)
        kind, wrong = classify(problems, effect), []
        if effect and not problems:
            wrong.append(f"not found, but a reader gets {effect}")
        wrong += check_repair(shard, expected, keys)
        return kind, "; ".join(wrong)
    finally:
        shutil.rmtree(work)


def classify(problems, effect):
    """Tell the kind of an outcome."""
    if not problems:
        return "no effect"
    return KINDS[2] if not effect else KINDS[0] if effect == "other values" else KINDS[1]


def check_repair(shard, expected, keys):
    """Yield what --repair does wrong: a video of these keys that it loses, or that differs."""
    kept, changed = damage.repair_and_compare(shard, expected)
    if keys - kept:
        yield f"--repair loses {sorted(keys - kept)}"
    if changed:
        yield f"--repair changes {sorted(map(str, changed))}"


def list_undamaged(places, place):
    return {key for key, ranges in places.items() if not any(place in one for one in ranges)}


def flip_bits(whole, work, flips, *, outside):
    """Flip bits of the shards of one method, spread over the file or outside of its chunks."""
    wrong = []
    for name in METHODS:
        folder, _ = whole[name]
        (shard,) = list_shards(folder)
        places, size = list_chunk_places(shard), shard.stat().st_size
        random = np.random.default_rng(20)
        candidates = np.arange(size)
        if outside:
            inside = {p for ranges in places.values() for one in ranges for p in one}
            candidates = np.array([p for p in candidates if p not in inside])
        chosen = np.linspace(0, len(candidates) - 1, flips // 2).astype(int)
        cases = [(int(candidates[i]), int(random.integers(8))) for i in chosen]

        def work_one(case, folder=folder, places=places):
            return try_flip(folder, work, *case, list_undamaged(places, case[0]))

        wrong += report(f"flips in {name} of {size} bytes", run_each(work_one, cases))
    return wrong


def test_some_flipped_bits_are_found_or_have_no_effect(whole, tmp_path):
    assert not flip_bits(whole, tmp_path / "work", 20, outside=False)


@pytest.mark.slow
def test_flipped_bits_are_found_or_have_no_effect(whole, tmp_path):
    assert not flip_bits(whole, tmp_path / "work", FLIPS, outside=False)


@pytest.mark.slow
def test_flipped_bits_outside_of_chunks_lose_no_video(whole, tmp_path):
    assert not flip_bits(whole, tmp_path / "work", FLIPS_OUTSIDE, outside=True)


def try_edit(whole, clips, work, number):
    """Edit a copy of a shard through h5py, and return a kind and what is wrong with it."""
    random = np.random.default_rng(number)
    edit = edits.EDITS[number % len(edits.EDITS)]
    folder, methods = whole[str(random.choice(sorted(whole)))]
    key, other = random.permutation(KEYS)
    shutil.rmtree(work, ignore_errors=True)  # of a case that crashed
    shutil.copytree(folder, work)
    try:
        (shard,) = list_shards(work)
        expected = read_everything(shard)
        with h5py.File(shard, "r+") as file:
            told = edit(file, str(key), str(other), str(random.choice(methods)), random)
        problems, effect = find_effect(shard, expected)
        named = told if isinstance(told, tuple) else (told,)
        wrong = []
        if not any(word == p.key or word in p.text for word in named for p in problems):
            wrong.append(f"{named} is not named in {[str(p) for p in problems]}")
        changed = {other, key} if "swap_groups" in edit.__name__ else {key}
        wrong += check_way_out(clips, work, methods, effect)
        wrong += check_kept(work, expected, set(KEYS) - changed if key in named else set(KEYS))
        return classify(problems, effect), f"{edit.__name__}: {'; '.join(wrong)}" if wrong else ""
    finally:
        shutil.rmtree(work)


def check_way_out(clips, work, methods, effect):
    """Yield what is wrong with the way out that the messages name: repair, then extract again."""
    try:
        extract(clips, work, methods)
    except OutputError as error:
        effect = str(error)
    named = re.search(r"mrx verify --repair (\S+?)[.,]? ", effect)
    place = named[1] if named else work
    ran = command("verify", "--repair", place)
    if ran.exception and not isinstance(ran.exception, SystemExit):
        yield f"--repair raises {ran.exception}"
    try:
        summary = extract(clips, work, methods)
        if summary.ok != len(KEYS):
            yield f"after --repair: {summary}"
    except OutputError as error:
        yield f"after --repair the run is refused: {error}"
    if found := [str(problem) for problem in check_output(work)]:
        yield f"after --repair and a run: {found}"


def check_kept(work, expected, keys):
    """Yield what differs in the end from the undamaged shard."""
    found = read_everything(work)
    for place, value in expected.items():
        if place != "rows" and isinstance(place, tuple) and found.get(place, [0])[0] != value[0]:
            yield f"{place} differs in the end"


@pytest.mark.slow
def test_edits_through_h5py_are_found_and_named(whole, clips, tmp_path):
    def work_one(number):
        return try_edit(whole, clips, tmp_path / "work", number)

    assert not report("edits", run_each(work_one, range(EDITS)))


@pytest.fixture
def old(tmp_path):
    """Return a copy of a folder of format 1."""
    return shutil.copytree(GOLDEN / "format1", tmp_path / "old")


def flip(path, place, bit=0):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def list_old_chunks(path):
    """List (key, method, item, place of the middle) of each chunk, as HDF5 tells them."""
    with h5py.File(path) as file:
        return [
            (key, method, item, info.byte_offset + info.size // 2)
            for key in KEYS
            for method in METHODS
            for item in range(len(file["videos"][key][method]))
            for info in [file["videos"][key][method].id.get_chunk_info(item)]
        ]


def test_format_1_is_read_and_verified(old):
    assert list(check_output(old)) == []
    with mrx.open(old) as shards:
        shapes = {key: {name: maps.shape for name, maps in r.items()} for key, r in shards.items()}
        expected = {"mbpm": (3, 3, 16, 24), "tvl1": (8, 2, 16, 24)}
        assert shapes == dict.fromkeys(KEYS, expected)
        assert np.isfinite(shards["0.mp4"]["tvl1"][:]).all()


def test_flips_in_chunks_of_format_1_are_found_and_named(old):
    (shard,) = list_shards(old)
    for key, method, item, place in list_old_chunks(shard)[::4]:
        flip(shard, place)
        (problem,) = check_output(old)
        assert (problem.key, problem.text.split(":")[0]) == (key, f"{method}[{item}]")
        flip(shard, place)


def test_a_run_in_a_folder_of_format_1_is_refused(old, clips):
    ran = command("extract", clips, "-o", old, "-m", "mbpm")
    assert ran.code == 4
    line = f"old format ({old / 'shard-00000.h5'}): it has format 1, which can be read, but a run "
    assert line + "writes format 2. Use another -o, or --overwrite" in ran.stderr


def test_repair_keeps_the_whole_video_of_a_shard_of_format_1(old):
    (shard,) = list_shards(old)
    with mrx.open(old) as shards:
        expected = {name: maps[:] for name, maps in shards["1.mp4"].items()}
    flip(shard, list_old_chunks(shard)[0][-1])
    assert command("verify", "--repair", old).code == 1
    with mrx.open(old) as shards:
        assert list(shards) == ["1.mp4"]
        assert all(np.array_equal(shards["1.mp4"][name][:], expected[name]) for name in METHODS)
    (problem,) = check_output(old)
    assert "0.mp4: the manifest says ok" in str(problem)


@pytest.mark.slow
def test_any_flip_in_format_1_neither_raises_nor_hangs(old, tmp_path):
    (shard,) = list_shards(old)
    data, work = shard.read_bytes(), tmp_path / "work"
    places = np.random.default_rng(4).integers(0, 8 * len(data), 100)

    def work_one(place):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        path = work / shard.name
        path.write_bytes(data)
        flip(path, place // 8, place % 8)
        found = list(check_output(work))
        repair_shard(path)
        return "found" if found else "no effect"

    assert not report("flips in format 1", run_each(work_one, places.tolist()))

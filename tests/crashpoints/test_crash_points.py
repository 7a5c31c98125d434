"""Crashes at every write of a run: the next run ends well, and nothing is lost, doubled or left.

Each test prints its counts; together the slow ones try more than 2,000 points.
"""

import copy
from collections import Counter
from dataclasses import dataclass

import pytest
from recorder import FolderState, find_unrecorded, read_state, record_changes
from replay import NextRun, count_committed, extract_clips, iterate_crashes, read_maps

from mrx.shards.repair import repair_shard

BOTH = ("mbpm", "tvl1")


@dataclass
class RecordedRun:
    """A run whose changes were recorded: the folder before it, and what its maps are.

    Attributes:
        finished: videos that the folder held before
    """

    methods: tuple
    before: FolderState
    changes: list
    expected: dict
    finished: int = 0


@pytest.fixture(scope="module")
def record(clips, tmp_path_factory):
    """Return a function that records an extraction into a folder, which may hold others."""

    def record(methods, *, out=None, finished=0, **options):
        out = out or tmp_path_factory.mktemp("run") / "out"
        before = read_state(out)
        with record_changes(out) as changes:
            assert extract_clips(clips, out, methods, **options).exit_code == 0
        assert not find_unrecorded(out, copy.deepcopy(before), changes)
        return RecordedRun(methods, before, changes, read_maps(out), finished)

    return record


def crash_everywhere(run, clips, work, *, stride=1, committed=True, mend=lambda out: None):
    """Crash at every change of a run, and let the next run go on; return the counts."""
    following = NextRun(clips, run.methods, run.expected)
    for number in iterate_crashes(run.before, run.changes, work, stride=stride):
        mend(work)
        done = min(run.finished + count_committed(run.changes[:number]), following.num_videos)
        following.check(work, number, committed=done if committed else 0)
    counts = following.counts
    print(f"{' and '.join(run.methods)}: {counts}")
    assert not counts.broken, "\n".join(counts.texts[:20])
    return counts.points


def test_all_changes_of_a_run_are_recorded(record):
    run = record(("mbpm",))
    kinds = Counter(change.kind for change in run.changes)
    assert kinds["link"] == 2  # the two shards
    assert count_committed(run.changes) == 3


def test_crashes_at_some_writes_lose_nothing(record, clips, tmp_path):
    assert crash_everywhere(record(("mbpm",)), clips, tmp_path / "work", stride=40) > 5


@pytest.mark.slow
@pytest.mark.parametrize("methods", [("mbpm",), ("tvl1",), BOTH], ids="+".join)
def test_a_crash_at_any_write_loses_nothing(record, clips, tmp_path, methods):
    assert crash_everywhere(record(methods), clips, tmp_path / "work") > 250


@pytest.mark.slow
@pytest.mark.parametrize("methods", [BOTH, BOTH[::-1]], ids=["tvl1", "mbpm"])
def test_a_crash_while_a_method_is_added_loses_nothing(record, clips, tmp_path, methods):
    out = tmp_path / "out"
    first = record(methods[:1], out=out)
    run = record(methods, out=out)
    # A video that lacks a method is no finished one, so none are counted before the run.
    assert crash_everywhere(run, clips, tmp_path / "work") > 250
    assert first.expected.items() <= run.expected.items()


@pytest.mark.slow
@pytest.mark.parametrize("method", BOTH)
def test_a_crash_while_a_crash_is_mended_loses_nothing(record, clips, tmp_path, method):
    first = record((method,))
    # As many videos as possible wait to be saved: the last is committed, none has its final name.
    links = [n for n, change in enumerate(first.changes) if change.kind == "link"]
    commits = [n for n in range(len(first.changes)) if first.changes[n].name.endswith(".journal")]
    points = 0
    for number in (links[0], max(n for n in commits if n < links[-1]) + 1):
        out = tmp_path / f"crashed{number}"
        crashes = iterate_crashes(first.before, first.changes[:number], out, stride=10**6)
        for seen in crashes:
            if seen == number:
                run = record(first.methods, out=out, finished=count_committed(first.changes[:seen]))
        points += crash_everywhere(run, clips, tmp_path / "work", committed=False)
    assert points > 250


@pytest.mark.slow
def test_a_crash_while_shards_are_overwritten_blocks_nothing(record, clips, tmp_path):
    out = tmp_path / "out"
    record(("mbpm",), out=out)
    run = record(("mbpm",), out=out, overwrite=True)
    assert crash_everywhere(run, clips, tmp_path / "work", stride=2, committed=False) > 100


@pytest.mark.slow
def test_a_crash_while_a_shard_is_repaired_loses_nothing(record, clips, tmp_path):
    out = tmp_path / "out"
    whole = record(("mbpm",), out=out)
    shard = out / "shard-00000.h5"
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    before = read_state(out)
    with record_changes(out) as changes:
        assert not repair_shard(shard).lost
    run = RecordedRun(("mbpm",), before, changes, whole.expected, finished=3)

    def mend(work):
        if (work / shard.name).exists():
            repair_shard(work / shard.name)
        for path in work.glob("broken-*"):
            path.unlink()

    assert crash_everywhere(run, clips, tmp_path / "work", mend=mend) > 50

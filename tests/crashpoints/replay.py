"""Let every moment of a recorded run be a crash, and hold the next run to what mrx promises."""

import copy
import shutil
from collections import Counter
from dataclasses import dataclass, field

import mrx
from mrx.job import Decoding, Storage
from mrx.manifest import read_rows
from mrx.shards.layout import list_shards, read_index
from mrx.shards.verify import check_output

STORAGE = Storage(videos_per_shard=2)
KEEP_SIZE = Decoding(short_side=None)
# Little work a map: what is tried is what comes of the maps.
CHEAP = {"tvl1": {"levels": 1, "warps": 1, "outer": 1, "inner": 2}}
CLOSE_STRIDE = 5  # points from one to the next that is also verified and run again, which is slow


@dataclass
class CrashCounts:
    """The points that were tried, and the promises that were broken.

    Attributes:
        points: folders after a crash
        refused: the next run ended with an error, or not with exit code 0
        lost: finished videos that the next run made again
        twice: videos that two shards hold
        other: maps that differ, leftovers, missing rows and the like
        texts: a line for each broken promise
    """

    points: int = 0
    refused: int = 0
    lost: int = 0
    twice: int = 0
    other: int = 0
    texts: list = field(default_factory=list)

    @property
    def broken(self):
        return self.refused + self.lost + self.twice + self.other

    def __str__(self):
        return (
            f"{self.points} points, {self.refused} refused, {self.lost} videos lost, "
            f"{self.twice} twice, {self.other} other problems"
        )


def extract_clips(clips, out, methods, **options):
    """Run the extraction that is recorded, and that goes on after each crash."""
    parameters = {name: CHEAP[name] for name in methods if name in CHEAP}
    common = {"decoding": KEEP_SIZE, "storage": STORAGE, "parameters": parameters, "workers": 0}
    return mrx.extract(clips, out, method=methods, **common, **options)


def read_maps(out):
    """Read the maps and items of each video and method."""
    with mrx.open(out) as shards:
        return {
            (key, name): (maps[:].tobytes(), maps.items.tobytes())
            for key, recording in shards.items()
            for name, maps in recording.items()
        }


def count_committed(changes):
    """Count the videos that a run commits: the writes to its journals, but for their headers."""
    journals = [c.name for c in changes if c.kind == "write" and c.name.endswith(".journal")]
    frames = Counter(journals)
    return sum(frames.values()) - len(frames)


def iterate_crashes(before, changes, work, *, stride=1):
    """Yield the number of changes done, with the folder as a crash after them leaves it.

    The folder is made before each change, with that change torn, and after the last one.

    Args:
        before: the state of the folder before the first change
        changes: the changes of a run
        work: a folder that does not exist, for the folder after each crash
        stride: try each change, each second one, ...
    """
    for number, state in _iterate_states(before, changes, stride):
        state.write_folder(work)
        try:
            yield number
        finally:
            shutil.rmtree(work)


def _iterate_states(before, changes, stride):
    state = copy.deepcopy(before)
    for number, change in enumerate(changes):
        if number % stride == 0:
            yield number, state
            if change.can_tear:
                torn = copy.deepcopy(state)
                torn.apply(change, torn=True)
                yield number, torn
        state.apply(change)
    yield len(changes), state


class NextRun:
    """The next run after a crash, and what must hold after it.

    Args:
        clips: the folder of videos
        methods: the methods to extract
        expected: what `read_maps` returns for the undisturbed run
    """

    def __init__(self, clips, methods, expected):
        self.clips, self.methods, self.expected = clips, methods, expected
        self.counts = CrashCounts()
        self.num_videos = len(list(clips.iterdir()))

    def check(self, out, number, *, committed=0):
        """Run again, and count what is not as promised.

        Args:
            out: the folder after a crash
            number: the number of the point
            committed: videos that were finished before the crash
        """
        self.counts.points += 1
        try:
            summary = extract_clips(self.clips, out, self.methods)
        except Exception as error:  # noqa: BLE001 - counted and told
            self._note("refused", f"point {number}: {type(error).__name__}: {error}")
            return
        if summary.exit_code or summary.ok != self.num_videos:
            self._note("refused", f"point {number}: {summary}")
        missing = committed - summary.before
        if missing > 0:
            self._note("lost", f"point {number}: {missing} finished videos made again", missing)
        for text in self._find_broken_promises(out):
            self._note("other", f"point {number}: {text}")
        if doubled := count_double_rows(out):
            self._note("twice", f"point {number}: {doubled} rows twice", doubled)

    def _find_broken_promises(self, out):
        if read_maps(out) != self.expected:
            yield "the maps differ from those of the undisturbed run"
        if names := list_leftovers(out):
            yield f"leftovers: {names}"
        rows = read_rows(out / "manifest.jsonl")[1]
        done = {key for key, row in rows.items() if row.status == "ok"}
        if done != {key for key, _ in self.expected}:
            yield f"the manifest has ok rows of {sorted(done)} only"
        if self.counts.points % CLOSE_STRIDE:
            return
        yield from map(str, check_output(out))
        before = list_sizes(out)
        again = extract_clips(self.clips, out, self.methods)
        if (again.before, again.shards, list_sizes(out)) != (self.num_videos, [], before):
            yield f"a second run is not idle: {again}"

    def _note(self, kind, text, count=1):
        setattr(self.counts, kind, getattr(self.counts, kind) + count)
        self.counts.texts.append(text)


def count_double_rows(out):
    """Count the maps that more than one row of the indexes lists."""
    indexes = map(read_index, list_shards(out))
    rows = Counter((row["key"], row["method"]) for index in indexes for row in index.rows)
    return sum(count > 1 for count in rows.values())


def list_leftovers(out):
    """List the files that a finished run does not leave."""
    usual = {path.name for path in (*list_shards(out), *out.glob(".lock*"))} | {"manifest.jsonl"}
    return sorted({path.name for path in out.iterdir()} - usual)


def list_sizes(out):
    """List the names and sizes of all files."""
    return {path.name: path.stat().st_size for path in out.iterdir()}

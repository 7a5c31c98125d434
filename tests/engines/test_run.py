"""A whole run with an engine that computes nothing: what it appends, counts and tells."""

import pytest

from mrx.engines import run
from mrx.engines.messages import OutputInspected, VideoEnded
from mrx.errors import OutputError
from mrx.job import Job, ManifestRow, Source
from mrx.manifest import Manifest, list_manifests, merge_rows, read_rows

SETTINGS = {"methods": {"mbpm": {}}}
SOURCE = Source("a.mp4", "/a.mp4", size=10, mtime=2.5)


class StillEngine:
    """An engine that reports an inspection, and ends each video as it is told."""

    def __init__(self, inspection, status):
        self.inspection = inspection
        self.status = status

    def inspect_output(self):
        return self.inspection

    def run(self, sources, number):
        return [VideoEnded(ManifestRow.of_source(source, self.status)) for source in sources]

    def cancel(self):
        pass

    def close(self):
        pass


class NoteListener(run.Listener):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def run_with(tmp_path, monkeypatch):
    """Run in `tmp_path` with an inspection of these facts."""

    def act(*sources, status="ok", listener=None, job=None, **facts):
        inspection = OutputInspected(SETTINGS, done={}, **facts)
        monkeypatch.setattr(run, "_create_engine", lambda *_: StillEngine(inspection, status))
        return run.run_job(job or Job(str(tmp_path)), sources, workers=0, listener=listener)

    return act


def read_lines(folder):
    return (folder / "manifest.jsonl").read_text().splitlines()[1:]


def test_a_salvaged_video_gets_its_row_once(tmp_path, run_with):
    salvaged = ManifestRow("b.mp4", "ok", "recovered", size=3, n_out={"mbpm": 2}, frames=6)
    for _ in range(2):
        summary = run_with(salvaged=(salvaged,), run=4)
        assert (summary.salvaged, summary.ok) == (1, 0)
    rows = [ManifestRow.from_json(line) for line in read_lines(tmp_path)]
    assert [(row.key, row.n_out, row.run) for row in rows] == [("b.mp4", {"mbpm": 2}, 4)]


def test_a_salvaged_video_gets_a_row_beside_those_of_others(tmp_path, run_with):
    opened = Manifest(tmp_path, "", SETTINGS)
    opened.append_row(ManifestRow("failed", "failed", size=3))
    opened.append_row(ManifestRow("changed", "ok", size=2))
    opened.append_row(ManifestRow("ok", "ok", size=3))
    opened.close()
    run_with(salvaged=tuple(ManifestRow(k, "ok", size=3) for k in ("failed", "changed", "ok")))
    written = [ManifestRow.from_json(line).key for line in read_lines(tmp_path)[3:]]
    assert written == ["failed", "changed"]


def test_a_dry_run_tells_notes_and_writes_no_row(tmp_path, run_with):
    listener = NoteListener()
    job = Job(str(tmp_path), dry_run=True)
    run_with(job=job, listener=listener, notes=("set aside broken-1",))
    assert listener.notes == ["set aside broken-1"]
    assert list(tmp_path.iterdir()) == []


def test_rows_carry_a_number_above_all_earlier_runs(tmp_path, run_with):
    assert run_with(SOURCE, status="failed", run=1).failed == 1
    # A run without a shard leaves no number there.
    changed = Source("a.mp4", "/a.mp4", size=11, mtime=2.5)
    run_with(changed, status="failed", run=1, job=Job(str(tmp_path), share=(0, 1)))
    run_with(Source("b.mp4", "/b.mp4"), run=7)
    rows = merge_rows(read_rows(path)[1] for path in list_manifests(tmp_path))
    assert {key: (row.size, row.run) for key, row in rows.items()} == {
        "a.mp4": (11, 2),
        "b.mp4": (None, 7),
    }


def test_a_failure_of_other_images_is_no_failure_of_these(tmp_path, run_with):
    one, other = (Source("f", "/f", "frames", fingerprint=digits * 8) for digits in ("01", "23"))
    run_with(one, status="failed")
    assert run_with(one).failed_before == 1
    assert run_with(other).ok == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_manifest_ends_a_run_before_any_work(tmp_path, run_with, overwrite):
    (tmp_path / "manifest.jsonl").write_text("mine\n")
    with pytest.raises(OutputError, match="not a file of mrx"):
        run_with(SOURCE, job=Job(str(tmp_path), overwrite=overwrite))
    assert (tmp_path / "manifest.jsonl").read_text() == "mine\n"

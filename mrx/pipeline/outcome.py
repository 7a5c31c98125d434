"""The end of a video: its commit or estimate, and its row in the manifest."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from mrx.decode.video import VideoExtent
from mrx.errors import DecodeError
from mrx.job import ManifestRow, Source
from mrx.pipeline.method_run import MethodRun
from mrx.pipeline.tasks import VideoTask
from mrx.pipeline.value_warnings import describe_value_problems
from mrx.windows.plan import count_windows


def commit_task(task: VideoTask, *, has_other_maps: bool = False) -> dict[str, Any]:
    """Commit a video's maps to its shard and return the outcome for its row.

    A video without any map is not committed: its outcome says why it was skipped. It is ok if it
    has maps of other methods of the run already, as it is if all are made at once.

    Raises:
        DecodeError: the video is damaged, and `on_error` is "fail"
    """
    tally, entry = task.video.tally, task.entry
    if damage := tally.describe_damage():
        if tally.on_error == "fail":
            raise DecodeError(damage)
        tally.warn(damage)
    counts = entry.count_items() if entry else {}
    missing = _explain_missing_methods(task, counts)
    if not counts and not has_other_maps:
        return {"status": "skipped", "reason": _join_reasons(missing)}
    for name, reason in missing.items():
        tally.warn(f"no {name}: {reason}")
    if not (entry and counts):
        return {"status": "ok"}
    statistics = entry.collect_statistics()
    for run in task.method_runs:
        if run.method.name in statistics:
            if problem := run.describe_window_problem():
                tally.warn(problem)
            for problem in describe_value_problems(run, statistics[run.method.name]):
                tally.warn(problem)
    attributes = {
        **tally.to_attributes(),
        "warnings": tally.warnings,
        **_collect_source_attributes(task.source),
    }
    method_attributes = {
        run.method.name: run.collect_attributes(tally.facts) for run in task.method_runs
    }
    size = entry.commit_video(attributes, method_attributes)
    duration = round(attributes["duration"], 3)
    return {"status": "ok", "n_out": counts, "bytes": size, "duration": duration}


def estimate_outcome(
    method_runs: Sequence[MethodRun], extent: VideoExtent, size: int
) -> dict[str, Any]:
    """Return the outcome that a video of this extent would have, with `size` bytes of maps."""
    counts = {run.method.name: count_windows(extent.frames, run.rule) for run in method_runs}
    return {
        "status": "planned",
        "frames": extent.frames,
        "n_out": counts,
        "bytes": size,
        "duration": round(extent.seconds, 3),
    }


def make_video_row(task: VideoTask, outcome: Mapping[str, Any]) -> ManifestRow:
    """Make the row of a video that ends with this outcome."""
    facts = {
        "methods": tuple(run.method.name for run in task.method_runs),
        "seconds": round(time.monotonic() - task.began_at, 3),
        "warnings": tuple(task.video.tally.warnings),
        "frames": task.video.tally.frames_selected,
    }
    return ManifestRow.of_source(task.source, **{**facts, **outcome})


def _explain_missing_methods(task: VideoTask, counts: Mapping[str, int]) -> dict[str, str]:
    """Return the reason for each method that has no map of this video."""
    frames = task.video.tally.frames_selected
    too_short = {
        run.method.name: f"too short ({frames} frames, needs {run.rule.min_frames})"
        for run in task.method_runs
        if run.method.name not in counts
    }
    return {**too_short, **task.small_methods}


def _join_reasons(reasons: Mapping[str, str]) -> str:
    if len(reasons) == 1:
        return next(iter(reasons.values()))
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def _collect_source_attributes(source: Source) -> dict[str, Any]:
    values = {
        "source": source.stored_path,
        "source_size": source.size,
        "source_mtime": source.mtime,
        "range_start": source.start,
        "range_end": source.end,
        "source_fingerprint": source.fingerprint,
        "label": source.label,
    }
    return {name: value for name, value in values.items() if value is not None}

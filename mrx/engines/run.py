"""A whole run: selects the inputs left to do, drives an engine, writes manifest and summary."""

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mrx.engines.base import Engine
from mrx.engines.free_space import SpaceWatch, describe_shortage, read_free_bytes
from mrx.engines.inline import InlineEngine
from mrx.engines.local import LocalEngine
from mrx.engines.messages import (
    FramesAdvanced,
    OutputInspected,
    ShardsAdopted,
    ShardSealed,
    VideoEnded,
    VideoUndone,
    WorkerClosed,
    WorkerMessage,
)
from mrx.engines.source_plan import (
    count_moved_sources,
    find_earlier_end,
    list_missing_methods,
    needs_success_row,
)
from mrx.errors import UsageError
from mrx.job import Job, ManifestRow, RowStatus, Source, WorkerTimes
from mrx.manifest import (
    Manifest,
    check_manifest,
    list_manifests,
    lock_output,
    merge_rows,
    read_rows,
)
from mrx.settings import are_compatible, make_mismatch_error

SIGNAL_EXIT_BASE = 128


class Listener:
    """Receives progress events; the default ignores them."""

    def begin(self, summary: "Summary", left: int) -> None:
        """Handle the start of the run, with `left` inputs still to do."""

    def row(self, row: ManifestRow) -> None:
        """Handle the end of an input."""

    def frames(self, count: int) -> None:
        """Handle `count` more decoded frames."""

    def sealed(self, path: str) -> None:
        """Handle a finished shard."""

    def note(self, text: str) -> None:
        """Handle a line about the output folder, as when a damaged file was set aside."""


@dataclass
class Summary:
    """The result of a run. Each input counts once: ok, skipped, failed or (dry run) planned.

    Attributes:
        output: the output folder
        inputs: number of inputs
        before: number of the ok inputs that an earlier run had extracted
        failed_before: number of the failed inputs that failed earlier and were not tried again
        salvaged: videos saved from a killed run
        frames, bytes: decoded frames and stored bytes of this run; both estimated in a dry run
        duration: seconds of video behind these bytes
        free_bytes: free space of the output's file system at the end; None if it does not tell
        seconds: duration of the run
        signal: number of the signal that stopped the run, or 0
        stopped: the reason, if the run stopped itself
        warnings: warnings about the run as a whole
        shards: paths of the shards written
        workers: the times of each worker
    """

    output: str
    inputs: int = 0
    ok: int = 0
    skipped: int = 0
    failed: int = 0
    planned: int = 0
    before: int = 0
    failed_before: int = 0
    salvaged: int = 0
    frames: int = 0
    bytes: int = 0
    duration: float = 0.0
    free_bytes: int | None = None
    seconds: float = 0.0
    signal: int = 0
    stopped: str = ""
    warnings: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    workers: list[WorkerTimes] = field(default_factory=list)

    @property
    def missed(self) -> int:
        """Number of inputs that were not reached, because the run was stopped."""
        return self.inputs - self.ok - self.skipped - self.failed - self.planned

    @property
    def exit_code(self) -> int:
        """Exit code: 0 for success, 1 if inputs failed or were missed, 128 + n for signal n."""
        if self.signal:
            return SIGNAL_EXIT_BASE + self.signal
        return 1 if self.failed or self.missed else 0

    @property
    def bytes_per_hour(self) -> int | None:
        """Bytes that an hour of video takes, or None if nothing was stored."""
        return round(self.bytes / self.duration * 3600) if self.duration > 0 else None

    def count_row(self, row: ManifestRow, times: int = 1) -> None:
        """Count an input that has ended; `times=-1` takes it back."""
        setattr(self, row.status, getattr(self, row.status) + times)
        self.frames += times * row.frames
        self.bytes += times * row.bytes
        self.duration += times * row.duration


@dataclass(frozen=True)
class Limits:
    """Limits on time and failures, and the treatment of failed and missing inputs.

    Attributes:
        timeout: seconds for one video, applied in worker processes only
        max_failures: number of failed inputs beyond which the run stops; None never stops
        retry_failed: try inputs again that failed in an earlier run
        missing_ok: count inputs that do not exist as skipped, not as failed
    """

    timeout: float | None = 600.0
    max_failures: int | None = None
    retry_failed: bool = False
    missing_ok: bool = False


def run_job(
    job: Job,
    sources: Sequence[Source],
    *,
    workers: int | None,
    limits: Limits = Limits(),
    listener: Listener | None = None,
    owns_process: bool = False,
) -> Summary:
    """Extract all sources that are not done yet.

    Args:
        job: the job of the run
        sources: the inputs of this share
        workers: number of worker processes; 0 works in this process, None starts one for each core
            if methods compute on the CPU, and otherwise one for each device
        limits: limits on time and failures
        listener: receives progress events
        owns_process: let a second signal end the process, instead of raising KeyboardInterrupt

    Returns:
        the counts of the run and the shards written

    Raises:
        UsageError: options contradict each other
        OutputError: the output folder is locked, not writable, or made with other settings
    """
    if job.overwrite and job.share:
        raise UsageError(
            "--overwrite does not work with --shard: it would remove the output of all shares. "
            "Remove the output folder once, before the shares begin"
        )
    began = time.monotonic()
    folder = Path(job.output)
    # Leaving runs backward through the stack: close the manifest, restore the signal handlers, end
    # the workers, and only then release the lock, when no process writes to the folder any more.
    with ExitStack() as stack:
        if not job.dry_run:
            stack.enter_context(lock_output(folder, job.share_name))
            # Before `overwrite` removes anything.
            check_manifest(folder, job.share_name)
        engine = _create_engine(job, workers, len(sources), limits.timeout)
        stack.callback(engine.close)
        summary = Summary(str(folder), inputs=len(sources))
        stack.enter_context(_handle_signals(engine, summary, owns_process))
        inspection = engine.inspect_output()
        if inspection is None:
            return summary
        listener = listener or Listener()
        # Before anything can refuse the run: the inspection has changed the folder already.
        for text in inspection.notes:
            listener.note(text)
        moved = count_moved_sources(sources, inspection.done)
        earlier_rows = {} if job.overwrite else _read_earlier_rows(folder, inspection.settings)
        manifest = None
        if not job.dry_run:
            manifest = Manifest(folder, job.share_name, inspection.settings)
            stack.callback(manifest.close)
        run_number = _choose_run_number(inspection, earlier_rows)
        tracker = _RunTracker(summary, limits, manifest, listener, run_number)
        tracker.record_salvaged(inspection, earlier_rows)
        if moved:
            tracker.listener.note(
                f"{moved} videos lie at another path than before: their maps are kept"
            )
        remaining = tracker.plan_sources(sources, inspection, earlier_rows)
        tracker.follow_messages(engine.run(remaining, run_number), engine)
        tracker.check_plan()
        summary.seconds = time.monotonic() - began
    return summary


def _create_engine(job: Job, workers: int | None, num_videos: int, timeout: float | None) -> Engine:
    if workers == 0:
        return InlineEngine(job)
    # A folder with a manifest may hold most videos already: the workers start after the plan.
    starts_empty = job.overwrite or not list_manifests(Path(job.output))
    return LocalEngine(
        job, workers=workers, num_videos=num_videos, timeout=timeout, start_all=starts_empty
    )


class _RunTracker:
    """Keeps the summary, the manifest and the listener of a run up to date."""

    def __init__(
        self,
        summary: Summary,
        limits: Limits,
        manifest: Manifest | None,
        listener: Listener,
        run_number: int,
    ) -> None:
        self.summary = summary
        self.limits = limits
        self.manifest = manifest
        self.listener = listener
        self.run_number = run_number
        self._space_watch = SpaceWatch(Path(summary.output), [])

    def record_salvaged(
        self, inspection: OutputInspected, earlier_rows: Mapping[str, ManifestRow]
    ) -> None:
        """Append the rows of the videos that the inspection saved."""
        self.summary.salvaged = len(inspection.salvaged)
        for row in inspection.salvaged:
            # The killed run wrote most of these rows itself.
            if not _tells_success(earlier_rows.get(row.key), row):
                self._append_row(row)

    def plan_sources(
        self,
        sources: Sequence[Source],
        inspection: OutputInspected,
        earlier_rows: Mapping[str, ManifestRow],
    ) -> list[Source]:
        """Count the sources that have ended already; return the others, with what each lacks.

        Raises:
            UsageError: the folder has maps of another source with the key of one of these
        """
        methods = tuple(inspection.settings["methods"])
        salvaged_keys = {row.key for row in inspection.salvaged}
        remaining, unreadable_rows = [], []
        for source in sources:
            row = earlier_rows.get(source.key)
            missing = list_missing_methods(source, inspection.done.get(source.key, {}), methods)
            end = find_earlier_end(source, missing, methods, row)
            source = replace(source, methods=missing or methods)
            if source.problem and end != "ok":
                unreadable_rows.append(self._make_unreadable_row(source))
            elif end is None or (end == "failed" and self.limits.retry_failed):
                remaining.append(source)
            else:
                self.summary.count_row(ManifestRow.of_source(source, end))
                self.summary.before += end == "ok"
                self.summary.failed_before += end == "failed"
                is_salvaged = source.key in salvaged_keys
                if not missing and not is_salvaged and needs_success_row(row, source, methods):
                    self._append_row(ManifestRow.of_source(source, "ok", reason="found in a shard"))
        self._space_watch = SpaceWatch(Path(self.summary.output), remaining)
        self.listener.begin(self.summary, len(remaining) + len(unreadable_rows))
        for row in unreadable_rows:
            self._record_row(row)
        return remaining

    def follow_messages(self, messages: Iterable[WorkerMessage], engine: Engine) -> None:
        """Process the engine's messages until the run ends; cancel it after too many failures."""
        for message in messages:
            match message:
                case VideoEnded(row):
                    self._record_row(row)
                    max_failures = self.limits.max_failures
                    if max_failures is not None and self.summary.failed > max_failures:
                        self.summary.stopped = f"more than {max_failures} inputs failed"
                        engine.cancel()
                case VideoUndone(row):
                    # Its row stays in the manifest until the next row of the key replaces it.
                    self.summary.count_row(row, -1)
                case FramesAdvanced(frames):
                    self.listener.frames(frames)
                case ShardsAdopted(_, notes):
                    for text in notes:
                        self.listener.note(text)
                case ShardSealed(path, _):
                    self.summary.shards.append(path)
                    self.listener.sealed(path)
                case WorkerClosed(times):
                    self.summary.workers.append(times)

    def _record_row(self, row: ManifestRow) -> None:
        row = replace(row, run=self.run_number)
        self.summary.count_row(row)
        self._append_row(row)
        self.listener.row(row)
        if shortage := self._space_watch.follow_row(row):
            self._add_warning(shortage)

    def check_plan(self) -> None:
        """Read the free space, and warn if the videos of a dry run will not fit into it."""
        summary = self.summary
        free = summary.free_bytes = read_free_bytes(Path(summary.output))
        if summary.planned and free is not None and summary.bytes > free:
            subject = f"the {summary.planned} videos to extract"
            self._add_warning(
                describe_shortage(Path(summary.output), subject, needed=summary.bytes, free=free)
            )

    def _add_warning(self, text: str) -> None:
        self.summary.warnings.append(text)
        self.listener.note(f"warning: {text}")

    def _append_row(self, row: ManifestRow) -> None:
        if self.manifest:
            self.manifest.append_row(replace(row, run=self.run_number))

    def _make_unreadable_row(self, source: Source) -> ManifestRow:
        skip = source.missing and self.limits.missing_ok
        status: RowStatus = "skipped" if skip else "failed"
        return ManifestRow.of_source(source, status, reason=source.problem or "")


def _read_earlier_rows(folder: Path, settings: Mapping[str, Any]) -> dict[str, ManifestRow]:
    """Return the last row of each key in the folder's manifests, of all shares."""
    tables = []
    for path in list_manifests(folder):
        existing, rows = read_rows(path)
        # The header has the settings of the run that began it.
        if existing and not are_compatible(existing, settings):
            raise make_mismatch_error(folder, existing, settings)
        tables.append(rows)
    return merge_rows(tables)


def _choose_run_number(inspection: OutputInspected, earlier_rows: Mapping[str, ManifestRow]) -> int:
    """Return a number above that of every earlier run, also of one that wrote no shard."""
    last_number = max((row.run for row in earlier_rows.values()), default=0)
    return max(inspection.run, last_number + 1)


def _tells_success(row: ManifestRow | None, salvaged: ManifestRow) -> bool:
    """Return True if a row says of a video what the row of a salvaged video says."""
    if row is None or row.status != "ok" or row.stamp != salvaged.stamp:
        return False
    return set(salvaged.methods) <= set(row.methods)


@contextmanager
def _handle_signals(engine: Engine, summary: Summary, owns_process: bool) -> Iterator[None]:
    """End the run cleanly at the first SIGINT or SIGTERM, and at once at the second."""

    def stop_run(number: int, frame: object) -> None:
        if summary.signal:
            # Without cleanup, since it may be waiting for what hangs. Workers go first.
            engine.close()
            if owns_process:
                os._exit(SIGNAL_EXIT_BASE + number)
            raise KeyboardInterrupt
        summary.signal = number
        engine.cancel()

    old_handlers = {}
    # Python allows handlers in the main thread only; `mrx.extract` may be called from another.
    in_main_thread = threading.current_thread() is threading.main_thread()
    try:
        for number in (signal.SIGINT, signal.SIGTERM) if in_main_thread else ():
            old_handlers[number] = signal.signal(number, stop_run)
        yield
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)

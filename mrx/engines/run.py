"""A whole run: what is left to do, the engine that does it, the manifest, and the sum of it."""

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrx.engines.inline import InlineEngine
from mrx.engines.local import LocalEngine
from mrx.engines.messages import (
    FramesAdvanced,
    OutputInspected,
    ShardSealed,
    VideoEnded,
    VideoUndone,
    WorkerClosed,
    WorkerMessage,
    make_manifest_row,
)
from mrx.errors import UsageError
from mrx.job import Job, ManifestRow, Source, WorkerTimes, hash_settings, make_mismatch_error
from mrx.manifest import Manifest, list_manifests, lock_output, read_rows

SIGNAL_EXIT_BASE = 128


class Listener:
    """Who wants to hear how a run goes on; this one does not care."""

    def begin(self, summary: "Summary", left: int) -> None:
        """The plan stands: so many inputs are left to do."""

    def row(self, row: ManifestRow) -> None:
        """An input has ended."""

    def frames(self, count: int) -> None:
        """So many more frames went through."""

    def sealed(self, path: str) -> None:
        """A shard has its final name."""


@dataclass
class Summary:
    """How a run ended. Every input is counted once: ok, skipped, failed or (dry run) planned.

    Attributes:
        before: of the ok ones, how many an earlier run had done
        failed_before: of the failed ones, how many failed earlier and were not tried again
        missed: inputs that were not reached, because the run was stopped
        salvaged: videos saved from a run that was killed
        signal: the signal that stopped the run, or 0
        workers: where each worker's time went
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
    seconds: float = 0.0
    signal: int = 0
    stopped: str = ""
    shards: list[str] = field(default_factory=list)
    workers: list[WorkerTimes] = field(default_factory=list)

    @property
    def missed(self) -> int:
        """Inputs that were not reached."""
        return self.inputs - self.ok - self.skipped - self.failed - self.planned

    @property
    def exit_code(self) -> int:
        """0 all well, 1 some failed or were not reached, 128 + n where signal n stopped the run."""
        if self.signal:
            return SIGNAL_EXIT_BASE + self.signal
        return 1 if self.failed or self.missed else 0

    def count_row(self, row: ManifestRow, times: int = 1) -> None:
        """Count an input that has ended, or take it back."""
        setattr(self, row.status, getattr(self, row.status) + times)
        self.frames += times * row.frames
        self.bytes += times * row.bytes


@dataclass(frozen=True)
class Limits:
    """When to give up, and what to try again.

    Attributes:
        timeout: seconds for one video, in worker processes
        max_failures: stop when more inputs than this have failed; None never stops
        retry_failed: try again what failed in an earlier run
        missing_ok: inputs that do not exist are skipped, not failed
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
) -> Summary:
    """Extract all sources that are not done yet.

    Args:
        job: what to do with each
        sources: this share's inputs
        workers: processes; 0 works in this one, None is one for each core, or for each device that
            is no CPU
        limits: when to give up
        listener: told of every step
    """
    if job.overwrite and job.share:
        raise UsageError(
            "--overwrite removes what all shares wrote: remove the output folder instead, once, "
            "before the shares begin"
        )
    began = time.monotonic()
    folder = Path(job.output)
    with ExitStack() as stack:
        if not job.dry_run:
            stack.enter_context(lock_output(folder, job.share_name))
        engine = _create_engine(job, workers, len(sources), limits.timeout)
        stack.callback(engine.close)
        summary = Summary(str(folder), inputs=len(sources))
        stack.enter_context(_handle_signals(engine, summary))
        inspection = engine.inspect_output()
        if inspection is None:
            return summary
        earlier_rows = {} if job.overwrite else _read_earlier_rows(folder, inspection.settings)
        manifest = None
        if not job.dry_run:
            manifest = Manifest(folder, job.share_name, inspection.settings)
            stack.callback(manifest.close)
        tracker = _RunTracker(summary, limits, manifest, listener or Listener())
        remaining = tracker.plan_sources(sources, inspection, earlier_rows)
        tracker.follow_messages(engine.run(remaining), engine)
        summary.seconds = time.monotonic() - began
    return summary


def _create_engine(
    job: Job, workers: int | None, num_videos: int, timeout: float | None
) -> InlineEngine | LocalEngine:
    if workers == 0:
        return InlineEngine(job)
    starts_empty = job.overwrite or not list_manifests(Path(job.output))
    return LocalEngine(
        job, workers=workers, num_videos=num_videos, timeout=timeout, start_all=starts_empty
    )


class _RunTracker:
    """The bookkeeping of one run."""

    def __init__(
        self, summary: Summary, limits: Limits, manifest: Manifest | None, listener: Listener
    ) -> None:
        self.summary = summary
        self.limits = limits
        self.manifest = manifest
        self.listener = listener

    def plan_sources(
        self,
        sources: Sequence[Source],
        inspection: OutputInspected,
        earlier_rows: Mapping[str, ManifestRow],
    ) -> list[Source]:
        """Count what has ended already; the sources that are left."""
        self.summary.salvaged = inspection.salvaged
        remaining, unreadable_rows = [], []
        for source in sources:
            row = earlier_rows.get(source.key)
            if inspection.done.get(source.key) == source.stamp:
                self.summary.ok += 1
                self.summary.before += 1
            elif source.problem:
                unreadable_rows.append(self._make_unreadable_row(source))
            elif row and self._is_row_current(row, source):
                self.summary.count_row(make_manifest_row(source, row.status))
                self.summary.failed_before += row.status == "failed"
            else:
                remaining.append(source)
        self.listener.begin(self.summary, len(remaining) + len(unreadable_rows))
        for row in unreadable_rows:
            self._record_row(row)
        return remaining

    def follow_messages(
        self, messages: Iterable[WorkerMessage], engine: InlineEngine | LocalEngine
    ) -> None:
        """Take the engine's messages until it has nothing more to say."""
        for message in messages:
            match message:
                case VideoEnded(row):
                    self._record_row(row)
                    max_failures = self.limits.max_failures
                    if max_failures is not None and self.summary.failed > max_failures:
                        self.summary.stopped = f"more than {max_failures} inputs failed"
                        engine.cancel()
                case VideoUndone(row):
                    self.summary.count_row(row, -1)
                case FramesAdvanced(frames):
                    self.listener.frames(frames)
                case ShardSealed(path, _):
                    self.summary.shards.append(path)
                    self.listener.sealed(path)
                case WorkerClosed(worked):
                    self.summary.workers.append(worked)

    def _record_row(self, row: ManifestRow) -> None:
        self.summary.count_row(row)
        if self.manifest:
            self.manifest.append_row(row)
        self.listener.row(row)

    def _is_row_current(self, row: ManifestRow, source: Source) -> bool:
        unchanged = (row.size, row.mtime, row.start, row.end) == (
            source.size,
            source.mtime,
            source.start,
            source.end,
        )
        to_retry = row.status == "failed" and self.limits.retry_failed
        return unchanged and not to_retry and row.status in ("failed", "skipped")

    def _make_unreadable_row(self, source: Source) -> ManifestRow:
        skip = source.missing and self.limits.missing_ok
        return make_manifest_row(source, "skipped" if skip else "failed", source.problem or "")


def _read_earlier_rows(folder: Path, settings: Mapping[str, Any]) -> dict[str, ManifestRow]:
    """The rows of earlier runs in this folder, of all shares."""
    rows: dict[str, ManifestRow] = {}
    for path in list_manifests(folder):
        existing, manifest_rows = read_rows(path)
        if existing and hash_settings(existing) != hash_settings(settings):
            raise make_mismatch_error(folder, existing, settings)
        rows |= manifest_rows
    return rows


@contextmanager
def _handle_signals(engine: InlineEngine | LocalEngine, summary: Summary) -> Iterator[None]:
    """The first SIGINT or SIGTERM ends the run cleanly, the second at once."""

    def stop_run(number: int, frame: object) -> None:
        if summary.signal:
            engine.close()
            os._exit(SIGNAL_EXIT_BASE + number)
        summary.signal = number
        engine.cancel()

    old_handlers = {}
    in_main_thread = threading.current_thread() is threading.main_thread()
    try:
        for number in (signal.SIGINT, signal.SIGTERM) if in_main_thread else ():
            old_handlers[number] = signal.signal(number, stop_run)
        yield
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)

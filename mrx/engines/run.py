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

from mrx.engines.inline import Inline
from mrx.engines.local import Local
from mrx.engines.messages import (
    Advanced,
    Closed,
    Ended,
    Looked,
    Message,
    Sealed,
    Undone,
    row_of,
)
from mrx.errors import UsageError
from mrx.job import Job, Row, Source, Worked, mismatch, settings_hash
from mrx.manifest import Manifest, locked, manifests, read_rows

SIGNAL_EXIT = 128


class Listener:
    """Who wants to hear how a run goes on; this one does not care."""

    def begin(self, summary: "Summary", left: int) -> None:
        """The plan stands: so many inputs are left to do."""

    def row(self, row: Row) -> None:
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
    workers: list[Worked] = field(default_factory=list)

    @property
    def missed(self) -> int:
        """Inputs that were not reached."""
        return self.inputs - self.ok - self.skipped - self.failed - self.planned

    @property
    def exit_code(self) -> int:
        """0 all well, 1 some failed or were not reached, 128 + n where signal n stopped the run."""
        if self.signal:
            return SIGNAL_EXIT + self.signal
        return 1 if self.failed or self.missed else 0

    def count(self, row: Row, times: int = 1) -> None:
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


def run(
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
            stack.enter_context(locked(folder, job.share_name))
        engine = _engine(job, workers, len(sources), limits.timeout)
        stack.callback(engine.close)
        summary = Summary(str(folder), inputs=len(sources))
        stack.enter_context(_signals(engine, summary))
        looked = engine.prepare()
        if looked is None:
            return summary
        earlier = {} if job.overwrite else _earlier(folder, looked.settings)
        manifest = None
        if not job.dry_run:
            manifest = Manifest(folder, job.share_name, looked.settings)
            stack.callback(manifest.close)
        loop = _Run(summary, limits, manifest, listener or Listener())
        left = loop.plan(sources, looked, earlier)
        loop.follow(engine.run(left), engine)
        summary.seconds = time.monotonic() - began
    return summary


def _engine(job: Job, workers: int | None, videos: int, timeout: float | None) -> Inline | Local:
    if workers == 0:
        return Inline(job)
    fresh = job.overwrite or not manifests(Path(job.output))
    return Local(job, workers=workers, videos=videos, timeout=timeout, eager=fresh)


class _Run:
    """The bookkeeping of one run."""

    def __init__(
        self, summary: Summary, limits: Limits, manifest: Manifest | None, listener: Listener
    ) -> None:
        self.summary = summary
        self.limits = limits
        self.manifest = manifest
        self.listener = listener

    def plan(
        self, sources: Sequence[Source], looked: Looked, earlier: Mapping[str, Row]
    ) -> list[Source]:
        """Count what has ended already; the sources that are left."""
        self.summary.salvaged = looked.salvaged
        left, settled = [], []
        for source in sources:
            row = earlier.get(source.key)
            if looked.done.get(source.key) == source.stamp:
                self.summary.ok += 1
                self.summary.before += 1
            elif source.problem:
                settled.append(self._unreadable(source))
            elif row and self._stands(row, source):
                self.summary.count(row_of(source, row.status))
                self.summary.failed_before += row.status == "failed"
            else:
                left.append(source)
        self.listener.begin(self.summary, len(left) + len(settled))
        for row in settled:
            self._end(row)
        return left

    def follow(self, messages: Iterable[Message], engine: Inline | Local) -> None:
        """Take the engine's messages until it has nothing more to say."""
        for message in messages:
            match message:
                case Ended(row):
                    self._end(row)
                    most = self.limits.max_failures
                    if most is not None and self.summary.failed > most:
                        self.summary.stopped = f"more than {most} inputs failed"
                        engine.cancel()
                case Undone(row):
                    self.summary.count(row, -1)
                case Advanced(frames):
                    self.listener.frames(frames)
                case Sealed(path, _):
                    self.summary.shards.append(path)
                    self.listener.sealed(path)
                case Closed(worked):
                    self.summary.workers.append(worked)

    def _end(self, row: Row) -> None:
        self.summary.count(row)
        if self.manifest:
            self.manifest.append(row)
        self.listener.row(row)

    def _stands(self, row: Row, source: Source) -> bool:
        same = (row.size, row.mtime, row.start, row.end) == (
            source.size,
            source.mtime,
            source.start,
            source.end,
        )
        again = row.status == "failed" and self.limits.retry_failed
        return same and not again and row.status in ("failed", "skipped")

    def _unreadable(self, source: Source) -> Row:
        skip = source.missing and self.limits.missing_ok
        return row_of(source, "skipped" if skip else "failed", source.problem or "")


def _earlier(folder: Path, settings: Mapping[str, Any]) -> dict[str, Row]:
    """The rows of earlier runs in this folder, of all shares."""
    rows: dict[str, Row] = {}
    for path in manifests(folder):
        made, more = read_rows(path)
        if made and settings_hash(made) != settings_hash(settings):
            raise mismatch(folder, made, settings)
        rows |= more
    return rows


@contextmanager
def _signals(engine: Inline | Local, summary: Summary) -> Iterator[None]:
    """The first SIGINT or SIGTERM ends the run cleanly, the second at once."""

    def stop(number: int, frame: object) -> None:
        if summary.signal:
            engine.close()
            os._exit(SIGNAL_EXIT + number)
        summary.signal = number
        engine.cancel()

    before = {}
    in_main = threading.current_thread() is threading.main_thread()
    try:
        for number in (signal.SIGINT, signal.SIGTERM) if in_main else ():
            before[number] = signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Worker processes on this machine. The parent imports nothing heavy and survives every worker.

A video that kills or hangs its worker is tried once more, then it has failed. What a dead worker
had finished is saved from its shard by the worker that takes its place.
"""

import multiprocessing
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from mrx.engines import worker
from mrx.engines.messages import (
    Adopted,
    Began,
    Broken,
    Closed,
    Ended,
    Looked,
    Message,
    Ready,
    Refused,
    Sealed,
    Undone,
    row_of,
)
from mrx.errors import MrxError, UsageError
from mrx.job import Job, Row, Source, cores

TRIES = 2
STARTS = 3
GRACE_SECONDS = 10.0
POLL_SECONDS = 0.25


@dataclass
class Worker:
    """The parent's side of a worker process.

    Attributes:
        first: it is the one that looks into the output
        orphans: process numbers of dead workers, whose shards it has to save first
        device: where it computes
        tasks: the videos that it has, and since when they are at work, if they are
        capacity: how many videos it takes at once
        unsealed: sources that are done, but whose shard has no final name yet; with their rows
        sealed: keys whose shard has a final name, though their rows have not come yet
        retries: the videos in whose middle the worker before it died
        ready, stopping, closed: it has built its methods, was told to end, has sealed its shard
        fate: why it was killed, where that was our doing
    """

    process: BaseProcess
    connection: Connection
    device: str
    first: bool = False
    orphans: tuple[int, ...] = ()
    tasks: dict[str, tuple[Source, float | None]] = field(default_factory=dict)
    capacity: int = 1
    unsealed: dict[str, tuple[Source, Row]] = field(default_factory=dict)
    sealed: set[str] = field(default_factory=set)
    retries: list[Source] = field(default_factory=list)
    ready: bool = False
    stopping: bool = False
    closed: bool = False
    fate: str = ""

    @property
    def has_room(self) -> bool:
        """Whether it takes one more video."""
        return self.ready and not self.stopping and len(self.tasks) < self.capacity

    def send(self, word: Source | str) -> None:
        """Say something to a process that may just have died; its end is seen where it is heard."""
        with suppress(ConnectionError):
            self.connection.send(word)

    def death(self) -> str:
        """Why the process is gone, as a reason for the video that it worked on."""
        self.process.join()
        code = self.process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return self.fate or f"worker died ({how})"


class RefusalError(MrxError):
    """A worker could not go on; the run ends with the exit code of the error that it met."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.text)
        self.exit_code = refused.exit_code
        self.traceback = refused.traceback


class Local:
    """An engine of local worker processes.

    Args:
        job: what the run was asked to do
        workers: how many processes; None is one for each core where methods compute on the CPU,
            and one for each device elsewhere
        videos: more workers than this would have nothing to do
        timeout: seconds after which a video is given up; None waits for ever
        eager: start all workers at once, since there will be work for them
    """

    def __init__(
        self, job: Job, *, workers: int | None, videos: int, timeout: float | None, eager: bool
    ) -> None:
        devices = job.devices
        if workers is not None and workers < len(devices):
            raise UsageError(f"{workers} workers for {len(devices)} devices: give one for each")
        if workers is None and not _leaves_open(devices):
            workers = _usual(devices, devices[0])
        self.job = job
        self.timeout = timeout
        self.videos = max(videos, 1)
        self.wanted = 1 if workers is None else min(workers, self.videos)
        self._decided = workers is not None
        self.eager = eager
        self._context = multiprocessing.get_context("spawn")
        self._tries: Counter[str] = Counter()
        self._again: deque[Source] = deque()
        self._sources: Iterator[Source] = iter(())
        self._cancelled = False
        self._cancelled_at: float | None = None
        self._looked = False
        self._false_starts = 0
        self._refusal: RefusalError | None = None
        self._workers: list[Worker] = []

    def prepare(self) -> Looked | None:
        """Start the first worker and wait until it has looked into the output.

        Returns:
            what it found, or None where the run was stopped before that
        """
        self._start(first=True)
        while self.eager and len(self._workers) < self.wanted:
            self._start()
        while self._workers and not self._cancelled:
            for message in self._listen():
                if isinstance(message, Looked):
                    if not self._decided:
                        self.wanted = min(_usual(self.job.devices, message.device), self.videos)
                    return message
        if self._refusal:
            raise self._refusal
        return None

    def run(self, sources: Iterable[Source]) -> Iterator[Message]:
        """Keep every worker at work until all videos have ended."""
        self._sources = iter(sources)
        self._again.extend(islice(self._sources, self.wanted))
        while len(self._workers) < min(self.wanted, len(self._again)):
            self._start()
        while self._workers:
            self._hand_out()
            yield from self._listen()
            self._watch()
        if self._refusal:
            raise self._refusal

    def cancel(self) -> None:
        """Have every worker drop its video and seal its shard. Safe in a signal handler."""
        self._cancelled = True

    def close(self) -> None:
        """Leave no process behind."""
        for one in self._workers:
            one.process.kill()
            one.process.join()
            one.connection.close()
        self._workers = []

    def _start(self, *, first: bool = False, after: Worker | None = None) -> None:
        ours, theirs = self._context.Pipe()
        orphans = (*after.orphans, after.process.pid or 0) if after else ()
        device = self._least_used()
        process = self._context.Process(
            target=worker.main,
            args=(theirs, self.job, worker.Place(device, self.wanted), first, orphans),
            daemon=True,
        )
        process.start()
        theirs.close()
        one = Worker(process, ours, device, first, orphans)
        if after:
            one.unsealed = after.unsealed
            one.retries = [*after.retries, *(source for source, _ in after.tasks.values())]
        self._workers.append(one)

    def _least_used(self) -> str:
        """The device that the fewest workers compute on."""
        used = Counter(one.device for one in self._workers)
        return min(self.job.devices, key=lambda device: used[device])

    def _hand_out(self) -> None:
        """A video to each worker that has room, and again, so that none has all of the last."""
        free = self._workers
        while free := [one for one in free if one.has_room and self._hand_to(one)]:
            pass

    def _hand_to(self, one: Worker) -> bool:
        """Whether there was a video for a worker; one that has nothing left to do is stopped."""
        source = None if self._cancelled else self._next(one)
        if source is not None:
            one.tasks[source.key] = source, None
            one.send(source)
        elif not one.tasks:
            one.stopping = True
            one.send(worker.STOP)
        return source is not None

    def _next(self, one: Worker) -> Source | None:
        """What a worker is to do next. Who may have killed a worker is tried again alone."""
        if any(self._tries[key] for key in one.tasks):
            return None
        if not self._again:
            return next(self._sources, None)
        if self._tries[self._again[0].key] and one.tasks:
            return None
        return self._again.popleft()

    def _listen(self) -> Iterator[Message]:
        """What the workers said, and what follows where one has ended."""
        ready = wait([one.connection for one in self._workers], timeout=POLL_SECONDS)
        for one in [one for one in self._workers if one.connection in ready]:
            try:
                message = one.connection.recv()
            except (EOFError, OSError):
                yield from self._bury(one)
                continue
            yield from self._take(one, message)

    def _take(self, one: Worker, message: Message) -> Iterator[Message]:
        match message:
            case Began(key):
                one.tasks[key] = one.tasks[key][0], time.monotonic()
            case Ended(row):
                source, _ = one.tasks.pop(row.key)
                if row.status == "ok" and row.key not in one.sealed:
                    one.unsealed[row.key] = source, row
                one.sealed.discard(row.key)
            case Sealed(_, keys):
                one.sealed |= set(keys) - one.unsealed.keys()
                for key in keys:
                    one.unsealed.pop(key, None)
            case Adopted(keys):
                yield from self._adopted(one, set(keys))
            case _:
                self._note(one, message)
        yield message

    def _note(self, one: Worker, message: Message) -> None:
        """What a worker says of itself."""
        match message:
            case Ready(capacity):
                one.ready, one.capacity = True, capacity
            case Looked():
                self._looked = True
            case Broken(reason):
                one.fate = reason
            case Closed():
                one.closed = True
            case Refused():
                self._refusal = self._refusal or RefusalError(message)
                one.closed = True
                self._cancelled = True

    def _adopted(self, one: Worker, keys: set[str]) -> Iterator[Message]:
        """Do again what was lost with a dead worker's shard; not what was saved from it."""
        for key, (source, row) in one.unsealed.items():
            if key not in keys:
                self._again.append(source)
                yield Undone(row)
        retries, one.unsealed, one.retries, one.orphans = one.retries, {}, [], ()
        for retry in retries:
            if retry.key in keys:
                yield Ended(row_of(retry, "ok"))
            else:
                self._again.append(retry)

    def _bury(self, one: Worker) -> Iterator[Message]:
        """A worker has ended: by itself, or in the middle of a video."""
        self._workers.remove(one)
        one.connection.close()
        reason = one.death()
        if one.closed or self._cancelled:
            return
        if not one.ready:
            self._false_starts += 1
            if self._false_starts >= STARTS:
                refused = Refused(5, f"{reason} {STARTS} times before it was ready")
                self._refusal = self._refusal or RefusalError(refused)
                self._cancelled = True
                return
        for key, (source, since) in list(one.tasks.items()):
            self._tries[key] += since is not None
            if key in one.sealed:
                yield Ended(row_of(source, "ok"))
            elif self._tries[key] >= TRIES:
                yield Ended(row_of(source, "failed", reason))
            else:
                continue
            del one.tasks[key]
        self._start(after=one, first=one.first and not self._looked)

    def _watch(self) -> None:
        """Kill what hangs: a video past its time, or a worker that does not hear a stop."""
        now = time.monotonic()
        for one in self._workers:
            since = min((began for _, began in one.tasks.values() if began), default=now)
            if self.timeout and now - since > self.timeout:
                one.fate = f"timeout: took longer than {self.timeout:g} s"
                one.process.kill()
        if self._cancelled and self._cancelled_at is None:
            self._cancelled_at = now
            for one in self._workers:
                one.stopping = True
                one.send(worker.CANCEL)
        if self._cancelled_at is not None and now - self._cancelled_at > GRACE_SECONDS:
            for one in self._workers:
                one.process.kill()


def _leaves_open(devices: Sequence[str]) -> bool:
    """Whether only a worker can tell what the device is: `auto` where there may be a GPU."""
    signs = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
    there = sys.platform == "darwin" or any(Path(sign).exists() for sign in signs)
    return "auto" in devices and there


def _usual(devices: Sequence[str], found: str) -> int:
    """So many workers: a core is a worker of its own, a device has one with many threads."""
    alone = len(devices) == 1 and found in ("cpu", "auto")
    return cores() if alone else len(devices)

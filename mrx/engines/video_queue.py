"""The videos that wait for a worker, and the rules for the videos of a dead one."""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from mrx.engines.messages import VideoEnded, VideoUndone, WorkerMessage, make_manifest_row
from mrx.engines.worker_handle import WorkerHandle
from mrx.job import Source

# A death may have come from outside (the kernel's out-of-memory killer, a user's kill), so one is
# no proof against a video. Two are.
MAX_TRIES = 2


class VideoQueue:
    """Videos waiting for a worker.

    A worker may have several videos at work when it dies, and its death does not tell which of them
    caused it. All of them become suspects. A suspect is tried again alone in its worker, so that a
    second death fails this video and no other.
    """

    def __init__(self) -> None:
        self._sources: Iterator[Source] = iter(())
        self._waiting: deque[Source] = deque()
        # key → number of workers that died while the video was at work
        self._death_counts: Counter[str] = Counter()

    def add_sources(self, sources: Iterable[Source], *, prefetch: int) -> int:
        """Add the sources of the run; return the number that wait, at most `prefetch`."""
        self._sources = iter(sources)
        self._waiting.extend(islice(self._sources, prefetch))
        return len(self._waiting)

    def take_source(self, handle: WorkerHandle) -> Source | None:
        """Return the next source for this worker, or None if it gets none now."""
        has_suspect = any(self._death_counts[key] for key in handle.assigned_videos)
        if has_suspect:
            return None
        if not self._waiting:
            return next(self._sources, None)
        next_is_suspect = self._death_counts[self._waiting[0].key] > 0
        if next_is_suspect and handle.assigned_videos:
            return None
        return self._waiting.popleft()

    def end_videos(self, handle: WorkerHandle, reason: str) -> Iterator[VideoEnded]:
        """End those videos of a dead worker that are not tried again."""
        for key, video in list(handle.assigned_videos.items()):
            # A video that still waited in the worker cannot have killed it.
            if video.began is not None:
                self._death_counts[key] += 1
            if key in handle.sealed_keys:
                # The shard was sealed, and only the row got lost.
                row = make_manifest_row(video.source, "ok")
            elif self._death_counts[key] >= MAX_TRIES:
                row = make_manifest_row(video.source, "failed", reason)
            else:
                continue
            yield VideoEnded(row)
            del handle.assigned_videos[key]

    def requeue_lost_videos(
        self, handle: WorkerHandle, saved_keys: Collection[str]
    ) -> Iterator[WorkerMessage]:
        """Queue the videos of dead workers again, except for those saved from their shards.

        Args:
            handle: the successor, which has saved the shards
            saved_keys: the keys of the videos in them

        Yields:
            `VideoUndone` for each row that no longer holds, `VideoEnded` for each video that was
            in its shard before its row was sent
        """
        for key, (source, row) in handle.unsealed_videos.items():
            if key not in saved_keys:
                self._waiting.append(source)
                yield VideoUndone(row)
        retries = handle.retry_sources
        handle.unsealed_videos, handle.retry_sources, handle.orphan_pids = {}, [], ()
        for retry in retries:
            if retry.key in saved_keys:
                yield VideoEnded(make_manifest_row(retry, "ok"))
            else:
                self._waiting.append(retry)

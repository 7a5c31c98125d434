"""The queue of videos, and what happens to the videos of a worker that died."""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from mrx.engines.messages import VideoEnded, VideoUndone, WorkerMessage
from mrx.engines.worker_handle import WorkerHandle
from mrx.job import ManifestRow, Source

# One death proves nothing: it may have come from outside (the kernel's out-of-memory killer, a
# user's kill). After two, the video is taken to be the cause.
MAX_TRIES = 2


class VideoQueue:
    """Videos waiting for a worker.

    A worker may be processing several videos when it dies, and which one caused it is unknown. All
    of them become suspects. A suspect is tried again alone in its worker, so that a second death
    fails this video and no other.
    """

    def __init__(self) -> None:
        self._sources: Iterator[Source] = iter(())
        self._waiting: deque[Source] = deque()
        # key → number of workers that died while they processed the video
        self._death_counts: Counter[str] = Counter()

    def set_sources(self, sources: Iterable[Source], *, prefetch: int) -> int:
        """Set the sources of the run, preload up to `prefetch` of them and return how many."""
        self._sources = iter(sources)
        self._waiting.extend(islice(self._sources, prefetch))
        return len(self._waiting)

    def take_source(self, handle: WorkerHandle) -> Source | None:
        """Return the next source for this worker.

        None if none is left or a suspect must run alone.
        """
        has_suspect = any(self._death_counts[key] for key in handle.assigned_videos)
        if has_suspect:
            return None
        if not self._waiting:
            return next(self._sources, None)
        next_is_suspect = self._death_counts[self._waiting[0].key] > 0
        if next_is_suspect and handle.assigned_videos:
            return None
        return self._waiting.popleft()

    def count_deaths(self, handle: WorkerHandle) -> None:
        """Count the death of a worker for the videos that it was processing."""
        for key, video in handle.assigned_videos.items():
            # A video that still waited in the worker cannot have killed it.
            if video.began is not None:
                self._death_counts[key] += 1

    def settle_inherited_videos(
        self, handle: WorkerHandle, safe_keys: Collection[str]
    ) -> Iterator[WorkerMessage]:
        """End the dead workers' videos that are not retried, and queue the others again.

        Args:
            handle: the successor, which has saved the shards
            safe_keys: the keys of the videos that are in shards

        Yields:
            `VideoUndone` for each video that was reported ok but lost with its shard; `VideoEnded`
            for each that is not retried: ok if sealed, failed with its `death` after `MAX_TRIES`
        """
        for key, (source, row) in handle.unsealed_videos.items():
            if key not in safe_keys:
                self._waiting.append(source)
                yield VideoUndone(row)
        videos = handle.inherited_videos
        handle.unsealed_videos, handle.inherited_videos, handle.orphan_pids = {}, {}, ()
        for key, video in videos.items():
            if key in safe_keys:
                # The worker died after the video was safe, and before its row was sent.
                yield VideoEnded(ManifestRow.of_source(video.source, "ok"))
            elif self._death_counts[key] >= MAX_TRIES:
                yield VideoEnded(ManifestRow.of_source(video.source, "failed", reason=video.death))
            else:
                self._waiting.append(video.source)

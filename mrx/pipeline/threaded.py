"""Decoding, computing and writing at once: for a worker that feeds a device.

    decode threads ──batches──▶ groups ─▶ device (this thread) ──results──▶ writer thread ──▶ rows
                                                      └──▶ packing threads ──┘

Each decode thread works on its own video. There are as many packing threads as decode threads.
Both pipes are bounded in bytes: a slow writer stops the device, a slow device stops the decoders.
An error that ends the run closes both pipes, and every thread ends at its next `put` or `get`.

Beyond its memory at startup, a worker uses at most the sum of

- 64 MiB, plus 600 bytes per pixel of a frame for each method (measured, on a CPU: see
  `tests/benchmarks/results/memory.md`);
- `BATCHES_BYTES` and `RESULTS_BYTES`, or one batch and its maps if they alone are larger;
- for each decode thread 32 MiB, or a frame if that is larger, and three windows.

Running the stages in sequence (`mrx.pipeline.sequential`) needs only the first item.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import torch

from mrx.errors import InputError, MrxError, RunCanceled
from mrx.job import ManifestRow, Source
from mrx.pipeline.batches import BatchGrouper
from mrx.pipeline.compute import BatchComputer, BatchResult
from mrx.pipeline.queues import BoundedPipe, PipeClosed
from mrx.pipeline.sync_device import SyncDevice
from mrx.pipeline.tasks import PipelineStages, VideoTask, WindowBatch
from mrx.shards.chunks import PackedMaps

BATCHES_BYTES = 256 * 2**20
RESULTS_BYTES = 256 * 2**20
FLUSH_SECONDS = 0.05  # a group still not full after this time is computed anyway
JOIN_SECONDS = 5.0
PipeSignal = Literal["done", "row"]


@dataclass(frozen=True)
class _PendingMaps:
    """Maps queued for the writer; `future` gives them packed."""

    batch: WindowBatch
    future: Future[PackedMaps]
    nbytes: int


class _ThreadLinks:
    """Connects the threads of one run.

    Attributes:
        batch_pipe: from the decode threads to the device
        result_pipe: from the device to the writer thread
        row_queue: from the writer thread to the caller
        in_flight: videos that have begun and have no row yet
        decoding: the videos in flight that are still being decoded
        failure: the first error that ends the run
    """

    def __init__(self) -> None:
        self.batch_pipe: BoundedPipe[WindowBatch | VideoTask | PipeSignal] = BoundedPipe(
            BATCHES_BYTES
        )
        self.result_pipe: BoundedPipe[_PendingMaps | VideoTask | PipeSignal] = BoundedPipe(
            RESULTS_BYTES
        )
        self.row_queue: queue.SimpleQueue[ManifestRow | PipeSignal] = queue.SimpleQueue()
        self.in_flight: set[VideoTask] = set()
        self.decoding: set[VideoTask] = set()
        self.failure: BaseException | None = None

    def start_thread(self, work: Callable[[], None]) -> threading.Thread:
        """Start a thread that closes all links if its work fails."""
        # A daemon, so that a thread that hangs in a decoder does not keep the process alive.
        thread = threading.Thread(target=self._run_guarded, args=(work,), daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Close both pipes and put the end marker into the row queue."""
        self.batch_pipe.close()
        self.result_pipe.close()
        self.row_queue.put("done")

    def _run_guarded(self, work: Callable[[], None]) -> None:
        torch.set_num_threads(1)
        try:
            work()
        except PipeClosed:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by `ThreadedRunner.run`
            self.failure = self.failure or error
            self.close()


class _DecodeSide:
    """Decodes sources into the batch pipe; its threads share this object.

    Args:
        stages: begins and decodes videos
        device: chooses the memory in which windows wait
        links: the threads' links
        sources: the videos to decode
    """

    def __init__(
        self,
        stages: PipelineStages,
        device: SyncDevice,
        links: _ThreadLinks,
        sources: Iterable[Source],
    ) -> None:
        self.stages = stages
        self.device = device
        self.links = links
        self._sources = iter(sources)
        # The sources may be a generator, which fails if two threads ask it at once.
        self._source_lock = threading.Lock()

    def decode_videos(self) -> None:
        """Decode one video after another until none is left."""
        for task in iter(self._begin_next_video, None):
            try:
                self._decode_video(task)
            except RunCanceled:
                # A subclass of InputError, but it ends the run instead of failing the video.
                raise
            except InputError as error:
                task.record_failure(error)
            self.links.batch_pipe.put(task)
            self.links.decoding.discard(task)
        self.links.batch_pipe.put("done")

    def _begin_next_video(self) -> VideoTask | None:
        with self._source_lock:
            source = next(self._sources, None)
            if source is None:
                return None
            task = self.stages.begin_video(source)
            self.links.in_flight.add(task)
            self.links.decoding.add(task)
            return task

    def _decode_video(self, task: VideoTask) -> None:
        for batch in self.stages.decode_windows(task):
            self.stages.check_canceled()
            clips = self.device.hold_windows(batch.clips)
            size = self.device.count_held_bytes(clips)
            self.links.batch_pipe.put(replace(batch, clips=clips, held_bytes=size), size)
            if task.failure:
                return


class _WriterSide:
    """Writes results to the shard, in the order in which they come, in one thread.

    Args:
        stages: writes maps and finishes videos
        links: the threads' links
    """

    def __init__(self, stages: PipelineStages, links: _ThreadLinks) -> None:
        self.stages = stages
        self.links = links

    def write_results(self) -> None:
        """Write results until the device side is done."""
        for item in iter(self.links.result_pipe.get, "done"):
            if isinstance(item, VideoTask):
                row = self.stages.finish_video(item)
                self.links.in_flight.discard(item)
                self.links.row_queue.put(row)
                # Wakes the device side, which may wait for batches, to yield the row.
                self.links.batch_pipe.put("row")
            elif isinstance(item, _PendingMaps):
                self._store_maps(item)
        self.links.row_queue.put("done")

    def _store_maps(self, pending: _PendingMaps) -> None:
        task = pending.batch.task
        try:
            packed = pending.future.result()
            if not task.failure:
                self.stages.write_maps(pending.batch, packed)
        except InputError as error:
            task.record_failure(error)
        finally:
            self.links.result_pipe.release_bytes(pending.nbytes)


class ThreadedRunner:
    """Passes sources through the stages, several at once. The calling thread feeds the device.

    Args:
        stages: the stages
        computer: computes groups of batches
        threads: the number of videos decoded at once
    """

    def __init__(self, stages: PipelineStages, computer: BatchComputer, threads: int) -> None:
        self.stages = stages
        self.computer = computer
        self.threads = threads
        self.links = _ThreadLinks()
        self._grouper = BatchGrouper()
        self._packers = ThreadPoolExecutor(threads, "mrx-pack")

    def run(self, sources: Iterable[Source]) -> Iterator[ManifestRow]:
        """Yield the row of each source, in the order in which the videos end.

        Raises:
            MrxError: any error that does not belong to a single video, after the rows of the
                finished videos; the videos in flight are dropped
        """
        links = self.links
        decoder = _DecodeSide(self.stages, self.computer.device, links, sources)
        writer = links.start_thread(_WriterSide(self.stages, links).write_results)
        for _ in range(self.threads):
            links.start_thread(decoder.decode_videos)
        reason: BaseException | None = None
        try:
            yield from self._compute_groups()
        except (PipeClosed, MrxError) as error:
            reason = links.failure or error
        finally:
            links.close()
            # Give the writer `JOIN_SECONDS` to leave the shard; a writer that hangs is not waited
            # for.
            writer.join(JOIN_SECONDS)
            self._packers.shutdown(wait=False, cancel_futures=True)
            self.stages.drop_videos(list(links.in_flight))
        if reason is not None:
            # These videos are in the shard, so the caller gets their rows before the error.
            yield from self._drain_rows()
            raise reason

    def _compute_groups(self) -> Iterator[ManifestRow]:
        """Feed groups to the device as they fill; yield rows as videos end."""
        num_decoding = self.threads
        while num_decoding:
            self.stages.check_canceled()
            item = self.links.batch_pipe.get(self._choose_wait_seconds())
            now = time.monotonic()
            # None: nothing came in time, or the decoders wait for room. The open groups may hold
            # that room, so they are computed now, full or not.
            groups = [] if item else self._grouper.take_all()
            if isinstance(item, WindowBatch):
                groups = self._group_batch(item, now)
            elif isinstance(item, VideoTask):
                item.is_decoded = True
                self._finish_if_complete(item)
            elif item == "done":
                num_decoding -= 1
            self._submit_groups([*groups, *self._grouper.take_older(now - FLUSH_SECONDS)])
            if item is None:
                self._collect_results()
            yield from self._drain_rows()
        self._submit_groups(self._grouper.take_all())
        self._collect_results()
        self.links.result_pipe.put("done")
        for row in iter(self.links.row_queue.get, "done"):
            if isinstance(row, ManifestRow):
                yield row
        if self.links.failure:
            raise PipeClosed

    def _choose_wait_seconds(self) -> float:
        """Return the time to wait for batches: 0 if there is work, and no video is decoded now."""
        has_work = self._grouper.num_waiting or self.computer.is_busy
        return 0.0 if has_work and not self.links.decoding else FLUSH_SECONDS

    def _group_batch(self, batch: WindowBatch, now: float) -> list[list[WindowBatch]]:
        batch.task.pending_windows += len(batch)
        max_windows = self.computer.get_window_limit(batch.method_run.method.name)
        if max_windows is None:
            return [[batch]]
        return [
            group
            for part in batch.split_windows(max_windows)
            for group in self._grouper.add_batch(part, max_windows, now)
        ]

    def _submit_groups(self, groups: list[list[WindowBatch]]) -> None:
        # Not around the generator `_compute_groups`: the mode would leak into the caller's code.
        with torch.inference_mode():
            for group in groups:
                self._queue_results(self.computer.submit_group(group))

    def _collect_results(self) -> None:
        """Wait for the group in flight and queue its results."""
        with torch.inference_mode():
            self._queue_results(self.computer.collect_results())

    def _queue_results(self, results: list[BatchResult]) -> None:
        for batch, maps in results:
            self.links.batch_pipe.release_bytes(batch.held_bytes)
            batch.task.pending_windows -= len(batch)
            if maps is not None:
                # Packed by any thread, written in this order: the writer waits for the future.
                future = self._packers.submit(maps.pack)
                pending = _PendingMaps(batch, future, maps.nbytes)
                self.links.result_pipe.put(pending, maps.nbytes)
            self._finish_if_complete(batch.task)

    def _finish_if_complete(self, task: VideoTask) -> None:
        """Queue the video for the writer if it is decoded and all its windows are computed."""
        if task.is_decoded and not task.pending_windows:
            self.links.result_pipe.put(task)

    def _drain_rows(self) -> Iterator[ManifestRow]:
        """Yield the rows that are ready."""
        while not self.links.row_queue.empty():
            row = self.links.row_queue.get()
            if isinstance(row, ManifestRow):
                yield row

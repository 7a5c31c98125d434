"""Decoding, computing and writing at once: the way of a worker that feeds a device.

    decode threads ──pieces──▶ buckets ─▶ device (this thread) ──results──▶ writer thread ──▶ rows
                                                      └──▶ packing threads ──┘

Each decode thread has a video of its own; as many threads pack. Both ways are bounded in bytes: a
slow writer stops the device, a slow device stops the decoders, and each waits for what comes before
it. Whoever meets what ends the run closes both ways, and everyone leaves.

Memory, above what a worker takes when it has begun, is at most the sum of

- 64 MiB, and 600 bytes a pixel of a frame for each method (measured, on a CPU: see
  `tests/benchmarks/results/memory.md`);
- `PIECES_BYTES` and `RESULTS_BYTES`, or one piece and its maps where they alone are larger;
- for each decode thread 32 MiB, or a frame where that is larger, and three windows.

One stage after another (`mrx.pipeline.sequential`) has the first of these alone.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import torch

from mrx.errors import InputError, RunCancelled
from mrx.job import ManifestRow, Source
from mrx.pipeline.batches import BatchGrouper
from mrx.pipeline.compute import BatchComputer, BatchResult
from mrx.pipeline.queues import BoundedPipe, PipeClosed
from mrx.pipeline.tasks import PipelineStages, VideoTask, WindowBatch
from mrx.shards.chunks import PackedMaps

PIECES_BYTES = 256 * 2**20
RESULTS_BYTES = 256 * 2**20
FLUSH_SECONDS = 0.05  # a batch that is not full by then goes as it is
JOIN_SECONDS = 5.0
PipeSignal = Literal["done", "row"]


class ThreadedRunner:
    """Bring sources through the stages, several at once.

    Args:
        stages: what is done
        computer: the device's batches
        threads: how many videos are decoded at once
    """

    def __init__(self, stages: PipelineStages, computer: BatchComputer, threads: int) -> None:
        self.stages = stages
        self.computer = computer
        self.threads = threads
        self._batch_pipe: BoundedPipe[WindowBatch | VideoTask | PipeSignal] = BoundedPipe(
            PIECES_BYTES
        )
        self._result_pipe: BoundedPipe[_PendingMaps | VideoTask | PipeSignal] = BoundedPipe(
            RESULTS_BYTES
        )
        self._row_queue: queue.SimpleQueue[ManifestRow | PipeSignal] = queue.SimpleQueue()
        self._grouper = BatchGrouper()
        self._in_flight: set[VideoTask] = set()
        self._decoding: set[VideoTask] = set()
        self._sources: Iterator[Source] = iter(())
        self._source_lock = threading.Lock()
        self._packers = ThreadPoolExecutor(threads, "mrx-pack")
        self._failure: BaseException | None = None

    def run(self, sources: Iterable[Source]) -> Iterator[ManifestRow]:
        """The row of each source, in the order in which they end.

        Raises:
            MrxError: what no video is to blame for; videos in flight are dropped
        """
        self._sources = iter(sources)
        writer = self._start_thread(self._write_results)
        for _ in range(self.threads):
            self._start_thread(self._decode_videos)
        reason: BaseException | None = None
        try:
            yield from self._compute_groups()
        except (PipeClosed, RunCancelled) as error:
            reason = self._failure or error
        finally:
            self._close_pipes()
            writer.join(JOIN_SECONDS)
            self._packers.shutdown(wait=False, cancel_futures=True)
            self.stages.drop_videos(list(self._in_flight))
        if reason is not None:
            yield from self._drain_rows()  # what is in the shard is told, however the run ends
            raise reason

    def _start_thread(self, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._run_guarded, args=(work,), daemon=True)
        thread.start()
        return thread

    def _run_guarded(self, work: Callable[[], None]) -> None:
        """The life of a thread; what it cannot handle ends the run."""
        torch.set_num_threads(1)
        try:
            work()
        except PipeClosed:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again where the rows are taken
            self._failure = self._failure or error
            self._close_pipes()

    def _close_pipes(self) -> None:
        self._batch_pipe.close()
        self._result_pipe.close()
        self._row_queue.put("done")

    def _decode_videos(self) -> None:
        """One video after another, until there are none left."""
        while task := self._begin_next_video():
            try:
                for batch in self.stages.decode_windows(task):
                    self.stages.check_cancelled()
                    clips = self.computer.device.hold_windows(batch.clips)
                    size = self.computer.device.count_held_bytes(clips)
                    self._batch_pipe.put(replace(batch, clips=clips, held_bytes=size), size)
                    if task.failure:
                        break
            except RunCancelled:
                raise
            except InputError as error:
                task.record_failure(error)
            self._batch_pipe.put(task)
            self._decoding.discard(task)
        self._batch_pipe.put("done")

    def _begin_next_video(self) -> VideoTask | None:
        with self._source_lock:
            source = next(self._sources, None)
            if source is None:
                return None
            task = self.stages.begin_video(source)
            self._in_flight.add(task)
            self._decoding.add(task)
            return task

    def _compute_groups(self) -> Iterator[ManifestRow]:
        """Batches to the device as they fill; rows as they end."""
        num_decoding = self.threads
        while num_decoding:
            self.stages.check_cancelled()
            item = self._batch_pipe.get(self._choose_wait_seconds())
            now = time.monotonic()
            groups = [] if item else self._grouper.take_all()
            if isinstance(item, WindowBatch):
                groups = self._group_batch(item, now)
            elif isinstance(item, VideoTask):
                item.is_decoded = True
                self._pass_on(item)
            elif item == "done":
                num_decoding -= 1
            self._submit_groups([*groups, *self._grouper.take_older(now - FLUSH_SECONDS)])
            if item is None:
                self._collect_results()
            yield from self._drain_rows()
        self._submit_groups(self._grouper.take_all())
        self._collect_results()
        self._result_pipe.put("done")
        while isinstance(row := self._row_queue.get(), ManifestRow):
            yield row
        if self._failure:
            raise PipeClosed

    def _choose_wait_seconds(self) -> float:
        """How long to wait for more: not at all where something is begun and nothing comes."""
        has_work = self._grouper.num_waiting or self.computer.is_busy
        return 0.0 if has_work and not self._decoding else FLUSH_SECONDS

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
        """Batches to the device, each taken from it when the next has been given."""
        with torch.inference_mode():
            for group in groups:
                self._queue_results(self.computer.submit_group(group))

    def _collect_results(self) -> None:
        """What the device has at work, when there is nothing to give it meanwhile."""
        with torch.inference_mode():
            self._queue_results(self.computer.collect_results())

    def _queue_results(self, results: list[BatchResult]) -> None:
        for batch, maps in results:
            self._batch_pipe.release_bytes(batch.held_bytes)
            task = batch.task
            task.pending_windows -= len(batch)
            if maps is not None:
                future = self._packers.submit(maps.pack)
                self._result_pipe.put(_PendingMaps(batch, future, maps.nbytes), maps.nbytes)
            self._pass_on(task)

    def _pass_on(self, task: VideoTask) -> None:
        """Let the writer end a video that has nothing more to come."""
        if task.is_decoded and not task.pending_windows:
            self._result_pipe.put(task)

    def _drain_rows(self) -> Iterator[ManifestRow]:
        """The rows that are there."""
        while not self._row_queue.empty():
            if isinstance(row := self._row_queue.get(), ManifestRow):
                yield row

    def _write_results(self) -> None:
        """What was computed into the shard, in the order in which it comes."""
        while (item := self._result_pipe.get()) != "done":
            if isinstance(item, VideoTask):
                row = self.stages.finish_video(item)
                self._in_flight.discard(item)
                self._row_queue.put(row)
                self._batch_pipe.put("row")
            elif isinstance(item, _PendingMaps):
                self._store_maps(item)
        self._row_queue.put("done")

    def _store_maps(self, packing: "_PendingMaps") -> None:
        batch = packing.batch
        try:
            packed = packing.future.result()
            if not batch.task.failure:
                self.stages.write_maps(batch, packed)
        except InputError as error:
            batch.task.record_failure(error)
        finally:
            self._result_pipe.release_bytes(packing.nbytes)


@dataclass(frozen=True)
class _PendingMaps:
    """Maps on their way to the writer, packed by then."""

    batch: WindowBatch
    future: Future[PackedMaps]
    nbytes: int

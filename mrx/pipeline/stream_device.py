"""A device with streams: the next group is copied in while the last one is computed.

    pinned batches ──copy stream──▶ device ──compute stream──▶ encoded maps ──▶ pinned results

Only `finish_group` waits for the device, and it is called one group later. The device's own clock
measures how long it copied and computed.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from mrx.kernels import tvl1_gpu
from mrx.pipeline.sync_device import ComputedMaps, SyncDevice
from mrx.pipeline.tasks import WindowBatch
from mrx.pipeline.timing import StageTimer
from mrx.pipeline.transfer import join_windows, view_memory
from mrx.records import Clips
from mrx.shards.encoding import encode_on_device


class DeviceStreams(Protocol):
    """The streams of a device: queues of work that run beside each other. Marks are places in them.

    Work goes to the compute stream except inside `use_copy_stream`.
    """

    def use_device(self) -> AbstractContextManager[None]:
        """Make this the current device."""
        ...

    def use_copy_stream(self) -> AbstractContextManager[None]:
        """Make the copy stream the current stream."""
        ...

    def allocate_pinned(self, count: int, dtype: torch.dtype) -> Tensor:
        """Allocate host memory that the device can copy from and to by itself."""
        ...

    def queue_copy(self, target: Tensor, source: Tensor) -> None:
        """Queue a copy on the current stream."""
        ...

    def record_mark(self) -> Any:
        """Return a mark at the end of the current stream; it has ``synchronize()``."""
        ...

    def wait_for_mark(self, mark: Any, *arrived: Tensor) -> None:
        """Make later work of the current stream wait for a mark, and use tensors ready by then."""
        ...

    def measure_seconds(self, begin: Any, end: Any) -> float:
        """Return the time between two marks that have passed."""
        ...


class CudaStreams:
    """The streams of an NVIDIA GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._copy_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def use_device(self) -> Iterator[None]:
        """Make this the current device."""
        with torch.cuda.device(self.device):
            yield

    @contextmanager
    def use_copy_stream(self) -> Iterator[None]:
        """Make the copy stream the current stream."""
        with torch.cuda.stream(self._copy_stream):
            yield

    def allocate_pinned(self, count: int, dtype: torch.dtype) -> Tensor:
        """Allocate page-locked memory; torch caches what is freed for later calls."""
        return torch.empty(count, dtype=dtype, pin_memory=True)

    def queue_copy(self, target: Tensor, source: Tensor) -> None:
        """Queue a copy on the current stream."""
        # Returns before the copy is done, but only with pinned memory on the host's side.
        target.copy_(source, non_blocking=True)

    def record_mark(self) -> Any:
        """Return an event at the end of the current stream."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def wait_for_mark(self, mark: Any, *arrived: Tensor) -> None:
        """Make later work of the current stream wait for a mark, and use tensors ready by then."""
        stream = torch.cuda.current_stream()
        stream.wait_event(mark)
        for tensor in arrived:
            # The tensor belongs to the stream that allocated it. Without this, that stream may get
            # its memory for the next copy as soon as Python frees it, while this one still reads.
            tensor.record_stream(stream)

    def measure_seconds(self, begin: Any, end: Any) -> float:
        """Return the time between two marks that have passed."""
        return float(begin.elapsed_time(end)) / 1000  # CUDA measures in milliseconds


@dataclass(frozen=True)
class LaunchedGroup:
    """A group of batches in flight.

    Attributes:
        batches: kept until the group is finished, as the device still reads their pinned memory
        raw, statistics_table: pinned memory that receives the encoded maps and their statistics
        shape: of the maps, (B, C, H, W)
        marks: copying in begins and ends, computing begins and ends, copying out ends
    """

    batches: Sequence[WindowBatch]
    raw: Tensor
    statistics_table: Tensor
    shape: torch.Size
    marks: tuple[Any, ...]


class StreamDevice(SyncDevice):
    """A device that copies and computes at once.

    Args:
        device: computes the maps
        timer: collects the seconds of each stage
        streams: the streams of the device
    """

    def __init__(self, device: torch.device, timer: StageTimer, streams: DeviceStreams) -> None:
        super().__init__(device, timer)
        self.streams = streams

    def hold_windows(self, clips: Clips) -> Clips:
        """Copy windows to pinned memory, each shared frame once."""
        windows = clips.data
        memory = view_memory(windows)
        with self.timer.time_stage("transfer", timed=False), self.streams.use_device():
            pinned = self.streams.allocate_pinned(len(memory), memory.dtype)
            pinned.copy_(memory)
        return replace(clips, data=pinned.as_strided(windows.shape, windows.stride()))

    def count_held_bytes(self, clips: Clips) -> int:
        """Return the pinned bytes of held windows."""
        # torch allocates pinned memory in powers of two: 5000 bytes take 8192.
        return 1 << (super().count_held_bytes(clips) - 1).bit_length()

    def make_room(self) -> None:
        """Free memory that is only cached."""
        tvl1_gpu.release_idle_buffers()
        torch.cuda.empty_cache()

    def compute_group(self, batches: Sequence[WindowBatch]) -> list[ComputedMaps]:
        """Compute a group, wait for it, and return the maps of each batch."""
        return self.finish_group(self.launch_group(batches))

    def launch_group(self, batches: Sequence[WindowBatch]) -> LaunchedGroup:
        """Queue the copies and the computing of a group."""
        method_run = batches[0].method_run
        with self.streams.use_device():
            with self.timer.time_stage("transfer", timed=False), self.streams.use_copy_stream():
                copy_in_begins = self.streams.record_mark()
                windows = [self._copy_in(batch.clips.data) for batch in batches]
                copy_in_ends = self.streams.record_mark()
            with self.timer.time_stage("compute", timed=False):
                self.streams.wait_for_mark(copy_in_ends, *windows)
                compute_begins = self.streams.record_mark()
                maps = method_run.module.extract(join_windows(windows)).float()
                raw, statistics_table = encode_on_device(maps, method_run.encoding)
                compute_ends = self.streams.record_mark()
            with self.timer.time_stage("transfer", timed=False):
                # On the compute stream, behind the computing. `raw` and `statistics_table` may be
                # freed on return: their memory is reused by later work of this stream only.
                results = [self._copy_out(raw), self._copy_out(statistics_table)]
                copy_out_ends = self.streams.record_mark()
        marks = (copy_in_begins, copy_in_ends, compute_begins, compute_ends, copy_out_ends)
        return LaunchedGroup(batches, results[0], results[1], raw.shape, marks)

    def finish_group(self, launched: LaunchedGroup) -> list[ComputedMaps]:
        """Wait for a group and return the maps of each batch."""
        copy_in_begins, copy_in_ends, compute_begins, compute_ends, copy_out_ends = launched.marks
        with self.timer.time_stage("compute", timed=False), self.streams.use_device():
            # The last mark of all: behind it the results are on the host, and the pinned memory of
            # the batches is free.
            copy_out_ends.synchronize()
            for stage, begin, end in (
                ("transfer", copy_in_begins, copy_in_ends),
                ("compute", compute_begins, compute_ends),
                ("transfer", compute_ends, copy_out_ends),
            ):
                self.timer.add_seconds(stage, self.streams.measure_seconds(begin, end))
        raw = launched.raw.view(launched.shape)
        return self.split_group(launched.batches, raw, launched.statistics_table.view(len(raw), -1))

    def _copy_in(self, windows: Tensor) -> Tensor:
        memory = view_memory(windows)
        target = torch.empty(len(memory), dtype=memory.dtype, device=self.device)
        self.streams.queue_copy(target, memory)
        return target.as_strided(windows.shape, windows.stride())

    def _copy_out(self, result: Tensor) -> Tensor:
        flat = result.reshape(-1)
        host = self.streams.allocate_pinned(len(flat), flat.dtype)
        self.streams.queue_copy(host, flat)
        return host

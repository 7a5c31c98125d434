"""A device that copies and computes at once: the next batch goes in while the last is computed.

    pinned pieces ──copying stream──▶ device ──computing stream──▶ encoded maps ──▶ pinned results

Nothing here waits for the device but `finish_group`, which is asked for one batch later. The device's own
clock tells how long it copied and computed.
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
    """What a device's own queues of work can do. A mark is a place in one of them."""

    def use_device(self) -> AbstractContextManager[None]:
        """Make it the device that unnamed work goes to."""
        ...

    def use_copy_stream(self) -> AbstractContextManager[None]:
        """What is queued inside goes to the queue for copies."""
        ...

    def allocate_pinned(self, count: int, dtype: torch.dtype) -> Tensor:
        """Memory of the host that the device copies from and to by itself."""
        ...

    def queue_copy(self, target: Tensor, source: Tensor) -> None:
        """Queue a copy."""
        ...

    def record_mark(self) -> Any:
        """A place in the present queue; it has ``synchronize()``."""
        ...

    def wait_for_mark(self, mark: Any, *arrived: Tensor) -> None:
        """What is queued from now on waits for a mark, and uses what has arrived by then."""
        ...

    def measure_seconds(self, begin: Any, end: Any) -> float:
        """The time between two marks that have passed."""
        ...


class CudaStreams:
    """The streams of an NVIDIA GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._copy_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def use_device(self) -> Iterator[None]:
        """Make it the device that unnamed work goes to."""
        with torch.cuda.device(self.device):
            yield

    @contextmanager
    def use_copy_stream(self) -> Iterator[None]:
        """What is queued inside goes to the stream for copies."""
        with torch.cuda.stream(self._copy_stream):
            yield

    def allocate_pinned(self, count: int, dtype: torch.dtype) -> Tensor:
        """Page-locked memory; torch keeps what was freed for the next that asks."""
        return torch.empty(count, dtype=dtype, pin_memory=True)

    def queue_copy(self, target: Tensor, source: Tensor) -> None:
        """Queue a copy."""
        target.copy_(source, non_blocking=True)

    def record_mark(self) -> Any:
        """A place in the present stream."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def wait_for_mark(self, mark: Any, *arrived: Tensor) -> None:
        """What is queued from now on waits for a mark, and uses what has arrived by then."""
        stream = torch.cuda.current_stream()
        stream.wait_event(mark)
        for tensor in arrived:
            tensor.record_stream(stream)

    def measure_seconds(self, begin: Any, end: Any) -> float:
        """The time between two marks that have passed."""
        return float(begin.elapsed_time(end)) / 1000


@dataclass(frozen=True)
class LaunchedGroup:
    """A batch at work. Its pieces stay, as their memory is still read from.

    Attributes:
        raw, numbers: where the encoded maps and their statistics come to lie
        shape: of the maps, (B, C, H, W)
        marks: the copy in begins and ends, computing begins and ends, the copy out ends
    """

    pieces: Sequence[WindowBatch]
    raw: Tensor
    numbers: Tensor
    shape: torch.Size
    marks: tuple[Any, ...]


class StreamDevice(SyncDevice):
    """A device with streams.

    Args:
        device: where methods compute
        timer: told how long each stage took
        streams: the device's
    """

    def __init__(self, device: torch.device, timer: StageTimer, streams: DeviceStreams) -> None:
        super().__init__(device, timer)
        self.streams = streams

    def hold_windows(self, clips: Clips) -> Clips:
        """The windows in pinned memory, sharing there the frames that they share here."""
        windows = clips.data
        memory = view_memory(windows)
        with self.timer.time_stage("transfer", timed=False), self.streams.use_device():
            pinned = self.streams.allocate_pinned(len(memory), memory.dtype)
            pinned.copy_(memory)
        return replace(clips, data=pinned.as_strided(windows.shape, windows.stride()))

    def count_held_bytes(self, clips: Clips) -> int:
        """Pinned memory comes in powers of two."""
        return 1 << (super().count_held_bytes(clips) - 1).bit_length()

    def make_room(self) -> None:
        """Give back memory that is only kept for later."""
        tvl1_gpu.release_idle_buffers()
        torch.cuda.empty_cache()

    def compute_group(self, batches: Sequence[WindowBatch]) -> list[ComputedMaps]:
        """The maps of each piece, waited for."""
        return self.finish_group(self.launch_group(batches))

    def launch_group(self, batches: Sequence[WindowBatch]) -> LaunchedGroup:
        """Queue all that is to be done with a batch."""
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
                raw, numbers = encode_on_device(maps, method_run.encoding)
                compute_ends = self.streams.record_mark()
            with self.timer.time_stage("transfer", timed=False):
                results = [self._copy_out(raw), self._copy_out(numbers)]
                copy_out_ends = self.streams.record_mark()
        marks = (copy_in_begins, copy_in_ends, compute_begins, compute_ends, copy_out_ends)
        return LaunchedGroup(batches, results[0], results[1], raw.shape, marks)

    def finish_group(self, launched: LaunchedGroup) -> list[ComputedMaps]:
        """Wait for a batch; the maps of each piece."""
        copy_in_begins, copy_in_ends, compute_begins, compute_ends, copy_out_ends = launched.marks
        with self.timer.time_stage("compute", timed=False), self.streams.use_device():
            copy_out_ends.synchronize()
            for stage, begin, end in (
                ("transfer", copy_in_begins, copy_in_ends),
                ("compute", compute_begins, compute_ends),
                ("transfer", compute_ends, copy_out_ends),
            ):
                self.timer.add_seconds(stage, self.streams.measure_seconds(begin, end))
        raw = launched.raw.view(launched.shape)
        return self.split_group(launched.pieces, raw, launched.numbers.view(len(raw), -1))

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

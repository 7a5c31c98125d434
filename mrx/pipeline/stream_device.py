"""A device that copies and computes at once: the next batch goes in while the last is computed.

    pinned pieces ──copying stream──▶ device ──computing stream──▶ encoded maps ──▶ pinned results

Nothing here waits for the device but `finish`, which is asked for one batch later. The device's own
clock tells how long it copied and computed.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from mrx.kernels import tvl1_gpu
from mrx.pipeline.sync_device import Direct, Made
from mrx.pipeline.tasks import Piece
from mrx.pipeline.timing import Busy
from mrx.pipeline.transfer import join, memory_of
from mrx.records import Clips
from mrx.shards.encoding import encode_there


class Streams(Protocol):
    """What a device's own queues of work can do. A mark is a place in one of them."""

    def here(self) -> AbstractContextManager[None]:
        """Make it the device that unnamed work goes to."""
        ...

    def copying(self) -> AbstractContextManager[None]:
        """What is queued inside goes to the queue for copies."""
        ...

    def pinned(self, count: int, dtype: torch.dtype) -> Tensor:
        """Memory of the host that the device copies from and to by itself."""
        ...

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Queue a copy."""
        ...

    def mark(self) -> Any:
        """A place in the present queue; it has ``synchronize()``."""
        ...

    def wait(self, mark: Any, *arrived: Tensor) -> None:
        """What is queued from now on waits for a mark, and uses what has arrived by then."""
        ...

    def seconds(self, begin: Any, end: Any) -> float:
        """The time between two marks that have passed."""
        ...


class CudaStreams:
    """The streams of an NVIDIA GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def here(self) -> Iterator[None]:
        """Make it the device that unnamed work goes to."""
        with torch.cuda.device(self.device):
            yield

    @contextmanager
    def copying(self) -> Iterator[None]:
        """What is queued inside goes to the stream for copies."""
        with torch.cuda.stream(self._copying):
            yield

    def pinned(self, count: int, dtype: torch.dtype) -> Tensor:
        """Page-locked memory; torch keeps what was freed for the next that asks."""
        return torch.empty(count, dtype=dtype, pin_memory=True)

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Queue a copy."""
        target.copy_(source, non_blocking=True)

    def mark(self) -> Any:
        """A place in the present stream."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def wait(self, mark: Any, *arrived: Tensor) -> None:
        """What is queued from now on waits for a mark, and uses what has arrived by then."""
        stream = torch.cuda.current_stream()
        stream.wait_event(mark)
        for tensor in arrived:
            tensor.record_stream(stream)

    def seconds(self, begin: Any, end: Any) -> float:
        """The time between two marks that have passed."""
        return float(begin.elapsed_time(end)) / 1000


@dataclass(frozen=True)
class Launched:
    """A batch at work. Its pieces stay, as their memory is still read from.

    Attributes:
        raw, numbers: where the encoded maps and their statistics come to lie
        shape: of the maps, (B, C, H, W)
        marks: the copy in begins and ends, computing begins and ends, the copy out ends
    """

    pieces: Sequence[Piece]
    raw: Tensor
    numbers: Tensor
    shape: torch.Size
    marks: tuple[Any, ...]


class Overlapped(Direct):
    """A device with streams.

    Args:
        device: where methods compute
        busy: told how long each stage took
        streams: the device's
    """

    def __init__(self, device: torch.device, busy: Busy, streams: Streams) -> None:
        super().__init__(device, busy)
        self.streams = streams

    def hold(self, clips: Clips) -> Clips:
        """The windows in pinned memory, sharing there the frames that they share here."""
        windows = clips.data
        memory = memory_of(windows)
        with self.busy.at("transfer", timed=False), self.streams.here():
            pinned = self.streams.pinned(len(memory), memory.dtype)
            pinned.copy_(memory)
        return replace(clips, data=pinned.as_strided(windows.shape, windows.stride()))

    def held(self, clips: Clips) -> int:
        """Pinned memory comes in powers of two."""
        return 1 << (super().held(clips) - 1).bit_length()

    def make_room(self) -> None:
        """Give back memory that is only kept for later."""
        tvl1_gpu.release()
        torch.cuda.empty_cache()

    def compute(self, pieces: Sequence[Piece]) -> list[Made]:
        """The maps of each piece, waited for."""
        return self.finish(self.launch(pieces))

    def launch(self, pieces: Sequence[Piece]) -> Launched:
        """Queue all that is to be done with a batch."""
        lane = pieces[0].lane
        with self.streams.here():
            with self.busy.at("transfer", timed=False), self.streams.copying():
                leaves = self.streams.mark()
                arriving = [self._bring(piece.clips.data) for piece in pieces]
                arrives = self.streams.mark()
            with self.busy.at("compute", timed=False):
                self.streams.wait(arrives, *arriving)
                begins = self.streams.mark()
                maps = lane.module.extract(join(arriving)).float()
                raw, numbers = encode_there(maps, lane.encoding)
                ends = self.streams.mark()
            with self.busy.at("transfer", timed=False):
                results = [self._take(raw), self._take(numbers)]
                returns = self.streams.mark()
        marks = (leaves, arrives, begins, ends, returns)
        return Launched(pieces, results[0], results[1], raw.shape, marks)

    def finish(self, launched: Launched) -> list[Made]:
        """Wait for a batch; the maps of each piece."""
        leaves, arrives, begins, ends, returns = launched.marks
        with self.busy.at("compute", timed=False), self.streams.here():
            returns.synchronize()
            for stage, begin, end in (
                ("transfer", leaves, arrives),
                ("compute", begins, ends),
                ("transfer", ends, returns),
            ):
                self.busy.add(stage, self.streams.seconds(begin, end))
        raw = launched.raw.view(launched.shape)
        return self.unpack(launched.pieces, raw, launched.numbers.view(len(raw), -1))

    def _bring(self, windows: Tensor) -> Tensor:
        memory = memory_of(windows)
        there = torch.empty(len(memory), dtype=memory.dtype, device=self.device)
        self.streams.copy(there, memory)
        return there.as_strided(windows.shape, windows.stride())

    def _take(self, result: Tensor) -> Tensor:
        flat = result.reshape(-1)
        host = self.streams.pinned(len(flat), flat.dtype)
        self.streams.copy(host, flat)
        return host

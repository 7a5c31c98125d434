"""Windows in, maps to be packed out: a device with its stages transfer and compute."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch

from mrx.pipeline.tasks import WindowBatch
from mrx.pipeline.timing import StageTimer
from mrx.pipeline.transfer import join_windows, move_windows
from mrx.records import Clips, Motion
from mrx.shards.chunks import PackedMaps, pack_encoded, pack_motion
from mrx.shards.encoding import encode_on_device


@dataclass(frozen=True)
class ComputedMaps:
    """The maps of a piece, still to be packed, by whichever thread calls `pack`.

    Attributes:
        nbytes: the memory that they take
    """

    nbytes: int
    pack: Callable[[], PackedMaps]


class SyncDevice:
    """Any device, one step after another; the CPU itself is one.

    Args:
        device: where methods compute
        timer: told how long each stage took
    """

    def __init__(self, device: torch.device, timer: StageTimer) -> None:
        self.device = device
        self.timer = timer

    def hold_windows(self, clips: Clips) -> Clips:
        """Windows as they are to wait for the device."""
        return clips

    def make_room(self) -> None:
        """Give back memory that is only kept for later."""

    def count_held_bytes(self, clips: Clips) -> int:
        """Bytes that held windows keep from being used again."""
        return clips.data.untyped_storage().nbytes()

    def launch_group(self, batches: Sequence[WindowBatch]) -> Any:
        """Begin with pieces of one bucket; `finish_group` gives what becomes of them."""
        return self.compute_group(batches)

    def finish_group(self, launched: Any) -> list[ComputedMaps]:
        """The maps of each piece that was launched."""
        computed: list[ComputedMaps] = launched
        return computed

    def compute_group(self, batches: Sequence[WindowBatch]) -> list[ComputedMaps]:
        """The maps of each piece; all are of one bucket."""
        method_run = batches[0].method_run
        with self.timer.time_stage("transfer"):
            windows = join_windows(
                [move_windows(batch.clips.data, self.device) for batch in batches]
            )
        with self.timer.time_stage("compute"):
            maps = method_run.module.extract(windows).float()
            if self.device.type != "cpu":
                raw, numbers = encode_on_device(maps, method_run.encoding)
        if self.device.type == "cpu":
            parts = zip(batches, slice_batches(batches), strict=True)
            return [self._wrap_maps(piece, maps[part]) for piece, part in parts]
        with self.timer.time_stage("transfer"):
            raw, numbers = raw.cpu(), numbers.cpu()
        return self.split_group(batches, raw, numbers)

    def _wrap_maps(self, batch: WindowBatch, maps: torch.Tensor) -> ComputedMaps:
        """Maps of the CPU."""
        method_run, clips = batch.method_run, batch.clips

        def pack_maps() -> PackedMaps:
            with self.timer.time_stage("pack"):
                motion = Motion(maps.contiguous(), clips.index, clips.time)
                return pack_motion(motion, method_run.encoding, method_run.dataset_options)

        return ComputedMaps(maps.nbytes, pack_maps)

    def split_group(
        self, batches: Sequence[WindowBatch], raw: torch.Tensor, numbers: torch.Tensor
    ) -> list[ComputedMaps]:
        """What a device has encoded, as the maps of each piece."""
        parts = zip(batches, slice_batches(batches), strict=True)
        return [self._wrap_encoded(batch, raw[part], numbers[part]) for batch, part in parts]

    def _wrap_encoded(
        self, batch: WindowBatch, raw: torch.Tensor, numbers: torch.Tensor
    ) -> ComputedMaps:
        method_run, clips = batch.method_run, batch.clips

        def pack_maps() -> PackedMaps:
            with self.timer.time_stage("pack"):
                return pack_encoded(
                    raw, numbers, clips, method_run.encoding, method_run.dataset_options
                )

        return ComputedMaps(raw.nbytes, pack_maps)


def slice_batches(batches: Sequence[WindowBatch]) -> list[slice]:
    """Where each piece's windows stand in the batch."""
    ends = accumulate((len(batch) for batch in batches), initial=0)
    return [slice(begin, end) for begin, end in pairwise(ends)]

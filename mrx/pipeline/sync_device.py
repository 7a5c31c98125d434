"""A device: windows in, maps ready to be packed out."""

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
    """The maps of a batch, not packed yet.

    Attributes:
        nbytes: the memory that they take
        pack: encodes and compresses them; any thread may call it
    """

    nbytes: int
    pack: Callable[[], PackedMaps]


class SyncDevice:
    """Any device, the CPU included, that transfers and computes in sequence.

    Args:
        device: computes the maps
        timer: collects the seconds of each stage
    """

    def __init__(self, device: torch.device, timer: StageTimer) -> None:
        self.device = device
        self.timer = timer

    def hold_windows(self, clips: Clips) -> Clips:
        """Return windows in the memory in which they wait for the device."""
        return clips

    def make_room(self) -> None:
        """Free memory that is only cached."""

    def count_held_bytes(self, clips: Clips) -> int:
        """Return the bytes of memory that held windows keep in use."""
        # The whole storage: a view of two frames keeps all decoded frames around them.
        return clips.data.untyped_storage().nbytes()

    def launch_group(self, batches: Sequence[WindowBatch]) -> Any:
        """Start on batches with one key; pass the result to `finish_group`."""
        return self.compute_group(batches)

    def finish_group(self, launched: Any) -> list[ComputedMaps]:
        """Return the maps of each batch of a launched group."""
        computed: list[ComputedMaps] = launched
        return computed

    def compute_group(self, batches: Sequence[WindowBatch]) -> list[ComputedMaps]:
        """Compute batches with one key and return the maps of each."""
        method_run = batches[0].method_run
        with self.timer.time_stage("transfer"):
            windows = join_windows(
                [move_windows(batch.clips.data, self.device) for batch in batches]
            )
        with self.timer.time_stage("compute"):
            maps = method_run.module.extract(windows).float()
            if self.device.type != "cpu":
                raw, statistics_table = encode_on_device(maps, method_run.encoding)
        if self.device.type == "cpu":
            parts = zip(batches, slice_batches(batches), strict=True)
            return [self._wrap_maps(batch, maps[part]) for batch, part in parts]
        with self.timer.time_stage("transfer"):
            raw, statistics_table = raw.cpu(), statistics_table.cpu()
        return self.split_group(batches, raw, statistics_table)

    def _wrap_maps(self, batch: WindowBatch, maps: torch.Tensor) -> ComputedMaps:
        """Wrap float maps on the CPU, which are encoded when they are packed."""
        method_run, clips = batch.method_run, batch.clips

        def pack_maps() -> PackedMaps:
            with self.timer.time_stage("pack"):
                motion = Motion(maps.contiguous(), clips.index, clips.time)
                return pack_motion(motion, method_run.encoding, method_run.dataset_options)

        return ComputedMaps(maps.nbytes, pack_maps)

    def split_group(
        self, batches: Sequence[WindowBatch], raw: torch.Tensor, statistics_table: torch.Tensor
    ) -> list[ComputedMaps]:
        """Split what a device has encoded into the maps of each batch."""
        parts = zip(batches, slice_batches(batches), strict=True)
        return [
            self._wrap_encoded(batch, raw[part], statistics_table[part]) for batch, part in parts
        ]

    def _wrap_encoded(
        self, batch: WindowBatch, raw: torch.Tensor, statistics_table: torch.Tensor
    ) -> ComputedMaps:
        method_run, clips = batch.method_run, batch.clips

        def pack_maps() -> PackedMaps:
            with self.timer.time_stage("pack"):
                return pack_encoded(
                    raw, statistics_table, clips, method_run.encoding, method_run.dataset_options
                )

        return ComputedMaps(raw.nbytes, pack_maps)


def slice_batches(batches: Sequence[WindowBatch]) -> list[slice]:
    """Return the slice of each batch's windows among those of all."""
    # lengths = [3, 1, 2] -> [0:3, 3:4, 4:6]
    ends = accumulate((len(batch) for batch in batches), initial=0)
    return [slice(begin, end) for begin, end in pairwise(ends)]

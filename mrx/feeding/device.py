"""Windows in, packed maps out: a device with its stages transfer, compute and pack."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch

from mrx.feeding.busy import Busy
from mrx.feeding.tickets import Piece
from mrx.lane import move
from mrx.records import Clips, Motion
from mrx.sinks.encode import encode_there
from mrx.sinks.pack import Packed, pack, pack_encoded


class Direct:
    """Any device, one step after another; the CPU itself is one.

    Args:
        device: where methods compute
        busy: told how long each stage took
    """

    def __init__(self, device: torch.device, busy: Busy) -> None:
        self.device = device
        self.busy = busy

    def hold(self, clips: Clips) -> Clips:
        """Windows as they are to wait for the device."""
        return clips

    def make_room(self) -> None:
        """Give back memory that is only kept for later."""

    def launch(self, pieces: Sequence[Piece]) -> Any:
        """Begin with pieces of one bucket; `finish` gives what becomes of them."""
        return self.compute(pieces)

    def finish(self, launched: Any) -> list[Packed]:
        """The packed maps of each piece that was launched."""
        packed: list[Packed] = launched
        return packed

    def compute(self, pieces: Sequence[Piece]) -> list[Packed]:
        """The packed maps of each piece; all are of one bucket."""
        lane = pieces[0].lane
        with self.busy.at("transfer"):
            windows = join([move(piece.clips.data, self.device) for piece in pieces])
        with self.busy.at("compute"):
            maps = lane.module.extract(windows).float()
        if self.device.type == "cpu":
            parts = [maps[part].contiguous() for part in spans(pieces)]
            with self.busy.at("pack"):
                return [
                    pack(motion(piece, data), lane.encoding, lane.filters)
                    for piece, data in zip(pieces, parts, strict=True)
                ]
        with self.busy.at("compute"):
            raw, numbers = encode_there(maps, lane.encoding)
        with self.busy.at("transfer"):
            raw, numbers = raw.cpu(), numbers.cpu()
        with self.busy.at("pack"):
            return unpack(pieces, raw, numbers)


def join(windows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Windows of several pieces as one batch; those of a single one stay where they lie."""
    return windows[0] if len(windows) == 1 else torch.cat(list(windows))


def spans(pieces: Sequence[Piece]) -> list[slice]:
    """Where each piece's windows stand in the batch."""
    ends = accumulate((len(piece) for piece in pieces), initial=0)
    return [slice(begin, end) for begin, end in pairwise(ends)]


def motion(piece: Piece, data: torch.Tensor) -> Motion:
    """Maps with the indices and times of the windows that they come from."""
    return Motion(data, piece.clips.index, piece.clips.time)


def unpack(pieces: Sequence[Piece], raw: torch.Tensor, numbers: torch.Tensor) -> list[Packed]:
    """What a device has encoded as the packed maps of each piece."""
    lane = pieces[0].lane
    return [
        pack_encoded(raw[part], numbers[part], piece.clips, lane.encoding, lane.filters)
        for piece, part in zip(pieces, spans(pieces), strict=True)
    ]

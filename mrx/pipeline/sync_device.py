"""Windows in, maps to be packed out: a device with its stages transfer and compute."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch

from mrx.pipeline.tasks import Piece
from mrx.pipeline.timing import Busy
from mrx.pipeline.transfer import join, move
from mrx.records import Clips, Motion
from mrx.shards.chunks import Packed, pack, pack_encoded
from mrx.shards.encoding import encode_there


@dataclass(frozen=True)
class Made:
    """The maps of a piece, still to be packed, by whichever thread calls `pack`.

    Attributes:
        nbytes: the memory that they take
    """

    nbytes: int
    pack: Callable[[], Packed]


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

    def held(self, clips: Clips) -> int:
        """Bytes that held windows keep from being used again."""
        return clips.data.untyped_storage().nbytes()

    def launch(self, pieces: Sequence[Piece]) -> Any:
        """Begin with pieces of one bucket; `finish` gives what becomes of them."""
        return self.compute(pieces)

    def finish(self, launched: Any) -> list[Made]:
        """The maps of each piece that was launched."""
        made: list[Made] = launched
        return made

    def compute(self, pieces: Sequence[Piece]) -> list[Made]:
        """The maps of each piece; all are of one bucket."""
        lane = pieces[0].lane
        with self.busy.at("transfer"):
            windows = join([move(piece.clips.data, self.device) for piece in pieces])
        with self.busy.at("compute"):
            maps = lane.module.extract(windows).float()
            if self.device.type != "cpu":
                raw, numbers = encode_there(maps, lane.encoding)
        if self.device.type == "cpu":
            parts = zip(pieces, spans(pieces), strict=True)
            return [self._made(piece, maps[part]) for piece, part in parts]
        with self.busy.at("transfer"):
            raw, numbers = raw.cpu(), numbers.cpu()
        return self.unpack(pieces, raw, numbers)

    def _made(self, piece: Piece, maps: torch.Tensor) -> Made:
        """Maps of the CPU."""
        lane, clips = piece.lane, piece.clips

        def packed() -> Packed:
            with self.busy.at("pack"):
                motion = Motion(maps.contiguous(), clips.index, clips.time)
                return pack(motion, lane.encoding, lane.filters)

        return Made(maps.nbytes, packed)

    def unpack(
        self, pieces: Sequence[Piece], raw: torch.Tensor, numbers: torch.Tensor
    ) -> list[Made]:
        """What a device has encoded, as the maps of each piece."""
        parts = zip(pieces, spans(pieces), strict=True)
        return [self._encoded(piece, raw[part], numbers[part]) for piece, part in parts]

    def _encoded(self, piece: Piece, raw: torch.Tensor, numbers: torch.Tensor) -> Made:
        lane, clips = piece.lane, piece.clips

        def packed() -> Packed:
            with self.busy.at("pack"):
                return pack_encoded(raw, numbers, clips, lane.encoding, lane.filters)

        return Made(raw.nbytes, packed)


def spans(pieces: Sequence[Piece]) -> list[slice]:
    """Where each piece's windows stand in the batch."""
    ends = accumulate((len(piece) for piece in pieces), initial=0)
    return [slice(begin, end) for begin, end in pairwise(ends)]

"""Batches through a device: what fails fails alone, and what is too large is halved."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mrx.errors import InputError
from mrx.feeding.device import Direct
from mrx.feeding.tickets import Piece
from mrx.sinks.pack import Packed

Result = tuple[Piece, Packed | None]
Work = Callable[[Sequence[Piece]], list[Packed]]


class Computer:
    """Give pieces to a device, and take what becomes of them one batch later.

    Args:
        device: what computes
        most: windows at once, until the device's memory says otherwise; None for no limit
    """

    def __init__(self, device: Direct, most: int | None) -> None:
        self.device = device
        self._most = most
        self._halved: dict[str, int] = {}
        self._flying: tuple[Sequence[Piece], Any] | None = None

    def most(self, method: str) -> int | None:
        """How many windows of a method go at once."""
        return self._halved.get(method, self._most)

    def put(self, pieces: Sequence[Piece]) -> list[Result]:
        """Begin with a batch of one bucket; the results of the batch before.

        A result of None is a piece whose video has failed.
        """
        dead = [piece for piece in pieces if piece.ticket.failure]
        pieces = [piece for piece in pieces if not piece.ticket.failure]
        begun, failed = None, []
        if pieces:
            try:
                begun = pieces, self.device.launch(pieces)
            except InputError as error:
                fault: InputError = error
            if begun is None:
                failed = self._recover(pieces, fault)
        landed = self.land()
        self._flying = begun
        return [*landed, *failed, *((piece, None) for piece in dead)]

    def land(self) -> list[Result]:
        """The results of the batch that was begun last."""
        flying, self._flying = self._flying, None
        if flying is None:
            return []
        pieces, launched = flying
        return self._try(pieces, lambda _: self.device.finish(launched))

    def _try(self, pieces: Sequence[Piece], work: Work) -> list[Result]:
        try:
            return list(zip(pieces, work(pieces), strict=True))
        except InputError as error:
            fault = error
        return self._recover(pieces, fault)

    def _recover(self, pieces: Sequence[Piece], fault: InputError) -> list[Result]:
        """Smaller batches where memory was too small, each piece alone where one of them failed."""
        cause = fault.__cause__
        count = sum(len(piece) for piece in pieces)
        if isinstance(cause, torch.cuda.OutOfMemoryError) and count > 1:
            cause.__traceback__ = None  # it holds the tensors that were in the way
            self.device.make_room()
            pieces = self._halve(pieces, count)
        elif len(pieces) == 1:
            pieces[0].ticket.fail(fault)
            return [(pieces[0], None)]
        return [result for piece in pieces for result in self._try([piece], self.device.compute)]

    def _halve(self, pieces: Sequence[Piece], count: int) -> list[Piece]:
        method, half = pieces[0].lane.method.name, count // 2
        if not self._halved:
            pieces[0].ticket.video.tally.warn(
                f"not enough memory on the device for {count} windows of {method} at once: "
                f"from here on {half} or fewer"
            )
        self._halved[method] = half
        return [part for piece in pieces for part in piece.split(half)]

"""Batches through a device: what fails fails alone, and what is too large is halved."""

from collections.abc import Callable, Sequence
from typing import Any

from mrx.errors import InputError
from mrx.pipeline.sync_device import Direct, Made
from mrx.pipeline.tasks import Piece
from mrx.pipeline.timing import is_out_of_memory

Result = tuple[Piece, Made | None]
Work = Callable[[Sequence[Piece]], list[Made]]


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

    @property
    def flying(self) -> bool:
        """Whether a batch is at work."""
        return self._flying is not None

    def put(self, pieces: Sequence[Piece]) -> list[Result]:
        """Begin with a batch of one bucket; the results of the batch before.

        A result of None is a piece whose video has failed.
        """
        dead: list[Result] = [(piece, None) for piece in pieces if piece.ticket.failure]
        pieces = [piece for piece in pieces if not piece.ticket.failure]
        if not pieces:
            return [*self.land(), *dead]
        begun, fault = self._launch(pieces)
        landed = self.land()
        if fault and landed and is_out_of_memory(fault.__cause__):
            self._make_room(fault)  # the batch before was in the way, perhaps it alone
            begun, fault = self._launch(pieces)
        self._flying = begun
        failed = self._recover(pieces, fault) if fault else []
        return [*landed, *failed, *dead]

    def land(self) -> list[Result]:
        """The results of the batch that was begun last."""
        flying, self._flying = self._flying, None
        if flying is None:
            return []
        pieces, launched = flying
        return self._try(pieces, lambda _: self.device.finish(launched))

    def _launch(
        self, pieces: Sequence[Piece]
    ) -> tuple[tuple[Sequence[Piece], Any] | None, InputError | None]:
        """What is at work now, or why it is not."""
        try:
            return (pieces, self.device.launch(pieces)), None
        except InputError as error:
            return None, error

    def _try(self, pieces: Sequence[Piece], work: Work) -> list[Result]:
        try:
            return list(zip(pieces, work(pieces), strict=True))
        except InputError as error:
            fault = error
        return self._recover(pieces, fault)

    def _recover(self, pieces: Sequence[Piece], fault: InputError) -> list[Result]:
        """Smaller batches where memory was too small, each piece alone where one of them failed."""
        count = sum(len(piece) for piece in pieces)
        if is_out_of_memory(fault.__cause__) and count > 1:
            self._make_room(fault)
            pieces = self._halve(pieces, count)
        elif len(pieces) == 1:
            pieces[0].ticket.fail(fault)
            return [(pieces[0], None)]
        return [result for piece in pieces for result in self._try([piece], self.device.compute)]

    def _make_room(self, fault: InputError) -> None:
        """Let go of what a failed batch left on the device: its error's frames hold it."""
        for error in (fault, fault.__cause__):
            if error is not None:
                error.__traceback__ = None
        self.device.make_room()

    def _halve(self, pieces: Sequence[Piece], count: int) -> list[Piece]:
        method, half = pieces[0].lane.method.name, count // 2
        if not self._halved:
            pieces[0].ticket.video.tally.warn(
                f"not enough memory on the device for {count} windows of {method} at once: "
                f"from here on {half} or fewer"
            )
        self._halved[method] = half
        return [part for piece in pieces for part in piece.split(half)]

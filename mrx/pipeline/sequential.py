"""One video after another, one stage after another: the way of a worker that is one core."""

from collections.abc import Iterable, Iterator

import torch

from mrx.errors import Cancelled, InputError
from mrx.job import Row, Source
from mrx.pipeline.compute import Computer
from mrx.pipeline.tasks import Piece, Stages, Ticket


def in_turn(stages: Stages, computer: Computer, sources: Iterable[Source]) -> Iterator[Row]:
    """Bring every source through the stages; the row of each.

    Raises:
        MrxError: what no video is to blame for; the video in flight is dropped
    """
    for source in sources:
        ticket = stages.ticket(source)
        try:
            with torch.inference_mode():
                _bring(stages, computer, ticket)
            row = stages.conclude(ticket)
        except BaseException:
            stages.forget([ticket])
            raise
        yield row


def _pass(stages: Stages, computer: Computer, piece: Piece) -> None:
    """Compute, pack and write; nothing of it is held when the next piece wants memory."""
    for part, made in [*computer.put([piece]), *computer.land()]:
        if made is not None:
            stages.write(part, made.pack())


def _bring(stages: Stages, computer: Computer, ticket: Ticket) -> None:
    try:
        for piece in stages.decode(ticket):
            stages.check()
            for part in piece.split(computer.most(piece.lane.method.name)):
                _pass(stages, computer, part)
            if ticket.failure:
                return
    except Cancelled:
        raise
    except InputError as error:
        ticket.fail(error)

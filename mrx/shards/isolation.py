"""Work in a process of its own, for code that may never return or end the process."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

T = TypeVar("T")


def run_isolated(work: Callable[[], T], seconds: float) -> T | None:
    """Return the result of `work`, or None if it raises, crashes or takes longer than `seconds`."""
    # A fork takes milliseconds and needs no pickling. The child only reads files and reports.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_result, args=(sender, work), daemon=True)
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(seconds) else None
    except EOFError:  # it crashed
        return None
    finally:
        process.kill()
        process.join()
        receiver.close()


def _report_result(sender: Connection, work: Callable[[], object]) -> None:
    try:
        result = work()
    except Exception:  # noqa: BLE001 - a damaged file may raise anything; None tells the parent
        result = None
    sender.send(result)

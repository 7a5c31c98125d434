"""A queue between two threads, bounded in bytes, that either end can close."""

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class PipeClosed(Exception):  # noqa: N818 - a signal, not an error
    """The other end closed the pipe."""


class BoundedPipe(Generic[T]):
    """A queue between two threads, bounded in bytes.

    An item larger than the bound passes if the pipe is empty. The bytes of an item count until
    `release_bytes`, not until `get`, because its memory is still in use after that.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self.num_waiting_puts = 0
        self._items: deque[T] = deque()
        self._closed = False
        # One condition for all waits: `put` waits for room, `get` for an item, both for `close`.
        self._changed = threading.Condition()

    def put(self, item: T, nbytes: int = 0) -> None:
        """Block until the item fits. Zero-size items always fit.

        Raises:
            PipeClosed: the pipe is closed
        """
        with self._changed:
            self.num_waiting_puts += 1
            self._changed.wait_for(lambda: self._closed or self._has_room(nbytes))
            self.num_waiting_puts -= 1
            if self._closed:
                raise PipeClosed
            self.held_bytes += nbytes
            self._items.append(item)
            self._changed.notify_all()

    def get(self, seconds: float | None = None) -> T | None:
        """Return the next item, or None after `seconds`, or at once if a producer is blocked.

        Raises:
            PipeClosed: the pipe is closed
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        with self._changed:
            while not self._items and not self._closed:
                seconds_left = None if deadline is None else deadline - time.monotonic()
                # A blocked producer cannot go on until the caller releases the items that it has
                # already taken, so waiting longer would bring nothing.
                if seconds_left is not None and (seconds_left <= 0 or self.num_waiting_puts):
                    return None
                self._changed.wait(seconds_left)
            if self._closed:
                raise PipeClosed
            return self._items.popleft()

    def release_bytes(self, nbytes: int) -> None:
        """Free the bytes of an item that was taken out."""
        with self._changed:
            self.held_bytes -= nbytes
            self._changed.notify_all()

    def close(self) -> None:
        """Close the pipe and drop its items; all present and later calls raise `PipeClosed`."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def _has_room(self, nbytes: int) -> bool:
        return not nbytes or not self.held_bytes or self.held_bytes + nbytes <= self.max_bytes

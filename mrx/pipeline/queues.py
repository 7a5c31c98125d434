"""A way between two threads: bounded in bytes, and with a way out at both ends."""

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class PipeClosed(Exception):  # noqa: N818 - no fault of who meets it
    """The pipe was closed: whoever is at its other end has left."""


class BoundedPipe(Generic[T]):
    """A queue that holds at most so many bytes, or a single item of more.

    What was taken out still counts until it is `release_bytes`d, as its bytes are still there.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self.num_waiting_puts = 0
        self._items: deque[T] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T, nbytes: int = 0) -> None:
        """Add an item, once there is room for it; nothing is always small enough."""
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
        """The next item; None where none came in so many seconds, or all room is taken."""
        deadline = None if seconds is None else time.monotonic() + seconds
        with self._changed:
            while not self._items and not self._closed:
                seconds_left = None if deadline is None else deadline - time.monotonic()
                if seconds_left is not None and (seconds_left <= 0 or self.num_waiting_puts):
                    return None
                self._changed.wait(seconds_left)
            if self._closed:
                raise PipeClosed
            return self._items.popleft()

    def release_bytes(self, nbytes: int) -> None:
        """Bytes of an item that was taken out are free now."""
        with self._changed:
            self.held_bytes -= nbytes
            self._changed.notify_all()

    def close(self) -> None:
        """Everyone who waits here, or comes later, meets `PipeClosed`."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def _has_room(self, nbytes: int) -> bool:
        return not nbytes or not self.held_bytes or self.held_bytes + nbytes <= self.max_bytes

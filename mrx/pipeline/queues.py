"""A way between two threads: bounded in bytes, and with a way out at both ends."""

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Gone(Exception):  # noqa: N818 - no fault of who meets it
    """The pipe was closed: whoever is at its other end has left."""


class Pipe(Generic[T]):
    """A queue that holds at most so many bytes, or a single item of more.

    What was taken out still counts until it is `release`d, as its bytes are still there.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.waiting = 0
        self._items: deque[T] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T, size: int = 0) -> None:
        """Add an item, once there is room for it; nothing is always small enough."""
        with self._changed:
            self.waiting += 1
            self._changed.wait_for(lambda: self._closed or self._fits(size))
            self.waiting -= 1
            if self._closed:
                raise Gone
            self.held += size
            self._items.append(item)
            self._changed.notify_all()

    def get(self, seconds: float | None = None) -> T | None:
        """The next item; None where none came in so many seconds, or all room is taken."""
        until = None if seconds is None else time.monotonic() + seconds
        with self._changed:
            while not self._items and not self._closed:
                left = None if until is None else until - time.monotonic()
                if left is not None and (left <= 0 or self.waiting):
                    return None
                self._changed.wait(left)
            if self._closed:
                raise Gone
            return self._items.popleft()

    def release(self, size: int) -> None:
        """Bytes of an item that was taken out are free now."""
        with self._changed:
            self.held -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Everyone who waits here, or comes later, meets `Gone`."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not size or not self.held or self.held + size <= self.limit

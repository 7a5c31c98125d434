"""The shards that one process has open: the one that takes new videos, and full ones."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mrx.errors import OutputError
from mrx.job import Storage
from mrx.shards.writer import ShardWriter, VideoEntry


class ShardRotation:
    """Opens shards one after another and seals each when it is full.

    A full shard takes no new videos. It stays open until the last video that has an entry in it
    has ended.

    Args:
        open_writer: opens a new, empty shard
        storage: the number of videos and bytes at which a shard is full
        on_sealed: called with the path of each sealed shard, and the keys in it
    """

    def __init__(
        self,
        open_writer: Callable[[], ShardWriter],
        storage: Storage,
        on_sealed: Callable[[Path, list[str]], None] = lambda path, keys: None,
    ) -> None:
        self._open_writer = open_writer
        self._storage = storage
        self._on_sealed = on_sealed
        self._current: ShardWriter | None = None
        self._full: list[ShardWriter] = []

    def get_current(self) -> ShardWriter:
        """Return the shard that takes new videos, and open one if there is none."""
        if self._current is None:
            self._current = self._open_writer()
        return self._current

    @contextmanager
    def abandon_on_error(self) -> Iterator[None]:
        """Abandon all shards if the output cannot be written."""
        try:
            yield
        except OutputError:
            self._abandon_shards()
            raise

    def drop_entry(self, entry: VideoEntry) -> None:
        """Drop an unfinished entry, unless its shard is sealed or abandoned."""
        if entry.shard is self._current or entry.shard in self._full:
            with self.abandon_on_error():
                entry.drop_video()

    def seal_full_shards(self) -> None:
        """Seal the full shards in which no video is in flight; called after every video."""
        if self._current:
            self._current.journal.touch()
        if self._current and self._current.is_full(self._storage):
            self._retire_current()
        for shard in [shard for shard in self._full if not shard.open_entries]:
            self._full.remove(shard)
            self._seal_shard(shard)

    def close(self) -> None:
        """Seal all shards; if some cannot be sealed, raise the first error at the end."""
        self._retire_current()
        first_error: OutputError | None = None
        while self._full:
            try:
                self._seal_shard(self._full.pop(0))
            except OutputError as error:
                # Others may still have room, or a disk that works.
                first_error = first_error or error
        if first_error:
            raise first_error

    def _retire_current(self) -> None:
        if self._current:
            self._full.append(self._current)
            self._current = None

    def _seal_shard(self, shard: ShardWriter) -> None:
        try:
            final = shard.seal_shard()
        except OutputError:
            shard.abandon_shard()
            raise
        if final:
            self._on_sealed(final, shard.keys)

    def _abandon_shards(self) -> None:
        self._retire_current()
        shards, self._full = self._full, []
        for shard in shards:
            shard.abandon_shard()

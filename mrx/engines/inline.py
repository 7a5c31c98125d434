"""All work in this process: for one video, for debugging, and for use as a library."""

import time
from collections import deque
from collections.abc import Iterable, Iterator

from mrx.engines.messages import Advanced, Closed, Ended, Looked, Message, Sealed
from mrx.errors import Cancelled, UsageError
from mrx.job import Job, Source


class Inline:
    """An engine without processes. A hanging video cannot be stopped here: no timeout applies."""

    def __init__(self, job: Job) -> None:
        from mrx.pipeline.extraction import Extraction

        if len(job.devices) > 1:
            raise UsageError(f"one process cannot compute on {', '.join(job.devices)}: use workers")
        self._stopped = False
        self._news: deque[Message] = deque()  # other threads add to it
        self._extraction = Extraction(
            job,
            cancelled=lambda: self._stopped,
            progress=lambda frames: self._news.append(Advanced(frames)),
            sealed=lambda path, keys: self._news.append(Sealed(str(path), tuple(keys))),
        )

    def prepare(self) -> Looked:
        """Look into the output."""
        held = self._extraction.look()
        device = self._extraction.device.type
        return Looked(self._extraction.settings, held.done, held.salvaged, device)

    def run(self, sources: Iterable[Source]) -> Iterator[Message]:
        """Work on one source after another."""
        extraction = self._extraction
        began = time.monotonic()
        try:
            for row in extraction.run(self._until_stopped(sources)):
                yield from self._drain()
                yield Ended(row)
        except Cancelled:
            pass
        finally:
            extraction.close()
        yield from self._drain()
        yield Closed(extraction.worked(time.monotonic() - began))

    def _until_stopped(self, sources: Iterable[Source]) -> Iterator[Source]:
        for source in sources:
            if self._stopped:
                return
            yield source

    def cancel(self) -> None:
        """Drop the videos in flight and end."""
        self._stopped = True

    def close(self) -> None:
        """Nothing is left running."""

    def _drain(self) -> Iterator[Message]:
        while self._news:
            yield self._news.popleft()

"""All work in this process: for one video, for debugging, and for use as a library."""

import time
from collections import deque
from collections.abc import Iterable, Iterator

from mrx.engines.messages import (
    FramesAdvanced,
    OutputInspected,
    ShardSealed,
    VideoEnded,
    WorkerClosed,
    WorkerMessage,
)
from mrx.errors import RunCancelled, UsageError
from mrx.job import Job, Source


class InlineEngine:
    """An engine without processes. A hanging video cannot be stopped here: no timeout applies."""

    def __init__(self, job: Job) -> None:
        from mrx.pipeline.extraction import Extraction

        if len(job.devices) > 1:
            raise UsageError(f"one process cannot compute on {', '.join(job.devices)}: use workers")
        self._stopped = False
        self._messages: deque[WorkerMessage] = deque()  # other threads add to it
        self._extraction = Extraction(
            job,
            is_cancelled=lambda: self._stopped,
            on_progress=lambda frames: self._messages.append(FramesAdvanced(frames)),
            on_sealed=lambda path, keys: self._messages.append(ShardSealed(str(path), tuple(keys))),
        )

    def inspect_output(self) -> OutputInspected:
        """Look into the output."""
        output_state = self._extraction.inspect_output()
        device = self._extraction.device.type
        return OutputInspected(
            self._extraction.settings, output_state.done, output_state.salvaged, device
        )

    def run(self, sources: Iterable[Source]) -> Iterator[WorkerMessage]:
        """Work on one source after another."""
        extraction = self._extraction
        began = time.monotonic()
        try:
            for row in extraction.run(self._take_until_stopped(sources)):
                yield from self._drain_messages()
                yield VideoEnded(row)
        except RunCancelled:
            pass
        finally:
            extraction.close()
        yield from self._drain_messages()
        yield WorkerClosed(extraction.report_times(time.monotonic() - began))

    def _take_until_stopped(self, sources: Iterable[Source]) -> Iterator[Source]:
        for source in sources:
            if self._stopped:
                return
            yield source

    def cancel(self) -> None:
        """Drop the videos in flight and end."""
        self._stopped = True

    def close(self) -> None:
        """Nothing is left running."""

    def _drain_messages(self) -> Iterator[WorkerMessage]:
        while self._messages:
            yield self._messages.popleft()

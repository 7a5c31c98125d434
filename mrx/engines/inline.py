"""An engine that works in the calling process: for one video, debugging and library use."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from mrx.engines.base import Engine
from mrx.engines.messages import (
    FramesAdvanced,
    OutputInspected,
    ShardSealed,
    VideoEnded,
    WorkerClosed,
    WorkerMessage,
)
from mrx.errors import RunCanceled, UsageError
from mrx.job import Job, Source


class InlineEngine(Engine):
    """An engine without worker processes. It cannot end a hanging video: no timeout applies."""

    def __init__(self, job: Job) -> None:
        from mrx.pipeline.extraction import Extraction
        from mrx.pipeline.hardware import configure_process

        if len(job.devices) > 1:
            raise UsageError(
                f"too many devices ({', '.join(job.devices)}): one process computes on one device. "
                "Use worker processes"
            )
        self._stopped = False
        # The pipeline's threads append here; only the thread that iterates `run` yields messages.
        self._messages: deque[WorkerMessage] = deque()
        # `close` restores the process settings. If Extraction raises, no caller holds an engine to
        # close, so the `with` restores them.
        with ExitStack() as settings:
            settings.enter_context(configure_process(job.backend))
            self._extraction = Extraction(
                job,
                is_canceled=lambda: self._stopped,
                on_progress=lambda frames: self._messages.append(FramesAdvanced(frames)),
                on_sealed=lambda path, keys: self._messages.append(
                    ShardSealed(str(path), tuple(keys))
                ),
            )
            self._settings = settings.pop_all()

    def inspect_output(self) -> OutputInspected:
        """Check, rescue and list what the output folder holds, before any work."""
        state = self._extraction.inspect_output()
        return OutputInspected(
            self._extraction.settings,
            done=state.done,
            salvaged=state.salvaged,
            device=self._extraction.device.type,
            run=state.run,
            notes=state.notes,
        )

    def run(self, sources: Iterable[Source], number: int) -> Iterator[WorkerMessage]:
        """Extract the sources; yield the messages collected since the last row at each row."""
        extraction = self._extraction
        extraction.set_run_number(number)
        began = time.monotonic()
        try:
            for row in extraction.run(self._take_until_stopped(sources)):
                yield from self._drain_messages()
                yield VideoEnded(row)
        except RunCanceled:
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
        """Drop the videos in flight and seal the shards. Safe to call from a signal handler."""
        self._stopped = True

    def close(self) -> None:
        """Restore the settings of this process."""
        self._settings.close()

    def _drain_messages(self) -> Iterator[WorkerMessage]:
        while self._messages:
            yield self._messages.popleft()

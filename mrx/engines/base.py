"""The interface of an engine, which hands sources to workers and collects their messages."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from mrx.engines.messages import OutputInspected, WorkerMessage
from mrx.job import Source


class Engine(Protocol):
    """Runs the workers of a job. Resume, manifest and summary are left to `mrx.engines.run`.

    Call `inspect_output` once, then `run` once, and always `close`.
    """

    def inspect_output(self) -> OutputInspected | None:
        """Check the folder's settings, rescue leftovers of killed runs, list the finished videos.

        With `overwrite`, delete the folder's shards and manifests instead of rescuing. Return None
        if the run is canceled first.
        """
        ...

    def run(self, sources: Iterable[Source], number: int) -> Iterator[WorkerMessage]:
        """Extract all sources and yield the workers' messages as they arrive.

        Args:
            sources: the videos
            number: the number of the run, which its shards carry
        """
        ...

    def cancel(self) -> None:
        """Drop the videos in flight and seal the shards. Safe to call from a signal handler."""
        ...

    def close(self) -> None:
        """End all worker processes and restore the settings of this process."""
        ...

"""Report a run while it goes on: progress and messages on stderr, data on stdout."""

import sys
from collections.abc import Iterator
from typing import Literal

import click
from tqdm import tqdm

from mrx.engines.bottleneck import compute_stage_shares, describe_bottleneck
from mrx.engines.free_space import round_bytes
from mrx.engines.run import Listener, Summary
from mrx.job import ManifestRow
from mrx.sources.keys import printable

StdoutData = Literal["nothing", "rows", "paths", "table"]


class ProgressReport(Listener):
    """Shows progress in videos, frames per second and time left; silent without a terminal.

    Args:
        verbose: also print skipped inputs; above 1, tracebacks
        quiet: print failures only
        progress: show a progress bar at a terminal
        output: data to print on stdout during the run
    """

    def __init__(self, *, verbose: int, quiet: bool, progress: bool, output: StdoutData) -> None:
        self.verbose = verbose
        self.quiet = quiet
        self.output = output
        self._frames = 0
        self._hidden = quiet or not progress or not sys.stderr.isatty()
        self._bar: tqdm[None] | None = None

    def begin(self, summary: Summary, left: int) -> None:
        """Print the plan, and open the progress bar."""
        if summary.salvaged and not self.quiet:
            self._print_message(f"recovered {summary.salvaged} videos from a killed run")
        if summary.before and not self.quiet:
            self._print_message(
                f"{summary.before} of {summary.inputs} videos are done already, {left} left"
            )
        if summary.failed_before:
            count = summary.failed_before
            self._print_message(
                f"{count} failed in an earlier run; --retry-failed tries them again"
            )
        self._bar = tqdm(total=left, unit="video", file=sys.stderr, disable=self._hidden)

    def row(self, row: ManifestRow) -> None:
        """Advance the bar, and print the row where it is asked for or failed."""
        if self._bar is not None and row.status != "planned":
            self._bar.update()
        if self.output == "rows":
            click.echo(row.to_json())
        if self.output == "table" and row.status == "planned":
            click.echo(f"{row.frames:>8}  {round_bytes(row.bytes):>9}  {row.key}")
        if row.status == "failed" or (row.status == "skipped" and self.verbose):
            self._print_message(f"{row.status}: {printable(row.key)}: {printable(row.reason)}")
        if row.traceback and self.verbose > 1:
            self._print_message(row.traceback)
        if not self.quiet:
            for text in row.warnings:
                self._print_message(f"warning: {printable(row.key)}: {printable(text)}")

    def frames(self, count: int) -> None:
        """Add processed frames to the rate that the bar shows."""
        self._frames += count
        if self._bar is not None and not self._hidden:
            elapsed = self._bar.format_dict["elapsed"]
            self._bar.set_postfix_str(f"{self._frames / max(elapsed, 1e-9):.0f} frames/s")

    def sealed(self, path: str) -> None:
        """Print the path of a finished shard."""
        if self.output == "paths":
            click.echo(path)

    def note(self, text: str) -> None:
        """Print a line about the output folder, also if quiet: it tells of damage."""
        self._print_message(printable(text))

    def close(self) -> None:
        """Remove the progress bar."""
        if self._bar is not None:
            self._bar.close()

    def _print_message(self, text: str) -> None:
        if self._bar is None or self._hidden:
            click.echo(text, err=True)
        else:
            self._bar.write(text, file=sys.stderr)


def format_summary(summary: Summary) -> str:
    """Format the summary of a run as one line."""
    if summary.planned:
        planned = f"{summary.planned} to extract (about {format_size(summary)})"
        done_already = f", {summary.before} done already" if summary.before else ""
        return f"{summary.inputs} inputs: {planned}{done_already}, {summary.failed} failed"
    before = f" ({summary.before} before)" if summary.before else ""
    parts = [f"{summary.ok} ok{before}", f"{summary.skipped} skipped", f"{summary.failed} failed"]
    if summary.missed:
        parts.append(f"{summary.missed} not reached")
    rate = f", {summary.frames / summary.seconds:.0f} frames/s" if summary.frames else ""
    size = f", {format_size(summary)}" if summary.bytes else ""
    line = f"{summary.inputs} inputs: {', '.join(parts)} in {summary.seconds:.1f} s{rate}{size}"
    stop = f"; stopped: {summary.stopped}" if summary.stopped else ""
    return f"{line} -> {summary.output}{stop}"


def format_size(summary: Summary) -> str:
    """Format the bytes of a run, and those that an hour of video takes.

    >>> format_size(Summary("out", bytes=3_500_000, duration=10.0))
    '3.5 MB, 1.3 GB an hour of video'
    """
    per_hour = summary.bytes_per_hour
    hourly = f", {round_bytes(per_hour)} an hour of video" if per_hour else ""
    return f"{round_bytes(summary.bytes)}{hourly}"


def format_worker_times(summary: Summary) -> Iterator[str]:
    """Yield a line per worker with its busy stages, then the bottleneck of all."""
    for worker in summary.workers:
        busy = ", ".join(
            f"{stage} {share:.0%}" for stage, share in compute_stage_shares(worker).items()
        )
        threads = f", {worker.threads} decode threads" if worker.threads else ""
        yield f"{worker.device}, {worker.seconds:.1f} s{threads}: {busy}"
    if sentence := describe_bottleneck(summary.workers):
        yield f"{sentence} ({round_bytes(summary.bytes)} written)"

"""A disk that is full at any length of a file: a run says so, and the next one completes all."""

import os
import resource
import signal
import sys

import pytest
from replay import NextRun, extract_clips, read_maps

from mrx.errors import OutputError

METHODS = ("mbpm",)


def run_limited(clips, out, limit):
    """Extract in another process whose files have a limit in bytes; return what it says."""
    # A pipe, as a file for the text would be limited too.
    reader, writer = os.pipe()
    number = os.fork()
    if number == 0:
        os.dup2(writer, 2)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        code = 0
        try:
            extract_clips(clips, out, METHODS)
        except OutputError as error:
            os.write(2, str(error).encode())
            code = error.exit_code
        finally:
            # Without the teardown of the tests' process, whose copy this is.
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as text:
        said = text.read()
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), said


def limit_everywhere(clips, folder, *, points):
    """Limit the length of files, from nothing to the longest, and let another run go on."""
    whole = folder / "whole"
    extract_clips(clips, whole, METHODS)
    following = NextRun(clips, METHODS, read_maps(whole))
    longest = max(path.stat().st_size for path in whole.iterdir())
    for number in range(points):
        out = folder / f"out{number}"
        code, text = run_limited(clips, out, longest * number // points)
        assert "Traceback" not in text, text
        assert code == 4, f"{longest * number // points} of {longest} bytes: {text}"
        assert "no space left, or a file-size limit" in text or "File too large" in text
        following.check(out, number)
    counts = following.counts
    sys.stdout.write(f"full disks: {counts}\n")
    assert not counts.broken, "\n".join(counts.texts[:20])


def test_a_disk_full_at_some_lengths_loses_nothing(clips, tmp_path):
    limit_everywhere(clips, tmp_path, points=6)


@pytest.mark.slow
def test_a_disk_full_at_any_length_loses_nothing(clips, tmp_path):
    limit_everywhere(clips, tmp_path, points=150)

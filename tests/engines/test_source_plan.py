"""Tests of source plans: the methods a source lacks, its end and its path, from shards and rows."""

import os

import pytest

from mrx.engines.source_plan import (
    count_moved_sources,
    find_earlier_end,
    list_missing_methods,
    needs_success_row,
)
from mrx.errors import UsageError
from mrx.job import DoneMaps, ManifestRow, Source, restore_path

BOTH = ("mbpm", "pa")
SOURCE = Source("a.mp4", "/now/a.mp4", size=10, mtime=2.5)


def row(status, methods, *warnings, size=10):
    return ManifestRow("a.mp4", status, size=size, mtime=2.5, methods=methods, warnings=warnings)


def done(path=SOURCE.path, *, stamp=SOURCE.stamp):
    return {"a.mp4": {"mbpm": DoneMaps(stamp, str(path))}}


def test_a_method_with_maps_of_an_older_file_is_missing():
    old = DoneMaps((9.0, *SOURCE.stamp[1:]), SOURCE.path)
    maps = {"mbpm": DoneMaps(SOURCE.stamp, SOURCE.path), "pa": old}
    assert list_missing_methods(SOURCE, maps, BOTH) == ("pa",)


@pytest.mark.parametrize(
    ("missing", "earlier", "end"),
    [
        ((), None, "ok"),
        (("pa",), None, None),
        (("pa",), row("skipped", ("pa",)), "ok"),
        (("pa",), row("failed", ("pa",)), "failed"),
        (("pa",), row("failed", ("mbpm",)), None),
        (BOTH, row("skipped", BOTH), "skipped"),
        (BOTH, row("skipped", ("pa",)), None),
        (BOTH, row("failed", BOTH, size=11), None),
        (("pa",), row("ok", BOTH, "no pa: too short"), "ok"),
        (("pa",), row("ok", BOTH), None),
        (BOTH, row("ok", BOTH, "no mbpm: small", "no pa: small"), None),
    ],
)
def test_only_a_row_about_what_is_missing_ends_a_source(missing, earlier, end):
    assert find_earlier_end(SOURCE, missing, BOTH, earlier) == end


def test_a_failure_of_another_method_needs_no_row_of_success():
    assert needs_success_row(None, SOURCE, BOTH)
    assert needs_success_row(row("failed", ("pa",)), SOURCE, ("pa",))
    assert not needs_success_row(row("failed", ("pa",)), SOURCE, ("mbpm",))
    assert not needs_success_row(row("ok", ("mbpm",)), SOURCE, ("mbpm",))


def test_a_file_that_moved_counts_as_moved(tmp_path):
    assert count_moved_sources([SOURCE], done()) == 0
    assert count_moved_sources([SOURCE], done(tmp_path / "gone.mp4")) == 1


def test_a_file_that_exists_beside_is_another_source(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(UsageError, match=r"two sources for key a\.mp4: .*--root .*--overwrite"):
        count_moved_sources([SOURCE], done(tmp_path / "a.mp4"))


def test_another_file_in_place_of_one_that_is_gone_is_refused(tmp_path):
    with pytest.raises(UsageError, match="two sources"):
        count_moved_sources([SOURCE], done(tmp_path / "gone.mp4", stamp=(9.0,)))


def test_urls_compare_without_their_passwords():
    one = Source("a.mp4", "http://me:secret@host/a.mp4", "url")
    assert count_moved_sources([one], done("http://host/a.mp4", stamp=one.stamp)) == 0
    with pytest.raises(UsageError, match="two sources"):
        count_moved_sources([one], done("http://mirror/a.mp4", stamp=one.stamp))


def test_a_file_by_another_path_is_the_same_source(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "link.mp4").symlink_to("a.mp4")
    source = Source("a.mp4", str(tmp_path / "link.mp4"), size=0, mtime=1.0)
    assert count_moved_sources([source], done(tmp_path / "a.mp4")) == 0


def test_a_file_name_of_any_bytes_is_found_again(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    try:
        with open(path, "wb"):  # noqa: PTH123 - a name that is no text
            pass
    except OSError:
        pytest.skip("this file system has no such names")
    stored = Source("a.mp4", path).stored_path
    assert restore_path(stored) == path
    with pytest.raises(UsageError, match="two sources"):
        count_moved_sources([SOURCE], done(stored))

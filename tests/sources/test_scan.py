"""The inputs that a user names become an ordered list of videos with stable keys."""

import io
import os
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from mrx.errors import NoInputError, UsageError
from mrx.job import Decoding
from mrx.sources.keys import escape_key
from mrx.sources.numbered import list_numbered_images
from mrx.sources.scan import find_sources, make_path_source, why_unreadable

ODD = Path(__file__).parents[3] / "shared" / "data" / "odd.tar"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"bytes")


def keys(*inputs, **options):
    return [source.key for source in find_sources(inputs, **options).sources]


def only(*inputs, **options):
    (source,) = find_sources(inputs, **options).sources
    return source


def from_stdin(data, **options):
    return keys("-", stdin=io.BytesIO(data), **options)


# Scans


def test_a_scan_sorts_videos_naturally_and_counts_skipped_files(here):
    make(here, "v/10.mp4", "v/9.MKV", "v/b/1.webm", "v/a.txt", "v/noextension", "v/.x.mp4")
    result = find_sources(["v"])
    assert [source.key for source in result.sources] == ["9.MKV", "10.mp4", "b/1.webm"]
    assert result.passed_over == {"hidden": 1, "other extension": 2}


def test_a_scan_records_path_size_and_time_of_a_file(here):
    make(here, "a.mp4")
    source = only(".")
    assert (source.path, source.size, source.kind) == (str(here / "a.mp4"), 5, "file")
    assert source.mtime == (here / "a.mp4").stat().st_mtime


def test_other_extensions_can_be_asked_for(here):
    make(here, "a.mp4", "b.dat", "mp4")
    assert keys(".", extensions=[".DAT"]) == ["b.dat"]


def test_a_scan_ends_although_links_make_circles(here):
    make(here, "v/a/x.mp4", "v/b/y.mp4")
    (here / "v/a/to_b").symlink_to("../b")
    (here / "v/b/to_a").symlink_to("../a")
    (here / "v/b/up").symlink_to("..")
    assert keys("v") == ["a/x.mp4", "b/y.mp4"]


def test_a_link_inside_a_scan_never_leads_above_it(here):
    make(here, "v/sub/x.mp4", "v/other.mp4")
    (here / "v/sub/up").symlink_to("..")
    assert keys("v/sub") == keys("v/sub/*") == ["x.mp4"]


def test_a_linked_folder_elsewhere_is_entered_once(here):
    make(here, "far/x.mp4", "v/y.mp4")
    for name in ("a", "b"):
        (here / "v" / name).symlink_to("../far")
    assert keys("v") == ["a/x.mp4", "y.mp4"]


def test_a_scan_lists_unreadable_videos_with_their_problem(here):
    os.mkfifo(here / "fifo.mp4")
    (here / "loop.mp4").symlink_to("loop.mp4")
    (here / "nowhere.mp4").symlink_to("gone.mp4")
    (here / "zero.mp4").touch()
    result = {source.key: source.problem for source in find_sources(["."]).sources}
    assert result == {
        "fifo.mp4": "not a regular file",
        "loop.mp4": "too many levels of symbolic links",
        "nowhere.mp4": "no such file (broken symbolic link)",
        "zero.mp4": "empty file",
    }


def test_an_unreadable_folder_is_reported(here, monkeypatch):
    make(here, "v/x.mp4", "v/locked/y.mp4")
    scandir = os.scandir

    def refuse(path):
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    problems = [(source.key, source.problem) for source in find_sources(["v"]).sources]
    assert problems == [("locked", "permission denied"), ("x.mp4", None)]


# Folders of numbered images


def test_each_change_of_an_image_changes_the_fingerprint(here):
    make(here, "v/f/1.jpg", "v/f/2.jpg", "v/f/3.jpg")
    os.utime(here / "v/f/2.jpg", ns=(5, 1_000_000_005))
    folder = (here / "v/f").stat()
    seen = [only("v").stamp]
    (here / "v/f/1.jpg").write_bytes(b"other")
    seen.append(only("v").stamp)
    os.utime(here / "v/f/2.jpg", ns=(5, 1_000_000_006))
    seen.append(only("v").stamp)
    (here / "v/f/3.jpg").write_bytes(b"longer bytes")
    seen.append(only("v").stamp)
    (here / "v/f/3.jpg").rename(here / "v/f/4.jpg")
    os.utime(here / "v/f", ns=(folder.st_atime_ns, folder.st_mtime_ns))
    seen.append(only("v").stamp)
    assert len(set(seen)) == 5
    assert len({stamp[:4] for stamp in seen}) == 1


def test_a_fingerprint_is_the_same_from_every_way_to_a_folder(here):
    make(here, "v/f/1.jpg", "v/f/2.jpg", "v/f/flow_1.jpg", "v/f/Thumbs.db", "v/f/other2.png")
    fingerprint = only("v").fingerprint
    assert len(fingerprint) == 16
    assert int(fingerprint, 16) >= 0
    os.utime(here / "v/f/Thumbs.db", (1, 1))
    os.utime(here / "v/f/other2.png", (1, 1))
    ways = [only("v/f"), only("*/f"), make_path_source("v/f")]
    assert [source.fingerprint for source in ways] == [fingerprint] * 3
    assert ways[0].stamp[4] == fingerprint


def test_an_image_that_is_a_broken_link_is_in_the_fingerprint(here):
    make(here, "f/1.jpg")
    (here / "f/2.jpg").symlink_to("gone")
    broken = make_path_source("f").fingerprint
    make(here, "f/gone")
    assert make_path_source("f").fingerprint != broken


def test_files_urls_and_empty_folders_have_no_fingerprint(here):
    make(here, "a.mp4", "empty/x.txt")
    sources = [only("a.mp4"), make_path_source("empty"), only("https://host/a.mp4")]
    assert [source.fingerprint for source in sources] == [None, None, None]
    assert {source.stamp[4] for source in sources} == {""}


def test_a_folder_of_numbered_images_is_one_video(here):
    make(here, "v/f/2.jpg", "v/f/10.jpg", "v/f/Thumbs.db", "v/x.mp4")
    result = find_sources(["v"])
    kinds = [(source.key, source.kind, source.size) for source in result.sources]
    assert kinds == [("f", "frames", None), ("x.mp4", "file", 5)]
    assert result.passed_over == {"other extension": 1}


def test_images_beside_a_video_are_not_a_video(here):
    make(here, "v/1.jpg", "v/x.mp4")
    assert keys("v") == ["x.mp4"]


def test_folders_of_images_can_be_left_out(here):
    make(here, "v/f/1.jpg", "v/x.mp4")
    assert keys("v", image_folders=False) == ["x.mp4"]


def test_a_named_folder_of_images_is_called_by_its_name(here):
    make(here, "f.1/00001.jpg")
    assert keys("f.1") == keys("f.1", key="stem") == keys("*.1") == ["f.1"]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["2.png", "10.png", "1.PNG"], ["1.PNG", "2.png", "10.png"]),
        (["flow_x_1.jpg", "flow_x_2.jpg", "flow_y_1.jpg", "img_1.jpg"], ["img_1.jpg"]),
        (["a1.jpg", "b1.jpg", "b2.jpg"], ["b1.jpg", "b2.jpg"]),
        (["frame1.jpg", "b1.jpg", "b2.jpg"], ["frame1.jpg"]),
        (["1.jpg", "2.jpg", "2.png"], ["1.jpg", "2.jpg"]),
        (["._1.jpg", "cover.jpg", "flow_x_1.jpg"], []),
    ],
)
def test_frames_have_one_prefix_and_natural_order(tmp_path, names, chosen):
    make(tmp_path, *names)
    assert list_numbered_images(str(tmp_path)).paths == [str(tmp_path / name) for name in chosen]


def test_missing_numbers_are_counted_but_only_100_are_listed(tmp_path):
    make(tmp_path, "3.jpg", "6.jpg", "99999999999999999999.jpg")
    images = list_numbered_images(str(tmp_path))
    assert images.missing_numbers[:3] == [4, 5, 7]
    assert (len(images.missing_numbers), images.num_missing) == (
        100,
        99999999999999999999 - 3 + 1 - 3,
    )


# Named paths, globs and URLs


def test_a_named_file_is_taken_under_any_name(here):
    names = ["noextension", ".hidden.mp4", "trailing.mp4 "]
    make(here, *names)
    assert keys(*names) == names


def test_named_paths_that_cannot_be_opened_stay_in_the_list(here):
    make(here, "x.mp4", "text/readme.txt")
    (here / "up").symlink_to(here)
    result = find_sources(["x.mp4", "gone.mp4", "text", "up"]).sources
    assert [(s.key, s.problem, s.missing) for s in result] == [
        ("x.mp4", None, False),
        ("gone.mp4", "no such file", True),
        ("text", "is a directory without frames", False),
        ("up", "a directory link back to a folder above it", False),
    ]


def test_a_file_without_permission_is_a_problem(here, monkeypatch):
    make(here, "x.mp4")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert why_unreadable(str(here / "x.mp4")) == only("x.mp4").problem == "permission denied"


def test_an_unreadable_path_has_a_reason(here):
    make(here, "x.mp4", "f/1.jpg", "text/readme.txt")
    reasons = [why_unreadable(str(here / name)) for name in ("x.mp4", "f", "text", "gone")]
    assert reasons == [None, None, "is a directory without frames", "no such file"]
    assert why_unreadable("a\0b") == "embedded null byte"


def test_a_glob_keeps_keys_relative_to_its_fixed_folder(here):
    make(here, "v/a/10.mp4", "v/a/9.mp4", "v/b/1.mp4", "v/b/.x.mp4", "v/c.txt")
    assert keys("v/*/*.mp4") == ["a/9.mp4", "a/10.mp4", "b/1.mp4"]
    assert keys("v/**/[19].mp4") == ["a/9.mp4", "b/1.mp4"]
    assert keys("v/?") == keys("v/**") == ["a/9.mp4", "a/10.mp4", "b/1.mp4"]


def test_a_glob_follows_no_circle_of_links(here):
    make(here, "v/a/x.mp4")
    for name in ("up", "up2"):
        (here / "v/a" / name).symlink_to("..")
    assert keys("v/**/*.mp4") == ["a/x.mp4"]


def test_a_name_that_exists_is_no_glob(here):
    make(here, "[ab].mp4", "a.mp4")
    assert keys("[ab].mp4") == ["[ab].mp4"]


def test_a_glob_without_a_match_is_missing_and_a_bad_one_refused(here):
    make(here, "x.mp4")
    assert [source.missing for source in find_sources(["x.mp4", "*.webm"]).sources] == [False, True]
    with pytest.raises(UsageError, match=r"bad pattern \(a\*\*\): Invalid pattern"):
        find_sources(["a**"])


def test_a_url_is_called_by_host_and_path_without_its_secrets():
    source = only("https://me:secret@host.org/a%20b/100%25.mp4?token=1")
    assert (source.kind, source.key) == ("url", "host.org/a b/100%25.mp4")
    assert keys("s3://bucket/v/x.mp4", key="stem") == ["x"]
    with pytest.raises(UsageError, match=r"bad URL \(http://\[x/y\)"):
        find_sources(["http://[x/y"])


def test_an_empty_name_is_refused(here):
    make(here, "x.mp4")
    with pytest.raises(UsageError, match=r"bad input \(\): the name is empty"):
        find_sources([""])


# Lists


def test_a_text_list_may_have_comments_blank_lines_and_crlf(here):
    make(here, "a b.mp4", "#x.mp4", "[1] .mp4", "a.b.mp4", "end ")
    data = b"\xef\xbb\xbfa b.mp4\r\n# comment\r\n\r\n  \n./#x.mp4\n[1] .mp4\na.b.mp4\nend "
    (here / "list.txt").write_bytes(data)
    expected = ["a b.mp4", "#x.mp4", "[1] .mp4", "a.b.mp4", "end "]
    assert keys("@list.txt") == from_stdin(data) == expected


def test_lines_are_literal_but_folders_frames_and_urls_work(here):
    make(here, "v/1.mp4", "f/1.jpg", "@x", "x.csv")
    (here / "list").write_text("v\nf\nhttp://h/x.mp4\n*.mp4\n@x\nx.csv\n-\n")
    result = find_sources(["@list"]).sources
    assert [s.key for s in result] == ["v/1.mp4", "f", "h/x.mp4", "*.mp4", "@x", "x.csv", "-"]
    assert [s.key for s in result if s.missing] == ["*.mp4", "-"]


def test_a_list_separated_by_nul_is_taken_as_it_is(here):
    make(here, "new\nline.mp4", "#x.mp4", " ")
    assert from_stdin(b"new\nline.mp4\0#x.mp4\0 \0", nul_separated=True) == [
        "new%0Aline.mp4",
        "#x.mp4",
        " ",
    ]


def test_a_nul_byte_in_a_list_of_lines_is_refused():
    with pytest.raises(UsageError, match=r"bad list \(standard input\).*NUL byte.*--null"):
        from_stdin(b"a.mp4\0b.mp4\0")


def test_names_that_are_not_utf8_are_kept(here):
    make(here, os.fsdecode(b"\xff.mp4"), "x.mp4")
    assert from_stdin(b"\xff.mp4\nx.mp4\n") == keys("*.mp4")[::-1] == ["%FF.mp4", "x.mp4"]
    assert only(os.fsdecode(b"\xff.mp4")).problem is None


def test_a_csv_gives_keys_ranges_and_labels(here):
    make(here, "a,b.mp4", "c.mp4")
    head = "\ufeffLabel,path,start,end,key\r\n"
    (here / "x.csv").write_text(head + 'run,"a,b.mp4",0.5,2,day/1\r\n\r\n,c.mp4,,,\r\n')
    first, second = find_sources(["x.csv"]).sources
    assert (first.key, first.start, first.end, first.label) == ("day/1", 0.5, 2.0, "run")
    assert (second.key, second.start, second.end, second.label) == ("c.mp4", None, None, None)
    assert keys("@x.csv") == ["day/1", "c.mp4"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\nx,1", r"no column path.*which has file, label"),
        ("", r"no column path.*which has nothing"),
        ("path,start\nx,1\nx,one", r"x\.csv, line 3\): start is one"),
        ("path,end\nx,nan", r"line 2\): end is nan"),
        ("path,start\nx,-1", r"line 2\): start is -1. Give seconds"),
        ("path,start,end\nx,2,2", r"line 2\): start 2 is not before end 2"),
        ("path,key\n,k", r"line 2\): the path is empty"),
        ("path\na,b.mp4", r"line 2\): 2 cells for 1 columns"),
        (f"path\n{'x' * 200_000}", r"line 2\): field larger than field limit"),
    ],
)
def test_an_error_in_a_csv_names_its_place(here, content, message):
    (here / "x.csv").write_text(content)
    with pytest.raises(UsageError, match=message):
        find_sources(["x.csv"])


@pytest.mark.parametrize(
    ("row", "decoding", "message"),
    [
        ("5,", Decoding(end=4), r"start 5 is not before end 4 of --end\. Both are seconds"),
        (",4", Decoding(start=4), r"start 4 of --start is not before end 4\. Both are seconds"),
        ("3,2", Decoding(start=0, end=9), r"start 3 is not before end 2\. Both are seconds"),
    ],
)
def test_a_row_and_the_settings_make_one_range(here, row, decoding, message):
    (here / "x.csv").write_text(f"path,start,end\na.mp4,,\nx.mp4,{row}\n")
    with pytest.raises(UsageError, match=rf"^bad list \(x\.csv, line 3\): {message}"):
        find_sources(["x.csv"], decoding=decoding)


def test_the_range_of_a_row_goes_before_that_of_the_settings(here):
    make(here, "x.mp4")
    (here / "x.csv").write_text("path,start,end\nx.mp4,5,6\n")
    source = only("x.csv", decoding=Decoding(start=1, end=2))
    assert (source.start, source.end) == (5.0, 6.0)


def test_a_list_that_is_not_there_is_wrong_usage(here):
    with pytest.raises(UsageError, match=r"cannot read the list \(gone.txt\): no such file"):
        find_sources(["@gone.txt"])


# Keys


def test_keys_are_relative_to_the_deepest_common_folder(here):
    make(here, "v/a/x.mp4", "v/b/x.mp4", "v/b/f/1.jpg")
    assert keys("v/a/x.mp4") == ["x.mp4"]
    assert keys("v/a", "v/b/x.mp4") == ["a/x.mp4", "b/x.mp4"]
    assert keys("v/b") == ["f", "x.mp4"]
    assert keys(str(here / "v/a"), "v/./b/../b/x.mp4") == ["a/x.mp4", "b/x.mp4"]


def test_the_root_can_be_given_but_must_hold_everything(here):
    make(here, "v/a/x.mp4")
    assert keys("v/a/x.mp4", root=".") == ["v/a/x.mp4"]
    assert keys("v/a/x.mp4", root="/") == [escape_key(str(here / "v/a/x.mp4")[1:])]
    with pytest.raises(UsageError, match=r"outside the root \(.*v/a/x\.mp4\).*--root"):
        keys("v/a/x.mp4", root="v/b")


def test_two_videos_of_one_key_are_refused_before_any_work(here):
    make(here, "a/x.mp4", "b/x.mp4")
    assert keys(".") == ["a/x.mp4", "b/x.mp4"]
    with pytest.raises(UsageError, match=r"key \(x\): .*a/x\.mp4 and .*b/x\.mp4 .*--key relpath"):
        keys(".", key="stem")


def test_two_parts_of_one_video_need_two_keys(here):
    make(here, "x.mp4")
    (here / "x.csv").write_text("path,start,end,key\nx.mp4,0,1,a\nx.mp4,1,2,b\n")
    assert keys("x.csv") == ["a", "b"]
    (here / "x.csv").write_text("path,start,end\nx.mp4,0,1\nx.mp4,1,2\n")
    with pytest.raises(UsageError, match=r"duplicate key \(x\.mp4\).*column key"):
        keys("x.csv")


def test_a_video_named_twice_counts_once(here):
    make(here, "v/x.mp4", "v/y.mp4")
    result = find_sources(["v/y.mp4", "v", "./v/y.mp4"])
    assert [source.key for source in result.sources] == ["y.mp4", "x.mp4"]
    assert result.duplicates == 2


def test_the_stem_keeps_inner_dots(here):
    make(here, "v/a.b.mp4")
    assert keys("v", key="stem") == ["a.b"]


def test_labels_come_from_the_folder_unless_a_list_gives_them(here):
    make(here, "run/x.mp4", "run/y.mp4")
    (here / "x.csv").write_text("path,label\nrun/x.mp4,walk\nrun/y.mp4,\n")
    labels = [source.label for source in find_sources(["x.csv"], label_from_parent=True).sources]
    assert labels == ["walk", "run"]


# No input


def test_no_match_lists_the_skipped_files(here):
    make(here, "v/a.txt", "v/.b.mp4")
    with pytest.raises(
        NoInputError, match=r"no video in \(v\): .*hidden \(1\).*other.*\(1\).*--ext"
    ):
        find_sources(["v"])


def test_only_missing_paths_or_an_empty_list_are_no_input(here):
    with pytest.raises(NoInputError, match=r"\(a, b, c, …\): no such file \(4\)"):
        find_sources(["a", "b", "c", "d"])
    with pytest.raises(NoInputError, match=r"no video in \(-\): no input given"):
        from_stdin(b"\n# nothing\n")


# The hostile folder


@pytest.mark.skipif(not ODD.exists(), reason="../shared/data/odd.tar is not beside the checkout")
def test_a_scan_of_the_hostile_folder_finds_all_and_ends(here):
    with tarfile.open(ODD) as archive:
        archive.extractall(here, filter="tar")
    result = find_sources(["odd"])
    kinds = Counter(source.kind for source in result.sources)
    problems = {s.key: s.problem for s in result.sources if s.problem and s.key != "noperm.mp4"}
    assert (kinds["file"], kinds["frames"]) == (61, 4)
    assert problems == {
        "fifo.mp4": "not a regular file",
        "loop.mp4": "too many levels of symbolic links",
        "zero.mp4": "empty file",
    }
    assert {"sub/rot90.mp4", "new%0Aline.mp4", "100%25d.mp4", "link.mp4", "frames_gap"} <= {
        source.key for source in result.sources
    }
    assert result.passed_over == {"hidden": 1, "other extension": 6}


def test_the_source_of_one_path_has_its_kind_size_and_key(tmp_path):
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"12")
    file, folder = make_path_source(clip), make_path_source(tmp_path, key="0")
    assert (file.key, file.path, file.kind, file.size) == (str(clip), str(clip), "file", 2)
    assert (folder.key, folder.path) == ("0", str(tmp_path))
    assert (folder.kind, folder.size) == ("frames", None)
    url = make_path_source("https://host/a.mp4")
    assert (url.key, url.path, url.kind) == ("https://host/a.mp4", "https://host/a.mp4", "url")
    assert make_path_source(tmp_path / "gone.mp4").size is None

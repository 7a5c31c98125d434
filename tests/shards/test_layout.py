import pytest

from mrx.shards.layout import split_shard_path


@pytest.mark.parametrize(
    ("text", "path", "key"),
    [
        ("out::a/b.mp4", "out", "a/b.mp4"),
        ("out/shard-00000.h5::a::b.mp4", "out/shard-00000.h5", "a::b.mp4"),
        ("out", "out", ""),
        ("out::", "out", ""),
        ("http://[::1]/a.mp4", "http://[::1]/a.mp4", ""),
    ],
)
def test_a_shard_path_is_split_into_path_and_key(text, path, key):
    assert split_shard_path(text) == (path, key)


def test_an_existing_file_with_two_colons_in_its_name_has_no_key(tmp_path):
    path = tmp_path / "a::b.h5"
    path.touch()
    assert split_shard_path(str(path)) == (str(path), "")

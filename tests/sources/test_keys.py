"""Keys are safe, unique and stable, and jobs share them without talking to each other."""

import os
import re
from collections import Counter
from itertools import pairwise
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis.strategies import binary, integers, lists, text

from mrx.errors import UsageError
from mrx.job import Source
from mrx.shards.layout import group_name
from mrx.sources.keys import escape_key, natural_sort_key, printable
from mrx.sources.sharding import parse_shard, select_share


@given(binary(min_size=1))
def test_escaping_a_key_is_printable_and_can_be_undone(data):
    key = escape_key(os.fsdecode(data))
    assert unquote_to_bytes(key) == unquote_to_bytes(group_name(key)) == data
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\\\u2028\u2029]", key)
    assert not {"", ".", ".."} & set(key.split("/"))


@given(text(min_size=1))
def test_any_text_has_a_key_in_utf8_and_one_line_to_show(name):
    assert escape_key(name) == escape_key(name)
    assert b"\n" not in escape_key(name).encode() + printable(name).encode()


def test_an_empty_key_is_refused():
    with pytest.raises(UsageError, match="bad key"):
        escape_key("")


@given(lists(text(alphabet="a0129/-", max_size=8) | text()))
def test_natural_order_is_total(names):
    ordered = sorted(set(names), key=natural_sort_key)
    assert all(natural_sort_key(low) < natural_sort_key(high) for low, high in pairwise(ordered))


@given(lists(text(min_size=1), unique=True), integers(1, 9))
def test_shares_cover_all_videos_and_do_not_depend_on_the_list(names, count):
    sources = [Source(escape_key(name), "x") for name in names]
    shares = [select_share(sources, index, count) for index in range(count)]
    assert Counter(s.key for share in shares for s in share) == Counter(s.key for s in sources)
    half = sources[::-2]
    assert select_share(half, 0, count) == [source for source in half if source in shares[0]]


def test_a_share_is_part_of_the_format():
    sources = [Source(f"{n}.mp4", "x") for n in range(8)]
    assert [source.key for source in select_share(sources, 0, 3)] == ["4.mp4", "7.mp4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8/8", r"bad shard \(8/8\): the index counts from 0. Use 0/8 … 7/8"),
        ("1/1", r"Use 0/1$"),
        ("-1/2", "counts from 0"),
        ("1/0", "N must be at least 1"),
        ("a/b", r"bad shard \(a/b\): not i/N"),
        ("1.5/2", "not i/N"),
        (
            "auto",
            r"none of SLURM_ARRAY_TASK_ID with .* RANK with .* SLURM_PROCID .* OMPI_.* is set",
        ),
    ],
)
def test_a_bad_shard_is_refused_with_an_explanation(text, message):
    with pytest.raises(UsageError, match=message):
        parse_shard(text, {})


ARRAY = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "2"}
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "3"}


@pytest.mark.parametrize(
    ("environ", "shard"),
    [
        (TORCHRUN | ARRAY, (3, 4)),
        (ARRAY | {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "4"}, (1, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"} | TORCHRUN, (1, 3)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "RANK": "1"}, (0, 2)),
        ({"OMPI_COMM_WORLD_RANK": "4", "OMPI_COMM_WORLD_SIZE": "9"}, (4, 9)),
    ],
)
def test_a_job_finds_its_shard_in_its_environment(environ, shard):
    assert parse_shard("auto", environ) == shard
    assert parse_shard("0/4", environ) == (0, 4)


def test_a_job_that_cannot_be_right_names_its_variables():
    with pytest.raises(UsageError, match=r"auto: RANK=3, WORLD_SIZE=3\): the index counts from 0"):
        parse_shard("auto", TORCHRUN | {"RANK": "3"})
    with pytest.raises(UsageError, match=r"RANK=x, WORLD_SIZE=3: not a number"):
        parse_shard("auto", TORCHRUN | {"RANK": "x"})

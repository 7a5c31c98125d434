import os

import numpy as np
import pytest
from support.shards import make_shard

from mrx.shards.journal import Journal, read_journal
from mrx.shards.trailer import read_trailer


@pytest.fixture
def records(tmp_path):
    return read_trailer(make_shard(tmp_path, ["a", "b"])).contents.records


@pytest.fixture
def journal(tmp_path, records):
    journal = Journal(tmp_path / "j.journal", {"mrx_format": 2})
    for record in records:
        journal.append_record(record)
    journal.close()
    return journal.path


def test_what_was_appended_is_read_back(journal, records):
    contents = read_journal(journal)
    assert contents.header == {"mrx_format": 2}
    assert [record.to_bytes() for record in contents.records] == [r.to_bytes() for r in records]
    assert all(record.compute_digest() == record.digest for record in contents.records)


def test_of_one_key_the_last_record_counts(tmp_path, records):
    journal = Journal(tmp_path / "j.journal", {})
    for record in (*records, records[0]):
        journal.append_record(record)
    journal.close()
    assert [record.key for record in read_journal(journal.path).records] == ["a", "b"]


def test_a_journal_is_cut_at_its_first_torn_frame(journal):
    size = journal.stat().st_size
    counts = []
    for length in range(size, -1, -1):
        os.truncate(journal, length)
        contents = read_journal(journal)
        counts.append((bool(contents.header), len(contents.records)))
    assert counts == sorted(counts, reverse=True)
    assert set(counts) == {(True, 2), (True, 1), (True, 0), (False, 0)}


def test_a_flipped_bit_costs_one_record_and_changes_none(journal, records):
    data = journal.read_bytes()
    whole = [record.to_bytes() for record in records]
    rng = np.random.default_rng(0)
    for place in rng.integers(0, 8 * len(data), 300):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << (place % 8)
        journal.write_bytes(damaged)
        contents = read_journal(journal)
        found = [record.to_bytes() for record in contents.records]
        assert set(found) <= set(whole)
        # Of the last frame alone nothing tells a longer length from a torn write.
        assert contents.is_damaged or len(found) == 1
        assert len(found) + bool(contents.header) == 2


def test_a_missing_journal_is_an_empty_one(tmp_path):
    contents = read_journal(tmp_path / "no.journal")
    assert (contents.header, contents.records) == ({}, [])


def test_an_existing_journal_is_not_touched(journal):
    with pytest.raises(FileExistsError):
        Journal(journal, {})

"""Tests that shards hold the same bits on every way of videos through the stages."""

import hashlib

import pytest
import torch
from support import videos
from support.command import read_contents

import mrx
from mrx import methods
from mrx.engines.run import run_job
from mrx.job import Decoding, Job, Storage
from mrx.pipeline.extraction import Extraction
from mrx.pipeline.sync_device import SyncDevice
from mrx.sources.scan import find_sources

FAST = {"tvl1": {"warps": "1", "inner": "3"}, "tvnet": {"iterations": "4"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for i in range(4):
        videos.write_clip(folder / f"{i}.mp4", 14 + i, height=48 + 16 * (i % 2), width=64, seed=i)
    return folder


def extract(folder, output, *, workers=0, **options):
    job = Job(
        str(output),
        methods=tuple(methods.list_method_names()),
        parameters=FAST,
        decoding=Decoding(short_side=None),
        **options,
    )
    summary = run_job(job, find_sources([str(folder)]).sources, workers=workers)
    assert (summary.ok, summary.exit_code) == (4, 0)
    return digests(output)


def digests(output):
    """The bits of every dataset and attribute, short enough to be shown where they differ."""
    return {
        name: [hashlib.sha256(repr(part).encode()).hexdigest()[:8] for part in parts]
        for name, parts in read_contents(output).items()
    }


@pytest.fixture(scope="module")
def usual(folder, tmp_path_factory):
    return extract(folder, tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize("batch", [1, 5, 1000])
@pytest.mark.parametrize("decode_threads", [0, 3])
def test_maps_do_not_depend_on_batch_size_and_decode_threads(
    folder, usual, tmp_path, batch, decode_threads
):
    assert extract(folder, tmp_path, batch=batch, decode_threads=decode_threads) == usual


def test_a_video_alone_has_the_maps_it_has_among_others(folder, usual, tmp_path):
    mrx.extract(
        folder / "2.mp4",
        tmp_path,
        method=methods.list_method_names(),
        parameters=FAST,
        decoding=Decoding(short_side=None),
    )
    alone = digests(tmp_path)
    assert alone
    assert alone.items() <= usual.items()


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "decode_threads"), [(1, 0), (2, 0), (2, 2)])
def test_maps_do_not_depend_on_the_number_of_workers(
    folder, usual, tmp_path, workers, decode_threads
):
    made = extract(folder, tmp_path, workers=workers, decode_threads=decode_threads)
    assert made == usual


def test_a_full_shard_waits_for_the_videos_that_are_in_flight(folder, tmp_path):
    sealed = []
    job = Job(str(tmp_path), storage=Storage(videos_per_shard=1))
    extraction = Extraction(job, on_sealed=lambda path, keys: sealed.append(keys))
    tasks = [extraction.begin_video(source) for source in find_sources([str(folder)]).sources[:3]]

    def write(task):
        with torch.inference_mode():
            for batch in extraction.decode_windows(task):
                (made,) = SyncDevice(extraction.device, extraction.timer).compute_group([batch])
                extraction.write_maps(batch, made.pack())

    write(tasks[0])
    write(tasks[1])
    assert extraction.finish_video(tasks[0]).status == "ok"
    assert sealed == []
    write(tasks[2])
    extraction.finish_video(tasks[1])
    assert sealed == [["0.mp4", "1.mp4"]]
    extraction.finish_video(tasks[2])
    assert sealed[1:] == [["2.mp4"]]

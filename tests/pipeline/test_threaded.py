"""Decoding, computing and writing at once: nothing is lost, mixed, left hanging or without end."""

import threading
import time

import pytest
import torch
from support.stages import (
    CPU,
    FakeStages,
    VideoPlan,
    assert_whole,
    expected_maps,
    make_plans,
    run_stages,
)

from mrx.errors import DeviceFault, OutputError, RunCanceled
from mrx.pipeline import sync_device as device_module
from mrx.pipeline import threaded as threads_module
from mrx.pipeline.compute import BatchComputer
from mrx.pipeline.sequential import run_sequentially
from mrx.pipeline.sync_device import SyncDevice


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_video_ends_with_its_maps_in_order(threads):
    stages = FakeStages(make_plans(9, windows=3, pieces=4))
    assert_whole(stages, run_stages(stages, threads=threads))


def test_windows_of_several_videos_fill_a_batch():
    stages = FakeStages(make_plans(8))
    assert_whole(stages, run_stages(stages, most=4))
    assert max(map(len, stages.batches)) == 4


def test_a_batch_that_does_not_fill_is_computed_at_the_end():
    stages = FakeStages(make_plans(3))
    assert_whole(stages, run_stages(stages, most=100))
    assert sum(map(len, stages.batches)) == 3


def test_sizes_are_never_mixed():
    plans = make_plans(6, windows=2)
    for plan in list(plans.values())[::2]:
        plan.size = 6
    stages = FakeStages(plans)
    assert_whole(stages, run_stages(stages, most=8))
    large = {value for plan in list(plans.values())[::2] for value in plan.pieces[0]}
    assert all(set(batch) <= large or not set(batch) & large for batch in stages.batches)


def test_one_long_video_does_not_hold_up_many_short_ones():
    plans = {"long": VideoPlan([[1]] * 60, pause=0.005)} | make_plans(20)
    stages = FakeStages(plans)
    rows = run_stages(stages, threads=2, most=8)
    assert_whole(stages, rows)
    assert list(rows)[-1] == "long"


@pytest.mark.parametrize("most", [1, 2, 100, None])
def test_the_batch_size_changes_no_map(most):
    stages = FakeStages(make_plans(5, windows=3, pieces=3))
    assert_whole(stages, run_stages(stages, most=most))


@pytest.mark.parametrize("stage", ["decode", "compute", "write"])
def test_a_failed_video_names_its_stage_and_the_others_finish(stage):
    stages = FakeStages(make_plans(6, windows=2, pieces=2))
    stages.plans["002"].fails = stage
    rows = run_stages(stages, most=100)
    assert rows["002"].reason == f"internal error in {stage}: ValueError: injected"
    assert "ValueError: injected" in rows["002"].traceback
    assert [row.status for row in rows.values()].count("ok") == 5
    assert all(stages.written[k] == expected_maps(stages.plans[k]) for k in rows if k != "002")


@pytest.mark.parametrize(("stage", "work"), [("transfer", "move_windows"), ("pack", "pack_motion")])
def test_a_video_that_fails_in_a_transfer_fails_alone(stage, work, monkeypatch):
    stages = FakeStages(make_plans(4))
    bad = stages.plans["001"].pieces[0][0]
    whole = getattr(device_module, work)

    def fail(given, *rest):
        data = given if isinstance(given, torch.Tensor) else given.data / 2
        if bad in data.flatten():
            raise ValueError("injected")
        return whole(given, *rest)

    monkeypatch.setattr(device_module, work, fail)
    rows = run_stages(stages)
    assert rows["001"].reason == f"internal error in {stage}: ValueError: injected"
    assert [row.status for row in rows.values()].count("ok") == 3


def test_a_permanent_device_fault_ends_the_run_without_rows():
    stages = FakeStages(make_plans(20))
    stages.extract = _failing
    stages.method_run.module.extract = _failing
    told = []
    with pytest.raises(DeviceFault, match="the device failed in compute: CUDA error: an illegal"):
        told.extend(_feeder(stages).run(stages.sources()))
    assert told == []


def test_a_device_fault_comes_after_the_rows_of_finished_videos():
    stages = FakeStages(make_plans(9), slow_write=0.05)
    whole, runner = stages.extract, _feeder(stages, threads=1)

    def fail_after_a_row(windows):
        if len(stages.batches) < 2:
            return whole(windows)
        deadline = time.monotonic() + 5
        while runner.links.row_queue.empty() and time.monotonic() < deadline:
            time.sleep(0.001)
        return _failing(windows)

    stages.method_run.module.extract = fail_after_a_row
    told = []
    with pytest.raises(DeviceFault):
        told.extend(runner.run(stages.sources()))
    assert [(row.key, row.status) for row in told] == [("000", "ok")]
    assert "001" in stages.forgotten
    assert "000" not in stages.forgotten
    until_alone()


def _failing(windows):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("stage", ["decode", "compute", "write"])
def test_a_thread_that_dies_ends_the_run_and_all_threads(stage):
    stages = FakeStages(make_plans(30, windows=2, pieces=3), broken=stage)
    began = time.monotonic()
    with pytest.raises(OutputError, match=f"no more {stage}"):
        run_stages(stages)
    assert time.monotonic() - began < 5
    assert stages.forgotten
    until_alone()


def until_alone():
    """Wait until the run's threads are gone."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _ours():
        time.sleep(0.01)
    assert _ours() == []


def _ours():
    return [t.name for t in threading.enumerate() if "_guarded" in t.name]


def test_a_slow_writer_stops_the_decoders_before_memory_grows(monkeypatch):
    monkeypatch.setattr(threads_module, "BATCHES_BYTES", 4000)
    monkeypatch.setattr(threads_module, "RESULTS_BYTES", 1000)
    stages = FakeStages(make_plans(40, windows=3, pieces=2, size=8), slow_write=0.002)
    assert_whole(stages, run_stages(stages, most=6))
    assert 0 < stages.most_held <= 4000


def test_a_piece_larger_than_the_queue_passes_alone(monkeypatch):
    monkeypatch.setattr(threads_module, "BATCHES_BYTES", 10)
    monkeypatch.setattr(threads_module, "RESULTS_BYTES", 10)
    stages = FakeStages(make_plans(5, windows=4, pieces=3))
    assert_whole(stages, run_stages(stages, most=100))


def test_a_slow_decoder_is_waited_for():
    stages = FakeStages(make_plans(3, pieces=3, pause=0.08))
    assert_whole(stages, run_stages(stages, most=100))


def test_a_stopped_run_drops_the_videos_in_flight():
    stages = FakeStages(make_plans(50, pieces=4), cancel_at=3)
    told = []
    with pytest.raises(RunCanceled):
        told.extend(_feeder(stages).run(stages.sources()))
    assert stages.forgotten
    assert {row.key for row in told} == set(stages.concluded)
    until_alone()


def test_closing_the_iterator_of_rows_ends_the_run():
    stages = FakeStages(make_plans(20))
    rows = _feeder(stages).run(stages.sources())
    next(rows)
    rows.close()
    until_alone()


def _feeder(stages, threads=2):
    computer = BatchComputer(SyncDevice(CPU, stages.busy), 1)
    return threads_module.ThreadedRunner(stages, computer, threads)


class SmallDevice(SyncDevice):
    """A device with room for so many windows."""

    room = 3

    def compute_group(self, pieces):
        with self.timer.time_stage("compute"):
            if sum(map(len, pieces)) > self.room:
                raise torch.cuda.OutOfMemoryError("no room")
        return super().compute_group(pieces)


def test_a_batch_too_large_for_memory_is_halved_until_it_fits():
    stages = FakeStages(make_plans(4, windows=8))
    assert_whole(
        stages, run_stages(stages, most=8, threads=1, device=SmallDevice(CPU, stages.busy))
    )
    assert max(map(len, stages.batches)) <= 3
    assert stages.warnings == [
        "not enough memory on the device for 8 windows of twice at once: from here on 4 or fewer"
    ]


def test_a_window_too_large_for_the_device_fails_its_video():
    stages = FakeStages(make_plans(2))
    small = SmallDevice(CPU, stages.busy)
    small.room = 0
    rows = run_stages(stages, device=small, most=1)
    assert {row.reason for row in rows.values()} == {
        "internal error in compute: OutOfMemoryError: no room"
    }


def test_one_stage_after_another_keeps_to_the_halved_size():
    stages = FakeStages(make_plans(4, windows=8))
    small = SmallDevice(CPU, stages.busy)
    tries = []
    small.compute_group = lambda pieces: (
        tries.append(len(pieces[0])) or SmallDevice.compute_group(small, pieces)
    )
    rows = list(run_sequentially(stages, BatchComputer(small, 8), stages.sources()))
    assert {row.status for row in rows} == {"ok"}
    assert [size for size in tries if size > SmallDevice.room] == [
        8,
        4,
        4,
    ]  # of the first piece alone

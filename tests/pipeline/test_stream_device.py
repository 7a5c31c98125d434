"""Copying beside computing, with streams that do nothing before somebody waits for them."""

from contextlib import contextmanager

import pytest
import torch
from support.stages import CPU, FakeStages, assert_whole, make_plans, run_stages

from mrx.pipeline import threaded as threads_module
from mrx.pipeline.compute import BatchComputer
from mrx.pipeline.stream_device import StreamDevice

POISON = 201


class LazyStreams:
    """Streams as lists of copies. Forgetting to wait gives poison, as a GPU would give garbage."""

    def __init__(self):
        self.queues = {"copying": [], "computing": []}
        self.now = "computing"

    @contextmanager
    def use_device(self):
        yield

    @contextmanager
    def use_copy_stream(self):
        self.now = "copying"
        yield
        self.now = "computing"

    def allocate_pinned(self, count, dtype):
        return torch.full((count,), POISON, dtype=dtype)

    def queue_copy(self, target, source):
        target.fill_(POISON)
        self.queues[self.now].append(lambda: target.copy_(source))

    def record_mark(self):
        return LazyMark(self.queues[self.now])

    def wait_for_mark(self, mark, *arrived):
        mark.synchronize()

    def measure_seconds(self, begin, end):
        return 0.25


class LazyMark:
    def __init__(self, queue):
        self.queue, self.count = queue, len(queue)

    def synchronize(self):
        for place in range(self.count):
            self.queue[place]()
            self.queue[place] = lambda: None


def lazy(stages):
    return StreamDevice(CPU, stages.busy, LazyStreams())


@pytest.mark.parametrize("threads", [1, 3])
def test_maps_are_written_only_when_they_are_finished(threads):
    stages = FakeStages(make_plans(8, windows=3, pieces=3))
    assert_whole(stages, run_stages(stages, threads=threads, most=6, device=lazy(stages)))


def test_the_next_batch_starts_before_the_last_is_collected():
    stages = FakeStages(make_plans(1, windows=2, pieces=3))
    device = lazy(stages)
    pieces = list(stages.decode_windows(stages.begin_video(stages.sources()[0])))
    computer = BatchComputer(device, None)
    assert computer.submit_group([pieces[0]]) == []
    assert len(stages.batches) == 1
    ((first, made),) = computer.submit_group([pieces[1]])
    assert (first, len(made.pack()), len(stages.batches)) == (pieces[0], 2, 2)
    assert [batch for batch, _ in computer.collect_results()] == [pieces[1]]
    assert computer.collect_results() == []


def test_windows_share_frames_in_pinned_memory_too():
    stages = FakeStages(make_plans(1, windows=2))
    (batch,) = stages.decode_windows(stages.begin_video(stages.sources()[0]))
    frames = torch.arange(5 * 16, dtype=torch.uint8).view(5, 1, 4, 4)
    windows = frames.unfold(0, 2, 1).permute(0, 4, 1, 2, 3)
    clips = type(batch.clips)(windows, batch.clips.index[[0] * 4], batch.clips.time[[0] * 4])
    held = lazy(stages).hold_windows(clips)
    assert torch.equal(held.data, windows)
    assert held.data.untyped_storage().nbytes() == 5 * 16
    assert held.data.data_ptr() != windows.data_ptr()


def test_stage_times_come_from_the_clock_of_the_device():
    stages = FakeStages(make_plans(1))
    run_stages(stages, device=lazy(stages))
    assert (stages.busy.seconds["transfer"], stages.busy.seconds["compute"]) == (0.5, 0.25)


def test_a_failure_on_the_device_is_its_videos_alone():
    stages = FakeStages(make_plans(4))
    stages.plans["001"].fails = "compute"
    rows = run_stages(stages, device=lazy(stages))
    assert rows["001"].reason == "internal error in compute: ValueError: injected"
    assert [row.status for row in rows.values()].count("ok") == 3


class LoggingDevice(StreamDevice):
    """A device that tells the order of its work."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.order = []

    def launch_group(self, pieces):
        self.order.append("launch")
        return super().launch_group(pieces)

    def finish_group(self, launched):
        self.order.append("finish")
        return super().finish_group(launched)


def test_pieces_that_do_not_fill_a_batch_do_not_end_the_overlap(monkeypatch):
    monkeypatch.setattr(threads_module, "FLUSH_SECONDS", 60)
    stages = FakeStages(make_plans(1, windows=2, pieces=12))
    device = LoggingDevice(CPU, stages.busy, LazyStreams())
    assert_whole(stages, run_stages(stages, threads=1, most=6, device=device))
    assert device.order == ["launch", *["launch", "finish"] * 3, "finish"]


def test_memory_that_cannot_be_pinned_fails_its_video_alone():
    stages = FakeStages(make_plans(4))
    streams = LazyStreams()
    asked = []

    def pinned(count, dtype):
        asked.append(count)
        if len(asked) == 1:
            raise RuntimeError("cannot pin")
        return LazyStreams.allocate_pinned(streams, count, dtype)

    streams.allocate_pinned = pinned
    rows = run_stages(stages, threads=1, device=StreamDevice(CPU, stages.busy, streams))
    assert rows["000"].reason == "internal error in transfer: RuntimeError: cannot pin"
    assert [row.status for row in rows.values()].count("ok") == 3


class FullDevice(StreamDevice):
    """A device with room for so many windows, those in flight among them."""

    room = 6

    def launch_group(self, pieces):
        count = sum(map(len, pieces))
        self.used = getattr(self, "used", 0) + count
        if self.used > self.room:
            self.used -= count
            with self.timer.time_stage("compute"):
                raise torch.cuda.OutOfMemoryError("no room")
        return super().launch_group(pieces), count

    def finish_group(self, launched):
        self.used -= launched[1]
        return super().finish_group(launched[0])


@pytest.mark.parametrize(("most", "halved"), [(4, False), (8, True)])
def test_a_batch_is_halved_only_where_it_alone_is_too_large(most, halved):
    stages = FakeStages(make_plans(6, windows=most))
    assert_whole(
        stages, run_stages(stages, most=most, device=FullDevice(CPU, stages.busy, LazyStreams()))
    )
    assert (max(map(len, stages.batches)) < most) == halved

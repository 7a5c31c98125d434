"""Copying beside computing, with streams that do nothing before somebody waits for them."""

from contextlib import contextmanager

import pytest
import torch
from support.stages import CPU, Stages, assert_whole, counts, feed

from mrx.pipeline import threaded as threads_module
from mrx.pipeline.compute import Computer
from mrx.pipeline.stream_device import Overlapped

POISON = 201


class Lazy:
    """Streams as lists of copies. Forgetting to wait gives poison, as a GPU would give garbage."""

    def __init__(self):
        self.queues = {"copying": [], "computing": []}
        self.now = "computing"

    @contextmanager
    def here(self):
        yield

    @contextmanager
    def copying(self):
        self.now = "copying"
        yield
        self.now = "computing"

    def pinned(self, count, dtype):
        return torch.full((count,), POISON, dtype=dtype)

    def copy(self, target, source):
        target.fill_(POISON)
        self.queues[self.now].append(lambda: target.copy_(source))

    def mark(self):
        return Mark(self.queues[self.now])

    def wait(self, mark, *arrived):
        mark.synchronize()

    def seconds(self, begin, end):
        return 0.25


class Mark:
    def __init__(self, queue):
        self.queue, self.count = queue, len(queue)

    def synchronize(self):
        for place in range(self.count):
            self.queue[place]()
            self.queue[place] = lambda: None


def lazy(stages):
    return Overlapped(CPU, stages.busy, Lazy())


@pytest.mark.parametrize("threads", [1, 3])
def test_maps_are_waited_for(threads):
    stages = Stages(counts(8, windows=3, pieces=3))
    assert_whole(stages, feed(stages, threads=threads, most=6, device=lazy(stages)))


def test_the_next_batch_is_under_way_before_the_last_is_waited_for():
    stages = Stages(counts(1, windows=2, pieces=3))
    device = lazy(stages)
    pieces = list(stages.decode(stages.ticket(stages.sources()[0])))
    computer = Computer(device, None)
    assert computer.put([pieces[0]]) == []
    assert len(stages.batches) == 1
    ((first, made),) = computer.put([pieces[1]])
    assert (first, len(made.pack()), len(stages.batches)) == (pieces[0], 2, 2)
    assert [piece for piece, _ in computer.land()] == [pieces[1]]
    assert computer.land() == []


def test_windows_share_frames_in_pinned_memory_too():
    stages = Stages(counts(1, windows=2))
    (piece,) = stages.decode(stages.ticket(stages.sources()[0]))
    frames = torch.arange(5 * 16, dtype=torch.uint8).view(5, 1, 4, 4)
    windows = frames.unfold(0, 2, 1).permute(0, 4, 1, 2, 3)
    clips = type(piece.clips)(windows, piece.clips.index[[0] * 4], piece.clips.time[[0] * 4])
    held = lazy(stages).hold(clips)
    assert torch.equal(held.data, windows)
    assert held.data.untyped_storage().nbytes() == 5 * 16
    assert held.data.data_ptr() != windows.data_ptr()


def test_the_devices_own_clock_tells_how_busy_it_was():
    stages = Stages(counts(1))
    feed(stages, device=lazy(stages))
    assert (stages.busy.seconds["transfer"], stages.busy.seconds["compute"]) == (0.5, 0.25)


def test_a_failure_on_the_device_is_its_videos_alone():
    stages = Stages(counts(4))
    stages.plans["001"].fails = "compute"
    rows = feed(stages, device=lazy(stages))
    assert rows["001"].reason == "internal error in compute: ValueError: injected"
    assert [row.status for row in rows.values()].count("ok") == 3


class Told(Overlapped):
    """A device that tells the order of its work."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.order = []

    def launch(self, pieces):
        self.order.append("launch")
        return super().launch(pieces)

    def finish(self, launched):
        self.order.append("finish")
        return super().finish(launched)


def test_pieces_that_do_not_fill_a_batch_do_not_end_the_overlap(monkeypatch):
    monkeypatch.setattr(threads_module, "FLUSH_SECONDS", 60)
    stages = Stages(counts(1, windows=2, pieces=12))
    device = Told(CPU, stages.busy, Lazy())
    assert_whole(stages, feed(stages, threads=1, most=6, device=device))
    assert device.order == ["launch", *["launch", "finish"] * 3, "finish"]


def test_memory_that_cannot_be_pinned_fails_its_video_alone():
    stages = Stages(counts(4))
    streams = Lazy()
    asked = []

    def pinned(count, dtype):
        asked.append(count)
        if len(asked) == 1:
            raise RuntimeError("cannot pin")
        return Lazy.pinned(streams, count, dtype)

    streams.pinned = pinned
    rows = feed(stages, threads=1, device=Overlapped(CPU, stages.busy, streams))
    assert rows["000"].reason == "internal error in transfer: RuntimeError: cannot pin"
    assert [row.status for row in rows.values()].count("ok") == 3


class Full(Overlapped):
    """A device with room for so many windows, those in flight among them."""

    room = 6

    def launch(self, pieces):
        count = sum(map(len, pieces))
        self.used = getattr(self, "used", 0) + count
        if self.used > self.room:
            self.used -= count
            with self.busy.at("compute"):
                raise torch.cuda.OutOfMemoryError("no room")
        return super().launch(pieces), count

    def finish(self, launched):
        self.used -= launched[1]
        return super().finish(launched[0])


@pytest.mark.parametrize(("most", "halved"), [(4, False), (8, True)])
def test_a_batch_is_halved_only_where_it_alone_is_too_large(most, halved):
    stages = Stages(counts(6, windows=most))
    assert_whole(stages, feed(stages, most=most, device=Full(CPU, stages.busy, Lazy())))
    assert (max(map(len, stages.batches)) < most) == halved

import torch

from mrx.pipeline.transfer import move_windows


def test_windows_that_share_frames_share_them_on_the_device_too():
    frames = torch.arange(5 * 6 * 4, dtype=torch.uint8).view(5, 6, 4)[1:]
    windows = frames.unfold(0, 2, 1).permute(0, 3, 1, 2)
    moved = move_windows(windows, torch.device("meta"))
    assert (moved.shape, moved.stride()) == (windows.shape, windows.stride())
    assert moved.untyped_storage().nbytes() == frames.numel()
    assert move_windows(windows, torch.device("cpu")) is windows


def test_windows_keep_their_values_when_they_move(monkeypatch):
    frames = torch.randint(0, 256, (7, 6, 4), dtype=torch.uint8)
    windows = frames.unfold(0, 3, 2).permute(0, 3, 1, 2)
    elsewhere = torch.device("cpu", 0)  # another name for the same device
    assert torch.equal(move_windows(windows, elsewhere), windows)


def test_an_empty_batch_of_windows_can_be_moved():
    assert move_windows(torch.zeros(0, 2, 3, 4), torch.device("meta")).shape == (0, 2, 3, 4)

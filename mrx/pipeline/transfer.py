"""Windows on their way to a device, sharing there the frames that they share here."""

from collections.abc import Sequence

import torch


def move_windows(windows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Windows on a device, sharing there the frames that they share here; each is copied once."""
    if windows.device == device or not windows.numel():
        return windows.to(device)
    return view_memory(windows).to(device).as_strided(windows.shape, windows.stride())


def view_memory(windows: torch.Tensor) -> torch.Tensor:
    """The bytes that windows lie in, from the first to the last, as one row."""
    pairs = zip(windows.shape, windows.stride(), strict=True)
    extent = 1 + sum((n - 1) * stride for n, stride in pairs)
    return windows.as_strided((extent,), (1,))


def join_windows(windows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Windows of several pieces as one batch; those of a single one stay where they lie."""
    return windows[0] if len(windows) == 1 else torch.cat(list(windows))

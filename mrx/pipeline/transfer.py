"""Transfers of overlapping windows: frames shared on one side stay shared on the other."""

from collections.abc import Sequence

import torch


def move_windows(windows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy windows to a device, each shared frame once."""
    if windows.device == device or not windows.numel():
        return windows.to(device)
    return view_memory(windows).to(device).as_strided(windows.shape, windows.stride())


def view_memory(windows: torch.Tensor) -> torch.Tensor:
    """View the memory of windows, from their first to their last element, as one row."""
    # 4 frames of 4 bytes, in windows of 2 that overlap by 1:
    # shape = (3, 2, 4), strides = (4, 4, 1) -> 1 + 2 * 4 + 1 * 4 + 3 * 1 = 16, not 3 * 2 * 4
    pairs = zip(windows.shape, windows.stride(), strict=True)
    extent = 1 + sum((n - 1) * stride for n, stride in pairs)
    return windows.as_strided((extent,), (1,))


def join_windows(windows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join the windows of several batches; a single one is returned as it is, without a copy."""
    return windows[0] if len(windows) == 1 else torch.cat(list(windows))

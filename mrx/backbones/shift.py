"""Temporal shift: frames exchange a part of their channels with their neighbors."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrx.backbones.segments import check_segments, flatten_clips, unflatten_clips
from mrx.checks import check_choice

ShiftMode = Literal["zero", "circulant"]

_FOLD_DIVISOR = 8


def temporal_shift(maps: Tensor, segments: int, mode: ShiftMode = "zero") -> Tensor:
    """Move an eighth of the channels one frame in each direction (TSM, Lin et al., 2019).

    ``zero``: the first ``C // 8`` channels come from the next frame, the second ``C // 8`` from the
    previous one, with zeros beyond the ends of the clip. ``circulant`` wraps around the clip and
    swaps the directions, first from the previous frame, then from the next, as in MotionSqueeze's
    code.

    Shape:
        - maps, output: ``(B * segments, C, H, W)``, the frames of a clip one after another
    """
    check_choice("mode", mode, ShiftMode)
    clips = unflatten_clips(maps, segments)
    fold = maps.shape[1] // _FOLD_DIVISOR
    first, second, rest = torch.split(clips, [fold, fold, maps.shape[1] - 2 * fold], 2)
    if mode == "circulant":
        first, second = first.roll(1, dims=1), second.roll(-1, dims=1)
    else:
        # Frame t gets the first channels of t + 1 and the second of t - 1; pads are zero frames.
        first = F.pad(first[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1))
        second = F.pad(second[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
    return torch.cat([first, second, rest], dim=2).flatten(0, 1)


class TemporalShift(nn.Module):
    """`temporal_shift` as a module without parameters, which adds no name to a state dict.

    Args:
        segments: frames of a clip
        mode: ``zero``, or ``circulant`` to wrap around the clip

    Shape:
        - maps, output: ``(B * segments, C, H, W)``
    """

    def __init__(self, segments: int, mode: ShiftMode = "zero") -> None:
        super().__init__()
        check_choice("mode", mode, ShiftMode)
        check_segments(segments)
        self.segments = segments
        self.mode = mode

    def forward(self, maps: Tensor) -> Tensor:
        """Shift the maps of each clip."""
        return temporal_shift(flatten_clips(maps, self.segments), self.segments, self.mode)

    def extra_repr(self) -> str:
        """Return the settings for `print`."""
        return f"segments={self.segments}, mode={self.mode!r}"


def make_shift(segments: int, mode: ShiftMode | None) -> nn.Module:
    """Return a `TemporalShift`, or an identity without a mode."""
    return nn.Identity() if mode is None else TemporalShift(segments, mode)

"""The records that pass between stages. They validate their shapes and print no pixels.

Axes are always in the order B, T, C, H, W. Pixels stay uint8 until a method scales them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrx.errors import ShapeError


@dataclass(frozen=True, repr=False)
class Frames:
    """A chunk of decoded frames.

    Shape:
        - data: ``(T, H, W, C)`` uint8, C = 3 (rgb) or 1 (gray)
        - position: ``(T,)`` position in the stream of selected frames, increasing
        - index: ``(T,)`` source frame, counted in decode order from the first of the range
        - time: ``(T,)`` seconds
    """

    data: Tensor
    position: NDArray[np.int64]
    index: NDArray[np.int64]
    time: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or self.data.dtype != torch.uint8:
            raise ShapeError(
                f"frames must be uint8 (T, H, W, C), got {_describe_tensor(self.data)}"
            )
        lengths = {len(self.data), len(self.position), len(self.index), len(self.time)}
        if len(lengths) > 1:
            raise ShapeError(f"frames, positions, indices and times differ in length: {lengths}")

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return f"Frames({_describe_tensor(self.data)}, positions {_describe_range(self.position)})"

    def __getitem__(self, part: slice) -> "Frames":
        return Frames(self.data[part], self.position[part], self.index[part], self.time[part])


@dataclass(frozen=True, repr=False)
class Clips:
    """A batch of windows of frames.

    Shape:
        - data: ``(B, T, C, H, W)`` uint8, often a strided view of the decoder's memory
        - index: ``(B, 2)`` first and last source frame of each window
        - time: ``(B, 2)`` their times in seconds
    """

    data: Tensor
    index: NDArray[np.int64]
    time: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.data.ndim != 5:
            raise ShapeError(f"clips must be (B, T, C, H, W), got {_describe_tensor(self.data)}")
        _check_window_arrays(len(self.data), self.index, self.time)

    def __repr__(self) -> str:
        return f"Clips({_describe_tensor(self.data)}, source frames {_describe_range(self.index)})"

    def __getitem__(self, part: slice) -> "Clips":
        return Clips(self.data[part], self.index[part], self.time[part])


@dataclass(frozen=True, repr=False)
class Motion:
    """The maps that a method computed, one for each window.

    Shape:
        - data: ``(B, C, H, W)`` float
        - index: ``(B, 2)`` first and last source frame of each window
        - time: ``(B, 2)`` their times in seconds
    """

    data: Tensor
    index: NDArray[np.int64]
    time: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or not self.data.is_floating_point():
            raise ShapeError(
                f"motion must be floating (B, C, H, W), got {_describe_tensor(self.data)}"
            )
        _check_window_arrays(len(self.data), self.index, self.time)

    def __repr__(self) -> str:
        return f"Motion({_describe_tensor(self.data)}, source frames {_describe_range(self.index)})"


def _check_window_arrays(count: int, index: NDArray[np.int64], time: NDArray[np.float64]) -> None:
    if index.shape != (count, 2) or time.shape != (count, 2):
        raise ShapeError(f"{count} items need index and time ({count}, 2), got {index.shape}")


def _describe_tensor(data: Tensor) -> str:
    return f"{str(data.dtype).removeprefix('torch.')} {tuple(data.shape)}"


def _describe_range(values: NDArray[np.int64]) -> str:
    return f"{values.flat[0]}..{values.flat[-1]}" if values.size else "none"

"""Numbers as they lie in a shard: value = raw * scale + offset, whatever the type."""

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrx import kernels
from mrx.errors import InputError
from mrx.job import Storage
from mrx.kernels.summary import summarize_values

PIXEL_FRACTION = 64  # q16 keeps displacements in 1/64 px
HALF_MAX = 65504.0
RAW_DTYPES = {"f4": torch.float32, "f2": torch.float16, "i2": torch.int16, "u1": torch.uint8}


@dataclass(frozen=True)
class Encoding:
    """How floats become raw numbers.

    Attributes:
        dtype: numpy's name of the raw type
        scale, offset: value = raw * scale + offset
        low, high: the raw numbers used; values beyond are clipped and counted
        bound: the largest absolute value that is not clipped; None for floats
    """

    dtype: str
    scale: float = 1.0
    offset: float = 0.0
    low: float = -np.inf
    high: float = np.inf
    bound: float | None = None

    @property
    def itemsize(self) -> int:
        """Bytes of one raw number."""
        return np.dtype(self.dtype).itemsize

    @classmethod
    def from_storage(cls, storage: Storage, *, units: str, bound: float) -> "Encoding":
        """The encoding that a run's options mean for a method with these units and bound."""
        bound = storage.bound or bound
        match storage.dtype:
            case "float32":
                return cls("f4")
            case "float16":
                return cls("f2", low=-HALF_MAX, high=HALF_MAX)
            case "q16":
                in_pixels = units == "px" and storage.bound is None
                scale = 1 / PIXEL_FRACTION if in_pixels else bound / 32767
                return cls("i2", scale, 0.0, -32767, 32767, 32767 * scale)
            case "uint8":
                # Raw 128 is zero, so that what does not move is stored exactly.
                scale = bound / 127
                return cls("u1", scale, -128 * scale, 1, 255, bound)


@dataclass
class ValueStatistics:
    """What a dataset's attributes tell of its values, before they were encoded."""

    count: int = 0
    clipped: int = 0
    total: float = 0.0
    low: float = field(default=np.inf)
    high: float = field(default=-np.inf)

    def add_values(self, values: Tensor) -> tuple[float, float]:
        """Count float32 values in; the least and the greatest of them."""
        summary = summarize_values(values) if kernels.choose_backend() == "numba" else None
        low, high, total = summary or _summarize_values(values)
        self.count += values.numel()
        self.low = min(self.low, low)
        self.high = max(self.high, high)
        self.total += total
        return low, high

    def merge_counts(self, other: "ValueStatistics") -> None:
        """Count in what others counted."""
        self.count += other.count
        self.clipped += other.clipped
        self.total += other.total
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)

    def to_attributes(self) -> dict[str, Any]:
        """As attributes; an empty dataset has none but its count."""
        if not self.count:
            return {"clipped_fraction": 0.0}
        return {
            "clipped_fraction": self.clipped / self.count,
            "min": self.low,
            "max": self.high,
            "absmean": self.total / self.count,
        }


def _summarize_values(values: Tensor) -> tuple[float, float, float]:
    low, high = (float(v) for v in torch.aminmax(values))
    return low, high, cv2.norm(values.numpy().reshape(1, -1), cv2.NORM_L1)


def encode_maps(
    values: Tensor, encoding: Encoding, statistics: ValueStatistics, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Encode maps, clip what does not fit, and add to the statistics.

    Shape:
        - values: ``(..., C, H, W)`` float32
        - out, returned: the same shape, of the encoding's raw type; made where it is not given
    """
    low, high = statistics.add_values(values)
    raw = np.empty(values.shape, encoding.dtype) if out is None else out
    if encoding.dtype in ("f4", "f2"):
        if not encoding.low <= low <= high <= encoding.high:  # true of NaN too
            statistics.clipped += _count_clipped(values, encoding)
            values = values.clamp(encoding.low, encoding.high)
    else:
        _check_storable(low, high, encoding)
        values = torch.round((values - encoding.offset) / encoding.scale)
        statistics.clipped += _count_clipped(values, encoding)
        values = values.clamp(encoding.low, encoding.high)
    torch.from_numpy(raw).copy_(values)
    return raw


def encode_on_device(values: Tensor, encoding: Encoding) -> tuple[Tensor, Tensor]:
    """Encode maps where they lie, without waiting for a device.

    Shape:
        - values: ``(B, C, H, W)`` float32
        - raw: the same shape, of the encoding's raw type
        - columns: ``(B, 4)`` the least, the greatest, the sum of absolute values, how many clipped
    """
    flat = values.flatten(1)
    scaled = values
    if encoding.dtype not in ("f4", "f2"):
        scaled = torch.round((values - encoding.offset) / encoding.scale)
    beyond = (scaled < encoding.low) | (scaled > encoding.high)
    columns = (*torch.aminmax(flat, dim=1), flat.abs().sum(1), beyond.flatten(1).sum(1))
    raw = scaled.clamp(encoding.low, encoding.high).to(RAW_DTYPES[encoding.dtype])
    sum_dtype = torch.float32 if values.device.type == "mps" else torch.float64
    return raw, torch.stack([number.to(sum_dtype) for number in columns], dim=1)


def split_statistics(numbers: Tensor, count: int, encoding: Encoding) -> list[ValueStatistics]:
    """What `encode_on_device` counted, for each map of so many values."""
    statistics = []
    for low, high, total, clipped in numbers.tolist():
        if encoding.dtype not in ("f4", "f2"):
            _check_storable(low, high, encoding)
        statistics.append(ValueStatistics(count, int(clipped), total, low, high))
    return statistics


def _count_clipped(values: Tensor, encoding: Encoding) -> int:
    return int(((values < encoding.low) | (values > encoding.high)).sum())


def _check_storable(low: float, high: float, encoding: Encoding) -> None:
    if not np.isfinite([low, high]).all():
        raise InputError(f"NaN or infinity cannot be stored as {encoding.dtype}: use float16")


def decode_maps(raw: NDArray[Any], *, scale: float, offset: float) -> NDArray[np.float32]:
    """Raw numbers back to float32 values."""
    values = raw.astype(np.float32)
    return values if scale == 1 and offset == 0 else values * np.float32(scale) + np.float32(offset)

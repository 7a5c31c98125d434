"""The encoding of numbers in a shard: value = raw * scale + offset, for every type."""

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

PIXEL_FRACTION = 64  # q16 stores displacements in 1/64 px
HALF_MAX = 65504.0  # the largest finite float16; larger values would become infinite
RAW_DTYPES = {"f4": torch.float32, "f2": torch.float16, "i2": torch.int16, "u1": torch.uint8}


@dataclass(frozen=True)
class Encoding:
    """Converts floats to raw numbers.

    Attributes:
        dtype: numpy's name of the raw type
        scale, offset: value = raw * scale + offset
        low, high: the range of raw numbers; values outside are clipped and counted
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
        """The bytes of one raw number."""
        return np.dtype(self.dtype).itemsize

    @classmethod
    def from_storage(cls, storage: Storage, *, units: str, bound: float) -> "Encoding":
        """Choose the encoding for a method with these units and bound."""
        bound = storage.bound or bound
        match storage.dtype:
            case "float32":
                return cls("f4")
            case "float16":
                return cls("f2", low=-HALF_MAX, high=HALF_MAX)
            case "q16":
                in_pixels = units == "px" and storage.bound is None
                # -32768 is unused: the range is symmetric, and both signs have the same step.
                scale = 1 / PIXEL_FRACTION if in_pixels else bound / 32767
                return cls("i2", scale, 0.0, -32767, 32767, 32767 * scale)
            case "uint8":
                # Raw 128 is zero, so that still pixels are stored exactly; 0 is unused.
                scale = bound / 127
                return cls("u1", scale, -128 * scale, 1, 255, bound)


@dataclass
class ValueStatistics:
    """Statistics of a dataset's values before they were encoded."""

    count: int = 0
    clipped: int = 0
    total: float = 0.0
    low: float = field(default=np.inf)
    high: float = field(default=-np.inf)

    def add_values(self, values: Tensor) -> tuple[float, float]:
        """Add float32 values, and return the smallest and the largest of them."""
        summary = summarize_values(values) if kernels.choose_backend() == "numba" else None
        low, high, total = summary or _summarize_values(values)
        self.count += values.numel()
        self.low = min(self.low, low)
        self.high = max(self.high, high)
        self.total += total
        return low, high

    def merge_counts(self, other: "ValueStatistics") -> None:
        """Add the statistics of other values."""
        self.count += other.count
        self.clipped += other.clipped
        self.total += other.total
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)

    def to_attributes(self) -> dict[str, Any]:
        """Return the attributes of a dataset; an empty one has only a clipped fraction."""
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
    """Encode maps, clip values outside of the range, and update the statistics.

    Shape:
        - values: ``(..., C, H, W)`` float32
        - out, returned: the same shape, in the encoding's raw type; allocated if not given

    Raises:
        InputError: NaN or infinity in values that are stored as integers
    """
    low, high = statistics.add_values(values)
    raw = np.empty(values.shape, encoding.dtype) if out is None else out
    if encoding.dtype in ("f4", "f2"):
        # Written with `not`, so that NaN takes this branch too: every comparison with it is false.
        if not encoding.low <= low <= high <= encoding.high:
            statistics.clipped += _count_clipped(values, encoding)
            values = values.clamp(encoding.low, encoding.high)
    else:
        _check_storable(low, high, encoding)
        values = torch.round((values - encoding.offset) / encoding.scale)
        # Counted after rounding: a value up to half a step beyond the bound is not clipped.
        statistics.clipped += _count_clipped(values, encoding)
        values = values.clamp(encoding.low, encoding.high)
    torch.from_numpy(raw).copy_(values)
    return raw


def encode_on_device(values: Tensor, encoding: Encoding) -> tuple[Tensor, Tensor]:
    """Encode maps on their device, without waiting for it.

    Shape:
        - values: ``(B, C, H, W)`` float32
        - raw: the same shape, in the encoding's raw type
        - columns: ``(B, 4)`` minimum, maximum, sum of absolute values, number of clipped values
    """
    # No branch here may depend on a value: reading one would wait for the device. So everything
    # is clamped, and `split_statistics` looks for NaN later.
    flat = values.flatten(1)
    scaled = values
    if encoding.dtype not in ("f4", "f2"):
        scaled = torch.round((values - encoding.offset) / encoding.scale)
    beyond = (scaled < encoding.low) | (scaled > encoding.high)
    columns = (*torch.aminmax(flat, dim=1), flat.abs().sum(1), beyond.flatten(1).sum(1))
    raw = scaled.clamp(encoding.low, encoding.high).to(RAW_DTYPES[encoding.dtype])
    # MPS has no float64.
    sum_dtype = torch.float32 if values.device.type == "mps" else torch.float64
    return raw, torch.stack([number.to(sum_dtype) for number in columns], dim=1)


def split_statistics(numbers: Tensor, count: int, encoding: Encoding) -> list[ValueStatistics]:
    """Split the columns of `encode_on_device` into statistics of maps of `count` values each."""
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
    """Decode raw numbers to float32 values."""
    values = raw.astype(np.float32)
    return values if scale == 1 and offset == 0 else values * np.float32(scale) + np.float32(offset)

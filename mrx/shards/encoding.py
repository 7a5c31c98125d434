"""The encoding of numbers in a shard: value = raw * scale + offset, for every type."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

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
TYPE_NAMES = {"f4": "float32", "f2": "float16", "i2": "q16", "u1": "uint8"}
DtypeName = Literal["float16", "float32", "q16", "uint8"]


@dataclass(frozen=True)
class Encoding:
    """Converts floats to raw numbers.

    Attributes:
        dtype: numpy's name of the raw type
        scale, offset: value = raw * scale + offset
        low, high: the range of raw numbers; values outside are clipped and counted
        bound: the largest absolute value that is not clipped; None for floats
        channel_chunks: each channel of a map is a chunk, else each map
        tolerance: the largest error with which the numbers are compressed; None is without loss
    """

    dtype: str
    scale: float = 1.0
    offset: float = 0.0
    low: float = -np.inf
    high: float = np.inf
    bound: float | None = None
    channel_chunks: bool = False
    tolerance: float | None = None

    @property
    def itemsize(self) -> int:
        """The bytes of one raw number."""
        return np.dtype(self.dtype).itemsize

    @property
    def dtype_name(self) -> str:
        """The name that `--dtype` has for the raw type."""
        return TYPE_NAMES[self.dtype]

    @classmethod
    def from_storage(
        cls, storage: Storage, *, units: str, bound: float, channels: Sequence[str] = ()
    ) -> "Encoding":
        """Choose the encoding for a method with these units, bound and channels."""
        bound = storage.bound or bound
        if storage.tolerance is not None:
            # SZ3 predicts a value from its neighbors. Channels as a third axis spoil that: they
            # take 1.7 times the bytes and 7 times the time (tvl1 at 0.05 px).
            return cls("f4", channel_chunks=True, tolerance=storage.tolerance)
        match _choose_dtype(storage, units, channels):
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


def _choose_dtype(storage: Storage, units: str, channels: Sequence[str]) -> DtypeName:
    """Choose the type that `auto` stands for: q16 for displacements alone, else float16.

    In q16 the error of a displacement is 1/128 px wherever it lies within 512 px, and gzip takes a
    third of the bytes of float16 with gzip. A confidence beside displacements (`ms`) needs steps
    much finer than 1/64, and other units have no bound that fits every video: both stay float16.
    """
    if storage.dtype != "auto":
        return storage.dtype
    has_confidence = any("confidence" in channel for channel in channels)
    return "q16" if units == "px" and not has_confidence else "float16"


@dataclass
class ValueStatistics:
    """Statistics of a dataset's values before they were encoded.

    Attributes:
        count: number of values
        clipped: number of finite values beyond the encoding's range
        nan_count: number of values that are NaN or infinite
        total: sum of the absolute finite values
        low, high: smallest and largest finite value
        lossless: number of channels that were stored without loss in spite of a tolerance
        decoded_checksum: sum of the checksums of what a tolerance made of the values
    """

    count: int = 0
    clipped: int = 0
    total: float = 0.0
    low: float = field(default=np.inf)
    high: float = field(default=-np.inf)
    nan_count: int = 0
    lossless: int = 0
    decoded_checksum: int = 0

    @property
    def clipped_fraction(self) -> float:
        """The share of the values that were clipped."""
        return self.clipped / self.count if self.count else 0.0

    def add_values(self, values: Tensor) -> "ValueStatistics":
        """Add float32 values, and return the statistics of them alone."""
        added = summarize_map(values)
        self.merge_counts(added)
        return added

    def merge_counts(self, other: "ValueStatistics") -> None:
        """Add the statistics of other values."""
        self.count += other.count
        self.clipped += other.clipped
        self.nan_count += other.nan_count
        self.lossless += other.lossless
        self.decoded_checksum += other.decoded_checksum
        self.total += other.total
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)

    def to_attributes(self) -> dict[str, Any]:
        """Return the attributes of a dataset; without a finite value it has no extremes."""
        attributes: dict[str, Any] = {
            "clipped_fraction": self.clipped_fraction,
            "nan_count": self.nan_count,
        }
        if self.lossless:
            attributes["lossless_count"] = self.lossless
        if self.decoded_checksum:
            attributes["decoded_checksum"] = self.decoded_checksum % 2**32
        if finite := self.count - self.nan_count:
            attributes |= {"min": self.low, "max": self.high, "absmean": self.total / finite}
        return attributes


def summarize_map(values: Tensor) -> ValueStatistics:
    """Return the statistics of float32 values, of which none is clipped yet."""
    summary = summarize_values(values) if kernels.choose_backend() == "numba" else None
    summary = summary or _summarize_values(values)
    if summary is None:
        return _summarize_finite(values)
    low, high, total = summary
    return ValueStatistics(values.numel(), total=total, low=low, high=high)


def _summarize_values(values: Tensor) -> tuple[float, float, float] | None:
    """Return the minimum, maximum and sum of absolute values, or None if not all are finite."""
    low, high = (float(v) for v in torch.aminmax(values))
    if not np.isfinite([low, high]).all():
        return None
    return low, high, cv2.norm(values.numpy().reshape(1, -1), cv2.NORM_L1)


def _summarize_finite(values: Tensor) -> ValueStatistics:
    """Return the statistics of the finite values among these."""
    finite = values[values.isfinite()]
    statistics = ValueStatistics(values.numel(), nan_count=values.numel() - finite.numel())
    if finite.numel():
        statistics.low, statistics.high = float(finite.min()), float(finite.max())
        statistics.total = float(finite.abs().sum(dtype=torch.float64))
    return statistics


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
    added = statistics.add_values(values)
    raw = np.empty(values.shape, encoding.dtype) if out is None else out
    if encoding.dtype in ("f4", "f2"):
        if added.low < encoding.low or added.high > encoding.high:
            statistics.clipped += _count_clipped(values, encoding)
            # Infinity is no large value: it stays what it is, and is counted as such.
            values = values.where(values.isinf(), values.clamp(encoding.low, encoding.high))
    else:
        _check_storable(added, encoding)
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
        - columns: ``(B, 5)`` minimum, maximum and sum of the absolute values of the finite values,
          number of clipped values, number of NaN and infinite values
    """
    # No branch here may depend on a value: reading one would wait for the device. So everything
    # is clamped, and `split_statistics` looks for NaN later.
    flat = values.flatten(1)
    finite = flat.isfinite()
    scaled = values
    if encoding.dtype not in ("f4", "f2"):
        scaled = torch.round((values - encoding.offset) / encoding.scale)
    beyond = ((scaled < encoding.low) | (scaled > encoding.high)).flatten(1) & finite
    columns = (
        flat.where(finite, torch.inf).amin(1),
        flat.where(finite, -torch.inf).amax(1),
        flat.where(finite, 0).abs().sum(1),
        beyond.sum(1),
        (~finite).sum(1),
    )
    # Infinity is no large value: it stays what it is, and is counted as such.
    clamped = scaled.where(scaled.isinf(), scaled.clamp(encoding.low, encoding.high))
    raw = clamped.to(RAW_DTYPES[encoding.dtype])
    # MPS has no float64.
    sum_dtype = torch.float32 if values.device.type == "mps" else torch.float64
    return raw, torch.stack([number.to(sum_dtype) for number in columns], dim=1)


def split_statistics(table: Tensor, count: int, encoding: Encoding) -> list[ValueStatistics]:
    """Split the columns of `encode_on_device` into statistics of maps of `count` values each."""
    statistics = []
    for low, high, total, clipped, nan_count in table.tolist():
        statistics.append(
            ValueStatistics(count, int(clipped), total, low, high, nan_count=int(nan_count))
        )
        if encoding.dtype not in ("f4", "f2"):
            _check_storable(statistics[-1], encoding)
    return statistics


def _count_clipped(values: Tensor, encoding: Encoding) -> int:
    beyond = (values < encoding.low) | (values > encoding.high)
    return int((beyond & values.isfinite()).sum())


def _check_storable(statistics: ValueStatistics, encoding: Encoding) -> None:
    if statistics.nan_count:
        raise InputError(
            f"NaN or infinity cannot be stored as {encoding.dtype_name} "
            f"({statistics.nan_count} of {statistics.count} values of a map): use dtype float16"
        )


def decode_maps(raw: NDArray[Any], *, scale: float, offset: float) -> NDArray[np.float32]:
    """Decode raw numbers to float32 values."""
    values = raw.astype(np.float32)
    return values if scale == 1 and offset == 0 else values * np.float32(scale) + np.float32(offset)

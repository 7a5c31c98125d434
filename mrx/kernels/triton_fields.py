# mypy: ignore-errors
"""Memory access shared by the Triton kernels of TV-L1 flow.

A program of a kernel works on a block of pixels of one pair. A field is a plane of rows that lie
``pitch`` values apart, and the planes of a pair follow each other: ``(B, C, H, pitch)``. A field
may be stored in half precision; registers always hold float32.
"""

import triton
import triton.language as tl

SCALE = tl.constexpr(2**24)
"""A squared change of 1, as the slots of `changes` store it."""

Tensor = tl.tensor
Tensors = tl.tuple


@triton.jit
def load_field(field: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
    """Load pixels of a plane as float32, 0 outside the mask."""
    return tl.load(field + offset, mask, 0.0).to(tl.float32)


@triton.jit
def load_two_fields(field: Tensor, plane: Tensor, offset: Tensor, mask: Tensor) -> Tensors:
    """Load the same pixels of two consecutive planes."""
    return load_field(field, offset, mask), load_field(field + plane, offset, mask)


@triton.jit
def locate_pixels(rows: tl.constexpr, columns: tl.constexpr, overlap: tl.constexpr) -> Tensors:
    """Return the coordinates y and x of this program's pixels."""
    y = tl.program_id(1) * (rows - overlap) + tl.arange(0, rows)[:, None]
    x = tl.program_id(0) * (columns - overlap) + tl.arange(0, columns)[None, :]
    return y, x


@triton.jit
def locate_offsets(size: Tensors, y: Tensor, x: Tensor) -> Tensors:
    """Return the length of a plane, the offsets of the pixels in it, and the mask of the image."""
    height, width, pitch = size
    return height * pitch, y * pitch + x, (y < height) & (x < width)


@triton.jit
def read_standing(
    changes: Tensor, pair: Tensor, pairs: Tensor, launch: Tensor, limit: Tensor
) -> Tensors:
    """Tell if a pair still moves, and if the previous launch brought it to rest."""
    last = tl.load(changes + launch * pairs + pair)
    earlier = tl.load(changes + tl.maximum(launch - 1, 0) * pairs + pair)
    return last > limit, (last <= limit) & (earlier > limit)

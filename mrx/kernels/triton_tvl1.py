# mypy: ignore-errors
"""The iterations of TV-L1 flow in Triton; `mrx.kernels.tvl1_launch` imports them when needed.

A pair that has come to rest is left alone. Each launch adds a pair's squared change to a slot of
its own, and the next launch reads that slot. A launch that does nothing leaves its slot at 0, so a
pair stays at rest. The fields lie in two sets of buffers that take turns: the first launch after a
pair's end copies its result to the other set, and from then on both sets hold the result.
"""

import triton
import triton.language as tl

from mrx.kernels.triton_fields import (
    SCALE,
    Tensor,
    Tensors,
    load_field,
    load_two_fields,
    locate_offsets,
    locate_pixels,
    read_standing,
)


@triton.jit
def _load_state(state: Tensors, plane: Tensor, offset: Tensor, mask: Tensor) -> Tensors:
    u1, u2 = load_two_fields(state[0], plane, offset, mask)
    p11, p12 = load_two_fields(state[1], plane, offset, mask)
    p21, p22 = load_two_fields(state[1] + 2 * plane, plane, offset, mask)
    return u1, u2, p11, p12, p21, p22


@triton.jit
def _store_state(
    state: Tensors, plane: Tensor, offset: Tensor, mask: Tensor, values: Tensors
) -> None:
    for i in tl.static_range(2):
        tl.store(state[0] + i * plane + offset, values[i], mask)
    for i in tl.static_range(4):
        tl.store(state[1] + i * plane + offset, values[2 + i], mask)


@triton.jit
def _report_change(changes: Tensor, launch: Tensor, change: Tensor) -> None:
    """Add the squared changes of this program's pixels to the slot of this launch."""
    # Sums of integers do not depend on their order, so runs are equal to the bit.
    total = tl.sum(tl.sum(change, 1), 0)
    slot = (launch + 1) * tl.num_programs(2) + tl.program_id(2)
    tl.atomic_add(changes + slot, (total * SCALE).to(tl.int64), sem="relaxed")


@triton.jit
def _invert_square(gx: Tensor, gy: Tensor, guard: Tensor) -> Tensor:
    """Invert the squared gradient; 0 where it is at most `guard`."""
    square = gx * gx + gy * gy
    return tl.where(square <= guard, 0.0, 1.0 / square)


@triton.jit
def _step_primal(u1: Tensor, u2: Tensor, terms: Tensors, inverse: Tensor, bound: Tensor) -> Tensors:
    """Step along the gradient to where the residual is 0, or as far as the bound allows."""
    gx, gy, rest = terms
    residual = rest + gx * u1 + gy * u2
    step = tl.minimum(tl.maximum(-residual * inverse, -bound), bound)
    return u1 + step * gx, u2 + step * gy


@triton.jit
def _step_dual(across: Tensor, down: Tensor, slope: Tensor, fall: Tensor, rate: Tensor) -> Tensors:
    """Update the dual of one displacement from its slopes to the right and downwards."""
    shrink = 1.0 / (1.0 + rate * tl.sqrt(slope * slope + fall * fall))
    return (across + rate * slope) * shrink, (down + rate * fall) * shrink


@triton.jit
def _load_divergence(
    dual: Tensor, offset: Tensor, plane: Tensor, pitch: Tensor, masks: Tensors
) -> Tensor:
    """Load the divergence of a dual field by backward differences.

    `masks` tells for each pixel if it exists, if its left neighbor does, and if the one above does.
    """
    across = load_field(dual, offset, masks[0]) - load_field(dual, offset - 1, masks[1])
    dual += plane
    return across + load_field(dual, offset, masks[0]) - load_field(dual, offset - pitch, masks[2])


@triton.jit
def _move_pixels(fields: Tensors, y: Tensor, x: Tensor, size: Tensors, numbers: Tensors) -> Tensors:
    """Return the new and the old displacement at (y, x)."""
    state, terms, _ = fields
    bound, theta, _, guard = numbers
    plane, offset, mask = locate_offsets(size, y, x)
    masks = (mask, mask & (x > 0), mask & (y > 0))
    u1, u2 = load_two_fields(state[0], plane, offset, mask)
    gx, gy = load_two_fields(terms[0], plane, offset, mask)
    rest = load_field(terms[1], offset, mask)
    v1, v2 = _step_primal(u1, u2, (gx, gy, rest), _invert_square(gx, gy, guard), bound)
    v1 += theta * _load_divergence(state[1], offset, plane, size[2], masks)
    v2 += theta * _load_divergence(state[1] + 2 * plane, offset, plane, size[2], masks)
    return v1, v2, u1, u2


@triton.jit
def _iterate_pixels(
    fields: Tensors, y: Tensor, x: Tensor, size: Tensors, numbers: Tensors
) -> Tensor:
    """Iterate once; return the squared change of each pixel."""
    state, _, new = fields
    height, width, _ = size
    rate = numbers[2]
    plane, offset, mask = locate_offsets(size, y, x)
    # Programs exchange nothing: each recomputes the displacements to the right and below from the
    # old state, which the dual step needs.
    v1, v2, u1, u2 = _move_pixels(fields, y, x, size, numbers)
    right1, right2, _, _ = _move_pixels(fields, y, x + 1, size, numbers)
    below1, below2, _, _ = _move_pixels(fields, y + 1, x, size, numbers)
    inner, upper = x < width - 1, y < height - 1
    slope1, fall1 = tl.where(inner, right1 - v1, 0.0), tl.where(upper, below1 - v1, 0.0)
    slope2, fall2 = tl.where(inner, right2 - v2, 0.0), tl.where(upper, below2 - v2, 0.0)
    p11, p12 = load_two_fields(state[1], plane, offset, mask)
    p11, p12 = _step_dual(p11, p12, slope1, fall1, rate)
    p21, p22 = load_two_fields(state[1] + 2 * plane, plane, offset, mask)
    p21, p22 = _step_dual(p21, p22, slope2, fall2, rate)
    _store_state(new, plane, offset, mask, (v1, v2, p11, p12, p21, p22))
    return tl.where(mask, (v1 - u1) * (v1 - u1) + (v2 - u2) * (v2 - u2), 0.0)


@triton.jit
def _iterate_tile(
    fields: Tensors, y: Tensor, x: Tensor, size: Tensors, numbers: Tensors, iterations: tl.constexpr
) -> Tensor:
    """Iterate on a tile in registers; return the squared changes of the last iteration.

    Pixels beyond the tile repeat its edge. Each iteration therefore spoils one more ring of pixels
    at the sides that are not a border of the image; the spoiled rim is not stored.
    """
    rows: tl.constexpr = y.shape[0]
    columns: tl.constexpr = x.shape[1]
    state, terms, new = fields
    height, width, _ = size
    bound, theta, rate, guard = numbers
    plane, offset, mask = locate_offsets(size, y, x)
    u1, u2, p11, p12, p21, p22 = _load_state(state, plane, offset, mask)
    gx, gy = load_two_fields(terms[0], plane, offset, mask)
    data_terms = (gx, gy, load_field(terms[1], offset, mask))
    inverse = _invert_square(gx, gy, guard)
    zero_grid = tl.zeros((rows, columns), tl.int32)
    iy, ix = tl.arange(0, rows)[:, None] + zero_grid, tl.arange(0, columns)[None, :] + zero_grid
    left, right = tl.maximum(ix - 1, 0), tl.minimum(ix + 1, columns - 1)
    above, below = tl.maximum(iy - 1, 0), tl.minimum(iy + 1, rows - 1)
    change = tl.zeros((rows, columns), tl.float32)
    for _ in range(iterations):
        v1, v2 = _step_primal(u1, u2, data_terms, inverse, bound)
        v1 += theta * (p11 - tl.where(x > 0, tl.gather(p11, left, 1), 0.0))
        v1 += theta * (p12 - tl.where(y > 0, tl.gather(p12, above, 0), 0.0))
        v2 += theta * (p21 - tl.where(x > 0, tl.gather(p21, left, 1), 0.0))
        v2 += theta * (p22 - tl.where(y > 0, tl.gather(p22, above, 0), 0.0))
        change = (v1 - u1) * (v1 - u1) + (v2 - u2) * (v2 - u2)
        u1, u2 = v1, v2
        slope = tl.where(x < width - 1, tl.gather(u1, right, 1) - u1, 0.0)
        fall = tl.where(y < height - 1, tl.gather(u1, below, 0) - u1, 0.0)
        p11, p12 = _step_dual(p11, p12, slope, fall, rate)
        slope = tl.where(x < width - 1, tl.gather(u2, right, 1) - u2, 0.0)
        fall = tl.where(y < height - 1, tl.gather(u2, below, 0) - u2, 0.0)
        p21, p22 = _step_dual(p21, p22, slope, fall, rate)
    mask &= _mask_rim(y, iy, height, rows, iterations) & _mask_rim(
        x, ix, width, columns, iterations
    )
    _store_state(new, plane, offset, mask, (u1, u2, p11, p12, p21, p22))
    return tl.where(mask, change, 0.0)


@triton.jit
def _mask_rim(
    place: Tensor, i: Tensor, end: Tensor, length: tl.constexpr, rim: tl.constexpr
) -> Tensor:
    """Mask the pixels along an axis that are right: all but the rim, which counts at the border."""
    # Compare tensors only: the interpreter of Triton 3.9 refuses masks that mix in scalars.
    return ((i >= rim) | (place == i)) & ((i < length - rim) | (place - i + length >= end))


@triton.jit(do_not_specialize=["launch", "limit", "height"])
def iterate_kernel(
    flow: Tensor,
    dual: Tensor,
    gradient: Tensor,
    rest: Tensor,
    new_flow: Tensor,
    new_dual: Tensor,
    changes: Tensor,
    launch: tl.int32,
    limit: tl.int64,
    height: Tensor,
    width: Tensor,
    pitch: Tensor,
    bound: Tensor,
    theta: Tensor,
    rate: Tensor,
    guard: Tensor,
    rows: tl.constexpr,
    columns: tl.constexpr,
    iterations: tl.constexpr,
) -> None:
    """Iterate `iterations` times on tiles, or once without tiles if it is 0."""
    pair = tl.program_id(2).to(tl.int64)
    first = pair * height * pitch
    state, new = (flow + 2 * first, dual + 4 * first), (new_flow + 2 * first, new_dual + 4 * first)
    terms = (gradient + 2 * first, rest + first)
    size, numbers = (height, width, pitch), (bound, theta, rate, guard)
    y, x = locate_pixels(rows, columns, 2 * iterations)
    is_moving, just_ended = True, False  # without `changes` no pair comes to rest
    if changes is not None:
        is_moving, just_ended = read_standing(changes, pair, tl.num_programs(2), launch, limit)
    if is_moving:
        if iterations == 0:
            change = _iterate_pixels((state, terms, new), y, x, size, numbers)
        else:
            change = _iterate_tile((state, terms, new), y, x, size, numbers, iterations)
        if changes is not None:
            _report_change(changes, launch, change)
    elif just_ended:
        # Later launches swap the two sets of buffers but skip this pair: both need its result.
        plane, offset, mask = locate_offsets(size, y, x)
        _store_state(new, plane, offset, mask, _load_state(state, plane, offset, mask))

# mypy: ignore-errors
"""The kernels of TV-L1 flow for GPUs, in Triton; `mrx.kernels.tvl1_gpu` imports them when needed.

A program of a kernel works on a block of pixels of one pair. A field is a plane of rows that lie
``pitch`` values apart, and the planes of a pair follow each other: ``(B, C, H, pitch)``. It may be
stored in half precision; registers always hold float32.

A pair that has come to rest is left alone. Each launch adds a pair's squared change to a slot of
its own, as an integer, since sums of integers do not depend on their order. The next launch reads
that slot, and one that does nothing leaves its own at 0, so a pair stays at rest. The fields lie in
two sets of buffers that take turns: the first launch after a pair's end copies its result to the
other set, and from then on it does not matter in which one the pair came to rest.
"""

import triton
import triton.language as tl

SCALE = tl.constexpr(2**24)
"""What a squared change of one is in a slot."""

_MAX_SHIFT = tl.constexpr(1e6)  # a pixel displaced so far has left any frame


def _parse_network(text: str) -> tl.constexpr:
    places = [int(word) for word in text.split()]
    return tl.constexpr(tuple(zip(places[::2], places[1::2], strict=True)))


# Paeth's and Devillard's exchanges, each of which puts the lesser value first. After them the
# middle place holds the median; what they do for other places the compiler leaves out, which
# leaves 30 and 174 minima and maxima.
_NETWORK_OF_9 = _parse_network(
    "1 2 4 5 7 8 0 1 3 4 6 7 1 2 4 5 7 8 0 3 5 8 4 7 3 6 1 4 2 5 4 7 2 4 4 6 2 4"
)
_NETWORK_OF_25 = _parse_network(
    "0 1 3 4 2 4 2 3 6 7 5 7 5 6 9 10 8 10 8 9 12 13 11 13 11 12 15 16 14 16 14 15 18 19 17 19 "
    "17 18 21 22 20 22 20 21 23 24 2 5 3 6 0 6 0 3 4 7 1 7 1 4 11 14 8 14 8 11 12 15 9 15 9 12 "
    "13 16 10 16 10 13 20 23 17 23 17 20 21 24 18 24 18 21 19 22 8 17 9 18 0 18 0 9 10 19 1 19 "
    "1 10 11 20 2 20 2 11 12 21 3 21 3 12 13 22 4 22 4 13 14 23 5 23 5 14 15 24 6 24 6 15 7 16 "
    "7 19 13 21 15 23 7 13 7 15 1 9 3 11 5 17 11 17 9 17 4 10 6 12 7 14 4 6 4 7 12 14 10 14 6 7 "
    "10 12 6 10 6 17 12 17 7 17 7 10 12 18 7 12 10 18 12 20 10 20 10 12"
)

Tensor = tl.tensor
Tensors = tl.tuple


@triton.jit
def _load_field(field: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
    return tl.load(field + offset, mask, 0.0).to(tl.float32)


@triton.jit
def _load_two_fields(field: Tensor, plane: Tensor, offset: Tensor, mask: Tensor) -> Tensors:
    return _load_field(field, offset, mask), _load_field(field + plane, offset, mask)


@triton.jit
def _load_state(state: Tensors, plane: Tensor, offset: Tensor, mask: Tensor) -> Tensors:
    u1, u2 = _load_two_fields(state[0], plane, offset, mask)
    p11, p12 = _load_two_fields(state[1], plane, offset, mask)
    p21, p22 = _load_two_fields(state[1] + 2 * plane, plane, offset, mask)
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
def _locate_pixels(rows: tl.constexpr, columns: tl.constexpr, overlap: tl.constexpr) -> Tensors:
    """Where the pixels of a program lie: y and x."""
    y = tl.program_id(1) * (rows - overlap) + tl.arange(0, rows)[:, None]
    x = tl.program_id(0) * (columns - overlap) + tl.arange(0, columns)[None, :]
    return y, x


@triton.jit
def _locate_offsets(size: Tensors, y: Tensor, x: Tensor) -> Tensors:
    """How long a plane is, where in it the pixels lie, and which of them the image has."""
    height, width, pitch = size
    return height * pitch, y * pitch + x, (y < height) & (x < width)


@triton.jit
def _read_standing(
    changes: Tensor, pair: Tensor, pairs: Tensor, launch: Tensor, limit: Tensor
) -> Tensors:
    """Whether a pair still moves, and whether the launch just before has brought it to rest."""
    last = tl.load(changes + launch * pairs + pair)
    earlier = tl.load(changes + tl.maximum(launch - 1, 0) * pairs + pair)
    return last > limit, (last <= limit) & (earlier > limit)


@triton.jit
def _report_change(changes: Tensor, launch: Tensor, change: Tensor) -> None:
    """Add what the pixels of a program have changed to the slot of this launch."""
    total = tl.sum(tl.sum(change, 1), 0)
    slot = (launch + 1) * tl.num_programs(2) + tl.program_id(2)
    tl.atomic_add(changes + slot, (total * SCALE).to(tl.int64), sem="relaxed")


@triton.jit
def _invert_square(gx: Tensor, gy: Tensor, guard: Tensor) -> Tensor:
    """Of the square of the gradient; 0 where there is none."""
    square = gx * gx + gy * gy
    return tl.where(square <= guard, 0.0, 1.0 / square)


@triton.jit
def _step_primal(u1: Tensor, u2: Tensor, terms: Tensors, inverse: Tensor, bound: Tensor) -> Tensors:
    """Along the gradient to where the residual is 0, or as far as the bound allows."""
    gx, gy, rest = terms
    residual = rest + gx * u1 + gy * u2
    step = tl.minimum(tl.maximum(-residual * inverse, -bound), bound)
    return u1 + step * gx, u2 + step * gy


@triton.jit
def _step_dual(across: Tensor, down: Tensor, slope: Tensor, fall: Tensor, rate: Tensor) -> Tensors:
    """The dual of one displacement, given the displacement's slopes to the right and downwards."""
    shrink = 1.0 / (1.0 + rate * tl.sqrt(slope * slope + fall * fall))
    return (across + rate * slope) * shrink, (down + rate * fall) * shrink


@triton.jit
def _load_divergence(
    dual: Tensor, offset: Tensor, plane: Tensor, pitch: Tensor, masks: Tensors
) -> Tensor:
    """By backward differences; `masks` says where there is a pixel, one to its left, one above."""
    across = _load_field(dual, offset, masks[0]) - _load_field(dual, offset - 1, masks[1])
    dual += plane
    return (
        across + _load_field(dual, offset, masks[0]) - _load_field(dual, offset - pitch, masks[2])
    )


@triton.jit
def _move_pixels(fields: Tensors, y: Tensor, x: Tensor, size: Tensors, numbers: Tensors) -> Tensors:
    """The new displacement at (y, x), and the old one."""
    state, terms, _ = fields
    bound, theta, _, guard = numbers
    plane, offset, mask = _locate_offsets(size, y, x)
    masks = (mask, mask & (x > 0), mask & (y > 0))
    u1, u2 = _load_two_fields(state[0], plane, offset, mask)
    gx, gy = _load_two_fields(terms[0], plane, offset, mask)
    rest = _load_field(terms[1], offset, mask)
    v1, v2 = _step_primal(u1, u2, (gx, gy, rest), _invert_square(gx, gy, guard), bound)
    v1 += theta * _load_divergence(state[1], offset, plane, size[2], masks)
    v2 += theta * _load_divergence(state[1] + 2 * plane, offset, plane, size[2], masks)
    return v1, v2, u1, u2


@triton.jit
def _iterate_pixels(
    fields: Tensors, y: Tensor, x: Tensor, size: Tensors, numbers: Tensors
) -> Tensor:
    """One iteration, and the squared change of each pixel.

    Programs exchange nothing: each makes the new displacements of its pixels, and of those to the
    right and below, from the old state.
    """
    state, _, new = fields
    height, width, _ = size
    rate = numbers[2]
    plane, offset, mask = _locate_offsets(size, y, x)
    v1, v2, u1, u2 = _move_pixels(fields, y, x, size, numbers)
    right1, right2, _, _ = _move_pixels(fields, y, x + 1, size, numbers)
    below1, below2, _, _ = _move_pixels(fields, y + 1, x, size, numbers)
    inner, upper = x < width - 1, y < height - 1
    slope1, fall1 = tl.where(inner, right1 - v1, 0.0), tl.where(upper, below1 - v1, 0.0)
    slope2, fall2 = tl.where(inner, right2 - v2, 0.0), tl.where(upper, below2 - v2, 0.0)
    p11, p12 = _load_two_fields(state[1], plane, offset, mask)
    p11, p12 = _step_dual(p11, p12, slope1, fall1, rate)
    p21, p22 = _load_two_fields(state[1] + 2 * plane, plane, offset, mask)
    p21, p22 = _step_dual(p21, p22, slope2, fall2, rate)
    _store_state(new, plane, offset, mask, (v1, v2, p11, p12, p21, p22))
    return tl.where(mask, (v1 - u1) * (v1 - u1) + (v2 - u2) * (v2 - u2), 0.0)


@triton.jit
def _iterate_tile(
    fields: Tensors, y: Tensor, x: Tensor, size: Tensors, numbers: Tensors, iterations: tl.constexpr
) -> Tensor:
    """Iterations on a tile in registers, and the squared change of each pixel in the last one.

    What lies beyond the tile is taken for what lies at its edge. So with each iteration one more
    ring of pixels is wrong at each side that is not a border of the image, and is not stored.
    """
    rows: tl.constexpr = y.shape[0]
    columns: tl.constexpr = x.shape[1]
    state, terms, new = fields
    height, width, _ = size
    bound, theta, rate, guard = numbers
    plane, offset, mask = _locate_offsets(size, y, x)
    u1, u2, p11, p12, p21, p22 = _load_state(state, plane, offset, mask)
    gx, gy = _load_two_fields(terms[0], plane, offset, mask)
    data_terms = (gx, gy, _load_field(terms[1], offset, mask))
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
    """Which pixels along an axis are right in this tile: its rim is not, but at the border."""
    # Tensors are compared only: the interpreter of Triton 3.9 refuses masks that mix in scalars.
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
    """Iterate: once where `iterations` is 0, else `iterations` times on tiles."""
    pair = tl.program_id(2).to(tl.int64)
    first = pair * height * pitch
    state, new = (flow + 2 * first, dual + 4 * first), (new_flow + 2 * first, new_dual + 4 * first)
    terms = (gradient + 2 * first, rest + first)
    size, numbers = (height, width, pitch), (bound, theta, rate, guard)
    y, x = _locate_pixels(rows, columns, 2 * iterations)
    is_moving, just_ended = True, False
    if changes is not None:
        is_moving, just_ended = _read_standing(changes, pair, tl.num_programs(2), launch, limit)
    if is_moving:
        if iterations == 0:
            change = _iterate_pixels((state, terms, new), y, x, size, numbers)
        else:
            change = _iterate_tile((state, terms, new), y, x, size, numbers, iterations)
        if changes is not None:
            _report_change(changes, launch, change)
    elif just_ended:
        plane, offset, mask = _locate_offsets(size, y, x)
        _store_state(new, plane, offset, mask, _load_state(state, plane, offset, mask))


@triton.jit
def _weigh_taps(
    place: Tensor, shift: Tensor, end: Tensor, cubic: Tensor, zero: tl.constexpr
) -> Tensors:
    """Four pixels along an axis, and their weights by Keys' kernel: around a displaced place.

    Beyond the frame it is the edge that is taken, with a weight of 0 where `zero` says so.
    """
    whole_pixels = tl.floor(shift)
    near = place + tl.minimum(tl.maximum(whole_pixels, -_MAX_SHIFT), _MAX_SHIFT).to(tl.int32)
    fraction = shift - whole_pixels
    remainder = 1.0 - fraction
    first, fourth = (
        cubic * fraction * remainder * remainder,
        cubic * fraction * fraction * remainder,
    )
    second = ((cubic + 2.0) * fraction - (cubic + 3.0)) * fraction * fraction + 1.0
    weights = (first, second, 1.0 - first - second - fourth, fourth)
    taps, shares = (), ()
    for i in tl.static_range(4):
        tap = near + (i - 1)
        taps += (tl.minimum(tl.maximum(tap, 0), end - 1),)
        shares += (tl.where((tap >= 0) & (tap < end), weights[i], 0.0) if zero else weights[i],)
    return taps, shares


@triton.jit
def _sample_image(image: Tensor, pitch: Tensor, rows: Tensors, columns: Tensors) -> Tensor:
    total = 0.0
    for j in tl.static_range(4):
        line = image + rows[0][j] * pitch
        across = 0.0
        for i in tl.static_range(4):
            across += columns[1][i] * tl.load(line + columns[0][i])
        total += rows[1][j] * across
    return total


@triton.jit(do_not_specialize=["height"])
def warp_kernel(
    after: Tensor,
    before: Tensor,
    flow: Tensor,
    gradient: Tensor,
    rest: Tensor,
    height: Tensor,
    width: Tensor,
    pitch: Tensor,
    cubic: Tensor,
    zero: tl.constexpr,
    mixed: tl.constexpr,
    masked: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """The data term around a displacement: the later image and its gradient, sampled there.

    `after` has three planes, the image and its gradient; so has `before` where the gradients are
    mixed, else one.
    """
    pair = tl.program_id(2).to(tl.int64) * height * pitch
    after, before = after + 3 * pair, before + (3 if mixed else 1) * pair
    y, x = _locate_pixels(rows, columns, 0)
    plane, offset, mask = _locate_offsets((height, width, pitch), y, x)
    u1, u2 = _load_two_fields(flow + 2 * pair, plane, offset, mask)
    across, down = _weigh_taps(x, u1, width, cubic, zero), _weigh_taps(y, u2, height, cubic, zero)
    image = _sample_image(after, pitch, down, across)
    gx = _sample_image(after + plane, pitch, down, across)
    gy = _sample_image(after + 2 * plane, pitch, down, across)
    if mixed:
        first, second = _load_two_fields(before + plane, plane, offset, mask)
        gx, gy = 0.5 * (gx + first), 0.5 * (gy + second)
    if masked:
        inside = (u1 >= -x) & (u1 <= width - 1 - x) & (u2 >= -y) & (u2 <= height - 1 - y)
        gx, gy = tl.where(inside, gx, 0.0), tl.where(inside, gy, 0.0)
    constant = image - gx * u1 - gy * u2 - _load_field(before, offset, mask)
    tl.store(gradient + 2 * pair + offset, gx, mask)
    tl.store(gradient + 2 * pair + plane + offset, gy, mask)
    tl.store(rest + pair + offset, constant, mask)


@triton.jit(do_not_specialize=["launch", "limit", "height"])
def median_kernel(
    flow: Tensor,
    new_flow: Tensor,
    changes: Tensor,
    launch: tl.int32,
    limit: tl.int64,
    height: Tensor,
    width: Tensor,
    pitch: Tensor,
    side: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """The median of a square of `side` pixels, the edge repeated; a pair at rest is copied."""
    field = tl.program_id(2).to(tl.int64)
    flow, new_flow = flow + field * height * pitch, new_flow + field * height * pitch
    y, x = _locate_pixels(rows, columns, 0)
    _, offset, mask = _locate_offsets((height, width, pitch), y, x)
    is_moving = True
    if changes is not None:
        is_moving, _ = _read_standing(changes, field // 2, tl.num_programs(2) // 2, launch, limit)
    if is_moving:
        network: tl.constexpr = _NETWORK_OF_9 if side == 3 else _NETWORK_OF_25
        values = ()
        for i in tl.static_range(side * side):
            row = tl.minimum(tl.maximum(y + (i // side - side // 2), 0), height - 1)
            column = tl.minimum(tl.maximum(x + (i % side - side // 2), 0), width - 1)
            values += (tl.load(flow + row * pitch + column),)
        for k in tl.static_range(19 if side == 3 else 99):
            values = _exchange_values(values, network[k][0], network[k][1])
        result = values[side * side // 2]
    else:
        result = tl.load(flow + offset, mask)
    tl.store(new_flow + offset, result, mask)


@triton.jit
def _exchange_values(values: Tensors, i: tl.constexpr, j: tl.constexpr) -> Tensors:
    """The same values, the lesser of two at place i and the greater at j > i."""
    low, high = tl.minimum(values[i], values[j]), tl.maximum(values[i], values[j])
    return values[:i] + (low,) + values[i + 1 : j] + (high,) + values[j + 1 :]  # noqa: RUF005

# mypy: ignore-errors
"""The warp and the median of TV-L1 flow in Triton; `mrx.kernels.tvl1_launch` imports them."""

import triton
import triton.language as tl

from mrx.kernels.triton_fields import (
    Tensor,
    Tensors,
    load_field,
    load_two_fields,
    locate_offsets,
    locate_pixels,
    read_standing,
)

_MAX_SHIFT = tl.constexpr(1e6)  # a pixel displaced so far has left any frame


def _parse_network(text: str) -> tl.constexpr:
    # "1 2 4 5" -> ((1, 2), (4, 5))
    positions = [int(word) for word in text.split()]
    return tl.constexpr(tuple(zip(positions[::2], positions[1::2], strict=True)))


# Exchanges by Paeth and Devillard: each pair of positions puts the lesser value first, and in the
# end the middle position holds the median. The compiler drops what only other positions need,
# which leaves 30 and 174 minima and maxima.
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


@triton.jit
def _weigh_taps(
    place: Tensor, shift: Tensor, end: Tensor, cubic: Tensor, zero: tl.constexpr
) -> Tensors:
    """Return four pixels along an axis around a displaced position, with Keys' weights.

    Pixels beyond the frame repeat its edge; if `zero` is set, they weigh 0.
    """
    # Split the shift, not the sum: far from the origin a float32 position has too few digits.
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
    """Compute the data term around a displacement from the later image and its gradient there.

    `after` has three planes, the image and its gradient; `before` has the same three if the
    gradients are mixed, else the image alone.
    """
    pair = tl.program_id(2).to(tl.int64) * height * pitch
    after, before = after + 3 * pair, before + (3 if mixed else 1) * pair
    y, x = locate_pixels(rows, columns, 0)
    plane, offset, mask = locate_offsets((height, width, pitch), y, x)
    u1, u2 = load_two_fields(flow + 2 * pair, plane, offset, mask)
    across, down = _weigh_taps(x, u1, width, cubic, zero), _weigh_taps(y, u2, height, cubic, zero)
    image = _sample_image(after, pitch, down, across)
    gx = _sample_image(after + plane, pitch, down, across)
    gy = _sample_image(after + 2 * plane, pitch, down, across)
    if mixed:
        first, second = load_two_fields(before + plane, plane, offset, mask)
        gx, gy = 0.5 * (gx + first), 0.5 * (gy + second)
    if masked:
        inside = (u1 >= -x) & (u1 <= width - 1 - x) & (u2 >= -y) & (u2 <= height - 1 - y)
        gx, gy = tl.where(inside, gx, 0.0), tl.where(inside, gy, 0.0)
    constant = image - gx * u1 - gy * u2 - load_field(before, offset, mask)
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
    """Filter by the median of `side` x `side` pixels, the edge repeated; copy pairs at rest."""
    # A pair has two fields, the displacements along x and y, and one slot for both.
    field = tl.program_id(2).to(tl.int64)
    flow, new_flow = flow + field * height * pitch, new_flow + field * height * pitch
    y, x = locate_pixels(rows, columns, 0)
    _, offset, mask = locate_offsets((height, width, pitch), y, x)
    is_moving = True
    if changes is not None:
        is_moving, _ = read_standing(changes, field // 2, tl.num_programs(2) // 2, launch, limit)
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
    """Order two of the values: the lesser goes to position i, the greater to j > i."""
    # Triton has no starred items in tuples, hence the sums.
    low, high = tl.minimum(values[i], values[j]), tl.maximum(values[i], values[j])
    return values[:i] + (low,) + values[i + 1 : j] + (high,) + values[j + 1 :]  # noqa: RUF005

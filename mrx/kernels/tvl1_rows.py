"""The iterations of TV-L1 and the structure of an image, row by row for numba.

An iteration is one pass over the rows: the displacements of row y, then the dual fields of the row
above, which need both rows. Fields have margins: a row of zeros above, a column of zeros on the
left, and a column on the right that repeats the last displacement. Differences at the border then
need no case of their own.
"""

import functools
import math
from collections.abc import Callable

import numpy as np

from mrx.kernels import compile_function
from mrx.kernels.array_types import Floats

_ONE = np.float32(1)


def new_fields(count: int, height: int, width: int) -> Floats:
    """Allocate fields of zeros, with their margins."""
    return np.zeros((count, height + 1, width + 2), np.float32)


@functools.cache
def compile_iterations() -> Callable[..., bool]:
    """Compile the iterations of a round.

    The result takes ``(fields, term, count, depth, limit, theta, rate, tolerance)`` and returns
    False if it stopped early:

    - fields: ``(6, H + 1, W + 2)``: u1, u2, p11, p12, p21, p22, changed in place
    - term: ``(4, H, W)``: gradient x and y, offset and inverse of a `LinearResidual`
    - count: largest number of iterations
    - depth: iterations that share a pass over the rows; above 1, pass a negative tolerance
    - limit, theta, rate: as in `take_data_step` and `take_dual_step`
    - tolerance: stop once the squared changes sum up to no more than this; never if below 0
    """
    return compile_function(
        *(_iterate_rows, _move_row, _update_dual_row, _step_primal_row, _step_dual_row),
        warm_up=_try_iterations,
        compiler_name="compile_iterations",
    )


@functools.cache
def compile_structure() -> Callable[..., None]:
    """Compile `mrx.ops.texture.extract_structure`.

    The result takes ``(image, fields, weight, rounds)`` and writes to the first field:

    - image: ``(H, W)``, in -1..1
    - fields: ``(3, H + 1, W + 2)`` zeros, for the structure and its dual fields
    - weight: theta of the total variation
    - rounds: iterations of the dual fields
    """
    return compile_function(
        _extract_structure_rows,
        _smooth_row,
        _project_dual_row,
        warm_up=_try_structure,
        compiler_name="compile_structure",
    )


def _iterate_rows(
    fields: Floats,
    term: Floats,
    count: int,
    depth: int,
    limit: np.float32,
    theta: np.float32,
    rate: np.float32,
    tolerance: float,
) -> bool:
    height, width = term.shape[1], term.shape[2]
    num_done = 0
    while num_done < count:
        # Each wave is an iteration, a row behind the one before it, so that its rows are still in
        # the cache: depth 2 visits rows 0; 1, 0; 2, 1; 3, 2; ...
        waves = min(depth, count - num_done)
        # In float64: a float32 total of all rows would round small changes away.
        change = np.float64(0)
        for front in range(height + waves):
            for wave in range(max(0, front - height), min(waves, front + 1)):
                y = front - wave
                if y < height:
                    change += _move_row(fields, term, y, width, limit, theta)
                if y > 0:
                    _update_dual_row(fields, y - 1, height, width, rate)
        num_done += waves
        if change <= tolerance:
            return False
    return True


def _move_row(
    fields: Floats, term: Floats, y: int, w: int, limit: np.float32, theta: np.float32
) -> np.float32:
    """Update the displacements of row y; return the sum of their squared changes."""
    r = y + 1
    u1, u2 = fields[0, r], fields[1, r]
    change = _step_primal_row(
        u1[1 : w + 1],
        u2[1 : w + 1],
        term[0, y],
        term[1, y],
        term[2, y],
        term[3, y],
        fields[2, r, 1 : w + 1],
        fields[2, r, :w],
        fields[3, r, 1 : w + 1],
        fields[3, y, 1 : w + 1],
        fields[4, r, 1 : w + 1],
        fields[4, r, :w],
        fields[5, r, 1 : w + 1],
        fields[5, y, 1 : w + 1],
        limit,
        theta,
        w,
    )
    # The right margin repeats the last displacement: its forward difference is 0.
    u1[w + 1] = u1[w]
    u2[w + 1] = u2[w]
    return change


def _update_dual_row(fields: Floats, y: int, h: int, w: int, rate: np.float32) -> None:
    """Update the dual fields of row y; the last row is its own neighbor below."""
    r = y + 1  # row 0 is the margin
    below = min(r + 1, h)
    for i in range(2):
        u = fields[i]
        _step_dual_row(
            u[r, 1 : w + 1],
            u[r, 2 : w + 2],
            u[below, 1 : w + 1],
            fields[2 + 2 * i, r, 1 : w + 1],
            fields[3 + 2 * i, r, 1 : w + 1],
            rate,
            w,
        )


def _step_primal_row(
    u1: Floats,
    u2: Floats,
    gx: Floats,
    gy: Floats,
    rest: Floats,
    inverse: Floats,
    p11: Floats,
    p11_left: Floats,
    p12: Floats,
    p12_above: Floats,
    p21: Floats,
    p21_left: Floats,
    p22: Floats,
    p22_above: Floats,
    limit: np.float32,
    theta: np.float32,
    n: int,
) -> np.float32:
    # The sum of a row is float32 as its terms are, so that the loop has one width of vectors.
    change = np.float32(0)
    for x in range(n):
        # The move of `take_data_step`, then the divergence of the dual fields (backward
        # differences, which read the zero margins at the first row and column).
        a, b, i, j = u1[x], u2[x], gx[x], gy[x]
        residual = rest[x] + i * a + j * b
        step = min(limit, max(-limit, -residual * inverse[x]))
        c = a + step * i + theta * (p11[x] - p11_left[x] + p12[x] - p12_above[x])
        d = b + step * j + theta * (p21[x] - p21_left[x] + p22[x] - p22_above[x])
        u1[x] = c
        u2[x] = d
        change += (c - a) * (c - a) + (d - b) * (d - b)
    return change


def _step_dual_row(
    u: Floats,
    right: Floats,
    below: Floats,
    across: Floats,
    down: Floats,
    rate: np.float32,
    n: int,
) -> None:
    for x in range(n):
        # Forward differences, and the fixed-point step of `take_dual_step`.
        i, j = right[x] - u[x], below[x] - u[x]
        shrink = _ONE / (_ONE + rate * math.sqrt(i * i + j * j))
        across[x] = (across[x] + rate * i) * shrink
        down[x] = (down[x] + rate * j) * shrink


def _extract_structure_rows(image: Floats, fields: Floats, weight: np.float32, rounds: int) -> None:
    height, width = image.shape
    rate = np.float32(0.25) / weight
    for i in range(rounds + 1):  # the last one only makes the structure
        for y in range(height + 1):
            if y < height:
                _smooth_row(
                    image[y],
                    fields[1, y + 1, 1 : width + 1],
                    fields[1, y + 1, :width],
                    fields[2, y + 1, 1 : width + 1],
                    fields[2, y, 1 : width + 1],
                    weight,
                    fields[0, y + 1, 1 : width + 1],
                )
                fields[0, y + 1, width + 1] = fields[0, y + 1, width]
            if y > 0 and i < rounds:
                _project_dual_row(
                    fields[0, y, 1 : width + 1],
                    fields[0, y, 2 : width + 2],
                    fields[0, min(y + 1, height), 1 : width + 1],
                    fields[1, y, 1 : width + 1],
                    fields[2, y, 1 : width + 1],
                    rate,
                )


def _smooth_row(
    image: Floats,
    across: Floats,
    left: Floats,
    down: Floats,
    above: Floats,
    weight: np.float32,
    out: Floats,
) -> None:
    for x in range(len(out)):
        out[x] = image[x] + weight * (across[x] - left[x] + down[x] - above[x])


def _project_dual_row(
    u: Floats, right: Floats, below: Floats, across: Floats, down: Floats, rate: np.float32
) -> None:
    for x in range(len(u)):
        i = across[x] + rate * (right[x] - u[x])
        j = down[x] + rate * (below[x] - u[x])
        length = math.sqrt(i * i + j * j)
        shrink = _ONE / max(_ONE, np.float32(length))
        across[x] = i * shrink
        down[x] = j * shrink


def _try_iterations(run: Callable[..., bool]) -> None:
    one = np.float32(1)
    run(new_fields(6, 3, 4), np.zeros((4, 3, 4), np.float32), 1, 1, one, one, one, 0.0)


def _try_structure(run: Callable[..., None]) -> None:
    run(np.zeros((3, 4), np.float32), new_fields(3, 3, 4), _ONE, 1)

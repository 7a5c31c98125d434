"""The warp of TV-L1 and the gradients that it samples, row by row for numba.

A row takes three passes. The first and the last are vectorized; the second only gathers pixels.
"""

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mrx.kernels import compile_function
from mrx.kernels.array_types import Floats
from mrx.ops.tvl1_solver import GRADIENT_GUARD

PAD = 5
"""Width of the border around the planes that the warp reads, in pixels."""

_ZERO, _ONE, _TWO, _THREE = (np.float32(i) for i in range(4))
_GUARD = np.float32(GRADIENT_GUARD)


@functools.cache
def compile_warp() -> Callable[..., None]:
    """Compile `mrx.ops.tvl1_solver.linearize_residual`.

    The result takes ``(planes, before, slopes, fields, term, a, mix, masked, rows, places)``:

    - planes: ``(H + 10) * (W + 10) * 4``: the later image and its gradient, with their border
    - before: ``(H, W)``, the earlier image
    - slopes: ``(2, H, W)``, its gradient
    - fields: as for `mrx.kernels.tvl1_rows.compile_iterations`
    - term: written, as for `mrx.kernels.tvl1_rows.compile_iterations`
    - a, masked: `cubic` and `masked` of `SolverRules`
    - mix: share of the earlier image's gradient
    - rows, places: scratch memory, ``(12, W)`` and ``(W,)``
    """
    return compile_function(
        *(_warp_image_rows, _place_taps, _weigh_cubic_taps, _gather_taps, _complete_data_row),
        warm_up=_try_warp,
        compiler_name="compile_warp",
    )


@functools.cache
def compile_gradients() -> Callable[..., None]:
    """Compile the gradient of an image, the edge repeated.

    The result takes ``(image, near, far, slopes)``:

    - image: ``(H, W)``
    - near, far: weights of the neighbors 1 and 2 pixels away
    - slopes: ``(2, H, W)``, written
    """
    return compile_function(
        _differentiate_rows,
        _difference_row,
        warm_up=_try_gradients,
        compiler_name="compile_gradients",
    )


def _warp_image_rows(
    planes: Floats,
    before: Floats,
    slopes: Floats,
    fields: Floats,
    term: Floats,
    a: np.float32,
    mix: np.float32,
    masked: bool,
    rows: Floats,
    places: NDArray[np.int32],
) -> None:
    # Of `rows`, 0 to 3 and 4 to 7 hold the weights along x and y, 8 the validity, and 9 to 11 the
    # sampled image and gradient.
    height, width = before.shape
    pitch = 4 * (width + 2 * PAD)
    for y in range(height):
        u, v = fields[0, y + 1, 1 : width + 1], fields[1, y + 1, 1 : width + 1]
        _place_taps(u, v, y, height, a, masked, rows, places, pitch)
        _gather_taps(planes, pitch, places, rows, rows[9], rows[10], rows[11])
        _complete_data_row(
            rows[9],
            rows[10],
            rows[11],
            rows[8],
            u,
            v,
            slopes[0, y],
            slopes[1, y],
            mix,
            before[y],
            term[0, y],
            term[1, y],
            term[2, y],
            term[3, y],
        )


def _place_taps(
    u: Floats,
    v: Floats,
    y: int,
    height: int,
    a: np.float32,
    masked: bool,
    rows: Floats,
    places: NDArray[np.int32],
    pitch: int,
) -> None:
    """Locate each pixel's taps, weigh them, and mark where the data term is valid."""
    width = len(u)
    w0, w1, w2, w3 = rows[0], rows[1], rows[2], rows[3]
    h0, h1, h2, h3 = rows[4], rows[5], rows[6], rows[7]
    valid = rows[8]
    right, bottom = np.float32(width - 1), np.float32(height - 1)
    for x in range(width):
        column, row = np.float32(x) + u[x], np.float32(y) + v[x]
        inside = column >= _ZERO and row >= _ZERO and column <= right and row <= bottom
        valid[x] = _ONE if inside or not masked else _ZERO
        # A displaced pixel farther out reads border only, and PAD holds the taps at 3 pixels out.
        column = min(max(column, -_THREE), right + _THREE)
        row = min(max(row, -_THREE), bottom + _THREE)
        left, top = np.floor(column), np.floor(row)
        w0[x], w1[x], w2[x], w3[x] = _weigh_cubic_taps(column - left, a)
        h0[x], h1[x], h2[x], h3[x] = _weigh_cubic_taps(row - top, a)
        first = np.int32(left) + np.int32(PAD - 1), np.int32(top) + np.int32(PAD - 1)
        places[x] = first[1] * np.int32(pitch) + first[0] * np.int32(4)


def _weigh_cubic_taps(
    t: np.float32, a: np.float32
) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Weigh four taps like `mrx.ops.warp.cubic_weights`."""
    s, n = _ONE - t, t + _ONE
    first = ((a * n - np.float32(5) * a) * n + np.float32(8) * a) * n - np.float32(4) * a
    second = ((a + _TWO) * t - (a + _THREE)) * t * t + _ONE
    third = ((a + _TWO) * s - (a + _THREE)) * s * s + _ONE
    return first, second, third, _ONE - first - second - third


def _gather_taps(
    planes: Floats,
    pitch: int,
    places: NDArray[np.int32],
    rows: Floats,
    image: Floats,
    across: Floats,
    down: Floats,
) -> None:
    w0, w1, w2, w3 = rows[0], rows[1], rows[2], rows[3]
    h0, h1, h2, h3 = rows[4], rows[5], rows[6], rows[7]
    for x in range(len(image)):
        # Unsigned positions: a signed index is tested for wrapping around.
        place = np.uintp(places[x])
        columns = w0[x], w1[x], w2[x], w3[x]
        heights = h0[x], h1[x], h2[x], h3[x]
        s0, s1, s2 = _ZERO, _ZERO, _ZERO
        for j in range(4):
            r0, r1, r2 = _ZERO, _ZERO, _ZERO
            for i in range(4):
                tap = place + np.uintp(4 * i)
                r0 += columns[i] * planes[tap]
                r1 += columns[i] * planes[tap + np.uintp(1)]
                r2 += columns[i] * planes[tap + np.uintp(2)]
            s0 += heights[j] * r0
            s1 += heights[j] * r1
            s2 += heights[j] * r2
            place += np.uintp(pitch)
        image[x], across[x], down[x] = s0, s1, s2


def _complete_data_row(
    image: Floats,
    across: Floats,
    down: Floats,
    valid: Floats,
    u: Floats,
    v: Floats,
    slope_x: Floats,
    slope_y: Floats,
    mix: np.float32,
    before: Floats,
    gx: Floats,
    gy: Floats,
    rest: Floats,
    inverse: Floats,
) -> None:
    """Write a row of the data term, its gradient mixed with that of the earlier image."""
    for x in range(len(image)):
        i = valid[x] * ((_ONE - mix) * across[x] + mix * slope_x[x])
        j = valid[x] * ((_ONE - mix) * down[x] + mix * slope_y[x])
        square = i * i + j * j
        gx[x] = i
        gy[x] = j
        rest[x] = image[x] - i * u[x] - j * v[x] - before[x]
        inverse[x] = _ONE / square if square > _GUARD else _ZERO


def _differentiate_rows(image: Floats, near: np.float32, far: np.float32, slopes: Floats) -> None:
    height, width = image.shape
    padded = np.empty(width + 4, np.float32)
    for y in range(height):
        padded[2 : width + 2] = image[y]
        padded[:2] = image[y, 0]
        padded[width + 2 :] = image[y, width - 1]
        _difference_row(
            padded[:width],
            padded[1 : width + 1],
            padded[3 : width + 3],
            padded[4 : width + 4],
            near,
            far,
            slopes[0, y],
        )
        _difference_row(
            image[max(y - 2, 0)],
            image[max(y - 1, 0)],
            image[min(y + 1, height - 1)],
            image[min(y + 2, height - 1)],
            near,
            far,
            slopes[1, y],
        )


def _difference_row(
    a: Floats, b: Floats, c: Floats, d: Floats, near: np.float32, far: np.float32, out: Floats
) -> None:
    for x in range(len(out)):
        out[x] = near * (c[x] - b[x]) + far * (d[x] - a[x])


def _try_warp(run: Callable[..., None]) -> None:
    planes = np.zeros((3 + 2 * PAD) * (4 + 2 * PAD) * 4, np.float32)
    shapes = ((3, 4), (2, 3, 4), (4, 3, 4), (12, 4))
    image, pair, term, rows = (np.zeros(shape, np.float32) for shape in shapes)
    places = np.zeros(4, np.int32)
    run(planes, image, pair, np.zeros((6, 4, 6), np.float32), term, -_ONE, _ONE, True, rows, places)


def _try_gradients(run: Callable[..., None]) -> None:
    run(np.zeros((3, 4), np.float32), _ONE, _ONE, np.zeros((2, 3, 4), np.float32))

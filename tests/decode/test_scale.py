import numpy as np
import pytest

from mrx.decode.scale import DisplayOrientation, parse_display_matrix, target_size
from mrx.errors import DecodeError
from mrx.job import Decoding

ONE = 1 << 16


def matrix(a, b, c, d):
    return np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], np.int32).tobytes()


# a, b, c, d of the display matrix, and where the corner pixel (row 0, column 0) must be shown
EIGHT = {
    "as it is": ((1, 0, 0, 1), (0, 0)),
    "90 clockwise": ((0, 1, -1, 0), (0, -1)),
    "180": ((-1, 0, 0, -1), (-1, -1)),
    "90 counter-clockwise": ((0, -1, 1, 0), (-1, 0)),
    "mirrored left-right": ((-1, 0, 0, 1), (0, -1)),
    "mirrored top-bottom": ((1, 0, 0, -1), (-1, 0)),
    "transposed": ((0, 1, 1, 0), (0, 0)),
    "anti-transposed": ((0, -1, -1, 0), (-1, -1)),
}


@pytest.mark.parametrize("name", EIGHT)
def test_each_of_eight_display_matrices_moves_pixels_correctly(name):
    (a, b, c, d), corner = EIGHT[name]
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    turn = parse_display_matrix(matrix(a * ONE, b * ONE, c * ONE, d * ONE))
    shown = turn.orient_array(image)
    assert shown.shape == ((3, 2, 3) if b else (2, 3, 3))
    places = {(y, x): (a * x + c * y, b * x + d * y) for y in range(2) for x in range(3)}
    left, top = (min(p[i] for p in places.values()) for i in (0, 1))
    for (y, x), (new_x, new_y) in places.items():
        assert (shown[new_y - top, new_x - left] == image[y, x]).all()
    assert (shown[corner] == image[0, 0]).all()


def test_45_degrees_is_no_right_angle():
    half = int(ONE * 0.7071)
    assert parse_display_matrix(matrix(half, half, -half, half)) is None


def test_the_plain_orientation_is_a_view():
    image = np.zeros((2, 3, 3), np.uint8)
    assert np.shares_memory(DisplayOrientation().orient_array(image), image)


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((1296, 720), {"short_side": 256}, (460, 256)),
        ((720, 1296), {"short_side": 256}, (256, 460)),
        ((320, 240), {"short_side": 256}, (320, 240)),
        ((320, 240), {"short_side": 256, "upscale": True}, (342, 256)),
        ((1000, 4), {"short_side": 256}, (1000, 4)),
        ((321, 243), {"short_side": None}, (321, 243)),
        ((640, 480), {"size": (111, 99)}, (111, 99)),
        ((4000, 3), {"short_side": 2}, (2666, 2)),
    ],
)
def test_the_target_size_follows_the_options(size, options, expected):
    assert target_size(*size, Decoding(**options)) == expected


def test_an_output_larger_than_the_limit_is_refused():
    with pytest.raises(DecodeError, match="too large: 64000x256"):
        target_size(1000, 4, Decoding(upscale=True, max_pixels=10**6))

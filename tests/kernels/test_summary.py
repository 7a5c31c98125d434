import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from hypothesis.strategies import floats

pytest.importorskip("numba", reason="numba is not installed")

from mrx.kernels.summary import summarize_values

finite = floats(width=32, allow_nan=False, allow_infinity=False)


def plainly(values):
    low, high = torch.aminmax(values)
    return low.item(), high.item(), cv2.norm(values.numpy().reshape(1, -1), cv2.NORM_L1)


@settings(deadline=None)
@given(arrays(np.float32, array_shapes(max_dims=3, max_side=20), elements=finite))
def test_it_agrees_with_torch_and_opencv(values):
    low, high, total = summarize_values(torch.from_numpy(values))
    expected = plainly(torch.from_numpy(values))
    assert (low, high) == expected[:2]
    assert total == pytest.approx(expected[2], rel=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_whole_map_is_summarized_as_by_torch_and_opencv(sign):
    values = sign * (torch.randn(3, 64, 85, generator=torch.Generator().manual_seed(0)) + 9)
    assert summarize_values(values) == pytest.approx(plainly(values), rel=1e-12)


@pytest.mark.parametrize(
    "value", [np.nan, -np.nan, np.inf, -np.inf], ids=["nan", "-nan", "inf", "-inf"]
)
@pytest.mark.parametrize("rest", [1.0, -1.0, 0.0])
def test_values_that_are_not_finite_give_no_summary(value, rest):
    values = torch.full((2, 50), rest)
    values[1, 7] = value
    assert summarize_values(values) is None

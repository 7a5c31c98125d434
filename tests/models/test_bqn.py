import copy

import pytest
import torch
from support.golden import assert_within, load_golden

from mrx.errors import ShapeError
from mrx.models.bqn import MBPMFeatures


def test_features_can_be_filtered_by_a_copy_after_training():
    module, features = MBPMFeatures(5, 4), torch.randn(8, 5, 9, 9)
    module(features).sum().backward()
    assert torch.equal(copy.deepcopy(module)(features), module(features))


@pytest.mark.parametrize(
    ("case", "segments", "share"), [("a", 4, 2e-4), ("b", 8, 2e-6)], ids=["7 taps", "3 taps"]
)
def test_features_are_filtered_as_by_the_released_block(case, segments, share):
    golden = load_golden(f"mbpm_block_{case}")
    features = golden["x"].requires_grad_()
    module = MBPMFeatures(features.shape[1], segments, size=golden["w"].shape[-1])
    found = module(features)
    found.backward(golden["g"])
    assert_within(found, golden["out"], share)
    assert_within(features.grad, golden["grad_x"], share)


def test_features_of_clips_in_a_batch_do_not_mix():
    module, features = MBPMFeatures(2, 4), torch.randn(8, 2, 9, 9)
    one_by_one = torch.cat([module(clip) for clip in features.split(4)])
    torch.testing.assert_close(module(features), one_by_one, rtol=0, atol=1e-4)


def test_features_pass_gradcheck_and_stay_float32_under_autocast():
    module = MBPMFeatures(2, 2, size=3)
    features = torch.randn(4, 2, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(features), module(features.float()))
        assert module(features.bfloat16()).dtype == torch.float32
    assert torch.autograd.gradcheck(module.double(), features.double().requires_grad_())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((7, 5, 9, 9), r"takes \(N \* 4, 5, H, W\), got \(7, 5, 9, 9\)"),
        ((8, 3, 9, 9), r"takes \(N \* 4, 5, H, W\), got \(8, 3, 9, 9\)"),
        ((8, 5, 3, 9), "with 7 taps needs maps of at least 4 each way, got 9x3"),
    ],
)
def test_features_of_another_shape_are_refused(shape, message):
    with pytest.raises(ShapeError, match=message):
        MBPMFeatures(5, 4)(torch.zeros(shape))

import pytest
import torch
import torch.nn.functional as F
from support.golden import load_golden

from mrx.errors import ShapeError
from mrx.models.pan import VAP


def test_clips_are_pooled_and_classified_as_by_the_released_head():
    golden = load_golden("vap")
    module = VAP(n_segment=8, feature_dim=12, classes=5).eval()
    keys = ["TES.0.weight", "TES.2.weight", "pred.weight", "pred.bias"]
    module.load_state_dict({key: golden[key.replace(".", "__")] for key in keys})
    assert (module(golden["x"]) - golden["out"]).abs().max() <= 1e-5


def test_a_row_of_the_head_is_the_maximum_over_strided_frames():
    module = VAP(n_segment=4, feature_dim=3, classes=3).eval()
    features = torch.randn(4, 3)
    rows = torch.stack([features[picked].amax(0) for picked in ([0, 1, 2, 3], [0, 2], [1, 3])])
    share = module.TES(rows.mean(1)).softmax(0)
    expected = F.linear(share @ rows, module.pred.weight)
    torch.testing.assert_close(module(features), expected[None])


@pytest.mark.parametrize("n_segment", [0, 1, 5, 7, 10])
def test_segments_that_the_strides_do_not_divide_are_refused(n_segment):
    with pytest.raises(
        ValueError, match=f"n_segment={n_segment}: must be at least 2 and divisible"
    ):
        VAP(n_segment, feature_dim=4, classes=2)


@pytest.mark.parametrize("shape", [(9, 4), (8, 5), (8, 4, 1)])
def test_features_that_are_no_whole_clips_are_refused(shape):
    with pytest.raises(ShapeError, match=r"VAP takes \(N \* 8, 4\), got"):
        VAP(8, feature_dim=4, classes=2)(torch.zeros(shape))

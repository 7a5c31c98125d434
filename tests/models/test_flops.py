import pytest
import torch
from torch import nn

from mrx.backbones.resnet import ResNet
from mrx.methods.motion_squeeze import MotionSqueeze
from mrx.methods.pa import PA
from mrx.models.flops import CONVENTION, FlopsRow, compare_with_paper, count_operations
from mrx.models.prime_motion import PrimeMotionBlock

COUNTED = {
    "TSM-R50": (33.056, 23.865),
    "MSNet-R50, 1x(1,1)": (33.443, None),
    "MSNet-R50, 1x(3,3)": (33.520, None),
    "MSNet-R50, 4x(3,3)": (35.761, None),
    "MSNet-R50, ours": (33.668, 23.936),
    "TSM-R18": (14.589, 11.266),
    "CP on TSM-R18": (20.222, None),
    "MS on TSM-R18": (14.883, 11.287),
}
"""GFLOPs and millions of parameters as the specification counts them, independent of this code."""


@pytest.mark.slow
def test_the_table_is_the_supplements_but_for_two_rows():
    rows = {row.model: row for row in compare_with_paper()}
    assert rows.keys() == COUNTED.keys()
    for model, (flops, parameters) in COUNTED.items():
        assert rows[model].counted == pytest.approx(flops, abs=0.005)
        if parameters is not None:
            assert rows[model].parameters == pytest.approx(parameters, abs=0.001)
    missed = [row.model for row in rows.values() if not row.reproduced]
    assert missed == ["CP on TSM-R18", "MS on TSM-R18"]


def test_rows_have_the_columns_of_the_supplement():
    assert FlopsRow._fields == ("model", "printed", "counted", "parameters", "reproduced")
    assert CONVENTION == "MotionSqueeze"


def test_layers_cost_the_operations_of_the_convention():
    conv = nn.Conv2d(4, 6, 3, padding=1, groups=2)
    assert count_operations(conv, (2, 4, 5, 7))[:2] == (2 * 6 * 35 * (18 + 1), 2 * 6 * 35 * 18)
    assert count_operations(nn.Linear(10, 3), (2, 10))[:2] == (6 * 19, 60)
    assert count_operations(nn.BatchNorm2d(4), (2, 4, 5, 7))[:2] == (4 * 280, 0)
    assert count_operations(nn.AdaptiveAvgPool2d(1), (2, 4, 5, 7))[:2] == (8 * 36, 0)
    assert count_operations(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), (1, 1, 4, 4)) == (0, 0, 0)


def test_counting_leaves_the_network_as_it_was():
    net = ResNet(18, 5, segments=2)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = count_operations(net, (1, 2, 3, 64, 64))
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert (
        found.operations
        == 2 * count_operations(ResNet(18, 5, segments=1), (1, 3, 64, 64)).operations
    )


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))


def test_a_layer_without_a_rule_is_refused():
    with pytest.raises(ValueError, match="1 is a Scale: no rule counts its operations"):
        count_operations(nn.Sequential(nn.ReLU(), Scale()), (1, 2))


def test_weights_that_are_used_without_a_call_are_refused():
    with pytest.raises(ValueError, match="shallow_conv: never called, so not counted"):
        count_operations(PA(2), (1, 2, 3, 8, 8))


def test_correlations_are_counted_by_pair_cell_and_displacement():
    shape = (4, 64, 5, 6)
    layers = [count_operations(PrimeMotionBlock(64, t), shape).operations for t in (2, 4)]
    assert layers[1] - layers[0] == 1 * 30 * 49 * (2 * 64 - 1)
    matched = [count_operations(MotionSqueeze(64, t), shape).operations for t in (2, 4)]
    assert matched[1] - matched[0] == 30 * 225 * (2 * 64 - 1) + 3 * 225 - 1

import pytest
import torch

from mrx.backbones.mobilenet import MobileNetV2
from mrx.backbones.shift import TemporalShift
from mrx.models.flops import count_operations

COUNTS = (1, 2, 3, 4, 3, 3, 1)
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def torchvision_names():
    """Return the names of torchvision's MobileNet-V2, in its order."""
    names = []
    for i in range(19):
        if i in (0, 18):
            units, last = [f"features.{i}"], []
        elif i == 1:
            units, last = ["features.1.conv.0"], ["features.1.conv.1", "features.1.conv.2"]
        else:
            block = f"features.{i}.conv"
            units, last = [f"{block}.0", f"{block}.1"], [f"{block}.2", f"{block}.3"]
        pairs = [(f"{unit}.0", f"{unit}.1") for unit in units] + ([tuple(last)] if last else [])
        for conv, norm in pairs:
            names += [f"{conv}.weight", *(f"{norm}.{part}" for part in NORM)]
    return [*names, "classifier.1.weight", "classifier.1.bias"]


@pytest.mark.parametrize("shift", [None, "zero"])
def test_names_are_torchvisions_with_the_shift_and_without(shift):
    with torch.device("meta"):
        net = MobileNetV2(shift=shift)
    assert list(net.state_dict()) == torchvision_names()
    assert net.state_dict()["features.0.0.weight"].shape == (32, 3, 3, 3)
    assert net.state_dict()["features.17.conv.0.0.weight"].shape == (960, 160, 1, 1)


def test_the_blocks_that_widen_and_add_are_shifted():
    with torch.device("meta"):
        net = MobileNetV2(shift="zero")
    shifted = [i for i in range(1, 18) if isinstance(net.features[i].shift, TemporalShift)]
    assert shifted == [3, 5, 6, 8, 9, 10, 12, 13, 15, 16]


@pytest.mark.parametrize(("stem", "multiply_adds"), [(3, 300_774_272), (7, 348_943_232)])
def test_a_frame_costs_the_published_operations(stem, multiply_adds):
    with torch.device("meta"):
        net = MobileNetV2(segments=1, stem=stem)
    found = count_operations(net, (1, 3, 224, 224))
    assert found.multiply_adds == multiply_adds
    assert found.parameters == {3: 3_504_872, 7: 3_508_712}[stem]


def test_stride_8_is_where_the_motion_module_acts():
    net = MobileNetV2(5, segments=2).eval()
    with torch.inference_mode():
        assert net.features[:7](torch.rand(2, 3, 64, 48)).shape == (2, 32, 8, 6)
        assert net(torch.rand(3, 2, 3, 64, 48)).shape == (3, 5)


def test_the_shift_needs_no_other_weights_and_changes_the_logits():
    plain, shifted = MobileNetV2(5, segments=2).eval(), MobileNetV2(5, segments=2, shift="zero")
    shifted.eval().load_state_dict(plain.state_dict())
    clip = torch.rand(1, 2, 3, 32, 32)
    with torch.inference_mode():
        assert not torch.equal(plain.features(clip[0]), shifted.features(clip[0]))


def test_every_parameter_learns_from_a_clip():
    net = MobileNetV2(5, segments=2, shift="zero")
    net(torch.rand(2, 2, 3, 32, 32)).logsumexp(1).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_another_stem_is_refused():
    with pytest.raises(ValueError, match="stem=5: choose from 3, 7"):
        MobileNetV2(stem=5)

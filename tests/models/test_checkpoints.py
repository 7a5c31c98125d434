import hashlib
import re

import pytest
import torch
from support.flows import load_golden_arrays
from support.official import clip_of, motion_squeeze_state, save_official, wrapped_by_tsm
from torch import nn

from mrx.backbones.i3d import I3D
from mrx.backbones.mobilenet import MobileNetV2
from mrx.backbones.resnet import ResNet
from mrx.errors import UsageError
from mrx.methods.motion_squeeze import MotionSqueeze
from mrx.models.checkpoints import load_checkpoint, load_part
from mrx.models.ms_mobilenet import MSMobileNetV2
from mrx.models.msnet import MSNet


def trained(kind=ResNet, **options):
    """Return a small network with weights other than its initial ones."""
    net = kind(classes=5, segments=2, **options)
    with torch.no_grad():
        for value in net.state_dict().values():
            value.add_(torch.rand_like(value) if value.is_floating_point() else 7)
    return net


def tsm_resnet():
    return trained(depth=18, shift="zero")


def same(net, other):
    return all(torch.equal(value, other.state_dict()[k]) for k, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("prefix", "key"), [("", None), ("module.", None), ("module.base_model.", "state_dict")]
)
def test_names_load_from_under_every_official_prefix(tmp_path, prefix, key):
    net, other = tsm_resnet(), ResNet(18, 5, segments=2, shift="zero")
    state = {prefix + name: value for name, value in net.state_dict().items()}
    torch.save(state if key is None else {"epoch": 3, key: state}, tmp_path / "a.pth")
    found = load_checkpoint(other, tmp_path / "a.pth")
    assert same(net, other)
    assert found.sha256 == hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()
    assert not found.reduction


@pytest.mark.parametrize(
    ("head", "convolution"),
    [
        ("module.new_fc", True),
        ("module.new_fc", False),
        ("module.base_model.fc1", True),
        ("module.base_model.fc", False),
    ],
)
def test_the_head_may_be_a_convolution_of_another_name(tmp_path, head, convolution):
    net, other = tsm_resnet(), ResNet(18, 5, segments=2, shift="zero")
    state = {f"module.base_model.{k}": v for k, v in net.state_dict().items() if "fc." not in k}
    state[f"{head}.weight"] = net.fc.weight[..., None] if convolution else net.fc.weight
    state[f"{head}.bias"] = net.fc.bias
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    load_checkpoint(other, tmp_path / "a.pth")
    assert same(net, other)


def test_the_wrapper_of_tsms_shift_goes(tmp_path):
    net, other = tsm_resnet(), ResNet(18, 5, segments=2, shift="zero")
    state = wrapped_by_tsm(net, net.state_dict())
    assert "layer4.1.conv1.net.weight" in state
    torch.save(
        {"state_dict": {f"module.base_model.{k}": v for k, v in state.items()}}, tmp_path / "a"
    )
    load_checkpoint(other, tmp_path / "a")
    assert same(net, other)


def test_the_batch_norm_that_is_never_applied_is_left_out(tmp_path):
    net, other = tsm_resnet(), ResNet(18, 5, segments=2, shift="zero")
    torch.save(net.state_dict() | {"bn2.weight": torch.ones(128)}, tmp_path / "a.pth")
    load_checkpoint(other, tmp_path / "a.pth")
    assert same(net, other)


def test_old_files_without_counters_of_batches_load(tmp_path):
    net, other = trained(depth=18), ResNet(18, 5, segments=2)
    state = {k: v for k, v in net.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "a.pth")
    load_checkpoint(other, tmp_path / "a.pth")
    assert torch.equal(other.layer4[1].bn2.running_var, net.layer4[1].bn2.running_var)
    assert other.bn1.num_batches_tracked == 0


FLAT = {"0.0": "0", "0.1": "1", "1.0": "3", "1.1": "4", "2": "6", "3": "7"}
FLAT_FIRST = {"0.0": "0", "0.1": "1", "1": "3", "2": "4"}


def flat_names(state):
    """Return MobileNet's weights as TSM's code names them: its blocks have no units."""
    renamed = {}
    for key, value in state.items():
        found = re.fullmatch(r"features\.(\d+)\.conv\.([\d.]+)\.(\w+)", key)
        if found:
            places = FLAT_FIRST if found[1] == "1" else FLAT
            key = f"features.{found[1]}.conv.{places[found[2]]}.{found[3]}"
        renamed[key.replace("classifier.1", "classifier")] = value
    return renamed


@pytest.mark.parametrize("layout", ["torchvision", "tsm"])
def test_mobilenet_loads_by_the_names_of_both_codes(tmp_path, layout):
    net = trained(MobileNetV2, shift="zero")
    other = MobileNetV2(5, segments=2, shift="zero")
    state = net.state_dict()
    if layout == "tsm":
        state = wrapped_by_tsm(net, flat_names(state))
        assert {"features.3.conv.0.net.weight", "features.1.conv.3.weight"} < state.keys()
    torch.save(
        {"state_dict": {f"module.base_model.{k}": v for k, v in state.items()}}, tmp_path / "a"
    )
    load_checkpoint(other, tmp_path / "a")
    assert same(net, other)


def test_a_head_of_other_classes_is_skipped_on_request(tmp_path):
    net, other = ResNet(18, 1000), ResNet(18, 5)
    before = other.fc.weight.clone()
    torch.save(net.state_dict(), tmp_path / "a.pth")
    load_checkpoint(other, tmp_path / "a.pth", skip=("fc.",))
    assert torch.equal(other.fc.weight, before)
    assert torch.equal(other.layer4[1].conv2.weight, net.layer4[1].conv2.weight)


def test_a_layer_of_an_inserted_module_is_not_the_head(tmp_path):
    def network():
        inserted = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(480, 3))
        return I3D(5, insert={"Mixed_3c": inserted})

    net, other = network(), network()
    state = {k.replace("logits.", "module.new_fc."): v for k, v in net.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    load_checkpoint(other, tmp_path / "a.pth")
    assert same(net, other)


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])
def test_motion_squeeze_loads_from_a_released_whole_network(tmp_path, depth):
    file = load_golden_arrays(f"matching_net_R{depth}_ms")
    net = MSNet(depth, 11, segments=4).eval()
    save_official(motion_squeeze_state(net, file), tmp_path / "a.pth.tar")
    module = MotionSqueeze(128 if depth == 18 else 512, segments=4).eval()
    assert load_part(module, tmp_path / "a.pth.tar").reduction
    load_checkpoint(net, tmp_path / "a.pth.tar")
    with torch.inference_mode():
        maps = net.compute_features(clip_of(file), "layer2")
        found = module.match_frames(maps)
        assert torch.equal(module(maps), net.add_motion(maps))
    assert (found.displacement / 7 - torch.from_numpy(file["flow"])).abs().max() < 1e-5
    assert (found.confidence - torch.from_numpy(file["conf"])).abs().max() < 1e-5


def test_a_module_is_found_where_a_network_keeps_it(tmp_path):
    net, module = MSMobileNetV2(5, segments=2), MotionSqueeze(32, 2, reduced=None)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "a.pth")
    assert not load_part(module, tmp_path / "a.pth", under="motion_squeeze.").reduction
    assert same(module, net.motion_squeeze)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduced": None}, r"unexpected chnl_reduction\.0\.weight"),
        ({"transformation": "one-1x1"}, r"unexpected flow_refinement\.conv1\.3\.weight"),
        ({"reduced": 32}, r"chnl_reduction\.0\.weight is \(64, 128, 1, 1\), needs \(32, 128"),
    ],
)
def test_weights_for_other_module_options_are_refused(tmp_path, options, message):
    torch.save(MSNet(18, 5, segments=2).state_dict(), tmp_path / "a.pth")
    with pytest.raises(UsageError, match=f"does not fit MotionSqueeze: .*{message}"):
        load_part(MotionSqueeze(128, 2, **options), tmp_path / "a.pth")
    with pytest.raises(UsageError, match=r"missing chnl_reduction\.0\.weight, chnl"):
        load_part(MotionSqueeze(128, 2), tmp_path / "a.pth", under="motion_squeeze.")


def refused(net, state, path):
    torch.save(state, path)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(UsageError) as caught:
        load_checkpoint(net, path)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    return str(caught.value)


def test_a_refused_file_names_the_differences(tmp_path):
    state = ResNet(18, 7).state_dict() | {f"extra{i}": torch.zeros(1) for i in range(7)}
    del state["layer1.0.conv1.weight"]
    message = refused(ResNet(18, 5), state, tmp_path / "a.pth")
    assert "a.pth does not fit ResNet: missing layer1.0.conv1.weight; unexpected extra0" in message
    assert "extra4 and 2 more; fc.weight is (7, 512), needs (5, 512), fc.bias is (7,)" in message


@pytest.mark.parametrize("other", [ResNet, MobileNetV2])
def test_weights_of_another_network_are_refused_in_one_line(tmp_path, other):
    net = MobileNetV2(5) if other is ResNet else ResNet(18, 5)
    message = refused(net, other(classes=5).state_dict(), tmp_path / "a.pth")
    assert re.search(r"missing \S+, .* and \d+ more; unexpected .* and \d+ more", message)
    assert len(message) < 800


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"hello")
    with pytest.raises(UsageError, match="not a weights file that torch can load safely"):
        load_checkpoint(ResNet(18, 5), tmp_path / "a.pth")
    with pytest.raises(UsageError, match="cannot read weights: No such file"):
        load_checkpoint(ResNet(18, 5), tmp_path / "none.pth")

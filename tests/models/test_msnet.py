import copy

import pytest
import torch
from support.flows import load_golden_arrays
from support.official import clip_of, motion_squeeze_state, save_official

from mrx.backbones.resnet import ResNet
from mrx.errors import UsageError
from mrx.methods.motion_squeeze import MotionSqueeze
from mrx.models.checkpoints import load_checkpoint
from mrx.models.cpnet import CPNet
from mrx.models.ms_mobilenet import MSMobileNetV2
from mrx.models.msnet import MSNet


def load_golden(depth, path):
    """Load an MSNet from the weights of a golden file, saved as the authors save them."""
    file = load_golden_arrays(f"matching_net_R{depth}_ms")
    net = MSNet(depth, 11, segments=4).eval()
    save_official(motion_squeeze_state(net, file), path)
    return net, file, load_checkpoint(net, path)


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])
def test_msnet_gives_the_official_logits_and_flow(tmp_path, depth):
    net, file, found = load_golden(depth, tmp_path / "a.pth")
    with torch.inference_mode():
        frames, clips = net.frame_logits(clip_of(file)), net(clip_of(file))
        match = net.match_frames(net.compute_features(clip_of(file), "layer2"))
    expected = torch.from_numpy(file["logits_per_frame"])[..., 0]
    assert found.reduction
    assert (frames - expected).abs().max() < 1e-5 * expected.abs().max()
    torch.testing.assert_close(clips, torch.from_numpy(file["consensus"]), rtol=1e-4, atol=1e-5)
    assert (match.displacement / 7 - torch.from_numpy(file["flow"])).abs().max() < 1e-5
    assert (match.confidence - torch.from_numpy(file["conf"])).abs().max() < 1e-5


@pytest.mark.parametrize("depth", [18, 50])
def test_names_are_the_official_ones_but_for_the_head(depth):
    keys = {str(key) for key in load_golden_arrays(f"matching_net_R{depth}_ms")["keys"]}
    with torch.device("meta"):
        names = set(MSNet(depth, 11).state_dict())
    assert {key for key in keys if not key.startswith(("bn2.", "fc1."))} == names - {
        "fc.weight",
        "fc.bias",
    }


def test_it_is_motion_squeeze_with_the_networks_own_layers():
    net, module = MSNet(18, 5, segments=3).eval(), MotionSqueeze(128, 3).eval()
    parts = ("chnl_reduction.", "flow_refinement.")
    module.load_state_dict({k: v for k, v in net.state_dict().items() if k.startswith(parts)})
    maps = torch.randn(6, 128, 9, 7).relu()
    with torch.inference_mode():
        assert torch.equal(net.add_motion(maps), module(maps))
        assert torch.equal(copy.deepcopy(net).add_motion(maps), module(maps))


def test_features_of_layer2_do_not_contain_the_motion():
    net, plain = MSNet(18, 5, segments=2).eval(), ResNet(18, 5, segments=2, shift="zero").eval()
    plain.load_state_dict(net.state_dict(), strict=False)
    clip = torch.rand(1, 2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(
            net.compute_features(clip, "layer2"), plain.compute_features(clip, "layer2")
        )
        assert not torch.equal(
            net.compute_features(clip, "layer3"), plain.compute_features(clip, "layer3")
        )


@pytest.mark.parametrize("form", ["separable", "one-1x1", "one-3x3", "four-3x3"])
def test_every_parameter_learns_in_every_form(form):
    net = MSNet(18, 5, segments=2, transformation=form)
    net(torch.rand(2, 2, 3, 48, 48)).logsumexp(1).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []
    assert net.chnl_reduction[0].weight.grad.abs().max() > 0


def test_image_weights_load_into_msnet_if_its_layers_are_skipped(tmp_path):
    images, net = ResNet(18, 1000), MSNet(18, 5, segments=2)
    torch.save(images.state_dict(), tmp_path / "a.pth")
    with pytest.raises(UsageError, match=r"does not fit MSNet: missing chnl_reduction\.0\.weight"):
        load_checkpoint(net, tmp_path / "a.pth")
    skipped = ("fc.", "chnl_reduction.", "flow_refinement.")
    assert not load_checkpoint(net, tmp_path / "a.pth", skip=skipped).reduction
    assert torch.equal(net.layer3[0].conv1.weight, images.layer3[0].conv1.weight)


def test_a_plain_resnet_loads_an_ms_checkpoint_without_motion(tmp_path):
    net, _, _ = load_golden(18, tmp_path / "a.pth")
    plain = ResNet(18, 11, segments=4, shift="zero")
    with pytest.raises(UsageError, match="does not fit ResNet: unexpected flow_refinement"):
        load_checkpoint(plain, tmp_path / "a.pth")
    found = load_checkpoint(plain, tmp_path / "a.pth", skip=("chnl_reduction.", "flow_refinement."))
    assert found.reduction
    assert torch.equal(plain.fc.weight, net.fc.weight)


@pytest.mark.parametrize("kind", [MSMobileNetV2, CPNet])
def test_the_other_networks_give_logits_and_learn(kind):
    net = kind(classes=5, segments=3)
    logits = net(torch.rand(2, 3, 3, 64, 64))
    logits.logsumexp(1).sum().backward()
    assert logits.shape == (2, 5)
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_mobilenet_matches_32_channels_without_reduction():
    with torch.device("meta"):
        state = MSMobileNetV2(5).state_dict()
    own = [name for name in state if name.startswith("motion_squeeze.")]
    assert {name.split(".")[1] for name in own} == {"flow_refinement"}
    assert state["motion_squeeze.flow_refinement.conv4.3.weight"].shape == (32, 64, 1, 1)


def test_new_proposals_take_maps_before_relu_and_change_nothing():
    net, plain = CPNet(18, 5, segments=2).eval(), ResNet(18, 5, segments=2, shift="zero").eval()
    plain.load_state_dict(net.state_dict(), strict=False)
    clip = torch.rand(1, 2, 3, 64, 64)
    with torch.inference_mode():
        maps = net.compute_features(clip, "layer2")
        assert maps.min() < 0
        assert torch.equal(maps.relu(), plain.compute_features(clip, "layer2"))
        assert torch.equal(net(clip), plain(clip))


@pytest.mark.parametrize("kind", [MSNet, MSMobileNetV2, CPNet])
def test_networks_run_in_half_precision_and_on_no_clips(kind):
    net = kind(classes=5, segments=2).eval()
    clip = torch.rand(1, 2, 3, 64, 64)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert net(clip).isfinite().all()
    with torch.inference_mode():
        assert net(clip[:0]).shape == (0, 5)

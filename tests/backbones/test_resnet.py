import pytest
import torch
from support.flows import load_golden_arrays
from support.official import clip_of, motion_squeeze_state

from mrx.backbones.resnet import ResNet, set_channels, set_dropout
from mrx.errors import ShapeError
from mrx.models.checkpoints import load_checkpoint

BLOCK = {18: ("conv1", "bn1", "conv2", "bn2"), 50: ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3")}
COUNTS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def expand(name):
    """Return a layer's names in a state dict."""
    if "bn" in name or name.endswith("downsample.1"):
        rest = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    else:
        rest = ("weight", "bias") if name == "fc" else ("weight",)
    return [f"{name}.{part}" for part in rest]


def torchvision_names(depth):
    """Return the names of torchvision's ResNet, in its order."""
    layers = ["conv1", "bn1"]
    for i, count in enumerate(COUNTS[depth]):
        for j in range(count):
            block = f"layer{i + 1}.{j}"
            layers += [f"{block}.{part}" for part in BLOCK[depth]]
            if j == 0 and (i > 0 or depth == 50):
                layers += [f"{block}.downsample.0", f"{block}.downsample.1"]
    return [name for layer in (*layers, "fc") for name in expand(layer)]


@pytest.mark.parametrize("shift", [None, "zero", "circulant"])
@pytest.mark.parametrize(("depth", "number"), [(18, 122), (50, 320)])
def test_names_are_torchvisions_with_the_shift_and_without(depth, number, shift):
    with torch.device("meta"):
        names = list(ResNet(depth, 7, shift=shift).state_dict())
    assert names == torchvision_names(depth)
    assert len(names) == number


def test_shapes_are_torchvisions():
    with torch.device("meta"):
        state = ResNet(50).state_dict()
    assert state["layer1.0.conv1.weight"].shape == (64, 64, 1, 1)
    assert state["layer2.0.conv2.weight"].shape == (128, 128, 3, 3)
    assert state["layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)
    assert state["layer3.0.downsample.0.weight"].shape == (1024, 512, 1, 1)
    assert state["fc.weight"].shape == (1000, 2048)


def test_tsm_resnet18_gives_the_official_logits(tmp_path):
    file = load_golden_arrays("matching_net_R18_tsm")
    net = ResNet(18, 11, segments=4, shift="zero").eval()
    torch.save(motion_squeeze_state(net, file), tmp_path / "a.pth")
    load_checkpoint(net, tmp_path / "a.pth")
    with torch.inference_mode():
        frames, clips = net.frame_logits(clip_of(file)), net(clip_of(file))
    expected = torch.from_numpy(file["logits_per_frame"])[..., 0]
    assert (frames - expected).abs().max() < 1e-5 * expected.abs().max()
    torch.testing.assert_close(clips, torch.from_numpy(file["consensus"]), rtol=1e-4, atol=1e-5)


def test_without_the_shift_frames_do_not_mix():
    net = ResNet(18, 5, segments=4).eval()
    clip = torch.rand(1, 4, 3, 32, 32)
    with torch.inference_mode():
        alone = torch.cat([net.frame_logits(f.expand(4, -1, -1, -1))[:1] for f in clip[0].split(1)])
        torch.testing.assert_close(net.frame_logits(clip), alone)
        shifted = ResNet(18, 5, segments=4, shift="zero").eval()
        shifted.load_state_dict(net.state_dict())
        assert not torch.allclose(shifted.frame_logits(clip), alone)


def test_the_shift_mixes_neighbors_only():
    net = ResNet(18, 5, segments=4, shift="zero").eval()
    clip = torch.rand(1, 4, 3, 32, 32)
    other = clip.clone()
    other[:, 3] = 0
    with torch.inference_mode():
        same = [net.layer1[0](x.flatten(0, 1)) for x in _widened(clip, other)]
    equal = [torch.equal(a, b) for a, b in zip(*same, strict=True)]
    assert equal == [True, True, False, False]


def _widened(*clips):
    return [clip.repeat(1, 1, 22, 1, 1)[:, :, :64] for clip in clips]


@pytest.mark.parametrize("depth", [18, 50])
def test_features_are_the_maps_of_a_layer(depth):
    net = ResNet(depth, 5, segments=2, shift="zero").eval()
    wide = 1 if depth == 18 else 4
    clip = torch.rand(1, 2, 3, 64, 48)
    with torch.inference_mode():
        assert net.compute_features(clip, "layer2").shape == (2, 128 * wide, 8, 6)
        assert net.compute_features(clip).shape == (2, 512 * wide, 2, 2)
        assert torch.equal(net.compute_features(clip.flatten(0, 1)), net.compute_features(clip))
    with pytest.raises(ValueError, match="until=conv1: choose from layer1, layer2, layer3, layer4"):
        net.compute_features(clip, "conv1")


def test_clips_of_a_batch_do_not_mix():
    net = ResNet(18, 5, segments=4, shift="circulant").eval()
    clip = torch.rand(2, 4, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(net(clip), torch.cat([net(one[None]) for one in clip]))


def test_other_channels_start_from_the_mean_over_the_colors():
    net = ResNet(18, 5, segments=2).eval()
    gray = torch.rand(1, 2, 1, 32, 32)
    with torch.inference_mode():
        expected = net.compute_features(gray.expand(-1, -1, 3, -1, -1))
        set_channels(net, 10)
        found = net.compute_features(0.3 * gray.expand(-1, -1, 10, -1, -1))
    torch.testing.assert_close(found, expected)


def test_dropout_can_be_set_after_construction():
    net = ResNet(18, 5, segments=2)
    assert net.dropout.p == 0
    set_dropout(net, 0.5)
    assert net.dropout.p == 0.5


def test_every_parameter_learns_from_a_clip():
    net = ResNet(18, 5, segments=2, shift="zero")
    net(torch.rand(2, 2, 3, 32, 32)).logsumexp(1).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []
    assert net.fc.weight.std() < 0.0012


def test_unknown_depths_and_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="depth=34: choose from 18, 50"):
        ResNet(34)
    with pytest.raises(ShapeError, match=r"clips \(B, 8, C, H, W\)"):
        ResNet(18)(torch.zeros(1, 4, 3, 32, 32))

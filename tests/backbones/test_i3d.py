import pytest
import torch
from torch import nn

from mrx.backbones.i3d import I3D, I3D_BLOCKS
from mrx.errors import ShapeError
from mrx.methods.motion_squeeze import MotionSqueeze
from mrx.models.flops import count_operations
from mrx.models.proposals import CorrespondenceProposal

WIDTHS = {"Mixed_3b": 256, "Mixed_3c": 480, "Mixed_4b": 512, "Mixed_4f": 832, "Mixed_5c": 1024}


@pytest.fixture(scope="module")
def net():
    return I3D(7).eval()


@pytest.mark.parametrize(
    ("until", "shape"),
    [
        ("Conv3d_1a_7x7", (1, 64, 8, 112, 112)),
        ("MaxPool3d_2a_3x3", (1, 64, 8, 56, 56)),
        ("Mixed_3c", (1, 480, 8, 28, 28)),
        ("Mixed_4f", (1, 832, 4, 14, 14)),
        ("Mixed_5c", (1, 1024, 2, 7, 7)),
    ],
)
def test_maps_have_the_sizes_of_i3d_with_eight_frames(until, shape):
    with torch.device("meta"):
        found = I3D(7).compute_features(torch.empty(1, 8, 3, 224, 224), until)
    assert found.shape == shape


def test_without_temporal_pools_all_frames_stay():
    with torch.device("meta"):
        net = I3D(7, temporal_pools=False)
        assert net.compute_features(torch.empty(1, 8, 3, 224, 224)).shape == (1, 1024, 8, 7, 7)
        assert net(torch.empty(2, 1, 3, 64, 64)).shape == (2, 7)


def test_operations_and_parameters_match_the_specification():
    with torch.device("meta"):
        nets = I3D(400), I3D(400, temporal_pools=False)
    pooled, whole = (count_operations(net, (1, 8, 3, 224, 224)) for net in nets)
    assert round(pooled.multiply_adds / 1e9, 1) == 22.1
    assert round(whole.multiply_adds / 1e9, 1) == 28.1
    assert pooled.parameters == whole.parameters == 12_640_816


def test_names_are_those_of_the_common_port(net):
    blocks = list(dict.fromkeys(name.split(".")[0] for name in net.state_dict()))
    assert set(blocks) == {n for n in I3D_BLOCKS if not n.startswith("Max")} | {"logits"}
    branches = dict.fromkeys(n.split(".")[1] for n in net.state_dict() if "Mixed_4c" in n)
    assert list(branches) == ["b0", "b1a", "b1b", "b2a", "b2b", "b3b"]
    assert net.state_dict()["Mixed_5c.b1b.conv3d.weight"].shape == (384, 192, 3, 3, 3)
    assert net.state_dict()["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 1, 7, 7)


class Probe(nn.Module):
    """Double maps and remember their shape."""

    def forward(self, maps):
        self.shape = maps.shape
        return 2 * maps


@pytest.mark.parametrize("place", list(WIDTHS))
def test_a_module_goes_in_after_any_block_and_sees_frames(net, place):
    probe = Probe()
    other = I3D(7, insert={place: probe}).eval()
    other.load_state_dict(net.state_dict())
    clip = torch.rand(2, 4, 3, 32, 32)
    with torch.inference_mode():
        before = net.compute_features(clip, place)
        assert torch.equal(other.compute_features(clip, place), before)
        assert not torch.equal(other(clip), net(clip))
    frames = before.shape[0] * before.shape[2]
    assert probe.shape == (frames, WIDTHS[place], *before.shape[3:])


@pytest.mark.parametrize("kind", [MotionSqueeze, CorrespondenceProposal])
def test_motion_modules_fit_where_motion_squeeze_stands(kind):
    module = kind(480, 4)
    net = I3D(7, insert={"Mixed_3c": module})
    assert net.inserted["Mixed_3c"] is module
    net(torch.rand(2, 4, 3, 48, 48)).logsumexp(1).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_a_module_put_in_is_named_by_its_place():
    with torch.device("meta"):
        net = I3D(7, insert={"Mixed_3c": nn.Conv2d(480, 480, 1)})
    assert "inserted.Mixed_3c.weight" in net.state_dict()
    with pytest.raises(ValueError, match=r"insert=\['Mixed_3d'\]: choose from Conv3d_1a_7x7, Max"):
        I3D(7, insert={"Mixed_3d": nn.Identity()})


def test_unknown_layers_and_wrong_shapes_are_refused(net):
    with pytest.raises(ValueError, match="until=Mixed_6a: choose from"):
        net.compute_features(torch.rand(1, 8, 3, 32, 32), "Mixed_6a")
    for shape in ((1, 3, 8, 32, 32), (8, 3, 32, 32), (1, 2, 3, 32, 32), (1, 4, 3, 0, 9)):
        with pytest.raises(ShapeError, match=r"clips \(B, T, 3, H, W\), T at least 3"):
            net(torch.rand(shape))


def test_every_parameter_learns_from_a_clip():
    net = I3D(7)
    net(torch.rand(2, 4, 3, 32, 32)).logsumexp(1).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []

import hashlib
import itertools

import pytest
import torch

from mrx.errors import UsageError
from mrx.methods.mbpm import MBPM
from mrx.methods.pa import PA
from mrx.methods.tvnet import TVNet
from mrx.methods.weights import load_weights
from mrx.ops.tvnet_solver import smoothing_kernel

PORT = {"floor_grey": False, "normalize_pair": False, "outside": "clamp", "short_shift": False}


@pytest.fixture
def trained():
    module = MBPM()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize("prefix", ["", "module.", "module.mbpf1.", "module.base_model.mbpf1."])
@pytest.mark.parametrize("key", [None, "state_dict"])
def test_weights_load_from_under_every_official_prefix(trained, tmp_path, prefix, key):
    state = {prefix + name: value for name, value in trained.state_dict().items()}
    torch.save(state if key is None else {"epoch": 3, key: state}, tmp_path / "a.pth")
    module = MBPM()
    digest = load_weights(module, tmp_path / "a.pth")
    assert all(torch.equal(module.state_dict()[k], v) for k, v in trained.state_dict().items())
    assert digest == hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()


def test_other_keys_of_a_whole_network_are_ignored(tmp_path):
    trained = PA(seed=5)
    state = {f"module.PA.{name}": value for name, value in trained.state_dict().items()}
    state["module.base_model.conv1.weight"] = torch.zeros(3)
    torch.save({"state_dict": state}, tmp_path / "pan.pth.tar")
    module = PA()
    load_weights(module, tmp_path / "pan.pth.tar")
    assert torch.equal(module.shallow_conv.weight, trained.shallow_conv.weight)


def test_the_bound_follows_the_loaded_weights(tmp_path):
    module, trained = MBPM(), MBPM()
    trained.conv_s.weight.data.mul_(2)
    torch.save(trained.state_dict(), tmp_path / "a.pth")
    before = module.bound
    load_weights(module, tmp_path / "a.pth")
    assert module.bound == pytest.approx(2 * before)


def refused(module, state, path):
    torch.save(state, path)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(UsageError) as caught:
        load_weights(module, path)
    assert all(torch.equal(module.state_dict()[key], value) for key, value in before.items())
    return str(caught.value)


def test_a_mismatch_names_missing_keys_and_both_shapes(tmp_path):
    state = {"mbpf1.conv_s.weight": torch.zeros(3, 1, 7, 7)}
    message = refused(MBPM(), state, tmp_path / "a.pth")
    assert "a.pth does not fit MBPM: missing conv_t.weight" in message
    assert "conv_s.weight is (3, 1, 7, 7), needs (3, 1, 9, 9)" in message


def test_a_mismatch_without_a_prefix_names_unexpected_keys(tmp_path):
    state = PA().state_dict() | {f"fc{i}": torch.zeros(1) for i in range(7)}
    message = refused(PA(), state, tmp_path / "a.pth")
    assert message.endswith("does not fit PA: unexpected fc0, fc1, fc2, fc3, fc4 and 2 more")


class Foreign(PA):
    def translate_state(self, state):
        if "kernel" not in state:
            raise ValueError("no kernel among its names")
        return {"shallow_conv.weight": state["kernel"], "shallow_conv.bias": torch.zeros(8)}


def test_a_module_may_read_the_names_of_other_code(tmp_path):
    kernel = torch.rand(8, 3, 7, 7)
    torch.save({"module.kernel": kernel}, tmp_path / "a.pth")
    module = Foreign()
    load_weights(module, tmp_path / "a.pth")
    assert torch.equal(module.shallow_conv.weight, kernel)
    message = refused(module, {"weight": kernel}, tmp_path / "b.pth")
    assert message.endswith("b.pth does not fit Foreign: no kernel among its names")


def test_the_bias_of_a_convolution_must_be_there(tmp_path):
    state = {"PA.shallow_conv.weight": PA().shallow_conv.weight.detach()}
    assert "missing shallow_conv.bias" in refused(PA(), state, tmp_path / "a.pth")


def test_a_file_without_a_state_dict_is_refused(tmp_path):
    assert "holds a list, not a state dict" in refused(PA(), [1, 2], tmp_path / "a.pth")


class Harmful:
    def __reduce__(self):
        return print, ("harm",)


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    message = refused(PA(), {"state_dict": Harmful()}, tmp_path / "a.pth")
    assert "not a weights file that torch can load safely" in message
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"PK\3\4 broken", b"\x80\x02 text", b"hello"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.pth: not a weights file that torch can load"):
        load_weights(PA(), tmp_path / "a.pth")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot read weights: No such file or directory"):
        load_weights(PA(), tmp_path / "none.pth")


def clip_of(height, width):
    return 255 * torch.rand(1, 2, 3, height, width)


def random_weights(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def official_state(module, suffix):
    """Return the module's weights as the official code names and shapes them."""
    scales, warps, iterations = (range(count) for count in module.depth[:3])
    state, shapes = {}, {"x": (1, 2, 1, 1), "y": (2, 1, 1, 1)}
    for s, w, i, c, (a, axis) in itertools.product(
        scales, warps, iterations, (0, 1), enumerate("xy")
    ):
        scope = f"tvl1_flow/scale{s}/warping{w}/iter{i}"
        first = f"{scope}/divergence/div_p{c + 1}_diff_{axis}/kernel{suffix}"
        second = f"{scope}/forward_gradient/u{c + 1}_diff_{axis}/kernel{suffix}"
        state[first] = module.divergence.detach()[s, w, i, c, a].view(shapes[axis])
        state[second] = module.gradient.detach()[s, w, i, c, a].view(shapes[axis])
    for name, number in (("conv2d", 0), ("conv2d_1", 0), ("conv2d_2", 1), ("conv2d_3", 1)):
        fixed = (
            torch.tensor([0.114, 0.587, 0.299]).view(1, 1, 3, 1),
            smoothing_kernel()[..., None, None],
        )
        state[f"tvl1_flow/{name}/kernel{suffix}"] = fixed[number].float()
    for s, (axis, shape) in itertools.product(
        scales, {"x": (1, 3, 1, 1), "y": (3, 1, 1, 1)}.items()
    ):
        name = f"tvl1_flow/scale{s}/centered_gradient/x2_diff_{axis}/kernel{suffix}"
        state[name] = torch.tensor([-0.5, 0, 0.5]).view(shape)
    field = torch.zeros(2, 6, 8) if module.initial_field is None else module.initial_field.detach()
    for c in (0, 1):
        state[f"tvl1_flow/scale{len(scales) - 1}/u{c + 1}{suffix}"] = field[c][None, ..., None]
    return state


def port_state(module):
    """Return the module's weights as the PyTorch port names and shapes them."""
    state, shapes = {}, {"x": (1, 1, 1, 2), "y": (1, 1, 2, 1)}
    for i, (c, part), (a, axis) in itertools.product(
        range(module.depth.iterations), enumerate("xy"), enumerate("xy")
    ):
        block = f"warpblock.iterblock{i + 1}"
        first = f"{block}.divergence_{part}.div_conv_{axis}.weight"
        second = f"{block}.forward_gradient_{part}.forward_conv_{axis}.weight"
        state[first] = module.divergence.detach()[0, 0, i, c, a].view(shapes[axis])
        state[second] = module.gradient.detach()[0, 0, i, c, a].view(shapes[axis])
    for axis, shape in {"x": (1, 1, 1, 3), "y": (1, 1, 3, 1)}.items():
        name = f"warpblock.centered_gradient.center_conv_{axis}.weight"
        state[name] = torch.tensor([-0.5, 0, 0.5]).view(shape)
        state[f"forward_gradient.forward_conv_{axis}.weight"] = torch.rand(shapes[axis])
    return state


def loads(module, state, path):
    torch.save(state, path)
    load_weights(module, path)
    return module


@pytest.mark.parametrize("suffix", ["", ":0"])
@pytest.mark.parametrize("scope", ["", "net/"])
def test_weights_load_by_the_names_of_the_official_code(tmp_path, suffix, scope):
    made = {"scales": 2, "warps": 2, "iterations": 3, "field_height": 6, "field_width": 8}
    trained = random_weights(TVNet(**made))
    state = {scope + name: v for name, v in official_state(trained, suffix).items()}
    module = loads(TVNet(**made), state, tmp_path / "a.pth")
    for clip in (clip_of(24, 32), clip_of(40, 52)):
        assert torch.equal(module(clip), trained(clip))


def test_tvnet50_of_the_official_code_has_408_variables(tmp_path):
    trained = random_weights(TVNet())
    state = official_state(trained, ":0")
    assert len(state) == 408
    module = loads(TVNet(train_constants=True), state, tmp_path / "a.pth")
    assert torch.equal(module.divergence, trained.divergence)
    assert torch.equal(module.gradient, trained.gradient)


@pytest.mark.parametrize("home", ["", "module.", "tvnet."])
def test_weights_load_by_the_names_of_the_port(tmp_path, home):
    trained = random_weights(TVNet(iterations=10, field_height=6, field_width=8, **PORT))
    state = port_state(trained)
    assert len(state) == 84
    state |= {f"u{c + 1}": trained.initial_field.detach()[c][None] for c in (0, 1)}
    module = TVNet(iterations=10, field_height=6, field_width=8, **PORT)
    loads(module, {home + name: v for name, v in state.items()}, tmp_path / "a.pth")
    assert torch.equal(module(clip := clip_of(24, 32)), trained(clip))


def test_weights_are_saved_and_loaded_by_their_own_names(tmp_path):
    made = {"iterations": 4, "train_constants": True, "field_height": 3, "field_width": 4}
    trained = random_weights(TVNet(**made))
    state = {f"tvnet.{name}": value for name, value in trained.state_dict().items()}
    names = ["divergence", "gradient", "initial_field", "log_tau", "log_strength", "log_theta"]
    assert [name.removeprefix("tvnet.") for name in state] == names
    module = loads(TVNet(**made), state | {"fc.weight": torch.zeros(2)}, tmp_path / "a.pth")
    assert torch.equal(module(clip := clip_of(24, 32)), trained(clip))


def test_missing_and_unexpected_names_are_listed(tmp_path):
    state = official_state(TVNet(iterations=2), ":0") | {"tvl1_flow/extra": torch.zeros(1)}
    message = refused(TVNet(iterations=3), state, tmp_path / "a.pth")
    assert (
        "a.pth does not fit TVNet: missing tvl1_flow/scale0/warping0/iter2/divergence/" in message
    )
    assert "and 3 more; unexpected tvl1_flow/extra" in message
    message = refused(TVNet(iterations=2), port_state(TVNet(iterations=3)), tmp_path / "a.pth")
    assert "does not fit TVNet: unexpected warpblock.iterblock3.divergence_x.div_conv_x" in message


def test_kernels_of_another_shape_are_refused(tmp_path):
    state = port_state(TVNet(iterations=2))
    name = "warpblock.iterblock1.divergence_x.div_conv_y.weight"
    state[name] = state[name].mT
    message = refused(TVNet(iterations=2), state, tmp_path / "a.pth")
    assert f"{name} is (1, 1, 1, 2), needs (1, 1, 2, 1)" in message


def test_a_trained_centered_gradient_is_refused(tmp_path):
    state = port_state(TVNet(iterations=2))
    name = "warpblock.centered_gradient.center_conv_x.weight"
    state[name] = state[name] * 1.01
    message = refused(TVNet(iterations=2), state, tmp_path / "a.pth")
    assert f"other values than the fixed ones in {name}" in message


def test_a_trained_field_asks_for_a_module_that_has_one(tmp_path):
    trained = random_weights(TVNet(iterations=2, field_height=6, field_width=8))
    message = refused(TVNet(iterations=2), official_state(trained, ""), tmp_path / "a.pth")
    assert message.endswith("trained initial field: use field_height=6, field_width=8")
    other = TVNet(iterations=2, field_height=3, field_width=8)
    message = refused(other, official_state(trained, ""), tmp_path / "a.pth")
    assert "initial_field is (2, 6, 8), needs (2, 3, 8)" in message


def test_the_port_fits_modules_of_one_scale_and_one_warp(tmp_path):
    message = refused(
        TVNet(scales=2, iterations=2), port_state(TVNet(iterations=2)), tmp_path / "a"
    )
    assert "one scale and one warp" in message

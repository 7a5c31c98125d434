import hashlib

import pytest
import torch

from mrx.errors import UsageError
from mrx.methods.mbpm import MBPM
from mrx.methods.pa import PA
from mrx.methods.weights import load_weights


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


def test_the_bias_of_a_convolution_must_be_there(tmp_path):
    state = {"PA.shallow_conv.weight": PA().shallow_conv.weight.detach()}
    assert "missing shallow_conv.bias" in refused(PA(), state, tmp_path / "a.pth")


def test_what_is_no_state_dict_is_refused(tmp_path):
    assert "holds a list, not a state dict" in refused(PA(), [1, 2], tmp_path / "a.pth")


class Harmful:
    def __reduce__(self):
        return print, ("harm",)


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    message = refused(PA(), {"state_dict": Harmful()}, tmp_path / "a.pth")
    assert "not a file of weights that torch can load safely" in message
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"PK\3\4 broken", b"\x80\x02 text", b"hello"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.pth: not a file of weights that torch can load"):
        load_weights(PA(), tmp_path / "a.pth")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot read weights: No such file or directory"):
        load_weights(PA(), tmp_path / "none.pth")

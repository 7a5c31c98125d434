import math

import pytest
import torch
from support.golden import load_golden

from mrx.methods.pa import PA

FLOOR = math.sqrt(8) * 1e-6


def with_weights(module, golden):
    bias = golden.get("bias", torch.zeros(8))
    module.shallow_conv.load_state_dict({"weight": golden["weight"], "bias": bias})
    return module


@pytest.mark.parametrize("n_length", [4, 6])
def test_random_clips_give_the_released_maps_and_gradients(n_length):
    golden = load_golden(f"pa_random_m{n_length}")
    module = with_weights(PA(n_length=n_length), golden)
    frames = golden["x"].requires_grad_()
    found = module(frames.unflatten(0, (-1, n_length)))
    assert (found - golden["out"]).abs().max() <= 1e-5 * golden["out"].max() + 1e-7
    found.backward(golden["g"])
    # The gradient at the equal frames 0 and 1 depends on the rounding of the released code.
    pairs = [(frames.grad[2:], golden["grad_x"][2:])]
    pairs.append((module.shallow_conv.weight.grad, golden["grad_w"]))
    for gradient, expected in pairs:
        assert (gradient - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("n_length", [4, 6])
def test_equal_frames_give_exactly_the_floor(n_length):
    golden = load_golden(f"pa_random_m{n_length}")
    clip = golden["x"].unflatten(0, (-1, n_length))
    found = with_weights(PA(n_length=n_length), golden)(clip)[0, 0]
    assert (found - FLOOR).abs().max() <= 1e-8
    assert found.unique().numel() == 1


@pytest.mark.parametrize(("case", "n_length"), [("a", 4), ("b", 6)])
def test_frames_give_the_maps_of_the_released_code(case, n_length):
    golden = load_golden(f"pa_frames_{case}")
    module = with_weights(PA(n_length=n_length), golden)
    frames = golden["frames"].unflatten(0, (-1, n_length)).permute(0, 1, 4, 2, 3)
    for found in (module(module.prepare(frames)), module.extract(frames)):
        assert (found - golden["out"]).abs().max() <= 1e-5 * golden["out"].max() + 1e-8


def test_maps_are_distances_of_features_of_each_frame():
    module, clip = PA(seed=3).double(), torch.randn(2, 6, 3, 11, 13, dtype=torch.float64)
    module.shallow_conv.bias.data.uniform_()
    features = module.shallow_conv(clip.flatten(0, 1)).unflatten(0, (2, 6))
    expected = (features[:, :-1] - features[:, 1:] + 1e-6).square().sum(2).sqrt()
    torch.testing.assert_close(module(clip), expected)


def test_the_bias_takes_part_in_training_with_a_gradient_of_zero():
    module = PA()
    module(torch.randn(1, 6, 3, 9, 9)).sum().backward()
    assert torch.equal(module.shallow_conv.bias.grad, torch.zeros(8))


def test_a_seed_is_repeatable_and_keeps_the_random_generator():
    before = torch.get_rng_state()
    first, second, other = PA(seed=7), PA(seed=7), PA(seed=8)
    assert torch.equal(first.shallow_conv.weight, second.shallow_conv.weight)
    assert not torch.equal(first.shallow_conv.weight, other.shallow_conv.weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_facts_tell_trained_from_seeded_weights():
    module = PA(seed=1)
    before = module.collect_facts()
    module.shallow_conv.weight.data.mul_(2)
    after = module.collect_facts()
    assert (before["trained"], after["trained"]) == (False, True)
    assert before["weights_sha256"] == PA(seed=1).collect_facts()["weights_sha256"]


def test_the_bound_covers_stored_frames_and_follows_the_weights():
    module = PA()
    bound = module.bound
    assert load_golden("pa_frames_b")["out"].max() < bound < 0.2
    module.shallow_conv.weight.data.mul_(3)
    assert module.estimate_bound() == pytest.approx(3 * bound)


def test_channels_are_named_by_their_pair():
    assert PA().channels == ("pa0", "pa1", "pa2", "pa3", "pa4")
    assert (PA(n_length=4).length, PA(n_length=4).step) == (4, 4)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_length": 1}, "n_length=1: must be at least 2"),
        ({"normalize": "mean"}, "normalize=mean: choose from"),
    ],
)
def test_invalid_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        PA(**parameters)

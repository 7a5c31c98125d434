import copy

import pytest
import torch
from support.golden import assert_within, load_golden

from mrx.errors import ShapeError
from mrx.methods.mbpm import MBPM
from mrx.ops.stencils import laplacian_of_gaussian, reflect_depthwise


def with_weights(module, space, time):
    module.load_state_dict({"conv_s.weight": space, "conv_t.weight": time})
    return module


def as_windows(frames):
    """Convert bytes (T, H, W, 3) to (T / 3, 3, 3, H, W), channels last in memory."""
    return frames.reshape(-1, 3, *frames.shape[1:]).permute(0, 1, 4, 2, 3)


@pytest.mark.parametrize("case", ["a", "b"])
def test_random_clips_are_filtered_as_by_the_released_code(case):
    golden = load_golden(f"mbpm3_random_{case}")
    clips, module = golden["x"].flatten(0, 1), MBPM()
    assert_within(module(clips), golden["out_default"], 2e-4)
    with_weights(module, golden["w_default"], module.conv_t.weight)
    assert_within(module(clips), golden["out_default"], 2e-5)


@pytest.mark.parametrize("case", ["a", "b"])
def test_given_weights_give_the_released_output_and_gradients(case):
    golden = load_golden(f"mbpm3_random_{case}")
    module = with_weights(MBPM(), golden["ws"], golden["wt"])
    found = module(golden["x"].flatten(0, 1))
    found.backward(golden["g"])
    assert_within(found, golden["out_given"], 2e-5)
    assert_within(module.conv_s.weight.grad, golden["grad_ws"], 2e-5)
    assert_within(module.conv_t.weight.grad, golden["grad_wt"], 2e-5)


@pytest.mark.parametrize("case", ["a", "b"])
@pytest.mark.parametrize(("normalize", "key"), [("imagenet", "out"), ("none", "out01")])
def test_frames_are_filtered_as_by_the_released_code(case, normalize, key):
    golden, module = load_golden(f"mbpm3_frames_{case}"), MBPM(normalize=normalize)
    frames = as_windows(golden["frames"])
    assert_within(module(module.prepare(frames)), golden[key], 2e-4)
    with torch.inference_mode():
        assert_within(module.extract(frames), golden[key], 2e-4)


@pytest.mark.parametrize("name", ["impulse_mid", "impulse_first_nearborder"])
def test_impulses_give_the_kernel_also_across_the_border(name):
    golden = load_golden("mbpm3_special")
    clip = golden[f"x_{name}"].permute(0, 3, 1, 2)[None]
    assert_within(MBPM()(clip), golden[f"out_{name}"], 2e-4)


def test_still_frames_give_zero_and_a_linear_ramp_nearly_zero():
    golden = load_golden("mbpm3_special")
    still, ramp = (golden[f"x_{name}"].permute(0, 3, 1, 2)[None] for name in ("static", "ramp"))
    assert not MBPM()(still).any()
    assert MBPM()(ramp).abs().max() <= 2e-4


def test_an_impulse_in_the_middle_frame_gives_2_3_of_the_kernel():
    clip = torch.zeros(1, 3, 3, 17, 17, dtype=torch.float64)
    clip[0, 1, :, 8, 8] = 1
    expected = 2 / 3 * laplacian_of_gaussian(9, 1.1).kernel.expand(3, 9, 9)
    torch.testing.assert_close(MBPM().double()(clip)[0, :, 4:13, 4:13], expected)


def test_paper_scale_is_the_default_times_the_sum_of_its_kernel():
    clip = torch.randn(2, 3, 3, 20, 24)
    total = laplacian_of_gaussian(9, 1.1, scale="paper").kernel.sum()
    assert_within(MBPM(scale="paper")(clip), total.float() * MBPM()(clip), 1e-4)


def test_time_before_space_is_space_before_time():
    module, clip = MBPM(), torch.randn(2, 3, 3, 20, 24)
    with_weights(module, torch.randn(3, 1, 9, 9), torch.randn(3, 1, 3))
    in_space = reflect_depthwise(clip.flatten(0, 1), module.conv_s.weight).view_as(clip)
    expected = torch.einsum("btchw,ct->bchw", in_space, module.conv_t.weight[:, 0])
    assert_within(module(clip), expected, 2e-6)


def test_the_bound_follows_kernel_normalization_and_weights():
    module = MBPM()
    assert module.bound == pytest.approx(500, abs=2)
    assert MBPM(normalize="none").bound == pytest.approx(112, abs=1)
    assert MBPM(scale="paper").bound == pytest.approx(module.bound / 1280.5, rel=1e-3)
    with_weights(module, 2 * module.conv_s.weight, module.conv_t.weight)
    assert module.estimate_bound() == pytest.approx(2 * module.bound)


def test_facts_tell_trained_from_untrained_weights():
    module = MBPM()
    before = module.collect_facts()
    module.conv_t.weight.data.mul_(1.5)
    after = module.collect_facts()
    assert (before["trained"], after["trained"]) == (False, True)
    assert (
        before["weights_sha256"]
        == MBPM().collect_facts()["weights_sha256"]
        != after["weights_sha256"]
    )


def test_a_module_can_be_copied_after_training_on_it():
    module, clip = MBPM(), torch.randn(2, 3, 3, 9, 9)
    module(clip).sum().backward()
    assert torch.equal(copy.deepcopy(module)(clip), module(clip))


def test_making_a_module_leaves_the_random_generator_alone():
    before = torch.get_rng_state()
    MBPM()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"size": 8}, "size=8: the kernel needs an odd number of taps"),
        ({"size": 13}, "sigma=1.1, size=13: .* rounding"),
        ({"scale": "unit"}, "scale=unit: choose from released, paper"),
        ({"normalize": "mean"}, "normalize=mean: choose from imagenet, x3d, none"),
    ],
)
def test_invalid_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        MBPM(**parameters)


def test_frames_smaller_than_the_reflection_are_refused():
    with pytest.raises(ShapeError, match="needs frames of at least 5x5 pixels, got 20x4"):
        MBPM()(torch.zeros(1, 3, 3, 4, 20))
    assert MBPM()(torch.zeros(1, 3, 3, 5, 5)).shape == (1, 3, 5, 5)

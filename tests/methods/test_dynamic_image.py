import pytest
import torch
from support.golden import load_golden

from mrx.methods.dynamic_image import DynamicImage
from mrx.ops.rank_pool import frame_weights


def windows(frames, starts, length):
    """Convert bytes (T, H, W, 3) to windows (B, length, 3, H, W)."""
    return torch.stack([frames[start : start + length] for start in starts]).permute(0, 1, 4, 2, 3)


@pytest.mark.parametrize("case", ["a", "b"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float64, 2e-4)])
def test_six_frames_and_ten_give_the_stored_images(case, dtype, tolerance):
    golden = load_golden(f"dynimg_frames_{case}")
    six = DynamicImage()(windows(golden["frames"], [0, 6], 6).to(dtype))
    ten = DynamicImage(length=10)(windows(golden["frames"], [0], 10).to(dtype))
    assert (six.permute(0, 2, 3, 1) - golden["di6"]).abs().max() <= tolerance
    assert (ten[0].permute(1, 2, 0) - golden["di10"]).abs().max() <= tolerance
    if dtype == torch.float64:
        assert six.abs().max().item() == pytest.approx(golden["di6_max"].item(), abs=1e-9)


@pytest.mark.parametrize("case", ["a", "b"])
def test_the_coefficients_of_the_port_give_its_images(case):
    golden = load_golden(f"dynimg_frames_{case}")
    module = DynamicImage(coefficients="tcvrick")
    found = module(windows(golden["frames"], [0, 6], 6).double()).permute(0, 2, 3, 1)
    assert (found - golden["tc6"]).abs().max() <= 1e-4


@pytest.mark.parametrize("case", ["a", "b"])
def test_exact_pooling_gives_the_stored_images(case):
    golden = load_golden("rankpool_exact")
    frames, strength = golden[f"frames_{case}"], golden[f"C_{case}"].item()
    module = DynamicImage(length=len(frames), pooling="exact", strength=strength)
    found = module(windows(frames, [0], len(frames)).double())[0].permute(1, 2, 0)
    expected = golden[f"w_{case}"]
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_one_frame_is_its_own_dynamic_image():
    clip = torch.rand(2, 1, 3, 4, 5) * 255
    assert torch.equal(DynamicImage(length=1)(clip), clip[:, 0])


def test_still_scenes_cancel_except_with_the_ports_coefficients():
    clip = (torch.rand(1, 1, 3, 4, 5, dtype=torch.float64) * 255).expand(1, 6, 3, 4, 5)
    assert DynamicImage()(clip).abs().max() < 1e-11
    torch.testing.assert_close(DynamicImage(coefficients="tcvrick")(clip), 6 * clip[:, 0])


def test_an_offset_cancels():
    clip = torch.rand(1, 6, 3, 4, 5, dtype=torch.float64) * 200
    torch.testing.assert_close(DynamicImage()(clip + 50), DynamicImage()(clip))


@pytest.mark.parametrize("pooling", ["approximate", "exact"])
def test_the_order_of_frames_matters(pooling):
    clip, module = torch.rand(1, 6, 3, 4, 5) * 255, DynamicImage(pooling=pooling)
    assert (module(clip) - module(clip.flip(1))).abs().max() > 0.1


def test_the_gradient_of_a_frame_is_its_coefficient():
    clip = torch.rand(1, 6, 3, 4, 5, requires_grad=True)
    DynamicImage()(clip).sum().backward()
    expected = frame_weights(6).float().view(1, 6, 1, 1, 1).expand_as(clip)
    torch.testing.assert_close(clip.grad, expected)


@pytest.mark.parametrize("coefficients", ["original", "tcvrick", "simple"])
def test_no_clip_passes_the_bound_of_approximate_pooling(coefficients):
    module = DynamicImage(coefficients=coefficients)
    worst = (module.weights > 0).float().view(1, 6, 1, 1, 1).expand(1, 6, 3, 2, 2) * 255
    assert module(worst).max().item() == pytest.approx(module.bound)
    assert module(255 - worst).abs().max().item() <= module.bound * (1 + 1e-6)


def test_exact_pooling_stays_in_its_bound_and_has_no_gradient():
    clip = torch.randint(0, 256, (1, 6, 3, 64, 85), dtype=torch.uint8)
    module = DynamicImage(pooling="exact")
    assert 0 < module.extract(clip).abs().max().item() < module.bound
    assert not module(clip.float().requires_grad_()).requires_grad


def test_the_step_is_six_for_every_length():
    assert [DynamicImage(length=n).step for n in (1, 6, 10)] == [6, 6, 6]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"length": 0}, "length=0: rank pooling needs at least 1 frame"),
        ({"length": 1, "coefficients": "simple"}, "all weights are 0"),
        ({"pooling": "mean"}, "pooling=mean: choose from approximate, exact"),
        ({"coefficients": "matlab"}, "coefficients=matlab: choose from original, tcvrick, simple"),
        ({"strength": 0.0}, "strength=0.0: must be above 0"),
    ],
)
def test_invalid_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        DynamicImage(**parameters)

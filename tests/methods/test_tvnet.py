import copy

import pytest
import torch
import torch.nn.functional as F
from support import flows

from mrx.errors import ShapeError
from mrx.methods.tvnet import METHOD, TVNet, flow_loss
from mrx.ops.tvnet_solver import WarpSampling

PORT = {"floor_grey": False, "normalize_pair": False, "outside": "clamp", "short_shift": False}


def load(name):
    golden = flows.load_golden_arrays(f"tvnet_{name}")
    return {key: torch.from_numpy(value) for key, value in golden.items()}


def as_window(*images):
    """Stack images (H, W, 3) in B, G, R as one window in R, G, B."""
    return torch.stack(images).flip(-1).permute(0, 3, 1, 2)[None]


def both_ways(module, frames):
    """Return the maps of `forward` and of `extract`."""
    with torch.inference_mode():
        return module(module.prepare(frames)), module.extract(frames)


def random_frames(batch=2, frames=2, height=24, width=31):
    shape = (batch, frames, height, width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8).permute(0, 1, 4, 2, 3)


def random_weights(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def textures(count, height=24, width=32):
    """Return windows of smooth noise that moves by about a pixel from frame to frame."""
    noise = 255 * torch.rand(count, 3, height // 4, width // 4)
    wide = F.interpolate(noise, (height + 2, width + 2), mode="bicubic").clamp(0, 255)
    return torch.stack([wide[..., 1:-1, 1:-1], wide[..., 2:, :-2]], 1)


@pytest.mark.parametrize("pair", ["syn_rot2deg", "mb_RubberWhale"])
@pytest.mark.parametrize("iterations", [1, 10, 50])
def test_untrained_flow_is_that_of_the_official_code(pair, iterations):
    golden = load(f"official_{pair}")
    expected = golden[f"flow_s1_w1_i{iterations}"].permute(2, 0, 1)
    frames = as_window(golden["bgr1"], golden["bgr2"])
    for found in both_ways(TVNet(iterations=iterations), frames):
        assert (found[0] - expected).abs().max() <= 1e-3


@pytest.mark.parametrize("pair", ["syn_rot2deg", "mb_RubberWhale"])
def test_three_scales_and_two_warps_match_the_official_code(pair):
    golden = load(f"official_ms_{pair}")
    module = TVNet(scales=3, warps=2, iterations=10)
    for found in both_ways(module, as_window(golden["bgr1"], golden["bgr2"])):
        assert (found[0].permute(1, 2, 0) - golden["flow_s3_w2_i10"]).abs().max() <= 1e-3


def test_a_stack_holds_the_flows_of_the_official_code_in_order():
    golden, module = load("official_clip6_rubberwhale"), TVNet(stack=5)
    assert module.channels == ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4", "x5", "y5")
    for found in both_ways(module, as_window(*golden["bgr"])):
        assert (found[0] - golden["flow10"]).abs().max() <= 1e-3


def test_a_stack_of_flows_is_each_pair_by_itself():
    frames, single = random_frames(batch=1, frames=4), TVNet(iterations=5)
    pairs = [single(single.prepare(frames[:, i : i + 2])) for i in range(3)]
    found = TVNet(stack=3, iterations=5)(single.prepare(frames))
    torch.testing.assert_close(found, torch.cat(pairs, 1))
    assert single.channels == ("dx", "dy")


@pytest.mark.parametrize("pair", ["syn_rot2deg", "syn_smallobj", "mb_Grove2", "mb_RubberWhale"])
@pytest.mark.parametrize("iterations", [10, 50])
def test_the_rules_of_the_port_are_options(pair, iterations):
    golden = load(f"port_{pair}")
    frames = as_window(*(golden[key][..., None].expand(-1, -1, 3) for key in ("I0", "I1")))
    for found in both_ways(TVNet(iterations=iterations, **PORT), frames):
        expected = golden[f"flow_i{iterations}_ac"]
        assert (found[0].permute(1, 2, 0) - expected).abs().max() <= 1e-3


def test_identical_frames_give_next_to_no_flow():
    frames = random_frames(frames=1).expand(-1, 2, -1, -1, -1)
    for module in (TVNet(), TVNet(preset="multiscale", iterations=5)):
        assert all(found.abs().max() < 1e-6 for found in both_ways(module, frames))


@pytest.mark.parametrize("grays", [(0, 0), (90, 90), (255, 0), (40, 180)])
def test_constant_frames_give_flow_only_from_the_dark_border(grays):
    frames = torch.tensor(grays, dtype=torch.uint8).view(1, 2, 1, 1, 1).expand(1, 2, 3, 20, 26)
    assert both_ways(TVNet(pad="reflect"), frames)[1].abs().max() < 1e-4
    found = both_ways(TVNet(), frames)[0]
    assert found.isfinite().all()
    assert found.abs().max() < 1e-4 or grays == (40, 180)


@pytest.mark.parametrize("kind", ["identical", "constant", "black", "different"])
@pytest.mark.parametrize("depth", [{}, {"scales": 2, "warps": 2, "iterations": 5}])
def test_gradients_are_finite_also_where_nothing_moves(kind, depth):
    clip = {
        "identical": 255 * torch.rand(1, 1, 3, 20, 26).expand(1, 2, 3, 20, 26),
        "constant": torch.full((1, 2, 3, 20, 26), 90.0),
        "black": torch.zeros(1, 2, 3, 20, 26),
        "different": torch.tensor([40.0, 180.0]).view(1, 2, 1, 1, 1).expand(1, 2, 3, 20, 26),
    }[kind].clone()
    module = TVNet(**depth, train_constants=True, field_height=3, field_width=4)
    module(clip.requires_grad_()).square().sum().backward()
    assert all(value.grad.isfinite().all() for value in (clip, *module.parameters()))


def test_gradients_reach_images_taps_field_and_constants():
    module = TVNet(
        scales=2, warps=2, iterations=4, train_constants=True, field_height=5, field_width=6
    )
    clip = textures(1).requires_grad_()
    module(clip).square().mean().backward()
    assert len(list(module.parameters())) == 6
    assert all(value.grad.abs().max() > 0 for value in (clip, *module.parameters()))


def test_gradients_of_all_parameters_equal_finite_differences():
    torch.manual_seed(0)
    module = TVNet(
        *("tvnet50", 1, 2, 2, 2),
        floor_grey=False,
        train_constants=True,
        field_height=2,
        field_width=3,
    ).double()
    random_weights(module)
    clip = 255 * torch.rand(1, 2, 3, 12, 14, dtype=torch.float64)
    names = [name for name, _ in module.named_parameters()]

    def run(clip, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), clip)

    inputs = (clip.requires_grad_(), *module.parameters())
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


def test_training_the_taps_lowers_the_flow_loss():
    torch.manual_seed(0)
    module, clip, losses = TVNet(iterations=10), textures(4), []
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(12):
        loss = flow_loss(
            clip[:, 0], clip[:, 1], module(clip), strength=0.15, sampling=module.sampling
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]


def test_the_flow_loss_is_brightness_and_total_variation():
    first, second = torch.zeros(1, 3, 4, 5), torch.full((1, 3, 4, 5), 2.0)
    flow = torch.stack([torch.arange(5.0).expand(4, 5), torch.zeros(4, 5)])[None]
    given = {"strength": 0.5, "sampling": WarpSampling("clamp", shorten=False)}
    assert flow_loss(first, second, 0 * flow, **given).item() == pytest.approx(1)
    assert flow_loss(first, second, flow, **given).item() == pytest.approx(1 + 4 / 5)
    double = torch.tensor([-2.0, 2.0]).expand(2, 2, 2)
    assert flow_loss(first, second, flow, **given, taps=double).item() == pytest.approx(1 + 8 / 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_neither_flow_nor_gradient(dtype):
    module, clip = random_weights(TVNet(scales=2, warps=2, iterations=5)), textures(2)
    module(clip).mean().backward()
    expected = module.gradient.grad.clone()
    module.zero_grad()
    with torch.autocast("cpu", dtype=dtype):
        found = module(clip)
        found.mean().backward()
    assert torch.equal(found, module(clip))
    torch.testing.assert_close(module.gradient.grad, expected)


def test_trained_constants_start_at_fixed_ones_and_stay_positive():
    clip, module = textures(1), TVNet(iterations=5, train_constants=True)
    torch.testing.assert_close(module(clip), TVNet(iterations=5)(clip), rtol=0, atol=1e-5)
    module.log_tau.data.sub_(50)
    assert 0 < module.collect_facts()["tau"] < 1e-20
    assert module(clip).isfinite().all()


def test_a_module_works_at_any_size_with_a_field_of_its_own():
    module = random_weights(TVNet(scales=3, iterations=2, field_height=6, field_width=8))
    for height, width in [(2, 2), (16, 16), (5, 7), (3, 200), (33, 41)]:
        frames = random_frames(1, height=height, width=width)
        found, extracted = both_ways(module, frames)
        assert found.shape == (1, 2, height, width)
        assert found.isfinite().all()
        assert torch.equal(found, extracted)


@pytest.mark.parametrize("change", [lambda module: module, random_weights])
def test_a_batch_of_different_pairs_is_one_by_one(change):
    module, frames = change(TVNet(scales=2, warps=2, iterations=10)), random_frames(3)
    for found in both_ways(module, frames):
        alone = torch.cat([module(module.prepare(window[None])) for window in frames])
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-6)


def test_matching_the_light_keeps_the_flow_right():
    before, after = flows.make_texture(48, 64), flows.make_texture(48, 64, dx=0.5)
    brighter = flows.change_light(after, "gain 1.15 offset 10")
    clip = flows.stack_window(before, brighter).expand(-1, -1, 3, -1, -1).float()
    errors = {}
    for light in ("none", "frame"):
        # Without the stretching of a pair, which hides some of the change.
        module = TVNet(light=light, normalize_pair=False)
        with torch.no_grad():
            errors[light] = (module(clip)[0, 0, 4:-4, 4:-4] - 0.5).abs().mean()
    assert errors["frame"] < 0.5 * errors["none"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"preset": "paper"}, "preset=paper: choose from tvnet50, multiscale"),
        ({"pad": "edge"}, "pad=edge: choose from zero, reflect"),
        ({"outside": "zero"}, "outside=zero: choose from extrapolate, clamp"),
        ({"stack": 0}, "stack=0: must be at least 1"),
        ({"iterations": 0}, "iterations=0: must be at least 1"),
        ({"zoom": 1.0}, r"zoom=1\.0: must be above 0 and below 1"),
        ({"theta": 0.0}, r"theta=0\.0: must be above 0"),
        ({"field_height": 3}, "field_height=3, field_width=0: give both above 0, or both 0"),
    ],
)
def test_invalid_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        TVNet(**parameters)


def test_clips_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match=r"takes clips \(B, 6, 3, H, W\), got \(1, 2, 3, 9, 9\)"):
        TVNet(stack=5)(torch.zeros(1, 2, 3, 9, 9))
    with pytest.raises(ShapeError, match="at least 3x3 pixels, got 9x2"):
        TVNet(pad="reflect").extract(torch.zeros(1, 2, 3, 2, 9))


def test_no_windows_give_no_maps():
    for found in both_ways(TVNet(stack=2, iterations=2), random_frames(0, frames=3)):
        assert found.shape == (0, 4, 24, 31)


def test_parameters_override_the_preset():
    assert TVNet().depth == (1, 1, 50, 0.5)
    assert TVNet("multiscale", warps=2, zoom=0.7).depth == (5, 2, 50, 0.7)
    assert METHOD.build_module({"preset": "multiscale"}).divergence.shape == (5, 5, 50, 2, 2, 2)


def test_facts_tell_trained_from_untrained_weights():
    module = TVNet("multiscale", iterations=2, field_height=2, field_width=2)
    facts = module.collect_facts()
    assert facts["trained"] is False
    assert [facts[key] for key in ("scales", "warps", "iterations", "strength")] == [5, 5, 2, 0.15]
    module.initial_field.data[0, 0, 0] = 1
    assert module.collect_facts()["trained"] is True


def test_a_module_can_be_copied_after_training_on_it():
    module = TVNet(iterations=3)
    module(textures(1)).sum().backward()
    clip = textures(1)
    assert torch.equal(copy.deepcopy(module)(clip), module(clip))


@pytest.mark.gpu
def test_a_gpu_gives_the_flow_of_the_official_code(device):
    golden = load("official_syn_rot2deg")
    frames = as_window(golden["bgr1"], golden["bgr2"]).to(device)
    for found in both_ways(TVNet().to(device), frames):
        assert (found[0].cpu().permute(1, 2, 0) - golden["flow_s1_w1_i50"]).abs().max() <= 1e-3

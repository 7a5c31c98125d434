import pytest
import torch
from support import flows

from mrx.errors import ShapeError
from mrx.methods.motion_squeeze import FeatureMatching, MotionSqueeze
from mrx.ops.matching import pair_up, soft_argmax

BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
POINTS = {"separable": 33.668, "one-1x1": 33.443, "one-3x3": 33.520, "four-3x3": 35.761}
"""GFLOPs of MSNet-R50 by transformation, as in table 1 of the supplement."""


def load(name):
    return {
        key: torch.from_numpy(value)
        for key, value in flows.load_golden_arrays(f"matching_{name}").items()
        if value.dtype.kind in "fi"
    }


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def released():
    golden = load("ms_module")
    module = MotionSqueeze(128, segments=4).eval()
    weights = {k.removeprefix("w:"): v for k, v in golden.items() if k.startswith("w:")}
    counts = {k: v for k, v in module.state_dict().items() if k.endswith("num_batches_tracked")}
    module.load_state_dict(weights | counts)
    return module, golden


def small(**others):
    """Return a module that matches 4 channels, softly enough for finite differences."""
    matching = FeatureMatching(patch=3, sigma=2.0, temperature=5.0)
    return MotionSqueeze(4, segments=3, reduced=None, matching=matching, **others)


@pytest.mark.parametrize("name", ["known_shift", "random_p15_t100", "random_p15_t20"])
def test_matching_gives_the_released_displacement_and_confidence(name):
    golden = load(name)
    module = FeatureMatching(temperature=float(golden["temperature"]))
    found = module(*pair_up(golden["feat"], int(golden["T"])))
    assert (found.displacement / 7 - golden["flow"]).abs().max() <= 1e-5
    assert (found.confidence - golden["conf"]).abs().max() <= 1e-5


def test_released_weights_give_the_output_of_the_released_code():
    module, golden = released()
    features = golden["feat_f16"].float()
    with torch.no_grad():
        found, out = module.match_frames(features), module(features)
    close = (found.displacement / 7 - golden["flow"]).abs() <= 1e-4
    assert close.float().mean() >= 0.995
    assert (found.confidence - golden["conf"]).abs().max() <= 1e-4
    expected = golden["out_minus_res"]
    torch.testing.assert_close((out - features)[:, ::4], expected, rtol=1e-3, atol=1e-3)


def test_the_state_dict_has_the_released_names_and_shapes():
    sizes = {"chnl_reduction.0": (64, 512, 1, 1)}
    norms = {"chnl_reduction.1": 64}
    for i, (a, b, k) in enumerate([(3, 16, 7), (16, 32, 3), (32, 64, 3), (64, 512, 3)], 1):
        sizes[f"flow_refinement.conv{i}.0"] = (a, 1, k, k)
        sizes[f"flow_refinement.conv{i}.3"] = (b, a, 1, 1)
        norms |= {f"flow_refinement.conv{i}.1": a, f"flow_refinement.conv{i}.4": b}
    expected = {f"{name}.weight": size for name, size in sizes.items()}
    for (name, width), part in ((n, part) for n in norms.items() for part in BATCH_NORM):
        expected[f"{name}.{part}"] = () if part == "num_batches_tracked" else (width,)
    found = MotionSqueeze(512, segments=8).state_dict()
    assert {key: tuple(value.shape) for key, value in found.items()} == expected


@pytest.mark.parametrize(
    ("form", "kernels"),
    [
        ("one-1x1", [(32, 3, 1, 1)]),
        ("one-3x3", [(32, 3, 3, 3)]),
        ("four-3x3", [(64, 3, 3, 3), (64, 64, 3, 3), (64, 64, 3, 3), (32, 64, 3, 3)]),
    ],
)
def test_the_other_transformations_have_these_names_and_shapes(form, kernels):
    expected = {}
    for i, size in enumerate(kernels, 1):
        expected[f"conv{i}.0.weight"] = size
        expected |= {f"conv{i}.1.{part}": size[:1] for part in BATCH_NORM[:-1]}
        expected[f"conv{i}.1.num_batches_tracked"] = ()
    module = MotionSqueeze(32, segments=2, transformation=form)
    found = module.flow_refinement.state_dict()
    assert {key: tuple(value.shape) for key, value in found.items()} == expected


def test_released_networks_hold_every_name_of_the_module():
    keys = set(flows.load_golden_arrays("matching_net_R18_ms")["keys"].tolist())
    assert MotionSqueeze(128, segments=4).state_dict().keys() <= keys


@pytest.mark.parametrize("form", POINTS)
def test_transformations_cost_the_operations_of_the_supplement(form):
    def cost(form):
        module = MotionSqueeze(512, segments=8, transformation=form).flow_refinement
        convs = [m.weight.numel() for m in module.modules() if isinstance(m, torch.nn.Conv2d)]
        norms = [4 * m.num_features for m in module.modules() if hasattr(m, "num_features")]
        return (sum(convs) + sum(norms)) * 8 * 28 * 28 / 1e9

    assert cost(form) - cost("one-1x1") == pytest.approx(POINTS[form] - 33.443, abs=1.1e-3)


@pytest.mark.parametrize("form", POINTS)
def test_every_transformation_trains_all_its_weights(form):
    module = MotionSqueeze(16, segments=2, reduced=8, transformation=form)
    features = seeded(4, 16, 9, 10).requires_grad_()
    module(features).square().sum().backward()
    assert features.grad.abs().sum() > 0
    for name, parameter in module.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
        assert parameter.grad.isfinite().all(), name


def test_the_transformed_maps_are_added_without_a_relu():
    module, golden = released()
    features = golden["feat_f16"].float() - 3
    with torch.no_grad():
        found = module.match_frames(features)
        maps = torch.cat([found.displacement / 7, found.confidence], 1)
        motion = module.flow_refinement(maps[[0, 1, 2, 2]])
        out = module(features)
    assert torch.equal(out, features + motion)
    assert motion.min() == 0
    assert out.min() < 0


def test_a_clip_is_matched_alone_as_among_others():
    module, golden = released()
    clips = golden["feat_f16"].float()
    others = clips.roll(5, dims=3)
    together, alone = module.match_frames(torch.cat([clips, others])), module.match_frames(others)
    assert together.displacement.shape == (6, 2, 14, 14)
    for found, expected in zip(together, alone, strict=True):
        assert (found[3:] - expected).abs().max() <= 1e-4


def test_many_pairs_are_matched_in_parts(monkeypatch):
    first, second = seeded(5, 6, 9, 8), seeded(5, 6, 9, 8, seed=1)
    expected = FeatureMatching()(first, second)
    monkeypatch.setattr("mrx.methods.motion_squeeze._MAX_CORRELATION_VALUES", 2 * 225 * 72)
    for found, whole in zip(FeatureMatching()(first, second), expected, strict=True):
        torch.testing.assert_close(found, whole)


def test_dilated_matching_finds_shifts_beyond_the_patch_in_cells():
    first = seeded(1, 32, 20, 24)
    found = FeatureMatching(patch=7, dilation=3)(first, first.roll((-6, 9), dims=(2, 3)))
    inside = found.displacement[0, :, 6:, :-9]
    expected = torch.tensor([9.0, -6.0]).view(2, 1, 1).expand_as(inside)
    assert FeatureMatching(patch=7, dilation=3).reach == 9
    torch.testing.assert_close(inside, expected, rtol=0, atol=1e-3)


def test_a_flat_region_does_not_move_where_the_smallest_tie_wins():
    features = seeded(1, 12, 40, 40)
    features[..., 8:, 8:] = features[..., :1, :1]
    found = FeatureMatching(tie="smallest")(features, features)
    flat = found.displacement[..., 16:32, 16:32]
    assert flat.abs().max() <= 1e-4
    assert found.confidence[..., 16:32, 16:32].min() >= 0.9999


def test_textured_features_match_alike_by_both_tie_rules():
    pair = seeded(2, 12, 18, 18).split(1)
    first, smallest = FeatureMatching()(*pair), FeatureMatching(tie="smallest")(*pair)
    torch.testing.assert_close(first, smallest)


@pytest.mark.parametrize("features", [torch.zeros(4, 128, 6, 6), torch.ones(4, 128, 6, 6)])
def test_flat_features_give_finite_outputs_and_gradients(features):
    module = MotionSqueeze(128, segments=4)
    features = features.clone().requires_grad_()
    out = module(features)
    out.sum().backward()
    assert out.isfinite().all()
    assert features.grad.isfinite().all()


def test_autocast_does_not_change_the_matching():
    pair = seeded(2, 32, 9, 10).split(1)
    expected = FeatureMatching()(*pair)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = FeatureMatching()(*pair)
        half = FeatureMatching()(*(maps.bfloat16() for maps in pair))
        out = MotionSqueeze(32, segments=2)(torch.cat(pair))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert {maps.dtype for maps in half} == {torch.float32}
    assert out.isfinite().all()


def test_a_module_in_half_precision_keeps_its_dtype():
    module = MotionSqueeze(32, segments=2).bfloat16()
    assert module(seeded(2, 32, 9, 10).bfloat16()).dtype == torch.bfloat16
    assert module.double()(seeded(2, 32, 9, 10).double()).dtype == torch.float64


@pytest.mark.parametrize("form", ["separable", "one-3x3"])
def test_gradients_are_those_of_finite_differences(form):
    module = small(transformation=form).double().eval()
    for parameter in module.parameters():
        parameter.data.uniform_(0.1, 1, generator=torch.Generator().manual_seed(1))
    features = seeded(3, 4, 4, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(module, features)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"patch": 14}, "patch=14: must be odd"),
        ({"patch": 1}, "patch=1: must be at least 3"),
        ({"dilation": 0}, "dilation=0: must be at least 1"),
        ({"sigma": 0.0}, "sigma=0.0: must be above 0"),
        ({"temperature": -1.0}, "temperature=-1.0: must be above 0"),
        ({"tie": "last"}, "tie=last: choose from first, smallest"),
    ],
)
def test_invalid_parameters_of_the_matching_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        FeatureMatching(**parameters)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"segments": 1}, "segments=1: must be at least 2"),
        ({"segments": 4, "transformation": "wide"}, "transformation=wide: choose from separable"),
    ],
)
def test_invalid_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        MotionSqueeze(8, **parameters)


def test_features_of_partial_clips_or_other_channels_are_refused():
    module = MotionSqueeze(8, segments=4, reduced=None)
    with pytest.raises(ShapeError, match=r"matching takes features \(B \* 4, C, H, W\), got"):
        module(torch.zeros(6, 8, 5, 5))
    for shape in [(8, 9, 5, 5), (1, 8, 4, 5, 5)]:
        with pytest.raises(ShapeError, match=r"takes features \(B \* 4, 8, H, W\), got"):
            module(torch.zeros(shape))


def test_maps_that_are_no_pairs_are_refused():
    maps = torch.zeros(3, 8, 9, 9)
    for first, second in [(maps, maps[:2]), (maps[:, :, :0], maps[:, :, :0]), (maps[0], maps[0])]:
        with pytest.raises(ShapeError, match=r"two maps of one shape \(N, C, H, W\)"):
            FeatureMatching()(first, second)


def test_no_pairs_are_matched_to_no_maps():
    found = FeatureMatching()(torch.zeros(0, 8, 9, 7), torch.zeros(0, 8, 9, 7))
    assert found.displacement.shape == (0, 2, 9, 7)


def test_large_maps_are_matched_in_strips_with_the_same_bits(monkeypatch):
    first, second = seeded(1, 6, 40, 32), seeded(1, 6, 40, 32, seed=1)
    expected = FeatureMatching()(first, second)
    monkeypatch.setattr("mrx.methods.motion_squeeze._MAX_CORRELATION_VALUES", 225 * 32 * 8)
    sizes = []
    monkeypatch.setattr(
        "mrx.methods.motion_squeeze.soft_argmax",
        lambda maps, **rules: sizes.append(maps.numel()) or soft_argmax(maps, **rules),
    )
    found = FeatureMatching()(first, second)
    assert sizes == [225 * 32 * 8] * 5
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_matching_shows_its_options():
    assert repr(FeatureMatching(patch=7)) == (
        "FeatureMatching(patch=7, sigma=5.0, temperature=100.0, dilation=1, tie=first)"
    )

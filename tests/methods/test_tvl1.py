import dataclasses

import cv2
import numpy as np
import pytest
import torch
from support import flows

from mrx import methods
from mrx.errors import UsageError
from mrx.methods.tvl1 import TVL1, TVL1_PRESETS

CROPS = ["mb_Grove2", "mb_RubberWhale", "syn_rot2deg", "syn_smallobj"]
EXACT = {
    "flow_one_iter": ({"warps": 1, "inner": 1}, 1e-5),
    "flow_five_iter": ({"warps": 1, "inner": 5}, 1e-5),
    "flow_warp2_i10": ({"warps": 2, "inner": 10}, 1e-3),
}
FULL = {
    "flow_pyr3_w2_i10_o2_med5": (
        {"levels": 3, "warps": 2, "inner": 10, "outer": 2, "epsilon": 0.0},
        5e-3,
    ),
    "flow_half_step_lam03": (
        {
            "zoom": 0.5,
            "levels": 3,
            "warps": 3,
            "inner": 20,
            "outer": 2,
            "median": 3,
            "strength": 0.3,
            "epsilon": 0.0,
        },
        0.03,
    ),
    "flow_default": ({}, 0.03),
}


@pytest.fixture(params=["numba", "opencv", "torch"])
def backend(request, monkeypatch):
    if request.param == "numba":
        pytest.importorskip("numba", reason="numba is not installed")
    monkeypatch.setenv("MRX_BACKEND", request.param)


def extract(module, *frames):
    with torch.inference_mode():
        return module.extract(flows.stack_window(*frames))


def opencv_flow(golden, **parameters):
    return flows.flow_to_planes(extract(TVL1("opencv", **parameters), golden["I0"], golden["I1"]))


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("crop", CROPS)
def test_few_iterations_are_those_of_opencv(crop, name, backend):
    golden = flows.load_golden_arrays(f"tvl1_opencv5_exact_{crop}")
    parameters, tolerance = EXACT[name]
    found = opencv_flow(golden, levels=1, outer=1, median=1, epsilon=0.0, **parameters)
    assert np.abs(found - golden[name]).max() < tolerance


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("crop", CROPS)
def test_whole_solutions_are_those_of_opencv_in_the_mean(crop, name, backend):
    golden = flows.load_golden_arrays(f"tvl1_opencv5_full_{crop}")
    parameters, tolerance = FULL[name]
    found = opencv_flow(golden, **parameters)
    distance = np.linalg.norm(found - golden[name], axis=-1)
    assert distance.mean() < tolerance
    assert np.median(distance) < 0.01
    truths = [flows.measure_error(flow, golden["gt"]) for flow in (found, golden[name])]
    assert abs(truths[0] - truths[1]) < 0.01


def test_the_default_of_opencv_is_met_by_most_pixels(backend):
    distances = []
    for crop in CROPS:
        golden = flows.load_golden_arrays(f"tvl1_opencv5_full_{crop}")
        distances.append(np.linalg.norm(opencv_flow(golden) - golden["flow_default"], axis=-1))
    assert np.mean(distances) < 0.03
    assert np.median(distances) < 0.005


def test_the_formulas_in_float64_are_those_of_opencv():
    golden = flows.load_golden_arrays("tvl1_opencv5_exact_syn_smallobj")
    module = TVL1("opencv", levels=1, outer=1, median=1, epsilon=0.0, warps=1, inner=5).double()
    clip = flows.stack_window(golden["I0"], golden["I1"]).double()
    with torch.no_grad():
        found = flows.flow_to_planes(module(clip))
    assert np.abs(found - golden["flow_five_iter"]).max() < 1e-5


def measure_errors(module, change=lambda frame: frame):
    """Compute the error on each pair of ../shared, after a change to the later frame."""
    pytest.importorskip("numba", reason="numba is not installed")
    errors = {}
    for name in flows.PAIRS:
        before, after, truth = flows.load_pair(name)
        found = flows.flow_to_planes(extract(module, before, change(after)))
        errors[name] = flows.measure_error(found, truth)
    return errors


@pytest.mark.slow
def test_the_default_is_more_accurate_than_dis_on_true_flow():
    errors = measure_errors(TVL1())
    assert np.mean(list(errors.values())) <= 0.24
    assert errors["sintel_final_medium"] <= 1.5
    assert all(errors[name] < dis for name, dis in flows.PAIRS.items())


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "most"), [("accurate", 0.26), ("fast", 0.30)])
def test_presets_without_matches_are_nearly_as_accurate(preset, most):
    assert np.mean(list(measure_errors(TVL1(preset)).values())) <= most


def measure_dis(group, light):
    """Compute the mean error of OpenCV's DIS (medium) on a group of pairs in changed light."""
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    errors = []
    for name in flows.PAIRS:
        if name.startswith(group):
            before, after, truth = flows.load_pair(name)
            found = flow.calc(before, flows.change_light(after, light), None)
            errors.append(flows.measure_error(found, truth))
    return np.mean(errors)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("light", "most"),
    [("gain 1.15", 1.15), ("gain 1.15 offset 10", 1.15), ("ramp", 1.3), ("half", 1.3)],
)
def test_the_default_holds_in_changing_light(light, most):
    still, changed = (
        measure_errors(TVL1(), change)
        for change in (lambda frame: frame, lambda frame: flows.change_light(frame, light))
    )
    for group in ("mb_", "syn_"):
        before, after = (
            np.mean([errors[name] for name in errors if name.startswith(group)])
            for errors in (still, changed)
        )
        assert after <= most * before, group
        assert after < measure_dis(group, light), group


@pytest.mark.parametrize("preset", ["matched", "accurate", "fast"])
@pytest.mark.parametrize("light", ["gain 1.15", "gain 1.15 offset 10", "ramp", "half"])
def test_light_alone_is_no_motion(preset, light):
    frame = flows.make_texture(64, 80)
    found = extract(TVL1(preset), frame, flows.change_light(frame, light))
    assert found.norm(dim=1).mean() < 0.05


@pytest.mark.parametrize("preset", ["matched", "accurate", "fast", "opencv"])
def test_a_known_shift_is_found(preset, backend):
    before, after = flows.make_texture(64, 80), flows.make_texture(64, 80, dx=1.3, dy=-0.6)
    found = extract(TVL1(preset), before, after)[0, :, 8:-8, 8:-8]
    assert found[0].median() == pytest.approx(1.3, abs=0.05)
    assert found[1].median() == pytest.approx(-0.6, abs=0.05)
    assert (found - torch.tensor([1.3, -0.6]).view(2, 1, 1)).abs().mean() < 0.1


@pytest.mark.parametrize("preset", TVL1_PRESETS)
def test_equal_frames_do_not_move_at_all(preset, backend):
    frame = flows.make_texture(40, 50)
    assert torch.equal(extract(TVL1(preset), frame, frame), torch.zeros(1, 2, 40, 50))


@pytest.mark.parametrize("preset", TVL1_PRESETS)
@pytest.mark.parametrize(("first", "second"), [(0, 0), (10, 200), (255, 254)])
def test_plain_frames_of_any_gray_do_not_move(preset, first, second, backend):
    frames = (np.full((20, 24), gray, np.uint8) for gray in (first, second))
    assert extract(TVL1(preset), *frames).abs().max() < 1e-4


@pytest.mark.parametrize("size", [(16, 16), (5, 7), (3, 200), (1, 9), (33, 47)])
@pytest.mark.parametrize("preset", ["accurate", "opencv"])
def test_frames_of_any_size_are_accepted_in_any_order(preset, size, backend):
    module = TVL1(preset)
    frames = flows.make_texture(*size), flows.make_texture(*size, dx=0.5)
    first = extract(module, *frames)
    extract(module, flows.make_texture(30, 20), flows.make_texture(30, 20, dx=1))
    assert first.isfinite().all()
    assert torch.equal(extract(module, *frames), first)


@pytest.mark.slow
def test_frames_in_4k_are_accepted():
    pytest.importorskip("numba", reason="numba is not installed")
    frames = (np.tile(flows.make_texture(240, 256, dx=dx), (9, 15)) for dx in (0, 2))
    found = extract(TVL1("fast", warps=1, inner=3), *frames)
    assert found.shape == (1, 2, 2160, 3840)
    assert found[:, 0].median() == pytest.approx(2, abs=0.1)


def test_no_pairs_of_matched_size_give_no_flow():
    clips = torch.zeros(0, 2, 1, 40, 48)
    assert TVL1()(clips).shape == TVL1().extract(clips).shape == (0, 2, 40, 48)


def test_turning_the_frames_turns_the_flow(backend):
    before, after = flows.make_texture(48, 60), flows.make_texture(48, 60, dx=1.2, dy=0.4)
    found = extract(TVL1(), before, after)
    turned = extract(TVL1(), before.T.copy(), after.T.copy())
    assert (found - turned.flip(1).transpose(2, 3)).abs().mean() < 1e-4


def test_bytes_and_floats_of_any_declared_white_agree():
    frames = flows.stack_window(flows.make_texture(32, 40), flows.make_texture(32, 40, dx=1))
    with torch.no_grad():
        expected = TVL1()(frames.float())
        found = TVL1(white=1.0)(frames.float() / 255)
        assert (found - expected).abs().mean() < 1e-4
        module = TVL1(white=1.0)
        assert torch.equal(module.extract(frames), TVL1().extract(frames))
        assert torch.equal(module.prepare(frames) <= 1, torch.ones_like(frames, dtype=torch.bool))


def test_a_stack_has_the_pairs_in_turn(backend):
    frames = [flows.make_texture(32, 40, dx=0.4 * i**2) for i in range(6)]
    module = TVL1(stack=5)
    assert module.channels == ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4", "x5", "y5")
    found = extract(module, *frames)
    pairs = [extract(TVL1(), *frames[i : i + 2]) for i in range(5)]
    assert torch.equal(found, torch.cat(pairs, dim=1))


def test_pairs_of_a_batch_stop_independently():
    module = TVL1("opencv", levels=2, warps=2)
    easy = flows.stack_window(flows.make_texture(24, 30), flows.make_texture(24, 30, dx=0.1))
    hard = flows.stack_window(
        flows.make_texture(24, 30, seed=1), flows.make_texture(24, 30, dx=4, dy=3, seed=2)
    )
    with torch.no_grad():
        both = module(torch.cat([easy, hard]).float())
        for found, clip in zip(both, (easy, hard), strict=True):
            assert (found - module(clip.float())[0]).abs().max() < 1e-5


def test_windows_that_share_frames_equal_single_pairs(backend):
    video = torch.from_numpy(np.stack([flows.make_texture(24, 30, dx=i) for i in range(4)]))
    windows = video.unfold(0, 2, 1).permute(0, 3, 1, 2)[:, :, None]
    module = TVL1()
    with torch.inference_mode():
        found = module.extract(windows)
        assert torch.equal(found, torch.cat([module.extract(w[None].clone()) for w in windows]))


def test_a_clip_with_nan_spoils_no_other_of_its_batch():
    clips = torch.cat(
        [flows.stack_window(flows.make_texture(40, 48), flows.make_texture(40, 48, dx=1))] * 2
    )
    clips = clips.float()
    module = TVL1("matched", warps=1, inner=3)
    expected = module(clips)[1]
    clips[0, 0, 0, 5, 6] = torch.nan
    found = module(clips)
    assert torch.equal(found[1], expected)
    assert found[0].isnan().any()


def test_batches_are_one_by_one_in_changing_light():
    frame = flows.make_texture(61, 83)
    laters = [flows.make_texture(61, 83, dx=dx, seed=s) for dx, s in ((1, 0), (9, 0), (3, 4))]
    laters += [flows.change_light(later, "gain 1.15 offset 10") for later in laters]
    clips = torch.cat([flows.stack_window(frame, later) for later in laters]).float()
    module = TVL1("matched", warps=2, inner=5)
    with torch.no_grad():
        together = module(clips)
        for found, clip in zip(together, clips, strict=True):
            assert (found - module(clip[None])[0]).abs().max() < 1e-5


@pytest.mark.parametrize("preset", TVL1_PRESETS)
@pytest.mark.parametrize("case", ["moving", "equal", "plain", "white noise"])
def test_gradients_are_finite(preset, case):
    frames = {
        "moving": (flows.make_texture(17, 20), flows.make_texture(17, 20, dx=1)),
        "equal": (flows.make_texture(17, 20), flows.make_texture(17, 20)),
        "plain": (np.full((17, 20), 7, np.uint8), np.full((17, 20), 90, np.uint8)),
        "white noise": np.random.default_rng(0).integers(0, 256, (2, 17, 20), np.uint8),
    }[case]
    module = TVL1(preset, inner=3, outer=1, warps=2, texture_rounds=4)
    clip = flows.stack_window(*frames).float().requires_grad_()
    module(clip).square().sum().backward()
    assert clip.grad.isfinite().all()


@pytest.mark.parametrize(
    ("light", "matching"), [("gain 1.15 offset 10", "frame"), ("ramp", "local")]
)
def test_matching_the_light_keeps_the_flow_right(light, matching):
    before, after = flows.make_texture(64, 80), flows.make_texture(64, 80, dx=1)
    errors = {}
    for choice in ("none", matching):
        found = extract(TVL1(light=choice), before, flows.change_light(after, light))
        errors[choice] = (found[0, 0, 8:-8, 8:-8] - 1).abs().mean()
    assert errors[matching] < 0.3 * errors["none"]


def test_presets_differ_as_documented():
    matched, accurate, fast, opencv, cuda = (
        TVL1_PRESETS[n] for n in ("matched", "accurate", "fast", "opencv", "opencv-cuda")
    )
    assert dataclasses.replace(matched, start="zero") == accurate
    assert (accurate.light, fast.light, opencv.light) == ("local", "local", "none")
    assert (opencv.tau, opencv.strength, opencv.theta) == (0.25, 0.15, 0.3)
    assert (opencv.levels, opencv.zoom, opencv.warps) == (5, 0.8, 5)
    assert (opencv.inner, opencv.outer, opencv.epsilon, opencv.median) == (30, 10, 0.01, 5)
    assert (
        dataclasses.replace(cuda, outer=10, inner=30, median=5, cubic=-0.75, border="zero")
        == opencv
    )
    assert (accurate.epsilon, fast.epsilon) == (0, 0)
    assert fast.warps * fast.inner < accurate.warps * accurate.inner


def test_a_parameter_overrides_its_preset_and_facts_list_all():
    facts = methods.find_method("tvl1").build_module({"preset": "fast", "warps": 7}).collect_facts()
    assert (facts["preset"], facts["warps"], facts["inner"]) == ("fast", 7, 10)
    assert set(facts) == {"preset", *(f.name for f in dataclasses.fields(TVL1_PRESETS["fast"]))}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"preset": "best"},
            "preset=best: choose from matched, accurate, fast, opencv, opencv-cuda",
        ),
        ({"stack": 0}, "stack=0: must be at least 1"),
        ({"white": 0.0}, "white=0.0: must be above 0"),
        ({"zoom": 1.0}, "zoom=1.0: must be above 0 and below 1"),
        ({"median": 4}, "median=4: must be 1, 3 or 5"),
        ({"warps": 0}, "warps=0: must be at least 1"),
        ({"theta": 0.0}, "theta=0.0: must be above 0"),
        ({"epsilon": -1.0}, "epsilon=-1.0: must be at least 0"),
        ({"border": "mirror"}, "border=mirror: must be zero or clamp"),
    ],
)
def test_invalid_parameters_are_refused(parameters, message):
    with pytest.raises(UsageError, match=f"tvl1: {message}"):
        methods.find_method("tvl1").build_module(parameters)

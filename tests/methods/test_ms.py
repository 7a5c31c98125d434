"""Displacement and confidence maps: of the paper, refined, and from a network's features."""

import numpy as np
import pytest
import torch
from support import flows

from mrx.errors import ShapeError, UsageError
from mrx.methods.ms import METHOD, MS
from mrx.methods.weights import load_weights


def photograph(height, width, seed=0):
    """Return color noise of all sizes, as in photographs: (3, H, W) bytes."""
    random = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, 3, height, width)
    for size in (2, 4, 8, 16, 32, 64):
        noise = torch.randn(1, 3, -(-height // size), -(-width // size), generator=random)
        part = torch.nn.functional.interpolate(noise, scale_factor=size, mode="bicubic")
        total += size**0.7 * part[..., :height, :width]
    return (127 + 10 * total).clamp(0, 255).byte()[0]


def crops(dx, dy, seed=0, noise=0):
    """Return a window of two crops of a picture that moves by whole pixels."""
    big = photograph(288, 288, seed)
    first, second = big[:, 64:224, 64:224], big[:, 64 - dy : 224 - dy, 64 - dx : 224 - dx]
    pair = torch.stack([first, second])[None]
    if noise:
        random = torch.Generator().manual_seed(1)
        added = noise * torch.randn(pair.shape, generator=random)
        pair = (pair + added).round().clamp(0, 255).byte()
    return pair


def textures(dx, dy, height=128, width=160):
    frames = [flows.make_texture(height, width), flows.make_texture(height, width, dx=dx, dy=dy)]
    return torch.from_numpy(np.stack(frames))[None, :, None].expand(-1, -1, 3, -1, -1)


def found(module, frames):
    with torch.inference_mode():
        return module.eval().extract(frames)


def errors(maps, dx, dy):
    """Return end-point errors of the inner cells whose target is in the frame."""
    stride = 160 // maps.shape[3]
    border = 2 * 8 // stride
    left, right = (max(border, -(-side // stride) + 1) for side in (-dx, dx))
    top, bottom = (max(border, -(-side // stride) + 1) for side in (-dy, dy))
    error = (maps[:, :2] - torch.tensor([dx, dy]).view(2, 1, 1)).norm(dim=1)
    return error[:, top : error.shape[1] - bottom, left : error.shape[2] - right]


@pytest.mark.parametrize("noise", [0, 2])
@pytest.mark.parametrize("shift", [(8, 0), (16, -8), (-24, 32), (40, -48)])
def test_the_paper_finds_shifts_of_whole_cells(shift, noise):
    error = errors(found(MS("paper"), crops(*shift, noise=noise)), *shift)
    assert (error < 0.5).float().mean() >= 0.9


@pytest.mark.parametrize("shift", [(3, -2), (4, 4), (13, -6), (-27, 19), (40, 5)])
def test_refinement_finds_shifts_of_partial_cells(shift):
    frames = crops(*shift, noise=2)
    error, papers = (errors(found(MS(preset), frames), *shift) for preset in ("refined", "paper"))
    assert error.mean() < 0.3
    assert error.mean() < 0.2 * papers.mean()


def test_refinement_finds_shifts_between_the_cells_of_the_paper():
    frames = textures(5.4, -2.7)
    error = {p: errors(found(MS(p), frames), 5, -3).mean() for p in ("paper", "refined")}
    assert error["refined"] < 0.7 < 2 < error["paper"]  # errors() rounds the truth by up to 0.5


@pytest.mark.parametrize("name", ["syn_large18px", "syn_rot2deg", "syn_brightness"])
def test_refinement_is_within_a_tenth_of_a_pixel_of_true_flow(name):
    before, after, truth = flows.load_pair(name)
    frames = torch.from_numpy(np.stack([before, after]))[None, :, None].expand(-1, -1, 3, -1, -1)
    maps = found(MS(stride=8), frames)[0].permute(1, 2, 0).numpy()
    height, width, _ = maps.shape
    means = truth[: 8 * height, : 8 * width].reshape(height, 8, width, 8, 2).mean((1, 3))
    inner = (slice(3, -3), slice(3, -3))
    assert flows.measure_error(maps[inner][..., :2], means[inner]) < 0.1


@pytest.mark.parametrize(("name", "most"), [("mb_Venus", 0.5), ("sintel_clean_easy", 0.5)])
def test_the_confident_half_is_off_by_at_most_half_of_the_other(name, most):
    before, after, truth = flows.load_pair(name)
    frames = torch.from_numpy(np.stack([before, after]))[None, :, None].expand(-1, -1, 3, -1, -1)
    maps = found(MS(stride=8), frames)[0].permute(1, 2, 0).numpy()
    height, width, _ = maps.shape
    means = truth[: 8 * height, : 8 * width].reshape(height, 8, width, 8, 2).mean((1, 3))
    known = np.abs(means).max(-1) < 1e3
    error = np.linalg.norm(maps[..., :2] - means, axis=-1)[known]
    order = np.argsort(-maps[..., 2][known], kind="stable")
    confident, rest = np.split(error[order], [len(order) // 2])
    assert confident.mean() <= most * rest.mean()


def test_a_still_picture_does_not_move():
    still = photograph(64, 80).expand(1, 2, -1, -1, -1)
    assert found(MS(), still)[:, :2].abs().max() < 1e-4
    assert found(MS("paper"), still)[:, :2].abs().max() < 1e-4


@pytest.mark.parametrize("preset", ["paper", "refined"])
def test_a_constant_picture_has_no_motion_and_no_confidence(preset):
    maps = found(MS(preset), torch.full((1, 2, 3, 64, 72), 90, dtype=torch.uint8))
    assert maps.abs().max() < 1e-4


def test_refinement_keeps_flat_regions_of_a_still_picture_still():
    frames = textures(0, 0).clone()
    frames[..., 80:] = 128
    paper, refined = (found(MS(preset), frames) for preset in ("paper", "refined"))
    assert paper[:, :2, :, 12:].abs().max() > 8
    assert paper[:, 2].min() > 0.99
    assert refined[:, :2].abs().max() < 1e-3
    assert refined[:, 2, :, 24:].max() < 0.05


@pytest.mark.parametrize("preset", ["paper", "refined"])
def test_maps_are_the_same_bytes_twice_and_in_any_batch(preset):
    module, frames = MS(preset), torch.cat([crops(5, 3), crops(-9, 14, seed=1)])
    maps = found(module, frames)
    assert torch.equal(found(module, frames), maps)
    assert torch.equal(torch.cat([found(module, pair[None]) for pair in frames]), maps)


def test_single_precision_is_as_good_as_double():
    module, frames = MS().eval(), textures(9.7, -5.4)
    with torch.inference_mode():
        double = module(module.prepare(frames).double())
    assert double.dtype == torch.float64
    assert (found(module, frames) - double).abs().max() < 1e-3


def test_maps_have_a_value_for_each_whole_cell():
    frames = textures(0, 0, height=45, width=62)
    for stride, size in ((4, (11, 15)), (8, (5, 7))):
        for preset in ("paper", "refined"):
            module = MS(preset, stride=stride)
            assert found(module, frames).shape[1:] == (3, *size) == module.output_shape(45, 62)


def test_a_stride_of_8_is_the_mean_of_that_of_4():
    frames = crops(11, -7)
    fine, coarse = (found(MS(stride=stride), frames) for stride in (4, 8))
    assert torch.equal(torch.nn.functional.avg_pool2d(fine, 2), coarse)


@pytest.mark.parametrize("features", ["hog", "resnet18"])
def test_a_stack_is_the_pairs_of_each_frame_with_the_next(features):
    rules = {"preset": "paper", "features": features, "seed": None if features == "hog" else 2}
    frames = torch.cat([crops(5, 3), crops(-9, 14, seed=1)], dim=1)
    together, pairs = MS(**rules, stack=3), MS(**rules)
    maps = found(together, frames)
    expected = torch.cat([found(pairs, frames[:, i : i + 2]) for i in range(3)], dim=1)
    assert maps.shape[1:] == together.output_shape(160, 160)
    assert together.channels[3:6] == ("x2", "y2", "confidence2")
    assert (maps - expected).abs().max() < 1e-4


def test_a_shift_mixes_frames_of_a_window_and_is_in_the_facts():
    frames = torch.cat([crops(5, 3), crops(-9, 14, seed=1)], dim=1)
    plain, shifted = (
        MS("paper", "resnet18", seed=2, stack=3, shift=shift) for shift in ("none", "zero")
    )
    other = frames.clone()
    other[:, 3] = 0
    same = [torch.equal(*(found(m, f)[:, :6] for f in (frames, other))) for m in (plain, shifted)]
    assert same == [True, False]
    assert (plain.collect_facts()["shift"], shifted.collect_facts()["shift"]) == ("none", "zero")


def test_no_pairs_give_no_maps():
    assert found(MS(), torch.empty(0, 2, 3, 32, 40, dtype=torch.uint8)).shape == (0, 3, 8, 10)


def test_frames_smaller_than_a_cell_are_refused():
    with pytest.raises(ShapeError, match="at least 8x8 pixels, got 20x7"):
        MS()(torch.zeros(1, 2, 3, 7, 20))


def test_gradients_pass_through_the_papers_maps():
    clip = MS().prepare(textures(3, 1, height=24, width=32)).double().requires_grad_()
    MS("paper")(clip).sum().backward()
    assert clip.grad.isfinite().all()
    assert clip.grad.abs().max() > 0


@pytest.mark.parametrize("features", ["resnet18", "resnet50"])
def test_a_network_needs_weights_or_a_seed(features):
    module, frames = MS(features=features).eval(), textures(8, 0, height=64, width=64)
    with pytest.raises(UsageError, match=f"features={features} has no weights: give a file"):
        module.extract(frames)
    with pytest.raises(UsageError, match="has no weights"):
        module.collect_facts()
    drawn = MS(features=features, seed=0)
    assert found(drawn, frames).isfinite().all()
    assert drawn.collect_facts()["trained"] is False


def test_a_seed_is_repeatable_and_keeps_the_random_generator():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = (
        MS(features="resnet18", seed=3).collect_facts()["weights_sha256"] for _ in range(2)
    )
    assert torch.rand(1) == expected
    assert first == second != MS(features="resnet18", seed=4).collect_facts()["weights_sha256"]


def saved(path, *, wrap="", shifted=False, reduction=False, counters=True):
    """Save a network with random weights by the names of other code; return the network."""
    network = MS(features="resnet18", seed=1)
    state = {k.removeprefix("backbone."): v for k, v in network.state_dict().items()}
    if shifted:
        state = {k.replace(".conv1.weight", ".conv1.net.weight"): v for k, v in state.items()}
        state["conv1.weight"] = network.state_dict()["backbone.conv1.weight"]
    if not counters:
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    if reduction:
        state["chnl_reduction.0.weight"] = torch.randn(64, 128, 1, 1)
        state |= {f"chnl_reduction.1.{k}": torch.ones(64) for k in ("weight", "running_var")}
        state |= {f"chnl_reduction.1.{k}": torch.zeros(64) for k in ("bias", "running_mean")}
        state["chnl_reduction.1.num_batches_tracked"] = torch.tensor(1)
    state |= {"bn2.weight": torch.ones(128), "layer3.0.conv1.weight": torch.ones(1)}
    state["fc.weight"] = torch.ones(10, 512)
    torch.save({"state_dict": {wrap + key: value for key, value in state.items()}}, path)
    return network


@pytest.mark.parametrize(
    "form",
    [{}, {"wrap": "module.base_model.", "shifted": True}, {"counters": False}],
    ids=["torchvision", "TSM", "old torchvision"],
)
def test_weights_up_to_layer2_load_by_the_names_of_other_code(tmp_path, form):
    network = saved(tmp_path / "net.pt", **form)
    module, frames = MS(features="resnet18").eval(), textures(8, 0, height=64, width=64)
    load_weights(module, tmp_path / "net.pt")
    assert torch.equal(found(module, frames), found(network, frames))
    assert module.collect_facts()["trained"] is True
    assert module.collect_facts()["reduction"] is False


def test_a_trained_reduction_is_applied_where_the_file_has_one(tmp_path):
    network = saved(tmp_path / "ms.pt", reduction=True)
    module, frames = MS("paper", "resnet18").eval(), textures(8, 0, height=64, width=64)
    load_weights(module, tmp_path / "ms.pt")
    assert module.collect_facts()["reduction"] is True
    assert not torch.equal(found(module, frames), found(network, frames))
    torch.save(module.state_dict(), tmp_path / "again.pt")
    again = MS("paper", "resnet18").eval()
    load_weights(again, tmp_path / "again.pt")
    assert torch.equal(found(again, frames), found(module, frames))


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"fc.weight": torch.ones(3, 4)}, tmp_path / "other.pt")
    with pytest.raises(UsageError, match=r"does not fit MS: missing backbone\.conv1"):
        load_weights(MS(features="resnet18"), tmp_path / "other.pt")
    with pytest.raises(UsageError, match=r"does not fit MS: unexpected fc\.weight"):
        load_weights(MS(), tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stride": 5}, "stride=5: choose from 4, 8"),
        ({"patch": 14}, "patch=14: must be odd"),
        ({"seed": 1}, "seed=1: features=hog has no weights to draw"),
        ({"features": "sift"}, "features=sift: choose from hog, resnet18, resnet50"),
        ({"refinement": "fine"}, "refinement=fine: choose from subpixel, none"),
        ({"stack": 0}, "stack=0: must be at least 1"),
        ({"shift": "zero"}, "shift=zero: features=hog has no network"),
        ({"shift": "left", "features": "resnet18"}, "shift=left: choose from none, zero, circ"),
        ({"tie": "last"}, "tie=last: choose from first, smallest"),
        ({"preset": "paper", "features": "resnet18", "stride": 4}, "stride=4: resnet18 has cells"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(given, message):
    with pytest.raises(UsageError, match=f"ms: {message}"):
        METHOD.build_module(given)


def test_given_parameters_override_the_preset():
    facts = MS("paper", patch=9, stride=4).collect_facts()
    assert (facts["patch"], facts["stride"], facts["cell"], facts["tie"]) == (9, 4, 4, "first")
    assert MS("paper", patch=9, stride=4).bound == 16

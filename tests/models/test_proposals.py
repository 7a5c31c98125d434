import pytest
import torch
from support.flows import load_golden_arrays

from mrx.errors import ShapeError
from mrx.models.proposals import CorrespondenceProposal, find_nearest_points, resize_maps


def reference(file):
    """Return the module with a golden file's parameters, in float64."""
    frames, channels = file["x"].shape[1], file["x"].shape[4]
    widths = len(file["b0"]), len(file["b1"])
    module = CorrespondenceProposal(channels, frames, k=int(file["k"]), widths=widths)
    module = module.double().eval()
    names = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}
    for i, layers in enumerate((module.mlp[:2], module.mlp[3:5], module.project)):
        layers[0].weight.data = torch.from_numpy(file[f"W{i}"].T.copy())[:, :, None, None]
        layers[0].bias.data = torch.from_numpy(file[f"b{i}"])
        assert layers[1].eps == file["bn_eps"]
        for theirs, ours in names.items():
            getattr(layers[1], ours).data = torch.from_numpy(file[f"{theirs}{i}"])
    return module


def frames_of(array):
    """Reshape (B, T, H, W, C) to (B * T, C, H, W)."""
    return torch.from_numpy(array).flatten(0, 1).permute(0, 3, 1, 2)


def small(**options):
    """Return a module whose last batch norm lets something through."""
    module = CorrespondenceProposal(8, 3, k=4, **options).double().eval()
    torch.nn.init.normal_(module.project[1].weight)
    return module


def test_it_agrees_with_the_independent_reference():
    file = load_golden_arrays("matching_cp_ref")
    found = reference(file)(frames_of(file["x"]))
    assert (found - frames_of(file["out"])).abs().max() < 1e-12


@pytest.mark.parametrize("most", [1, 200, 10**6])
def test_neighbors_are_the_references_in_blocks_of_any_size(most):
    file = load_golden_arrays("matching_cp_ref")
    clips = torch.from_numpy(file["x"]).permute(0, 1, 4, 2, 3)
    found = find_nearest_points(clips, int(file["k"]), max_distances=most)
    assert torch.equal(found.sort(2).values, torch.from_numpy(file["idx"]).long())


def test_neighbors_are_never_in_the_same_frame():
    clips = torch.zeros(2, 3, 4, 2, 5)
    found = find_nearest_points(clips, 20)
    own = torch.arange(30) // 10
    assert (found // 10 != own[None, :, None]).all()
    assert all(len(row.unique()) == 20 for row in found.flatten(0, 1))


def test_the_state_dict_has_these_names_and_shapes():
    sizes = {"mlp.0": (4, 35, 1, 1), "mlp.3": (8, 4, 1, 1), "project.0": (16, 8, 1, 1)}
    expected = {f"{name}.weight": size for name, size in sizes.items()}
    expected |= {f"{name}.bias": size[:1] for name, size in sizes.items()}
    for name, width in {"mlp.1": 4, "mlp.4": 8, "project.1": 16}.items():
        parts = ("weight", "bias", "running_mean", "running_var")
        expected |= {f"{name}.{part}": (width,) for part in parts}
        expected[f"{name}.num_batches_tracked"] = ()
    found = CorrespondenceProposal(16, 3).state_dict()
    assert {key: tuple(value.shape) for key, value in found.items()} == expected


def test_a_new_module_changes_nothing():
    maps = torch.randn(6, 8, 4, 4)
    assert torch.equal(CorrespondenceProposal(8, 3)(maps), maps)


def test_clips_of_a_batch_do_not_mix():
    maps = torch.randn(6, 8, 4, 5).double()
    module = small()
    alone = torch.cat([module(clip) for clip in maps.split(3)])
    torch.testing.assert_close(module(maps), alone, rtol=0, atol=1e-12)


def test_all_that_it_learns_has_exact_gradients():
    module = small(shrink=2)
    maps = torch.randn(3, 8, 4, 6, dtype=torch.float64, requires_grad=True)
    names, values = zip(*module.named_parameters(), strict=True)

    def run(x, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), x)

    assert torch.autograd.gradcheck(run, (maps, *values), fast_mode=True)


def test_it_shrinks_by_leaving_out_and_grows_by_straight_lines():
    maps = torch.arange(8.0).view(1, 1, 1, 8).expand(-1, -1, 4, -1)
    assert torch.equal(resize_maps(maps, 2, 4)[0, 0], torch.tensor([[0.0, 2, 4, 6]] * 2))
    grown = resize_maps(resize_maps(maps, 2, 4), 4, 8)
    assert torch.equal(grown[0, 0], torch.tensor([[0.0, 1, 2, 3, 4, 5, 6, 6]] * 4))


def test_a_shrunken_clip_keeps_its_size():
    module = small(shrink=2)
    maps = torch.randn(3, 8, 5, 7).double()
    assert module(maps).shape == maps.shape
    assert not torch.equal(module(maps), maps)


@pytest.mark.parametrize(("shape", "fits"), [((3, 8, 1, 2), True), ((3, 8, 1, 1), False)])
def test_more_neighbors_than_points_in_other_frames_are_refused(shape, fits):
    module = CorrespondenceProposal(8, 3, k=4)
    if fits:
        assert module(torch.rand(shape)).shape == shape
    else:
        with pytest.raises(ShapeError, match="at least k=4 points in the other 2 frames"):
            module(torch.rand(shape))


def test_invalid_options_and_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="k=0, shrink=1: both must be at least 1"):
        CorrespondenceProposal(8, 3, k=0)
    with pytest.raises(ShapeError, match=r"takes 8 channels .* got \(3, 4, 5, 5\) at 1/2 the size"):
        CorrespondenceProposal(8, 3, shrink=2)(torch.rand(3, 4, 5, 5))


def test_an_offset_of_all_features_keeps_their_neighbors():
    clips = torch.rand(1, 3, 8, 4, 4)
    far = clips.double() + 1e4
    expected = find_nearest_points(far, 4)
    found = find_nearest_points(far.float(), 4)
    same = (found.sort(2).values == expected.sort(2).values).float().mean()
    assert same > 0.95


def test_neighbors_are_found_in_full_precision_under_autocast():
    maps = 10 * torch.rand(3, 8, 4, 4)
    expected = find_nearest_points(maps.view(1, 3, 8, 4, 4), 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = find_nearest_points(maps.view(1, 3, 8, 4, 4), 4)
    assert torch.equal(found, expected)

import itertools

import pytest
import torch
import torch.nn.functional as F
from support import flows

from mrx.errors import ShapeError
from mrx.models.prime_motion import (
    NegativeCounts,
    PrimeMotionBlock,
    contrastive_loss,
    count_negatives,
)
from mrx.ops.matching import correlate, normalize_features

NORMED = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def trained(block, seed=0):
    """Return the block with weights that let everything through."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in block.parameters():
        parameter.data.uniform_(0.1, 1, generator=generator)
    return block


def truths():
    golden = flows.load_golden_arrays("matching_nce_cam_ref")
    return golden, torch.from_numpy(golden["pred"]), torch.from_numpy(golden["gt"])


def test_a_new_block_changes_nothing():
    features = seeded(6, 32, 9, 10)
    block = PrimeMotionBlock(32, segments=3)
    assert torch.equal(block(features), features)
    assert torch.equal(block.eval()(features), features)
    assert block.compute_motion(features).abs().sum() > 0


def test_costs_are_cosines_of_49_displacements_two_cells_apart():
    block = PrimeMotionBlock(32, segments=2)
    assert (block.patch, block.dilation) == (7, 2)
    first, second = seeded(1, 8, 9, 10), seeded(1, 8, 9, 10, seed=1)
    found = block._compute_costs(first, second)
    unit = normalize_features(first), normalize_features(second)
    wide = correlate(*unit, patch=13).view(1, 13, 13, 9, 10)
    assert found.shape == (1, 49, 9, 10)
    torch.testing.assert_close(found, wide[:, ::2, ::2].flatten(1, 2))
    dot = PrimeMotionBlock(32, segments=2, similarity="dot")._compute_costs(first, second)
    torch.testing.assert_close(dot, correlate(first, second, patch=7, dilation=2) / 8)


def test_the_output_is_the_features_plus_their_expanded_motion():
    block = trained(PrimeMotionBlock(16, segments=3, width=5)).eval()
    features = seeded(6, 16, 7, 8)
    motion = block.compute_motion(features)
    assert motion.shape == (6, 5, 7, 8)
    assert motion.min() >= 0
    assert torch.equal(block(features), features + block.expansion(motion))


def test_the_last_frame_has_the_costs_of_the_last_pair():
    block = trained(PrimeMotionBlock(16, segments=3, width=5)).eval()
    seen = []
    block.cost.register_forward_hook(lambda _module, costs, _out: seen.append(costs[0]))
    block(seeded(6, 16, 7, 8))
    clips = seen[0].view(2, 3, 49, 7, 8)
    assert torch.equal(clips[:, 1], clips[:, 2])
    assert not torch.equal(clips[:, 0], clips[:, 1])


def test_the_state_dict_has_these_names_and_shapes():
    convs = {"reduction.0": (64, 256, 1, 1), "fusion.0": (64, 113, 3, 3)}
    convs["expansion.0"] = (256, 64, 1, 1)
    norms = {"reduction.1": 64, "cost.0": 49, "fusion.1": 64, "expansion.1": 256}
    expected = {f"{name}.weight": shape for name, shape in convs.items()}
    for (name, width), part in itertools.product(norms.items(), NORMED):
        expected[f"{name}.{part}"] = () if part == "num_batches_tracked" else (width,)
    found = PrimeMotionBlock(256, segments=8).state_dict()
    assert {key: tuple(value.shape) for key, value in found.items()} == expected


@pytest.mark.parametrize(("channels", "width"), [(64, 64), (256, 64), (512, 128)])
def test_a_quarter_of_the_channels_is_kept_but_64_at_least(channels, width):
    block = PrimeMotionBlock(channels, segments=2)
    assert block.reduction[0].out_channels == width


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_gradients_are_those_of_finite_differences(similarity):
    sizes = {"width": 3, "displacement": 2, "similarity": similarity}
    block = trained(PrimeMotionBlock(3, segments=2, **sizes)).double().eval()
    features = seeded(2, 3, 4, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(block, features)


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_flat_features_give_finite_outputs_and_gradients(fill):
    features = torch.full((4, 8, 6, 6), fill, requires_grad=True)
    block = trained(PrimeMotionBlock(8, segments=2))
    out = block(features)
    out.sum().backward()
    assert out.isfinite().all()
    assert features.grad.isfinite().all()


def test_a_block_runs_under_autocast_and_in_half_precision():
    block, features = PrimeMotionBlock(16, segments=2), seeded(4, 16, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert block(features).isfinite().all()
    assert block.bfloat16()(features.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"segments": 1}, "segments=1: must be at least 2"),
        ({"displacement": 5}, "displacement=5, stride=2: must be a multiple of the stride"),
        ({"stride": 0}, "displacement=6, stride=0: must be a multiple"),
        ({"similarity": "l2"}, "similarity=l2: choose from cosine, dot"),
    ],
)
def test_invalid_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        PrimeMotionBlock(8, **({"segments": 2} | parameters))


def test_features_of_the_wrong_shape_are_refused():
    block = PrimeMotionBlock(8, segments=4)
    with pytest.raises(ShapeError, match=r"takes features \(B \* 4, 8, H, W\), got"):
        block(torch.zeros(4, 9, 5, 5))
    with pytest.raises(ShapeError, match=r"features \(B \* 4, C, H, W\), got"):
        block(torch.zeros(6, 8, 5, 5))


def test_the_loss_is_that_of_the_reference():
    golden, predicted, truth = truths()
    dot = contrastive_loss(predicted, truth, temperature=1, normalize=False)
    assert abs(float(dot) - golden["loss_dot_t1"]) <= 1e-8
    assert abs(float(contrastive_loss(predicted, truth)) - golden["loss_cos_t007"]) <= 1e-8


def test_negative_counts_equal_a_count_over_all_positions():
    golden, predicted, _ = truths()
    sizes = predicted.shape[:3]
    others = [p for p in itertools.product(*map(range, sizes)) if p != (0, 0, 0)]
    same = [p for p in others if p[0] == 0]
    at_the_place = [p for p in same if p[1] == 0]
    expected = NegativeCounts(
        len(same) - len(at_the_place), len(at_the_place), len(others) - len(same)
    )
    assert count_negatives(*sizes) == expected
    assert expected == tuple(golden[key] for key in ("n_spatial", "n_temporal", "n_easy"))
    assert sum(expected) + 1 == predicted[..., 0].numel()


def test_the_loss_falls_as_predictions_come_true():
    _, predicted, truth = truths()
    losses = [contrastive_loss(truth.lerp(predicted, share), truth) for share in (0, 0.3, 1)]
    assert losses[0] < losses[1] < losses[2]


def test_the_loss_has_gradients_for_both_also_at_zero():
    pair = [seeded(2, 2, 2, 3, seed=i).double().requires_grad_() for i in range(2)]
    assert torch.autograd.gradcheck(contrastive_loss, pair)
    nothing = torch.zeros(1, 2, 2, 3, requires_grad=True)
    loss = contrastive_loss(nothing, nothing)
    loss.backward()
    assert loss.item() == pytest.approx(torch.tensor(4.0).log().item())
    assert nothing.grad.isfinite().all()


def test_autocast_leaves_the_loss_as_it_is():
    predicted, truth = seeded(2, 3, 4, 16), seeded(2, 3, 4, 16, seed=1)
    expected = contrastive_loss(predicted, truth)
    p, q = (F.normalize(maps.flatten(0, 2), dim=1) for maps in (predicted, truth))
    torch.testing.assert_close(expected, F.cross_entropy(p @ q.T / 0.07, torch.arange(24)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(contrastive_loss(predicted, truth), expected)


def test_predictions_without_their_truths_are_refused():
    with pytest.raises(
        ShapeError, match=r"two non-empty tensors of one shape, got \(2, 3\) and \(2, 4\)"
    ):
        contrastive_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ShapeError, match=r"two non-empty tensors of one shape, got \(0, 3\)"):
        contrastive_loss(torch.zeros(0, 3), torch.zeros(0, 3))

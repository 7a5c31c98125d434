import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.strategies import integers
from support.places import GOLDEN

from mrx.ops.rank_pool import exact_rank_pool, frame_weights, weighted_sum

PREFIXES = {"original": "bilen", "tcvrick": "tcvrick", "simple": "simple"}


def load(name):
    with np.load(GOLDEN / f"appearance_{name}.npz") as file:
        return dict(file)


@pytest.mark.parametrize("kind", PREFIXES)
@pytest.mark.parametrize("length", [1, 2, 3, 5, 6, 10, 16])
def test_weights_are_those_of_the_named_code(kind, length):
    expected = load("dynimg_coef")[f"{PREFIXES[kind]}_{length}"]
    np.testing.assert_allclose(frame_weights(length, kind).numpy(), expected, rtol=0, atol=1e-12)


@given(length=integers(2, 60))
def test_original_weights_sum_to_0_and_ported_ones_to_the_length(length):
    assert frame_weights(length, "original").sum().item() == pytest.approx(0, abs=1e-9)
    assert frame_weights(length, "tcvrick").sum().item() == pytest.approx(length)


def test_no_frames_are_refused():
    with pytest.raises(ValueError, match="length=0: rank pooling needs at least 1 frame"):
        frame_weights(0)


def test_weighted_sum_of_bytes_is_that_of_their_floats():
    frames = torch.randint(0, 256, (2, 6, 3, 5, 7), dtype=torch.uint8)
    weights = frame_weights(6)
    assert torch.equal(
        weighted_sum(frames, weights.tolist()), weighted_sum(frames.float(), weights.tolist())
    )
    exact = torch.einsum("btchw,t->bchw", frames.double(), weights)
    torch.testing.assert_close(weighted_sum(frames.double(), weights.tolist()), exact)


@pytest.mark.parametrize("case", ["a", "b"])
def test_exact_pooling_ranks_stored_frames(case):
    golden = load("rankpool_exact")
    frames, expected = golden[f"frames_{case}"], golden[f"w_{case}"]
    result = exact_rank_pool(torch.from_numpy(frames)[None], float(golden[f"C_{case}"]))[0].numpy()
    assert np.abs(result - expected).max() <= 1e-6 * np.abs(expected).max()


def test_exact_pooling_ranks_stored_vectors():
    golden = load("rankpool_exact")
    result = exact_rank_pool(torch.from_numpy(golden["feat_c"])[None], float(golden["C_c"]))[0]
    assert np.abs(result.numpy() - golden["w_c"]).max() <= 1e-6 * np.abs(golden["w_c"]).max()


def test_exact_pooling_minimizes_its_loss():
    frames, strength = torch.rand(1, 7, 40).double() * 255, 10.0
    result = exact_rank_pool(frames, strength)[0]
    means = frames[0].cumsum(0) / torch.arange(1, 8)[:, None]
    units = torch.nn.functional.normalize(means.sqrt(), dim=1)

    def loss(w):
        errors = (units @ w - torch.arange(1, 8)).abs().sub(0.1).clamp(min=0)
        return w.square().sum() / 2 + strength * errors.square().sum()

    assert torch.autograd.functional.jacobian(loss, result).abs().max() < 1e-9


@pytest.mark.parametrize("value", [0, 255])
def test_exact_pooling_of_a_flat_clip_is_finite(value):
    clip = torch.full((2, 6, 3, 4, 4), value, dtype=torch.uint8)
    assert exact_rank_pool(clip, 10.0).isfinite().all()


@given(seed=integers(0, 10_000), length=integers(1, 12), strength=integers(1, 300))
def test_exact_pooling_solves_its_equation(seed, length, strength):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (3, length, 30), generator=generator, dtype=torch.uint8)
    one_by_one = torch.cat([exact_rank_pool(clip[None], strength) for clip in frames])
    torch.testing.assert_close(exact_rank_pool(frames, strength), one_by_one, rtol=0, atol=1e-7)

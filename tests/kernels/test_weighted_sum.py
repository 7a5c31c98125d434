import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import integers, sampled_from

pytest.importorskip("numba", reason="numba is not installed")

from mrx.kernels import weighted_sum as fast_sum
from mrx.methods.dynamic_image import DynamicImage
from mrx.ops.rank_pool import frame_weights, weighted_sum


def random_frames(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8)
    return frames.permute(0, 1, 4, 2, 3)


def assert_agrees(frames, weights):
    found = fast_sum.sum_frames_by_numba(frames, weights)
    expected = weighted_sum(frames.double(), weights.tolist())
    assert (found.dtype, found.is_contiguous()) == (torch.float32, True)
    assert (found - expected).abs().max() <= 1e-6 * 255 * weights.abs().sum()


@pytest.mark.parametrize("length", range(1, 9))
@pytest.mark.parametrize("shape", [(1, 1), (16, 64), (25, 41), (32, 64), (31, 67)])
def test_it_agrees_with_its_twin_at_every_seam(length, shape):
    assert_agrees(random_frames(2, length, *shape), frame_weights(length))


@given(integers(1, 90), integers(1, 90), integers(1, 12), sampled_from(["tcvrick", "simple"]))
@settings(max_examples=40, deadline=None)
def test_it_agrees_with_its_twin_at_every_size(height, width, length, kind):
    assert_agrees(random_frames(1, length, height, width), frame_weights(length, kind))


def test_overlapping_dilated_and_planar_frames_give_the_same():
    frames, weights = random_frames(1, 9, 20, 30)[0], frame_weights(4)
    views = frames.unfold(0, 7, 1)[..., ::2].permute(0, 4, 1, 2, 3)
    assert_agrees(views, weights)
    assert_agrees(views.contiguous(), weights)


def test_no_windows_give_no_images():
    assert fast_sum.sum_frames_by_numba(random_frames(0, 6, 4, 5), frame_weights(6)).shape == (
        0,
        3,
        4,
        5,
    )


def test_the_method_gives_the_same_by_either(monkeypatch):
    frames, found = random_frames(2, 6, 20, 30), {}
    for backend in ("numba", "torch"):
        monkeypatch.setenv("MRX_BACKEND", backend)
        found[backend] = DynamicImage().extract(frames)
    torch.testing.assert_close(found["numba"], found["torch"], rtol=1e-5, atol=1e-3)


def test_it_is_plain_python_that_runs_without_numba(monkeypatch):
    monkeypatch.setattr(fast_sum, "_compile_weighted_sum", lambda: fast_sum._sum_weighted_frames)
    assert_agrees(random_frames(1, 4, 5, 6), frame_weights(4))

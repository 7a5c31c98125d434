import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import integers, sampled_from

from mrx import kernels
from mrx.errors import MissingError, ShapeError, UsageError
from mrx.kernels import band_pass
from mrx.ops.stencils import laplacian_of_gaussian, reflect_depthwise

GAIN = 1 / (3 * 255 * torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64))
SIGMAS = {3: 0.9, 5: 1.1, 7: 0.9, 9: 1.1, 11: 2.0}
HAS_NUMBA = pytest.mark.skipif(not kernels.has_backend("numba"), reason="numba is not installed")


@pytest.fixture(params=[pytest.param("numba", marks=HAS_NUMBA), "opencv"])
def backend(request):
    return request.param


def random_frames(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8)
    return frames.permute(0, 1, 4, 2, 3)


def reference(frames, size):
    """Filter by the plain formula in float64."""
    before, now, after = frames.double().unbind(1)
    kernel = laplacian_of_gaussian(size, SIGMAS[size]).kernel.expand(3, 1, -1, -1)
    return reflect_depthwise(2 * now - before - after, kernel) * GAIN.view(3, 1, 1)


def assert_agrees(frames, size, backend):
    _, first, second = laplacian_of_gaussian(size, SIGMAS[size])
    found = band_pass.band_pass(frames, first, second, GAIN, backend=backend)
    expected = reference(frames, size)
    assert (found.dtype, found.is_contiguous()) == (torch.float32, True)
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("size", SIGMAS)
@pytest.mark.parametrize("shape", [(6, 6), (7, 127), (40, 128), (33, 129), (65, 257), (31, 40)])
def test_twins_agree_with_the_formula_at_every_seam(backend, shape, size):
    assert_agrees(random_frames(2, 3, *shape), size, backend)


@given(integers(5, 80), integers(5, 300), integers(0, 9), sampled_from(["numba", "opencv"]))
@settings(max_examples=40, deadline=None)
def test_twins_agree_with_the_formula_at_every_size(height, width, seed, name):
    if kernels.has_backend(name):
        assert_agrees(random_frames(1, 3, height, width, seed=seed), 9, name)


@pytest.mark.parametrize("size", [3, 5, 7, 9])
def test_the_smallest_frames_are_filtered_with_reflection(backend, size):
    least = size // 2 + 1
    assert_agrees(random_frames(1, 3, least, least), size, backend)


def test_planar_and_interleaved_frames_give_equal_maps(backend):
    frames = random_frames(2, 3, 20, 30)
    _, first, second = laplacian_of_gaussian(9, 1.1)
    planes = band_pass.band_pass(frames.contiguous(), first, second, GAIN, backend=backend)
    assert torch.equal(planes, band_pass.band_pass(frames, first, second, GAIN, backend=backend))


def test_still_frames_give_exactly_zero(backend):
    frames = random_frames(1, 1, 40, 50).expand(1, 3, 3, 40, 50)
    _, first, second = laplacian_of_gaussian(9, 1.1)
    assert not band_pass.band_pass(frames, first, second, GAIN, backend=backend).any()


def test_no_windows_give_no_images(backend):
    _, first, second = laplacian_of_gaussian(9, 1.1)
    frames = random_frames(0, 3, 20, 30)
    assert band_pass.band_pass(frames, first, second, GAIN, backend=backend).shape == (0, 3, 20, 30)


def test_frames_smaller_than_the_reflection_are_refused(backend):
    _, first, second = laplacian_of_gaussian(9, 1.1)
    with pytest.raises(ShapeError, match=r"frames \(30x4 pixels\): .* 9 taps. Use .* 5x5"):
        band_pass.band_pass(random_frames(1, 3, 4, 30), first, second, GAIN, backend=backend)


def test_opencv_filters_each_color_with_its_own_kernel():
    image, weight = torch.randn(2, 3, 20, 30), torch.randn(3, 1, 9, 9)
    expected = reflect_depthwise(image, weight)
    found = band_pass.filter_colors_by_opencv(image.to(memory_format=torch.channels_last), weight)
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@HAS_NUMBA
def test_rows_compile_where_no_cache_can_be_written(monkeypatch):
    import numba

    plain = numba.njit

    def without_cache(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return plain(**options)

    monkeypatch.setattr(numba, "njit", without_cache)
    band_pass._compile_band_pass.cache_clear()
    assert_agrees(random_frames(1, 3, 20, 30), 9, "numba")
    band_pass._compile_band_pass.cache_clear()


def test_a_named_backend_overrides_the_environment_variable(monkeypatch):
    monkeypatch.setattr(kernels, "has_backend", lambda name: name != "numba")
    monkeypatch.delenv("MRX_BACKEND", raising=False)
    assert kernels.choose_backend() == "opencv"
    monkeypatch.setenv("MRX_BACKEND", "torch")
    assert (kernels.choose_backend(), kernels.choose_backend("opencv")) == ("torch", "opencv")
    assert kernels.list_backends() == ["torch", "opencv"]


def test_a_backend_that_is_not_there_or_not_known_is_refused(monkeypatch):
    monkeypatch.setattr(kernels, "has_backend", lambda name: name == "torch")
    with pytest.raises(MissingError, match="backend numba: numba cannot be imported here"):
        kernels.choose_backend("numba")
    with pytest.raises(UsageError, match="backend fast: choose from auto, numba, opencv, torch"):
        kernels.choose_backend("fast")


def test_an_import_error_of_any_kind_means_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    kernels.has_backend.cache_clear()
    assert not kernels.has_backend("numba")
    kernels.has_backend.cache_clear()


def test_the_rows_are_plain_python_that_runs_without_numba(monkeypatch):
    monkeypatch.setattr(band_pass, "_compile_band_pass", lambda: band_pass._filter_windows)
    with np.errstate(all="raise"):
        assert_agrees(random_frames(1, 3, 5, 6), 9, "numba")

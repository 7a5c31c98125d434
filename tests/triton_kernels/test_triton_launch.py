"""Arguments, their types and compiled code, up to the launch on a GPU itself."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support.triton_marks import compiled
from support.tvl1_rules import ACCURATE, OPENCV

from mrx.kernels.tvl1_gpu import GpuLevel

pytestmark = [*compiled, pytest.mark.slow]


@pytest.fixture
def launches(monkeypatch):
    """Return launches as kernels compiled for sm_90, by a driver that only names its target."""
    import triton
    from triton.backends.compiler import GPUTarget

    driver = SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
    )
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)
    found = []

    def launcher(kernel, grid):
        assert len(grid) == 3
        return lambda *args, **options: found.append(kernel.warmup(*args, grid=grid, **options))

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "__getitem__", launcher)
    return found


def level(rules, height, width, **options):
    images = torch.zeros(2, 2, 1, height, width)
    return GpuLevel(*images, torch.zeros(2, 2, height, width), rules, **options)


@pytest.mark.parametrize(
    ("rules", "kernel", "count", "kinds"),
    [(ACCURATE, "tile", 4, 4), (ACCURATE, "step", 11, 3), (OPENCV, "step", 19, 3)],
)
def test_all_launches_of_a_kind_share_their_code(rules, kernel, count, kinds, launches):
    level(rules, 37, 53, kernel=kernel).warp()
    assert len(launches) == count
    assert len({made.hash for made in launches}) == kinds
    assert {made.metadata.name for made in launches} == {
        "median_kernel",
        "warp_kernel",
        "iterate_kernel",
    }
    assert all(made.metadata.enable_fp_fusion for made in launches)


def test_sizes_share_their_code_too(launches):
    rules = replace(ACCURATE, inner=5)
    for height, width in [(48, 60), (37, 61), (64, 50)]:
        level(rules, height, width, kernel="step").warp()
    assert len(launches) == 21
    assert len({made.hash for made in launches}) == 3


def test_half_precision_is_a_type_of_its_own(launches):
    level(replace(ACCURATE, inner=5), 37, 53, dtype=torch.float16).warp()
    types = {made.metadata.name: made.src.signature for made in launches}
    assert [types["iterate_kernel"][name] for name in ("flow", "new_dual", "rest")] == [
        "*fp16",
        "*fp16",
        "*fp32",
    ]
    assert types["median_kernel"]["flow"] == types["warp_kernel"]["flow"] == "*fp16"

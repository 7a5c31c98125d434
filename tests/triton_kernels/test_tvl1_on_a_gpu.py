from dataclasses import replace

import pytest
import torch
from support.triton_marks import HAS_TRITON, INTERPRETED
from support.tvl1_rules import ACCURATE, OPENCV

from mrx.kernels import tvl1_gpu, tvl1_launch
from mrx.kernels.tvl1_gpu import GpuLevel
from mrx.ops.tvl1_solver import PlainLevel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed"),
    pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET is 1 in this process"),
]

SIZE = 3, 1, 96, 130


@pytest.fixture(params=["accurate by tiles", "accurate by steps", "opencv"])
def case(request):
    """Return rules and a kernel.

    A warp of "opencv" swaps the flow's buffers an odd number of times.
    """
    return {
        "accurate by tiles": (replace(ACCURATE, warps=6), "tile"),
        "accurate by steps": (replace(ACCURATE, warps=6), "step"),
        "opencv": (replace(OPENCV, warps=6, inner=6), "step"),
    }[request.param]


def pairs(device, seed):
    """Return a smooth image, the same moved by a pixel and a little brighter, and no flow."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(SIZE[0], 1, SIZE[2] + 4, SIZE[3] + 5, generator=generator)
    image = 400 * torch.nn.functional.avg_pool2d(noise, 5, 1)
    before, after = image[..., 1:], image[..., :-1] + 1
    return [f.contiguous().to(device) for f in (before, after, torch.zeros(3, 2, *SIZE[2:]))]


def solved(level, warps):
    for _ in range(warps):
        level.warp()
    return level.flow()


def test_the_kernels_support_this_gpu(device):
    assert tvl1_launch.supports_device(torch.zeros(1, device=device))


def test_it_agrees_with_float64(device, case):
    rules, kernel = case
    fields = pairs(device, 1)
    expected = solved(PlainLevel(*(field.double() for field in fields), rules), rules.warps)
    found = solved(GpuLevel(*fields, rules, kernel=kernel), rules.warps)
    # Rounding can move a stop by an iteration, so the mean is compared and not the maximum.
    assert (found - expected).abs().mean() < 0.01 * max(1, expected.abs().mean())


def test_a_recorded_warp_equals_one_that_is_not_recorded(device, case):
    rules, kernel = case
    tvl1_gpu.release_idle_buffers()
    plain = GpuLevel(*pairs(device, 2), rules, kernel=kernel)
    for _ in range(rules.warps):
        with tvl1_launch.select_device(plain.flow()):
            plain._buffers._launch_sequence()
    recorded = GpuLevel(*pairs(device, 2), rules, kernel=kernel)
    assert torch.equal(solved(recorded, rules.warps), plain.flow())
    assert recorded._buffers._graphs


def test_recorded_warps_serve_the_next_pairs(device, case):
    rules, kernel = case
    tvl1_gpu.release_idle_buffers()
    second = solved(GpuLevel(*pairs(device, 4), rules, kernel=kernel), rules.warps)
    tvl1_gpu.release_idle_buffers()
    for seed in (3, 4):
        found = solved(GpuLevel(*pairs(device, seed), rules, kernel=kernel), rules.warps)
    assert len(tvl1_gpu._idle_buffers) == 1
    assert torch.equal(found, second)


def test_two_runs_are_equal_to_the_bit(device, case):
    rules, kernel = case
    first, second = (
        solved(GpuLevel(*pairs(device, 5), rules, kernel=kernel), rules.warps) for _ in range(2)
    )
    assert torch.equal(first, second)


def test_a_level_on_a_stream_of_its_own_has_its_own_buffers(device):
    fields = pairs(device, 6)
    expected = solved(GpuLevel(*fields, ACCURATE), 3)
    torch.cuda.synchronize(device)
    with torch.cuda.stream(torch.cuda.Stream(device)):
        found = solved(GpuLevel(*fields, ACCURATE), 3)
    torch.cuda.synchronize(device)
    assert torch.equal(found, expected)

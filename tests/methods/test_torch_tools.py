"""Every method under the tools of PyTorch: compile, export, functional_call, vmap and trace."""

import copy

import pytest
import torch
from torch.func import functional_call, grad, vmap

from mrx.methods import find_method
from mrx.methods.table import METHOD_MODULES

SIZES = [(48, 64), (40, 72)]
FEW_STEPS = {"levels": 1, "warps": 1, "inner": 2, "texture_rounds": 2}
CASES = {
    "mbpm": ("mbpm", {}),
    "dynamic-image": ("dynamic-image", {}),
    "pa": ("pa", {}),
    "tvnet": ("tvnet", {"iterations": 2}),
    "tvnet-constants": ("tvnet", {"iterations": 2, "train_constants": True}),
    "ms-paper": ("ms", {"preset": "paper"}),
    "ms": ("ms", {}),
    "tvl1": ("tvl1", FEW_STEPS),
    "tvl1-opencv": ("tvl1", {**FEW_STEPS, "preset": "opencv", "outer": 1, "epsilon": 0.0}),
}
LARGE_GRAPHS = {"ms", "tvl1", "tvl1-opencv"}
SIZE_IS_FIXED = {"tvnet", "tvnet-constants", "ms-paper", "ms", "tvl1", "tvl1-opencv"}
"""Cases whose trace holds numbers that depend on the size."""


def mark_slow(names=None):
    """List all cases, some of them marked as slow: by default those of large graphs."""
    slow = LARGE_GRAPHS if names is None else names
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in CASES]


def build_module(case):
    name, parameters = CASES[case]
    return find_method(name).build_module(parameters)


def make_clip(module, size, batch=2):
    colors = 3 if module.color == "rgb" else 1
    generator = torch.Generator().manual_seed(1)
    shape = (batch, module.length, colors, *size)
    return module.prepare(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))


def run_both_ways(function, clip):
    """Return the maps of a clip, and the gradient of the sum of their squares."""
    clip = clip.clone().requires_grad_()
    maps = function(clip)
    maps.square().sum().backward()
    return maps.detach(), clip.grad


def assert_close(found, expected, tolerance):
    """Compare means: where a minimum or median changes hands, single values differ by more."""
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() <= tolerance * expected.abs().mean() + 1e-9


def test_the_cases_are_all_methods():
    assert {name for name, _ in CASES.values()} == METHOD_MODULES.keys()


@pytest.mark.parametrize("case", mark_slow({*LARGE_GRAPHS, "ms-paper", "tvnet-constants"}))
def test_a_module_compiles_as_one_graph(case):
    module = build_module(case)
    torch.compiler.reset()
    # Graphs for any size compile too, but large ones take minutes.
    dynamic = False if case in LARGE_GRAPHS else None
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in SIZES[:1] if case == "ms" else SIZES:  # `ms` takes a minute a size
        clip = make_clip(module, size)
        maps, gradient = run_both_ways(compiled, clip)
        expected_maps, expected_gradient = run_both_ways(module, clip)
        assert_close(maps, expected_maps, 1e-3)
        assert_close(gradient, expected_gradient, 2e-2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", mark_slow())
def test_a_module_exports(case, size):
    module = build_module(case)
    clip = make_clip(module, size)
    exported = torch.export.export(module, (clip,)).module()
    assert_close(exported(clip), module(clip), 1e-3)
    with pytest.raises(AssertionError, match="Guard failed"):
        exported(make_clip(module, (56, 56)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_a_module_runs_with_other_weights(case, size):
    module = build_module(case)
    clip = make_clip(module, size)
    weights = {name: 1.5 * value for name, value in module.named_parameters()}
    other = copy.deepcopy(module)
    other.load_state_dict(weights, strict=False)
    assert torch.equal(functional_call(module, weights, (clip,)), other(clip))
    if weights:
        assert not torch.equal(other(clip), module(clip))
        gradients = grad(lambda w: functional_call(module, w, (clip,)).square().sum())(weights)
        assert all(value.isfinite().all() for value in gradients.values())


def test_the_constants_of_tvnet_are_those_of_the_call():
    module = build_module("tvnet-constants")
    clip = make_clip(module, SIZES[0])
    weights = {**dict(module.named_parameters()), "log_strength": torch.tensor(-6.0)}
    assert (functional_call(module, weights, (clip,)) - module(clip)).abs().mean() > 1e-3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_clips_are_mapped_by_vmap(case, size):
    module = build_module(case)
    clips = make_clip(module, size, batch=3)
    maps, gradients = run_both_ways(module, clips)
    assert_close(vmap(lambda clip: module(clip[None])[0])(clips), maps, 1e-3)
    mapped = vmap(grad(lambda clip: module(clip[None]).square().sum()))(clips)
    assert_close(mapped, gradients, 2e-2)


@pytest.mark.filterwarnings("ignore:.*")  # a trace warns of every size that it takes for a constant
@pytest.mark.parametrize("case", mark_slow())
def test_a_trace_never_gives_maps_of_another_size(case):
    module = build_module(case)
    clip, other = (make_clip(module, size) for size in SIZES)
    traced = torch.jit.trace(module, clip, check_trace=False)
    assert_close(traced(clip), module(clip), 1e-3)
    if case in SIZE_IS_FIXED:
        with pytest.raises(RuntimeError, match="must match the existing size"):
            traced(other)
    else:
        assert_close(traced(other), module(other), 1e-3)


def test_an_early_stop_is_no_graph():
    module = find_method("tvl1").build_module({**FEW_STEPS, "preset": "opencv"})
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"[Dd]ata-dependent"):
        compiled(make_clip(module, SIZES[0]))

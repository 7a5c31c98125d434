import pytest
import torch
import torch.nn.functional as F
from support import flows

from mrx.ops import tvnet_solver as ops
from mrx.ops.stencils import central_difference

CLAMP = ops.WarpSampling("clamp", shorten=False)
OFFICIAL = ops.WarpSampling("extrapolate", shorten=True)


def load(name):
    golden = flows.load_golden_arrays(f"tvnet_{name}")
    return {key: torch.from_numpy(value) for key, value in golden.items()}


def untrained(*shape, dtype=torch.float32):
    taps = torch.tensor([-1.0, 1.0], dtype=dtype).expand(*shape, 2, 2, 2)
    return ops.DifferenceTaps(taps, taps)


def constants(dtype=torch.float32):
    return ops.SolverConstants(*(torch.tensor(v, dtype=dtype) for v in (0.25, 0.15, 0.3)))


def linear(h=9, w=7, dtype=torch.float64):
    first = torch.rand(2, 1, h, w, dtype=dtype) * 20
    warped = torch.rand(2, 3, h, w, dtype=dtype) * 20
    return ops.linearize_error(first, warped, torch.zeros(2, 2, h, w, dtype=dtype))


def port_pair(name):
    golden, kernel = load(name), ops.smoothing_kernel().float()
    frames = [
        ops.smooth_by_kernel(golden[k].float()[None, None], kernel, "zero") for k in ("I0", "I1")
    ]
    return golden, frames


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_the_dual_step_is_eq_1_of_the_supplement(dtype, most):
    golden = load("dual_step_eq11")
    ratio = (golden["tau"] / golden["theta"]).to(dtype)
    found = ops.update_dual(tuple(golden["p"].to(dtype)), tuple(golden["grad_u"].to(dtype)), ratio)
    assert (torch.stack(found) - golden["p_new"]).abs().max() <= most


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_the_dual_step_has_the_derivative_of_eq_2(dtype, most):
    golden = load("dual_step_eq11")
    ratio = (golden["tau"] / golden["theta"]).to(dtype)
    dual, slope = tuple(golden["p"].to(dtype)), golden["grad_u"].to(dtype).requires_grad_()
    for i, part in enumerate(ops.update_dual(dual, tuple(slope), ratio)):
        (found,) = torch.autograd.grad(part.sum(), slope, retain_graph=True)
        assert (found - golden["jac"][i]).abs().max() <= most


def test_the_dual_step_passes_gradcheck_also_at_zero():
    torch.manual_seed(0)
    values = [torch.randn(6, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    ratio = torch.tensor(5 / 6, dtype=torch.float64, requires_grad=True)

    def step(*parts):
        return ops.update_dual(parts[:2], parts[2:4], parts[4])

    assert torch.autograd.gradcheck(step, (*values, ratio))
    flat = [torch.zeros(6, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    torch.stack(step(*flat, ratio)).sum().backward()
    assert all(
        torch.allclose(v.grad, ratio if i > 1 else ratio / ratio) for i, v in enumerate(flat)
    )


def test_an_iteration_passes_gradcheck():
    torch.manual_seed(0)
    data, taps = linear(5, 4), untrained(1, dtype=torch.float64)
    flow, *dual = (torch.randn(2, 2, 5, 4, dtype=torch.float64) for _ in range(3))
    given = [flow, *dual, *data, taps.divergence[0].clone(), taps.gradient[0].clone()]
    given += constants(torch.float64)

    def iteration(flow, dual_x, dual_y, slope, error, inverse, first, second, *rest):
        data, known = ops.LinearError(slope, error, inverse), ops.SolverConstants(*rest)
        flow, dual, error = ops.run_iteration(flow, (dual_x, dual_y), data, (first, second), known)
        return flow, *dual, error

    assert torch.autograd.gradcheck(iteration, [g.requires_grad_() for g in given])


def masked_step(flow, data, limit):
    """Apply the three-way threshold of the papers with masks."""
    error = data.error + (data.slope * flow).sum(1, keepdim=True)
    square = data.slope.square().sum(1, keepdim=True) + 1e-12
    low, high = error < -limit * square, error > limit * square
    middle = ~low & ~high & (square > 1e-12)
    share = torch.where(low, limit, 0.0) - torch.where(high, limit, 0.0)
    return flow + (share + torch.where(middle, -error / square, 0.0)) * data.slope


@pytest.mark.parametrize("name", ["port_syn_rot2deg", "port_syn_smallobj"])
def test_clipping_is_the_threshold_of_the_papers(name):
    _, (first, second) = port_pair(name)
    flow = first.new_zeros(1, 2, *first.shape[2:])
    maps = torch.cat([second, central_difference(second)], 1)
    data, dual = ops.linearize_error(first, maps, flow), (flow, flow)
    for _ in range(10):
        smoothed = 0.3 * ops.tap_divergence(*dual, untrained().gradient)
        expected = masked_step(flow, data, 0.045) + smoothed
        flow, dual, _ = ops.run_iteration(flow, dual, data, untrained(), constants())
        assert (flow - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ["port_syn_rot2deg", "port_syn_smallobj"])
def test_the_brightness_error_is_that_of_the_port(name):
    golden, (first, second) = port_pair(name)
    flow, error = ops.unroll_flow(
        first, second, untrained(1, 1, 10), constants(), zoom=0.5, sampling=CLAMP
    )
    assert (flow[0].permute(1, 2, 0) - golden["flow_i10_ac"]).abs().max() <= 1e-3
    assert (error[0, 0] - golden["rho_i10_ac"]).abs().max() <= 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_iterating_in_place_gives_the_same_bits(dtype):
    data, start = linear(dtype=dtype), torch.randn(2, 2, 9, 7, dtype=dtype)
    dual = torch.zeros_like(start), torch.zeros_like(start)
    before = [t.clone() for t in (start, *dual, *data)]
    given = start, dual, data, untrained(20, dtype=dtype), constants(dtype)
    flow, expected, error = ops.iterate_warp(*given)
    twin, found, same = ops.iterate_in_place(*given)
    pairs = zip((flow, *expected, error), (twin, *found, same), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    after = (start, *dual, *data)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_divergence_is_minus_the_transposed_gradient():
    taps = untrained(dtype=torch.float64).gradient
    flow, *dual = (torch.randn(1, 2, 5, 6, dtype=torch.float64) for _ in range(3))
    gradient = ops.forward_gradient(flow, taps)
    ahead = sum((p * g).sum() for p, g in zip(dual, gradient, strict=True))
    torch.testing.assert_close(-(ops.tap_divergence(*dual, taps) * flow).sum(), ahead)


def test_each_component_and_axis_has_its_own_taps():
    taps = torch.arange(8.0).view(2, 2, 2)
    along_x, along_y = ops.forward_gradient(torch.ones(1, 2, 3, 3), taps)
    assert along_x[0, :, 0].tolist() == [[1, 1, 0], [9, 9, 0]]
    assert along_y[0, :, :, 0].tolist() == [[5, 5, 0], [13, 13, 0]]
    ones, zeros = torch.ones(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    assert ops.tap_divergence(ones, zeros, taps)[0, :, 0].tolist() == [[1, 1, 0], [5, 9, 4]]
    assert ops.tap_divergence(zeros, ones, taps)[0, :, :, 0].tolist() == [[3, 5, 2], [7, 13, 6]]


@pytest.mark.parametrize("sampling", [CLAMP, OFFICIAL])
def test_no_flow_samples_the_pixels_themselves(sampling):
    maps = torch.rand(2, 3, 5, 6)
    assert torch.equal(ops.warp(maps, torch.zeros(2, 2, 5, 6), sampling), maps)


def test_a_flow_of_whole_pixels_takes_them_x_first():
    maps, flow = torch.rand(1, 1, 5, 6), torch.zeros(1, 2, 5, 6)
    flow[:, 0], flow[:, 1] = 2, -1
    found = ops.warp(maps, flow, CLAMP)
    assert torch.equal(found[..., 1:, :4], maps[..., :-1, 2:])
    assert torch.equal(found[..., 1:, 4:], maps[..., :-1, -1:].expand(1, 1, 4, 2))


def test_official_sampling_extrapolates_right_and_is_0_at_left():
    maps = torch.tensor([3.0, 4.0, 6.0]).expand(1, 1, 3, 3)
    flow, sampling = torch.zeros(1, 2, 3, 3), ops.WarpSampling("extrapolate", shorten=False)
    flow[:, 0] = torch.tensor([-0.5, 3.0, 5.0])
    assert ops.warp(maps, flow, sampling)[0, 0, 1].tolist() == [0, 10, 16]


def test_official_sampling_scales_flow_by_the_side_minus_one():
    ramp, flow = torch.arange(4.0).expand(1, 1, 4, 4), torch.ones(1, 2, 4, 4)
    found = ops.warp(ramp, flow, OFFICIAL)
    torch.testing.assert_close(found[0, 0, 0], torch.arange(4.0) + 0.75)


def test_a_flow_of_nan_does_not_become_an_index():
    flow = torch.tensor([float("nan"), float("inf"), -1e30]).expand(1, 2, 3, 3)
    assert ops.warp(torch.ones(1, 1, 3, 3), flow, CLAMP)[0, 0, 2].isnan().tolist()[0]


@pytest.mark.parametrize("sampling", [CLAMP, OFFICIAL])
def test_sampling_passes_gradcheck(sampling):
    torch.manual_seed(0)
    maps = torch.rand(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    flow = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, u: ops.warp(m, u, sampling), (maps, flow))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gray_is_the_floor_of_the_exact_weighted_sum(dtype):
    levels = torch.arange(256, dtype=dtype).view(-1, 1, 1, 1)
    assert torch.equal(ops.convert_to_gray(levels.expand(-1, 3, 1, 1), round_down=True), levels)
    colors = torch.randint(0, 256, (3, 200, 1))
    sums = 299 * colors[:1] + 587 * colors[1:2] + 114 * colors[2:]
    assert torch.equal(
        ops.convert_to_gray(colors.to(dtype), round_down=True), (sums // 1000).to(dtype)
    )


def test_rounding_down_lets_derivatives_through():
    frames = torch.full((3, 2, 2), 7.3, requires_grad=True)
    ops.convert_to_gray(frames, round_down=True).sum().backward()
    torch.testing.assert_close(frames.grad[:, 0, 0], torch.tensor([0.299, 0.587, 0.114]))


def test_each_pair_is_stretched_alone_and_constant_pairs_stay():
    first = torch.tensor([[10.0, 20.0], [7.0, 7.0]]).view(2, 1, 1, 2).requires_grad_()
    second = torch.tensor([[15.0, 60.0], [7.0, 7.0]]).view(2, 1, 1, 2)
    found = ops.normalize_pair(first, second)
    torch.testing.assert_close(found[0].flatten(), torch.tensor([0, 51.0, 7, 7]))
    torch.testing.assert_close(found[1].flatten(), torch.tensor([25.5, 255, 7, 7]))
    found[0].sum().backward()
    assert first.grad.isfinite().all()


def test_smoothing_darkens_the_border_unless_it_reflects():
    image, kernel = torch.ones(1, 1, 6, 7), ops.smoothing_kernel().float()
    dark, kept = (ops.smooth_by_kernel(image, kernel, pad)[0, 0] for pad in ("zero", "reflect"))
    torch.testing.assert_close(kept, torch.ones(6, 7), rtol=0, atol=1e-5)
    assert (dark[:, 1] < 0.99).all()
    assert (dark[2:-2, 2:-2] > 0.9999).all()


def test_a_field_to_start_from_is_resized_with_its_displacements():
    gray, field = torch.full((2, 1, 8, 12), 9.0), torch.ones(2, 4, 4)
    taps = untrained(1, 1, 3)
    flow, _ = ops.unroll_flow(
        gray, gray, taps, constants(), zoom=0.5, sampling=CLAMP, initial_field=field
    )
    torch.testing.assert_close(flow[:, 0], torch.full((2, 8, 12), 3.0))
    torch.testing.assert_close(flow[:, 1], torch.full((2, 8, 12), 2.0))


def test_a_coarser_flow_is_divided_by_the_zoom():
    gray, field = torch.full((1, 1, 9, 13), 9.0), torch.ones(2, 5, 7)
    flow, _ = ops.unroll_flow(
        gray, gray, untrained(2, 1, 1), constants(), zoom=0.5, sampling=CLAMP, initial_field=field
    )
    torch.testing.assert_close(flow, torch.full((1, 2, 9, 13), 2.0))


def test_resizing_goes_from_corner_to_corner():
    image = torch.rand(1, 2, 9, 13)
    found = ops.resize_bilinear(image, (5, 7))
    torch.testing.assert_close(found, image[..., ::2, ::2])
    assert torch.equal(found, F.interpolate(image, (5, 7), mode="bilinear", align_corners=True))

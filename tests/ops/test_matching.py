import itertools

import pytest
import torch
import torch.nn.functional as F
from support import flows
from torch.utils._python_dispatch import TorchDispatchMode

from mrx.errors import ShapeError
from mrx.ops import matching
from mrx.ops.matching import (
    correlate,
    max_displacement,
    normalize_features,
    pair_up,
    peak_confidence,
    repeat_last,
    soft_argmax,
)

RANDOM = ["random_p15_t100", "random_p15_t20", "random_p5_t100"]


def load(name):
    return {
        key: torch.from_numpy(value)
        for key, value in flows.load_golden_arrays(f"matching_{name}").items()
        if value.dtype.kind in "fi"
    }


def cosines(golden):
    first, second = pair_up(normalize_features(golden["feat"]), int(golden["T"]))
    return correlate(first, second, patch=int(golden["patch"])).relu()


def settings(golden):
    return {
        "patch": int(golden["patch"]),
        "sigma": float(golden["sigma"]),
        "temperature": float(golden["temperature"]),
    }


def released_flow(golden):
    result = soft_argmax(cosines(golden), **settings(golden))
    return result / max_displacement(patch=int(golden["patch"]))


def random_pair(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, dtype=dtype, generator=generator).unbind()


def by_loops(first, second, patch, dilation):
    n, _, h, w = first.shape
    radius, result = patch // 2, first.new_zeros(n, patch, patch, h, w)
    for i, j, y, x in itertools.product(range(patch), range(patch), range(h), range(w)):
        row, column = y + (i - radius) * dilation, x + (j - radius) * dilation
        if 0 <= row < h and 0 <= column < w:
            result[:, i, j, y, x] = (first[:, :, y, x] * second[:, :, row, column]).sum(1)
    return result.flatten(1, 2)


def by_unfolding(first, second, patch):
    n, c, h, w = first.shape
    around = F.unfold(second, patch, padding=patch // 2).view(n, c, patch**2, h, w)
    return (around * first[:, :, None]).sum(1)


class Sizes(TorchDispatchMode):
    """Records the bytes of the largest tensor of each operation, except for views of the input."""

    def __init__(self, given):
        super().__init__()
        self.given, self.of = given.untyped_storage().data_ptr(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        values = result if isinstance(result, list | tuple) else [result]
        for value in (v for v in values if isinstance(v, torch.Tensor)):
            storage, name = value.untyped_storage(), func.overloadpacket.__name__
            if storage.data_ptr() != self.given:
                self.of[name] = max(storage.nbytes(), self.of.get(name, 0))
        return result


def test_features_have_length_one_and_zeros_stay_zeros():
    features = torch.randn(2, 16, 3, 4) * 5
    features[1] = 0
    result = normalize_features(features)
    torch.testing.assert_close(result[0].norm(dim=0), torch.ones(3, 4))
    assert torch.equal(result[1], features[1])
    expected = features / (features.square().sum(1, keepdim=True) + 1e-6).sqrt()
    assert torch.equal(result, expected)


@pytest.mark.parametrize("name", RANDOM)
def test_unrelated_features_correlate_as_in_the_released_code(name):
    golden = load(name)
    result = cosines(golden)
    assert (result.flatten(2) - golden["corr"]).abs().max() <= 2e-6
    assert (released_flow(golden) - golden["flow"]).abs().max() <= 1e-5
    assert (peak_confidence(result) - golden["conf"]).abs().max() <= 2e-6


def test_known_shifts_are_found_wherever_the_target_is_inside():
    golden = load("known_shift")
    result, (h, w) = cosines(golden), golden["feat"].shape[2:]
    assert (result[1].flatten(1) - golden["corr_first"]).abs().max() <= 2e-6
    assert (released_flow(golden) - golden["flow"]).abs().max() <= 1e-5
    assert (peak_confidence(result) - golden["conf"]).abs().max() <= 1e-5
    cells = soft_argmax(result, **settings(golden))
    for i, (dx, dy) in enumerate(golden["shifts"].tolist()):
        y, x = slice(max(0, -dy), min(h, h - dy)), slice(max(0, -dx), min(w, w - dx))
        expected = torch.tensor([dx, dy], dtype=torch.float32).view(2, 1, 1)
        assert (cells[i, :, y, x] - expected).abs().max() <= 1e-6
        assert peak_confidence(result)[i, :, y, x].min() >= 0.99999


def test_featureless_maps_give_no_displacement_or_confidence():
    golden = load("degenerate")
    result = cosines(golden)
    flow, height = released_flow(golden), peak_confidence(result)
    for case in (0, 2, 3):
        assert flow[case].abs().max() < 1e-6
        assert height[case].eq(0).all()
    assert flow[1].isfinite().all()
    assert flow[1].abs().max() <= 1
    assert (height[1] - 1).abs().max() <= 1e-4


@pytest.mark.parametrize("form", [matching._correlate_by_blocks, matching._correlate_by_shifts])
@pytest.mark.parametrize(
    ("patch", "dilation", "size"),
    [(1, 1, (3, 4)), (3, 1, (5, 70)), (5, 2, (9, 8)), (7, 3, (4, 11)), (5, 40, (6, 3))],
)
def test_both_forms_are_the_loop_over_cells_and_displacements(
    form, patch, dilation, size, monkeypatch
):
    monkeypatch.setattr(
        matching, "_shifting_is_faster", lambda *_: form is matching._correlate_by_shifts
    )
    first, second = random_pair(2, 3, *size)
    result = correlate(first, second, patch=patch, dilation=dilation)
    torch.testing.assert_close(result, by_loops(first, second, patch, dilation))


@pytest.mark.parametrize("size", [(28, 28), (41, 67), (3, 2)])
def test_blocks_and_shifts_are_the_unfolded_form_in_float32(size):
    first, second = random_pair(2, 16, *size, dtype=torch.float32)
    first, second = normalize_features(first), normalize_features(second)
    expected = by_unfolding(first, second, 15)
    for form in (matching._correlate_by_blocks, matching._correlate_by_shifts):
        assert (form(first, second, 15, range(size[0])) - expected).abs().max() <= 1e-6


@pytest.mark.parametrize(
    ("patch", "size", "shifted"),
    [
        *((15, 28, False), (15, 128, False), (7, 128, False), (5, 31, False), (5, 32, True)),
        *((3, 14, False), (3, 15, True), (1, 4, True)),
    ],
)
def test_shifting_is_chosen_for_patches_small_against_the_map(patch, size, shifted):
    assert matching._shifting_is_faster(torch.zeros(1, 1, size, size), patch) == shifted


@pytest.mark.parametrize(("high", "wide", "most"), [(1, 1, 1), (2, 9, 500), (99, 99, 2**30)])
def test_blocks_of_any_size_give_the_unfolded_form(high, wide, most, monkeypatch):
    first, second = random_pair(3, 4, 11, 13)
    expected = by_unfolding(first, second, 5)
    for name, value in {"_BLOCK_ROWS": high, "_BLOCK_COLUMNS": wide, "_MAX_VALUES": most}.items():
        monkeypatch.setattr(matching, name, value)
    torch.testing.assert_close(matching._correlate_in_chunks(first, second, 5, range(11)), expected)


@pytest.mark.parametrize("shape", [(24, 512, 28, 28), (3, 512, 72, 72)])
def test_blocks_stay_in_the_bound_and_below_the_output_size(shape):
    features = torch.zeros(shape)
    with Sizes(features) as sizes:
        result = correlate(features, features, patch=15)
    assert sizes.of["bmm"] <= 4 * matching._MAX_VALUES
    assert max(sizes.of.values()) == 4 * result.numel() < 4 * features.numel()


@pytest.mark.parametrize(
    ("shape", "patch", "dilation"),
    [
        *(((1, 72, 40, 48), 15, 1), ((2, 24, 70, 45), 7, 1)),
        *(((1, 32, 64, 52), 3, 1), ((1, 9, 29, 32), 5, 3)),
    ],
)
def test_strips_of_rows_have_the_bits_of_all_rows_at_once(shape, patch, dilation):
    pair = [normalize_features(m) for m in random_pair(*shape, dtype=torch.float32)]
    most = shape[0] * patch**2 * shape[3] * 16
    parts = matching.split_rows(pair[0], patch=patch, dilation=dilation, max_values=most)
    assert len(parts) > 1
    assert [y for rows in parts for y in rows] == list(range(shape[2]))
    whole = correlate(*pair, patch=patch, dilation=dilation).relu()
    result = [correlate(*pair, patch=patch, dilation=dilation, rows=rows).relu() for rows in parts]
    assert torch.equal(torch.cat(result, 2), whole)
    rules = {"patch": patch, "dilation": dilation, "sigma": 5, "temperature": 100}
    moved = torch.cat([soft_argmax(part, **rules) for part in result], 2)
    assert torch.equal(moved, soft_argmax(whole, **rules))


def test_any_rows_may_be_correlated_alone():
    first, second = random_pair(2, 6, 23, 19)
    for patch, dilation in ((5, 1), (3, 4)):
        whole = correlate(first, second, patch=patch, dilation=dilation)
        some = correlate(first, second, patch=patch, dilation=dilation, rows=range(7, 18))
        torch.testing.assert_close(some, whole[:, :, 7:18])


def test_a_pair_correlates_alone_as_in_a_batch():
    first, second = random_pair(5, 24, 14, 17, dtype=torch.float32)
    together = correlate(first, second, patch=9)
    for i in range(5):
        alone = correlate(first[i : i + 1], second[i : i + 1], patch=9)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-5)
    assert correlate(first[:0], second[:0], patch=9).shape == (0, 81, 14, 17)


def test_the_layout_in_memory_does_not_matter():
    first, second = random_pair(2, 6, 10, 45)
    expected = correlate(first, second, patch=7)
    last = [maps.contiguous(memory_format=torch.channels_last) for maps in (first, second)]
    torch.testing.assert_close(correlate(*last, patch=7), expected)
    torch.testing.assert_close(correlate(first, second.mT.contiguous().mT, patch=7), expected)


@pytest.mark.parametrize(("patch", "dilation"), [(5, 1), (3, 1), (3, 2)])
def test_correlation_gradients_equal_finite_differences(patch, dilation):
    pair = [maps.requires_grad_() for maps in random_pair(2, 2, 4, 5)]
    assert torch.autograd.gradcheck(
        lambda *maps: correlate(*maps, patch=patch, dilation=dilation), pair
    )
    assert torch.autograd.gradgradcheck(
        lambda *maps: correlate(*maps, patch=patch, dilation=dilation), pair
    )


@pytest.mark.parametrize("tie", ["first", "smallest"])
def test_soft_argmax_gradients_equal_finite_differences(tie):
    # The values are distinct, 0.01 apart, so no step of the check moves the peak.
    values = torch.randperm(2 * 25 * 6).to(torch.float64).view(2, 25, 2, 3) / 300
    assert torch.autograd.gradcheck(
        lambda maps: soft_argmax(maps, patch=5, sigma=2.0, temperature=8.0, tie=tie),
        values.requires_grad_(),
    )


def test_the_soft_argmax_is_its_formula():
    patch, sigma, temperature = 5, 1.5, 7.0
    values = torch.rand(25, dtype=torch.float64)
    steps = torch.arange(patch, dtype=torch.float64) - 2
    y, x = steps.repeat_interleave(patch), steps.repeat(patch)
    peak = values.argmax()
    gauss = (-((x - x[peak]) ** 2 + (y - y[peak]) ** 2) / (2 * sigma**2)).exp()
    weights = (temperature * gauss * values).softmax(0)
    expected = torch.stack([(weights * x).sum(), (weights * y).sum()])
    maps = values.view(1, 25, 1, 1)
    settings = {"patch": patch, "sigma": sigma, "temperature": temperature}
    torch.testing.assert_close(soft_argmax(maps, **settings).flatten(), expected)
    torch.testing.assert_close(soft_argmax(maps, **settings, dilation=3).flatten(), 3 * expected)


def test_the_first_of_equal_peaks_wins_unless_tie_is_smallest():
    peaks = torch.zeros(1, 5, 5, 1, 1)
    peaks[0, 0, 1] = peaks[0, 4, 4] = peaks[0, 2, 3] = 1
    peaks[0, 0, 1] += 5e-6  # rounding
    maps = peaks.flatten(1, 2)
    settings = {"patch": 5, "sigma": 0.3, "temperature": 100.0}
    assert soft_argmax(maps, **settings).flatten().round().tolist() == [-1, -2]
    smallest = soft_argmax(maps, **settings, tie="smallest")
    torch.testing.assert_close(smallest.flatten(), torch.tensor([1.0, 0.0]))


def test_half_precision_is_computed_in_float32_and_float64_kept():
    first, second = (maps.half() for maps in random_pair(1, 8, 6, 7))
    result = correlate(first, second, patch=5)
    assert torch.equal(result, correlate(first.float(), second.float(), patch=5))
    assert normalize_features(first).dtype == torch.float32
    assert soft_argmax(result.half(), patch=5, sigma=5, temperature=9).dtype == torch.float32
    assert correlate(first.double(), second, patch=5).dtype == torch.float64


def test_autocast_leaves_the_numbers_as_they_are():
    first, second = random_pair(1, 8, 6, 7, dtype=torch.float32)

    def compute():
        maps = correlate(normalize_features(first), normalize_features(second), patch=5)
        return soft_argmax(maps, patch=5, sigma=5, temperature=100), peak_confidence(maps)

    expected = compute()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = compute()
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


def test_frames_are_paired_within_their_clips_only():
    features = torch.arange(8).view(8, 1, 1, 1)
    first, second = pair_up(features, 4)
    assert first.flatten().tolist() == [0, 1, 2, 4, 5, 6]
    assert second.flatten().tolist() == [1, 2, 3, 5, 6, 7]
    assert repeat_last(first, 4).flatten().tolist() == [0, 1, 2, 2, 4, 5, 6, 6]


@pytest.mark.parametrize(
    ("patch", "dilation", "message"),
    [
        (4, 1, "patch=4: must be odd and at least 1"),
        (0, 1, "patch=0: must be odd"),
        (3, 0, "dilation=0: must"),
    ],
)
def test_invalid_patches_and_dilations_are_refused(patch, dilation, message):
    maps = torch.zeros(1, patch**2, 5, 5)
    with pytest.raises(ValueError, match=message):
        correlate(maps, maps, patch=patch, dilation=dilation)
    with pytest.raises(ValueError, match=message):
        soft_argmax(maps, patch=patch, dilation=dilation, sigma=1, temperature=1)


def test_maps_of_the_wrong_shape_are_refused():
    maps = torch.zeros(2, 3, 5, 6)
    with pytest.raises(ShapeError, match=r"two maps of one shape \(N, C, H, W\), .* and"):
        correlate(maps, maps[:1], patch=3)
    with pytest.raises(ShapeError, match=r"all but N at least 1, got \(2, 3, 0, 6\) and"):
        correlate(maps[:, :, :0], maps[:, :, :0], patch=3)
    with pytest.raises(ShapeError, match=r"patch=3: needs maps \(N, 9, H, W\), got \(2, 3, 5, 6\)"):
        soft_argmax(maps, patch=3, sigma=1, temperature=1)
    with pytest.raises(ShapeError, match=r"D at least 1, got \(2, 0, 5, 6\)"):
        peak_confidence(maps[:, :0])
    with pytest.raises(ShapeError, match=r"matching takes features \(B \* 3, C, H, W\), got"):
        pair_up(maps, 3)
    with pytest.raises(ShapeError, match=r"clips of 4 frames have maps \(B \* 3, \.\.\.\), got"):
        repeat_last(maps, 4)


@pytest.mark.parametrize("segments", [-1, 0, 1])
def test_clips_without_a_pair_are_refused(segments):
    for function in (pair_up, repeat_last):
        with pytest.raises(ShapeError, match=f"segments={segments}: a pair needs at least 2"):
            function(torch.zeros(2, 3, 5, 6), segments)


@pytest.mark.gpu
def test_a_gpu_gives_the_values_of_the_cpu(device, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    first, second = random_pair(3, 64, 41, 67, dtype=torch.float32)
    first, second = normalize_features(first), normalize_features(second)
    for patch in (3, 15):
        expected = correlate(first, second, patch=patch)
        result = correlate(first.to(device), second.to(device), patch=patch)
        assert (result.cpu() - expected).abs().max() <= 1e-5

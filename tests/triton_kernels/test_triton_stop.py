import numpy as np
import pytest
import torch
from support.triton_marks import interpreted
from support.tvl1_float64 import (
    NUMBERS,
    guard_planes,
    make_poisoned,
    random_fields,
    relative_error,
    run_steps,
)

from mrx.kernels import tvl1_launch
from mrx.kernels.tvl1_launch import BlockShape, DataTerm, FlowState, StopRule

pytestmark = interpreted

STEP = BlockShape(32, 64, 4)
TILE = BlockShape(64, 64, 8, 4)
SCALE = 2**24


def slots(launches, pairs):
    changes = torch.zeros(launches + 1, pairs, dtype=torch.int64)
    changes[0] = torch.iinfo(torch.int64).max
    return changes


def calm_and_wild():
    """Return two pairs, of which the first hardly changes."""
    state, term = random_fields(2, 30, 50)
    part = np.array([0, 1]).reshape(2, 1, 1, 1)
    rest = term.rest * np.maximum(part, 1e-2)
    return FlowState(state.flow * part, state.dual * part[..., None]), DataTerm(term.gradient, rest)


def limit_after(state, term, launches, each):
    """Return a limit that the calm pair reaches in exactly `launches` launches, the other never."""
    changes = []
    for _ in range(launches):
        state, change = run_steps(state, term, each)
        changes.append(change)
    calm, wild = np.array(changes).T
    assert calm[-1] < calm[:-1].min() < wild.min()
    return np.sqrt(calm[-1] * calm[:-1].min())


def launched(state, term, shape, times, limit):
    """Launch iterations; return the state, its other buffers, and the changes."""
    old = FlowState(*(guard_planes(field) for field in state))
    new = FlowState(*(make_poisoned(field) for field in old))
    terms = DataTerm(*(guard_planes(field) for field in term))
    changes = slots(times, len(state.flow))
    for i in range(times):
        tvl1_launch.launch_iterations(
            old, new, terms, NUMBERS, shape, StopRule(changes, int(limit * SCALE), i)
        )
        old, new = new, old
    return old, new, changes


@pytest.mark.parametrize("shape", [STEP, TILE])
def test_changes_are_the_sums_of_the_last_iteration_of_a_launch(shape):
    state, term = random_fields(3, 37, 75)
    _, _, changes = launched(state, term, shape, 2, 0)
    each = max(1, shape.iterations)
    for i in (1, 2):
        _, expected = run_steps(state, term, i * each)
        np.testing.assert_allclose(changes[i] / SCALE, expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [STEP, TILE], ids=["step", "tile"])
@pytest.mark.parametrize("end", [2, 3])
@pytest.mark.parametrize("more", [0, 1, 2, 3])
def test_a_pair_at_rest_stays_there_and_the_other_goes_on(shape, end, more):
    state, term = calm_and_wild()
    each = max(1, shape.iterations)
    limit = limit_after(state, term, end, each)
    found, _, changes = launched(state, term, shape, end + more, limit)
    calm, wild = (
        run_steps(state, term, end * each)[0],
        run_steps(state, term, (end + more) * each)[0],
    )
    for field, first, second in zip(found, calm, wild, strict=True):
        assert relative_error(field[0], first[0]) < 1e-6
        assert relative_error(field[1], second[1]) < 1e-6
    assert (changes > 0).sum(0).tolist() == [end + 1, end + more + 1]


def test_both_buffers_hold_the_result_of_a_pair_at_rest():
    state, term = calm_and_wild()
    found, other, _ = launched(state, term, STEP, 6, limit_after(state, term, 3, 1))
    for one, two in zip(found, other, strict=True):
        assert torch.equal(one[0], two[0])
        assert not torch.equal(one[1], two[1])


def test_without_change_a_pair_is_at_rest_after_one_launch():
    state, term = random_fields(1, 20, 30)
    still = FlowState(*(0 * field for field in state))
    found, _, changes = launched(still, term._replace(rest=0 * term.rest), STEP, 3, 0)
    assert not found.flow.any()
    assert changes[1:].tolist() == [[0], [0], [0]]


def test_a_state_in_half_precision_comes_to_rest_too():
    state, term = calm_and_wild()
    old = FlowState(*(guard_planes(field, torch.float16) for field in state))
    new, terms = (
        FlowState(*map(make_poisoned, old)),
        DataTerm(*(guard_planes(field) for field in term)),
    )
    changes = slots(3, 2)
    changes[1] = torch.tensor([0, 1])
    tvl1_launch.launch_iterations(old, new, terms, NUMBERS, STEP, StopRule(changes, 0, 1))
    assert torch.equal(new.flow[0], old.flow[0])
    assert torch.equal(new.dual[0], old.dual[0])
    assert not torch.equal(new.flow[1], old.flow[1])


@pytest.mark.parametrize("side", [3, 5])
def test_the_median_leaves_a_pair_at_rest_as_it_is(side, large_blocks):
    flow = guard_planes(random_fields(2, 30, 50)[0].flow)
    found, plain = make_poisoned(flow), make_poisoned(flow)
    changes = slots(2, 2)
    changes[1] = torch.tensor([5, 6])
    tvl1_launch.launch_median(flow, found, side, StopRule(changes, 5, 1))
    tvl1_launch.launch_median(flow, plain, side)
    assert torch.equal(found[0], flow[0])
    assert torch.equal(found[1], plain[1])

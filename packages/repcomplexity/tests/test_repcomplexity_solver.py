"""The solver against plain NumPy programs over tables, in both libraries."""

import numpy as np
import pytest
import torch

from modicum.repcomplexity.bits import ComplexityLimitError
from modicum.repcomplexity.families import IrrelevantParityMDP, MajorityMDP, ParityMDP, RandomMDP
from modicum.repcomplexity.mdp import BitMDP
from modicum.repcomplexity.solver import solve


def tables(seed, n_states=11, n_actions=3):
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet(np.full(n_states, 0.3), (n_states, n_actions))
    return probability, rng.normal(size=(n_states, n_actions))


def backward(probability, reward, steps, gamma=1.0):
    value = np.zeros(len(reward))
    for _ in range(steps):
        q = reward + gamma * probability @ value
        value = q.max(1)
    return q, value


@pytest.mark.parametrize("encoding", ["binary", "gray", "onehot"])
@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("chunk", [None, 3])
def test_backward_induction_over_tables(encoding, gamma, device, chunk):
    probability, reward = tables(0)
    mdp = BitMDP.from_tables(probability, reward, horizon=6, gamma=gamma, encoding=encoding)
    solution = solve(mdp, device=device, chunk=chunk)
    for step in (1, 3, 6):
        q, value = backward(probability, reward, 7 - step, gamma)
        at = solution.at(step)
        np.testing.assert_allclose(np.asarray(at.Q), q, atol=1e-12)
        np.testing.assert_allclose(np.asarray(at.V), value, atol=1e-12)
        np.testing.assert_array_equal(np.asarray(at.policy), q.argmax(1))
        assert at.sweeps == 7 - step and at.step == step
    assert solution.T is None and solution.residual == 0


@pytest.mark.parametrize("device", [None, "cpu"])
def test_value_iteration_is_within_its_bound_of_the_exact_values(device):
    """Exact values from the linear equations of the policy that it found."""
    probability, reward = tables(1)
    gamma = 0.95
    mdp = BitMDP.from_tables(probability, reward, gamma=gamma)
    coarse = solve(mdp, device=device, tol=1e-2)
    fine = solve(mdp, device=device)
    policy, rows = np.asarray(fine.policy), np.arange(11)
    exact = np.linalg.solve(np.eye(11) - gamma * probability[rows, policy], reward[rows, policy])
    q = reward + gamma * probability @ exact
    assert (q.max(1) - exact).max() < 1e-9
    for solution in (coarse, fine):
        assert np.abs(np.asarray(solution.V) - exact).max() <= solution.error_bound + 1e-12
        np.testing.assert_allclose(solution.error_bound, 19 * solution.residual)
    assert fine.residual <= 1e-10 < coarse.residual <= 1e-2
    assert coarse.sweeps < fine.sweeps and fine.at(7) is fine


@pytest.mark.parametrize(
    "mdp",
    [
        MajorityMDP(5),
        MajorityMDP(6, slip=0.1),
        MajorityMDP(4, condition=lambda x: (x & 4) == 0),
        ParityMDP(6),
        RandomMDP(6, horizon=4, n_actions=3),
        IrrelevantParityMDP(4),
    ],
    ids=repr,
)
@pytest.mark.parametrize("method", ["auto", "dynamic_programming"])
def test_both_libraries_give_equal_results(mdp, method):
    for tie_break in ("first", "all"):
        host = solve(mdp, method=method, tie_break=tie_break)
        there = solve(mdp, method=method, tie_break=tie_break, device="cpu", chunk=7)
        for name in ("Q", "V", "policy", "T"):
            one, other = getattr(host, name), getattr(there, name)
            if one is None:
                assert other is None
                continue
            assert isinstance(other, torch.Tensor) and one.shape == other.shape
            assert str(one.dtype) == str(other.dtype).removeprefix("torch.")
            np.testing.assert_array_equal(one, other.numpy())


@pytest.mark.gpu
def test_a_device_gives_the_results_of_the_host():
    for mdp in (MajorityMDP(12), MajorityMDP(6, slip=0.1), ParityMDP(8)):
        host = solve(mdp, method="dynamic_programming")
        there = solve(mdp, method="dynamic_programming", device="cuda")
        np.testing.assert_array_equal(host.policy, there.policy.cpu().numpy())
        np.testing.assert_allclose(host.Q, there.Q.cpu().numpy(), atol=1e-12)


def test_ties_are_told():
    mdp = BitMDP.from_tables([[0, 1, 0], [1, 1, 1]], [[1, 1, 0], [0, 0, 0]], horizon=1)
    assert solve(mdp).policy.tolist() == [0, 0]
    many = solve(mdp, tie_break="all")
    assert many.policy.tolist() == [[True, True, False], [True, True, True]]
    assert many.optimal_actions.tolist() == many.policy.tolist()


@pytest.mark.parametrize(
    "horizon, reward, dtype",
    [
        (24, 1, "int8"),
        (127, 1, "int8"),
        (128, 1, "int16"),
        (3, -43, "int16"),
        (3, 20000, "int32"),
        (2, 2.0**31, "int64"),
        (2048, 2.0**53, "float64"),
        (2, 1e20, "float64"),
        (2, 0.5, "float64"),
    ],
)
def test_values_have_the_smallest_dtype_that_holds_them(horizon, reward, dtype):
    mdp = BitMDP.from_tables([[0]], [[reward]], horizon=horizon)
    for device in (None, "cpu"):
        solution = solve(mdp, device=device)
        assert str(solution.V.dtype).removeprefix("torch.") == dtype
        assert float(solution.V[0]) == horizon * reward


def test_distances_are_those_of_the_family():
    mdp = MajorityMDP(4)
    solution = solve(mdp)
    np.testing.assert_array_equal(solution.T, mdp.steps_to_reward(np.arange(64)))
    np.testing.assert_array_equal(solution.V, np.maximum(0, mdp.horizon - solution.T))


def test_sixteen_bits_by_dynamic_programming():
    mdp = MajorityMDP(16)
    program, closed = solve(mdp, method="dynamic_programming"), solve(mdp)
    assert program.method == "dynamic_programming" and closed.method == "closed_form"
    assert program.Q.dtype == np.int8 and program.sweeps == 24
    np.testing.assert_array_equal(program.Q, closed.Q)


def test_a_step_that_leaves_the_states_is_reported():
    outside = BitMDP(3, 2, lambda codes, a: codes + a, lambda codes, a: codes & 0, horizon=3)
    with pytest.raises(ValueError, match="action 1 in the state of code 7 leads to code 8"):
        solve(outside)
    gap = BitMDP(
        3, 1, lambda codes, a: codes + 1, lambda codes, a: codes & 0, horizon=1, state_codes=[0, 1]
    )
    with pytest.raises(ValueError, match="code 1 leads to code 2"):
        solve(gap)


def test_actions_that_only_rounding_tells_apart_are_ties():
    """A mirror image of three states on either side; both ways are as good from the middle."""
    probability = np.zeros((7, 2, 7))
    for state in range(7):
        for action, step in enumerate((-1, 1)):
            mirrored = (1, -1)[state > 3] * step
            for chance, move in ((0.1, -mirrored), (0.2, 0), (0.7, mirrored)):
                probability[state, action, np.clip(state + move, 0, 6)] += chance
    probability[3] = 0
    probability[3, 0, [0, 2, 4]] = probability[3, 1, [6, 4, 2]] = 0.7, 0.2, 0.1
    probability[3, 1, [4, 2]], probability[3, 0, [2, 4]] = (0.2, 0.1), (0.2, 0.1)
    reward = np.array([0.3, 0.1, 0.7, 0.0, 0.7, 0.1, 0.3])
    for settings in ({"gamma": 0.99}, {"horizon": 9}):
        mdp = BitMDP.from_tables(probability, reward, **settings)
        for device in (None, "cpu"):
            assert bool(solve(mdp, tie_break="all", device=device).policy[3].all())
            assert int(solve(mdp, device=device).policy[3]) == 0


def test_the_mask_of_frozen_lake_holds_the_ties_of_its_rules():
    """Against values with 10^5 sweeps, which leave rounding only."""
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make("FrozenLake-v1", map_name="8x8")
    exact = solve(BitMDP.from_gymnasium(env, gamma=0.99), tol=1e-15)
    ties = exact.Q >= exact.V[:, None] - 1e-9
    solution = solve(BitMDP.from_gymnasium(env, gamma=0.99), tie_break="all")
    np.testing.assert_array_equal(solution.policy, ties)
    np.testing.assert_array_equal(solution.optimal_actions, ties)


def test_a_process_that_is_too_large_is_refused_before_its_rewards_are_looked_at():
    def reward(codes, action):
        assert codes.size <= 2, "went through the states"
        return codes & 1

    with pytest.raises(ComplexityLimitError, match="1,099,511,627,776 states"):
        solve(BitMDP(40, 2, lambda codes, action: codes, reward, horizon=3))


def test_a_search_that_is_too_large_leaves_dynamic_programming(monkeypatch):
    monkeypatch.setattr("modicum.repcomplexity.families._SEARCH_BITS", 5)
    mdp = MajorityMDP(4, condition=lambda x: (x & 1) == 0)
    assert not mdp.has_closed_form
    solution = solve(mdp)
    assert solution.method == "dynamic_programming" and solution.T is None
    monkeypatch.undo()
    np.testing.assert_array_equal(solution.Q, solve(mdp, method="closed_form").Q)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"step": lambda c, a: [(c, 0.5), (c, 0.4)]}, "of action 0 do not sum to 1"),
        ({"step": lambda c, a: [(c, 1 - 0.1 * (c == 2)), (c, 0 * c)]}, "do not sum to 1"),
        ({"terminal": lambda c: c == 3}, "pays in the terminal state of code 3"),
        ({"terminal": lambda c: c == 0, "step": lambda c, a: (c + 1) & 3}, "of code 0"),
        ({"reward": lambda c, a: c / 0.0}, "finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_functions_that_break_their_promises_are_reported(changes, message, device):
    functions = {"step": lambda c, a: c, "reward": lambda c, a: c} | changes
    with pytest.raises(ValueError, match=message):
        solve(BitMDP(2, 1, functions.pop("step"), horizon=3, **functions), device=device)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"method": "exact"}, "not 'exact'"),
        ({"tie_break": "last"}, "not 'last'"),
        ({"tol": 0}, "tol must be positive, not 0"),
        ({"chunk": 0}, "chunk must be at least 1, not 0"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_bad_options_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        solve(MajorityMDP(4), **settings)


def test_what_has_no_closed_form_or_step_says_so():
    with pytest.raises(ValueError, match="has no closed form"):
        solve(RandomMDP(4), method="closed_form")
    for step in (0, 7):
        with pytest.raises(ValueError, match=rf"step must be in \[1, 6\], not {step}"):
            solve(MajorityMDP(4)).at(step)


def test_a_solution_that_does_not_fit_is_refused_before_anything_is_allocated():
    with pytest.raises(ComplexityLimitError, match=r"137,438,953,472 states .* GiB"):
        solve(MajorityMDP(32))
    with pytest.raises(ComplexityLimitError, match=r"memory_limit_gib=0\.001"):
        solve(MajorityMDP(16), memory_limit_gib=0.001)

"""Families: their steps against the written rule, closed forms against dynamic programming."""

import math
import pickle
from itertools import product

import numpy as np
import pytest
import torch

from modicum.repcomplexity.bits import ComplexityLimitError, popcount
from modicum.repcomplexity.families import (
    UNREACHABLE,
    IrrelevantParityMDP,
    MajorityMDP,
    ParityMDP,
    RandomMDP,
    SatMDP,
)
from modicum.repcomplexity.solver import solve

SAMPLE = [
    MajorityMDP(5),
    MajorityMDP(4, condition=lambda x: (x & 1) == 0, reward_mode="once", on_blocked="stay"),
    MajorityMDP(4, slip=0.2, flip_advances=True),
    ParityMDP(6),
    SatMDP(2),
    IrrelevantParityMDP(5),
    RandomMDP(5, n_actions=3),
]


def random_cycle(rng, values):
    order = rng.permutation(values)
    control = np.empty(values, dtype=int)
    control[order] = np.roll(order, -1)
    return control


def even_ones_or_top(x):
    """A condition with unreachable states."""
    return ((popcount(x) & 1) == 0) | (x > 11)


def assert_closed_form_is_dynamic_program(mdp):
    """At every step, for every state and action."""
    program = solve(mdp, method="dynamic_programming")
    closed = solve(mdp, method="closed_form")
    for step in range(1, mdp.horizon + 1):
        one, other = program.at(step), closed.at(step)
        np.testing.assert_array_equal(one.Q, other.Q, err_msg=f"{mdp} at step {step}")
        np.testing.assert_array_equal(one.policy, other.policy)
        values = mdp.optimal_values(np.arange(mdp.n_states), step)
        np.testing.assert_array_equal(one.V, values)
    assert not mdp.optimal_values(np.arange(mdp.n_states), mdp.horizon + 1).any()


def majority_rule(n, control, goal, condition, stay, flip_advances, once, state, action):
    """One step of the majority process in plain Python; the state is (c, x, paid)."""
    c, x, paid = state
    reward = int(x == goal and not (once and paid))
    paid = paid or (once and x == goal)
    if action == 1 and condition(x):
        x = x ^ (1 << c) if c < n else x
        c = control[c] if flip_advances else c
    elif action == 0 or not stay:
        c = control[c]
    return (c, x, paid), reward


@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize("stay, flip_advances, once", list(product([False, True], repeat=3)))
@pytest.mark.parametrize("conditioned", [False, True])
def test_majority_steps_follow_the_rule(n, stay, flip_advances, once, conditioned):
    rng = np.random.default_rng(n)
    values = 1 << math.ceil(math.log2(n))
    control, goal = random_cycle(rng, values), int(rng.integers(1 << n))
    holds = rng.random(1 << n) < 0.6
    mdp = MajorityMDP(
        n,
        control,
        goal,
        holds if conditioned else None,
        on_blocked="stay" if stay else "advance",
        flip_advances=flip_advances,
        reward_mode="once" if once else "state",
    )
    b = mdp.n_control_bits
    assert mdp.n_state_bits == n + b + once and mdp.horizon == values + n // 2
    for code in range(mdp.n_states):
        state = ((code >> n) % values, code % (1 << n), bool(code >> (n + b)))
        for action in range(2):
            (c, x, paid), reward = majority_rule(
                n,
                control,
                goal,
                lambda x: holds[x] or not conditioned,
                stay,
                flip_advances,
                once,
                state,
                action,
            )
            expected = x | int(c) << n | int(paid) << (n + b)
            assert int(mdp.next_codes(code, action)) == expected
            assert int(mdp.rewards(code, action)) == reward


@pytest.mark.parametrize("n", range(4, 9))
@pytest.mark.parametrize("flip_advances", [False, True])
def test_majority_values_of_random_cycles_and_goals(n, flip_advances):
    rng = np.random.default_rng(n)
    values = 1 << math.ceil(math.log2(n))
    for trial in range(3):
        mdp = MajorityMDP(
            n,
            random_cycle(rng, values) if trial else "increment",
            int(rng.integers(1 << n)) if trial else None,
            flip_advances=flip_advances,
            reward_mode="once" if trial == 2 else "state",
        )
        assert_closed_form_is_dynamic_program(mdp)


@pytest.mark.parametrize("n", range(4, 11))
def test_majority_values_of_many_cycles_and_goals(n):
    rng = np.random.default_rng(100 + n)
    values = 1 << math.ceil(math.log2(n))
    for _ in range(5):
        for _ in range(5):
            goal = int(rng.integers(1 << n))
            mdp = MajorityMDP(n, random_cycle(rng, values), goal)
            program = solve(mdp, method="dynamic_programming")
            np.testing.assert_array_equal(program.Q, solve(mdp, method="closed_form").Q)


@pytest.mark.parametrize("n", [4, 5, 7])
@pytest.mark.parametrize("on_blocked", ["advance", "stay"])
@pytest.mark.parametrize("flip_advances", [False, True])
@pytest.mark.parametrize("reward_mode", ["state", "once"])
def test_majority_values_under_conditions(n, on_blocked, flip_advances, reward_mode):
    rng = np.random.default_rng(n)
    for condition in (even_ones_or_top, rng.random(1 << n) < 0.5, np.zeros(1 << n, bool)):
        mdp = MajorityMDP(
            n,
            random_cycle(rng, 1 << math.ceil(math.log2(n))),
            condition=condition,
            on_blocked=on_blocked,
            flip_advances=flip_advances,
            reward_mode=reward_mode,
        )
        assert_closed_form_is_dynamic_program(mdp)
    away = np.arange(1 << n) != mdp.reward_state
    assert (mdp.steps_to_reward(np.arange(1 << n))[away] == UNREACHABLE).all()


@pytest.mark.parametrize("flip_advances", [False, True])
def test_a_condition_that_always_holds_is_none(flip_advances):
    states = np.arange(1 << 9)
    free = MajorityMDP(6, flip_advances=flip_advances)
    searched = MajorityMDP(6, condition=np.ones(64, bool), flip_advances=flip_advances)
    np.testing.assert_array_equal(free.steps_to_reward(states), searched.steps_to_reward(states))


def test_a_condition_may_be_a_tensor():
    holds = np.random.default_rng(0).random(16) < 0.5
    one, other = (MajorityMDP(4, condition=c) for c in (holds, torch.from_numpy(holds)))
    states = np.arange(64)
    np.testing.assert_array_equal(one.steps_to_reward(states), other.steps_to_reward(states))


def test_slips_are_what_a_scalar_dynamic_program_gives():
    """Backward induction over dictionaries, with the slip written out."""
    n, slip = 3, 0.3
    mdp = MajorityMDP(n, slip=slip, horizon=6)
    solution = solve(mdp)
    value = {(c, x): 0.0 for c in range(4) for x in range(8)}
    for _ in range(6):
        q = {}
        for (c, x), action in product(value, range(2)):
            rule = majority_rule(
                n, [1, 2, 3, 0], 7, lambda x: True, False, False, False, (c, x, False), action
            )
            (c2, x2, _), reward = rule
            q[c, x, action] = reward + (1 - slip) * value[c2, x2] + slip * value[c, x]
        value = {state: max(q[*state, 0], q[*state, 1]) for state in value}
    for (c, x), expected in value.items():
        assert solution.V[c << n | x] == pytest.approx(expected, abs=1e-12)
        for action in range(2):
            assert solution.Q[c << n | x, action] == pytest.approx(q[c, x, action], abs=1e-12)
    assert solution.method == "dynamic_programming"
    with pytest.raises(ValueError, match="no closed form"):
        mdp.optimal_values(np.arange(4))


def test_what_was_paid_once_stays_paid_when_slipping():
    mdp = MajorityMDP(2, slip=0.5, reward_mode="once")
    goal = mdp.encode(np.array([0]), 3)
    for following, _ in mdp.transitions(goal, 1):
        assert (following >> 3 == 1).all() and not mdp.rewards(following, 0).any()


@pytest.mark.parametrize("n", [4, 8, 16])
def test_positive_values_decide_majority_on_a_subcube(n):
    """With the last visited position wrong, V > 0 says that fewer than half the others are."""
    mdp = MajorityMDP(n)
    for control in (0, n // 2 - 1):
        last = (control - 1) % n
        wrong = np.arange(1 << n)
        wrong = wrong[(wrong >> last) & 1 == 1]
        others = popcount(wrong ^ (1 << last))
        positive = mdp.optimal_values(mdp.encode(control, wrong ^ mdp.reward_state)) > 0
        np.testing.assert_array_equal(positive, others < n / 2)


def test_reference_values_of_the_default_majority_process():
    """Sum 4392 over 2048 states and Pr[V > 0] = .7227 for n = 8; .6910 and mean 2.3009 for 16."""
    eight = solve(MajorityMDP(8), method="dynamic_programming").V
    assert eight.sum() == 4392 and (eight > 0).mean() == 1480 / 2048
    sixteen = solve(MajorityMDP(16)).V
    assert (sixteen > 0).mean() == pytest.approx(0.6910, abs=5e-5)
    assert sixteen.mean() == pytest.approx(2.3009, abs=5e-5)


@pytest.mark.parametrize("n", [2, 4, 6, 8])
@pytest.mark.parametrize("noop", [True, False])
def test_parity_values(n, noop):
    for target in (0, (1 << n) - 1, 1):
        for horizon in (None, n // 2, n + 3):
            mdp = ParityMDP(n, target_state=target, allow_noop=noop, horizon=horizon)
            assert_closed_form_is_dynamic_program(mdp)


@pytest.mark.parametrize("n", [4, 8, 12])
@pytest.mark.parametrize("noop", [True, False])
def test_positive_parity_values_are_even_parity(n, noop):
    mdp, states = ParityMDP(n, allow_noop=noop), np.arange(1 << n)
    even = popcount(states) % 2 == 0
    value = mdp.optimal_values(states)
    np.testing.assert_array_equal(value > 0, even)
    visits = mdp.horizon - popcount(states) / 2
    expected = visits if noop else np.ceil(visits / 2)
    np.testing.assert_array_equal(value[even], expected[even])
    # One step less fails in the one state that is farthest away.
    short = ParityMDP(n, allow_noop=noop, horizon=n // 2).optimal_values(states) > 0
    assert np.flatnonzero(short != even).tolist() == [(1 << n) - 1]


def test_parity_actions_flip_their_pairs():
    mdp = ParityMDP(4, target_state=[1, 0, 1, 0])
    assert mdp.target_state == 5 and mdp.n_actions == 7 and mdp.n_action_bits == 4
    for action, (i, j) in enumerate(mdp.pairs):
        assert int(mdp.next_codes(0, action)) == (1 << i ^ 1 << j)
        assert mdp.action_codes[action] == i + 4 * j
    assert mdp.pairs[0] == (0, 0) and len(set(mdp.pairs)) == 7


def truth(clauses, assignment):
    return all(any((assignment >> abs(lit) - 1) % 2 == (lit > 0) for lit in c) for c in clauses)


@pytest.mark.parametrize(
    "mdp",
    [SatMDP(1), SatMDP(2), SatMDP(3, [[1, -2], [2, 3], [-1], [-3, 1, 2]]), SatMDP(3, horizon=3)],
    ids=repr,
)
def test_satisfiability_values(mdp):
    assert_closed_form_is_dynamic_program(mdp)


@pytest.mark.parametrize("n", [2, 3])
def test_first_values_decide_satisfiability(n):
    mdp = SatMDP(n)
    rng = np.random.default_rng(n)
    for _ in range(200):
        size = int(rng.integers(len(mdp.clauses) + 1))
        clauses = [mdp.clauses[k] for k in rng.permutation(len(mdp.clauses))[:size]]
        satisfiable = any(truth(clauses, assignment) for assignment in range(1 << n))
        assert int(mdp.optimal_values(mdp.start(clauses))) == satisfiable


def test_an_episode_writes_an_assignment_and_ends():
    clauses = [[1, -2], [2, 3], [-1], [-3, 1, 2]]
    mdp = SatMDP(3, clauses)
    for choices in product(range(2), repeat=3):
        code, rewards = mdp.start(clauses[:3]), []
        for action in (*choices, 1):
            assert not mdp.is_terminal(code)
            rewards.append(int(mdp.rewards(code, action)))
            code = mdp.next_codes(code, action)
        assignment = sum(bit << i for i, bit in enumerate(choices))
        assert rewards == [0, 0, 0, truth(clauses[:3], assignment)]
        assert mdp.is_terminal(code) and int(mdp.assignment_of(code)) == assignment
        assert int(mdp.next_codes(code, 1)) == int(code) and int(mdp.rewards(code, 1)) == 0
        assert int(mdp.formula_of(code)) == 7
    drawn = mdp.sample_states(100, np.random.default_rng(0))
    assert not mdp.assignment_of(drawn).any() and not mdp.chosen_of(drawn).any()
    assert set(mdp.formula_of(drawn).tolist()) == set(range(16))


def test_default_clauses_are_all_of_three_variables():
    assert len(SatMDP(4).clauses) == 8 * math.comb(4, 3)
    assert {len(clause) for clause in SatMDP(4).clauses} == {3}
    assert SatMDP(2).clauses == ((1, 2), (1, -2), (-1, 2), (-1, -2))


@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_a_hard_model_with_easy_values(horizon):
    mdp = IrrelevantParityMDP(6, horizon=horizon)
    assert_closed_form_is_dynamic_program(mdp)
    states = np.arange(64)
    for action in range(2):
        following = mdp.next_codes(states, action)
        np.testing.assert_array_equal(following >> 5, popcount(states) % 2)
        np.testing.assert_array_equal(following & 1, action)
        np.testing.assert_array_equal(following & 0b11110, states & 0b11110)
        late = (action + horizon - 2) if horizon > 1 else 0
        np.testing.assert_array_equal(mdp.optimal_q(states, action), (states & 1) + late)


def test_random_tables_are_balanced_and_seeded():
    """A frequency of 8,192 draws is off by more than 0.035 with probability below 4e-9 each."""
    mdp, states = RandomMDP(13, seed=3), np.arange(1 << 13)
    for action in range(2):
        following = mdp.next_codes(states, action)
        for bit in range(13):
            assert abs(((following >> bit) & 1).mean() - 0.5) < 0.035
        assert abs(mdp.rewards(states, action).mean() - 0.5) < 0.035
        np.testing.assert_array_equal(solve(mdp).Q[:, action], mdp.rewards(states, action))
    same, other = RandomMDP(13, seed=3), RandomMDP(13, seed=4)
    np.testing.assert_array_equal(same.next_codes(states, 0), mdp.next_codes(states, 0))
    assert (other.next_codes(states, 0) != mdp.next_codes(states, 0)).mean() > 0.9


@pytest.mark.parametrize("mdp", SAMPLE, ids=repr)
def test_single_actions_arrays_and_tensors_agree(mdp):
    rng = np.random.default_rng(0)
    codes = rng.integers(mdp.n_states, size=(40, 3))
    actions = rng.integers(mdp.n_actions, size=codes.shape)
    tensors = torch.from_numpy(codes), torch.from_numpy(actions)
    branches = mdp.transitions(codes, actions)
    for action in range(mdp.n_actions):
        for one, many in zip(mdp.transitions(codes, action), branches, strict=True):
            np.testing.assert_array_equal(one[0][actions == action], many[0][actions == action])
        single = mdp.rewards(codes, action)[actions == action]
        np.testing.assert_array_equal(single, mdp.rewards(codes, actions)[actions == action])
        one = mdp.transitions(tensors[0], action)[0][0]
        np.testing.assert_array_equal(one.numpy(), mdp.transitions(codes, action)[0][0])
    for one, many in zip(mdp.transitions(*tensors), branches, strict=True):
        assert one[0].dtype == torch.int64
        np.testing.assert_array_equal(one[0].numpy(), many[0])
        np.testing.assert_array_equal(one[1], many[1])
    np.testing.assert_array_equal(mdp.rewards(*tensors).numpy(), mdp.rewards(codes, actions))
    np.testing.assert_array_equal(mdp.is_terminal(tensors[0]).numpy(), mdp.is_terminal(codes))
    if hasattr(mdp, "steps_to_reward"):
        steps = mdp.steps_to_reward(tensors[0])
        assert steps.dtype == torch.int64
        np.testing.assert_array_equal(steps.numpy(), mdp.steps_to_reward(codes))
    if mdp.has_closed_form:
        q = mdp.optimal_q(*tensors)
        np.testing.assert_array_equal(q.numpy(), mdp.optimal_q(codes, actions))


@pytest.mark.parametrize(
    "mdp", [m for m in SAMPLE if "condition" not in vars(m) or not m.condition]
)
def test_processes_can_be_pickled(mdp):
    mdp.rewards(torch.arange(4), 0)
    copy = pickle.loads(pickle.dumps(mdp))
    codes = np.arange(mdp.n_states)
    for (one, _), (other, _) in zip(
        mdp.transitions(codes, 1), copy.transitions(codes, 1), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rng", [np.random.default_rng(0), torch.Generator().manual_seed(0)])
def test_first_states_of_the_majority_process_are_unpaid(rng):
    mdp = MajorityMDP(2, reward_mode="once")
    assert set(np.asarray(mdp.sample_states(400, rng)).tolist()) == set(range(8))
    assert mdp.n_states == 16


def test_observations_put_the_control_bits_first():
    mdp = MajorityMDP(4)
    assert mdp.observe(mdp.encode(np.array([2]), 0b0011)).tolist() == [[0, 1, 1, 1, 0, 0]]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"n": 1}, "n must be at least 2, not 1"),
        ({"n": 4, "control": [1, 0, 3, 2]}, r"cycles of lengths \[2, 2\]"),
        ({"n": 4, "control": [0, 2, 3, 1]}, r"cycles of lengths \[1, 3\]"),
        ({"n": 4, "control": [1, 1, 3, 2]}, "permutation of 0 … 3"),
        ({"n": 4, "control": [1, 2, 0]}, "permutation of 0 … 3"),
        ({"n": 4, "control": "gray"}, "'increment' or a permutation, not 'gray'"),
        ({"n": 4, "reward_state": 16}, r"reward_state must be in \[0, 16\), not 16"),
        ({"n": 4, "reward_state": [1, 0]}, "reward_state must be a code or 4 bits"),
        ({"n": 4, "condition": np.ones(8, bool)}, r"Booleans of shape \(16,\)"),
        ({"n": 4, "condition": np.ones(16)}, "not float64"),
        ({"n": 4, "condition": lambda x: x}, "return Booleans of shape"),
        ({"n": 4, "condition": lambda x: True}, "return Booleans of shape"),
        ({"n": 4, "on_blocked": "wait"}, "not 'wait'"),
        ({"n": 4, "reward_mode": "twice"}, "not 'twice'"),
        ({"n": 4, "slip": 1.0}, r"slip must be in \[0, 1\), not 1.0"),
        ({"n": 4, "horizon": 0}, "horizon must be an integer of at least 1, not 0"),
    ],
)
def test_what_is_no_majority_process_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MajorityMDP(**arguments)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ParityMDP(5), "n must be even and at least 2, not 5"),
        (lambda: ParityMDP(4, target_state=-1), "target_state must be in"),
        (lambda: SatMDP(0), "n_variables must be at least 1"),
        (lambda: SatMDP(2, [[1], [3]]), r"variables ±1 … ±2, at least one, not \[3\]"),
        (lambda: SatMDP(2, [[]]), "at least one"),
        (lambda: SatMDP(2, [[1, 2], [2, 1]]), "differ"),
        (lambda: SatMDP(4, [[4, -4], [-4, 4]]), "differ"),
        (lambda: SatMDP(2).start([[1]]), "not among the clauses"),
        (lambda: IrrelevantParityMDP(1), "n must be at least 2"),
        (lambda: MajorityMDP(4).optimal_values(np.arange(4), 0), "step must be at least 1, not 0"),
        (lambda: IrrelevantParityMDP(4).optimal_values(np.arange(4), 0), "at least 1, not 0"),
        (lambda: RandomMDP(0), "must be at least 1"),
    ],
)
def test_what_is_no_process_of_the_other_families_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: MajorityMDP(60),
        lambda: ParityMDP(64),
        lambda: SatMDP(13),
        lambda: SatMDP(6),
        lambda: RandomMDP(30),
        lambda: MajorityMDP(28, condition=even_ones_or_top).steps_to_reward(np.arange(2)),
    ],
)
def test_processes_that_are_too_large_are_refused_at_once(call):
    with pytest.raises(ComplexityLimitError):
        call()


@pytest.mark.parametrize("make", [MajorityMDP, ParityMDP, IrrelevantParityMDP, RandomMDP, SatMDP])
def test_sizes_are_whole_numbers(make):
    for size in (4.5, "4", None, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="must be an integer"):
            make(size)
    assert "4.0" not in make(4.0).name

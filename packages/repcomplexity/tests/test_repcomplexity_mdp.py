"""Processes of functions, tables and toy-text environments: against the tables themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from modicum.repcomplexity.bits import ComplexityLimitError
from modicum.repcomplexity.mdp import BitMDP, RewardBounds

ENCODED = ["binary", "gray", "onehot", lambda index: 3 * index + 1]


def random_tables(seed, n_states=7, n_actions=3):
    """Sparse random probabilities (S, A, S) and integer rewards (S, A)."""
    rng = np.random.default_rng(seed)
    probability = rng.random((n_states, n_actions, n_states))
    probability[rng.random(probability.shape) < 0.5] = 0
    probability[..., 0] += 1e-3
    probability /= probability.sum(-1, keepdims=True)
    return probability, rng.integers(-3, 4, (n_states, n_actions))


def table_of(mdp):
    """The probabilities (S, A, S) that `transitions` tells, state by state."""
    codes = mdp.codes_of(np.arange(mdp.n_states))
    table = np.zeros((mdp.n_states, mdp.n_actions, mdp.n_states))
    for action in range(mdp.n_actions):
        for following, probability in mdp.transitions(codes, action):
            index = mdp.indices_of(following)
            np.add.at(table, (np.arange(mdp.n_states), action, index), probability)
    return table


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_tables_come_back_in_every_encoding(encoding, form):
    probability, rewards = random_tables(0)
    given_table = probability if form == "dense" else sparse.csr_array(probability.reshape(-1, 7))
    mdp = BitMDP.from_tables(given_table, rewards, horizon=4, encoding=encoding)
    np.testing.assert_allclose(table_of(mdp), probability, atol=1e-12)
    codes = mdp.codes_of(np.arange(7))
    for action in range(3):
        np.testing.assert_array_equal(mdp.rewards(codes, action), rewards[:, action])
    assert mdp.reward_bounds() == RewardBounds(rewards.min(), rewards.max(), True)
    assert not mdp.deterministic
    assert len(set(codes.tolist())) == 7 and codes.max() < 2**mdp.n_state_bits
    with pytest.raises(ValueError, match="has chance"):
        mdp.next_codes(codes, 0)


@given(st.integers(0, 1000), st.sampled_from(ENCODED))
def test_arrays_of_actions_and_tensors_agree_with_single_actions(seed, encoding):
    rng = np.random.default_rng(seed)
    following = rng.integers(0, 6, (6, 4))
    mdp = BitMDP.from_tables(following, rng.random((6, 4)), horizon=3, encoding=encoding)
    codes, actions = mdp.codes_of(rng.integers(0, 6, (5, 2))), rng.integers(0, 4, (5, 2))
    expected = mdp.codes_of(following[mdp.indices_of(codes), actions])
    np.testing.assert_array_equal(mdp.next_codes(codes, actions), expected)
    tensors = torch.from_numpy(codes), torch.from_numpy(actions)
    np.testing.assert_array_equal(mdp.next_codes(*tensors).numpy(), expected)
    np.testing.assert_array_equal(mdp.rewards(*tensors).numpy(), mdp.rewards(codes, actions))
    assert int(mdp.next_codes(codes[0, 0], int(actions[0, 0]))) == expected[0, 0]
    np.testing.assert_array_equal(mdp.indices_of(tensors[0]).numpy(), mdp.indices_of(codes))


def test_codes_of_no_state_stay_without_reward():
    mdp = BitMDP.from_tables([[1], [2], [0]], [1, 1, 1], horizon=2, encoding="onehot")
    codes = np.arange(8)
    assert mdp.is_state(codes).tolist() == [False, True, True, False, True, False, False, False]
    assert mdp.next_codes(codes, 0).tolist() == [0, 2, 4, 3, 1, 5, 6, 7]
    assert mdp.rewards(codes, 0).tolist() == [0, 1, 1, 0, 1, 0, 0, 0]
    assert mdp.n_state_bits == 3 and mdp.encoding == "onehot"


def test_rewards_on_arrival_are_expectations():
    probability, _ = random_tables(1)
    rewards = np.random.default_rng(1).random((7, 3, 7))
    mdp = BitMDP.from_tables(probability, rewards, horizon=2)
    expected = (probability * rewards).sum(-1)
    for action in range(3):
        np.testing.assert_allclose(mdp.rewards(np.arange(7), action), expected[:, action])
    assert not mdp.reward_bounds().integer
    certain = BitMDP.from_tables([[1], [0]], [[[1, 2]], [[3, 4]]], horizon=2)
    assert certain.rewards(np.arange(2), 0).tolist() == [2, 3]


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_draws_have_the_probabilities_of_the_table(library):
    """A frequency of 40,000 draws is off by more than 0.02 with probability below 4e-14 each."""
    probability, rewards = random_tables(2, n_states=4, n_actions=2)
    initial = np.array([0.1, 0.2, 0.3, 0.4])
    mdp = BitMDP.from_tables(probability, rewards, horizon=2, initial=initial)
    count = 40_000
    numpy = library == "numpy"
    rng = np.random.default_rng(0) if numpy else torch.Generator().manual_seed(0)
    first = np.asarray(mdp.sample_states(count, rng))
    np.testing.assert_allclose(np.bincount(first, minlength=4) / count, initial, atol=0.02)
    codes = np.full(count, 3)
    drawn = mdp.sample_next(codes if numpy else torch.from_numpy(codes), 1, rng)
    frequency = np.bincount(np.asarray(drawn), minlength=4) / count
    np.testing.assert_allclose(frequency, probability[3, 1], atol=0.02)


def test_uniform_first_states_are_states():
    mdp = BitMDP.from_tables([[1], [2], [0]], [1, 1, 1], horizon=2, encoding="onehot")
    for rng in (np.random.default_rng(0), torch.Generator().manual_seed(0)):
        assert set(np.asarray(mdp.sample_states(200, rng)).tolist()) == {1, 2, 4}


def test_a_process_of_functions_finds_its_reward_bounds_itself():
    mdp = BitMDP(
        4, 2, lambda codes, a: (codes + 1 + a) % 16, lambda codes, a: 0.5 * codes - a, gamma=0.9
    )
    assert mdp.deterministic and mdp.n_states == 16 and mdp.n_action_bits == 1
    assert mdp.reward_bounds() == RewardBounds(-1.0, 7.5, False)
    actions = np.array([0, 1])
    assert mdp.next_codes(np.array([15, 15]), actions).tolist() == [0, 1]
    assert "16 states" in repr(mdp) and not mdp.has_terminals
    assert not mdp.is_terminal(np.arange(16)).any()


def test_observations_follow_their_order():
    mdp = BitMDP(3, 1, lambda c, a: c, lambda c, a: c & 0, horizon=1, observation_order=(2, 0, 1))
    assert mdp.observe(np.array([0b011, 0b100])).tolist() == [[0, 1, 1], [1, 0, 0]]
    assert mdp.observe(torch.tensor([0b100]), "sign").tolist() == [[-1, 1, 1]]


def values_by_sweeps(table, gamma=0.5, sweeps=50):
    """Values of a toy-text table by its own rule: nothing follows where `terminated` is true."""
    value = np.zeros(len(table))
    for _ in range(sweeps):
        value = np.array(
            [
                max(
                    sum(p * (r + gamma * value[t] * (not end)) for p, t, r, end in branches)
                    for branches in actions.values()
                )
                for actions in table.values()
            ]
        )
    return value


@pytest.mark.parametrize("name", ["FrozenLakeEnv", "CliffWalkingEnv", "TaxiEnv"])
def test_toy_text_environments_have_the_values_of_their_tables(name):
    toy_text = pytest.importorskip("gymnasium.envs.toy_text")
    env = getattr(toy_text, name)()
    mdp = BitMDP.from_gymnasium(env, gamma=0.5)
    table = env.unwrapped.P
    probability, value = table_of(mdp), np.zeros(mdp.n_states)
    codes = mdp.codes_of(np.arange(mdp.n_states))
    reward = np.stack([mdp.rewards(codes, a) for a in range(mdp.n_actions)], axis=1)
    for _ in range(50):
        value = (reward + 0.5 * probability @ value).max(1)
    expected = values_by_sweeps(table)
    end = mdp.is_terminal(codes)
    assert end.any() and not value[end].any()
    np.testing.assert_allclose(
        value[: len(table)][~end[: len(table)]], expected[~end[: len(table)]], atol=1e-9
    )
    env.close()


def test_toy_text_keeps_first_states_and_the_time_limit():
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make("FrozenLake-v1", is_slippery=False)
    mdp = BitMDP.from_gymnasium(env, encoding="gray")
    assert (mdp.horizon, mdp.n_states, mdp.n_state_bits) == (100, 16, 4)
    assert mdp.deterministic and mdp.encoding == "gray" and mdp.name == "FrozenLake-v1"
    drawn = mdp.indices_of(mdp.sample_states(10, np.random.default_rng(0)))
    assert not drawn.any()
    with pytest.raises(ValueError, match="time limit"):
        BitMDP.from_gymnasium(env.unwrapped.__class__())
    with pytest.raises(ValueError, match="no transition table"):
        BitMDP.from_gymnasium(gymnasium.make("CartPole-v1"))


def test_a_table_without_all_of_the_chance_is_refused():
    gymnasium = pytest.importorskip("gymnasium")
    taxi = next(name for name in reversed(gymnasium.registry) if name.startswith("Taxi"))
    with pytest.raises(ValueError, match="fickle_passenger=False"):
        BitMDP.from_gymnasium(gymnasium.make(taxi, fickle_passenger=True))
    assert BitMDP.from_gymnasium(gymnasium.make(taxi, is_rainy=True)).n_actions == 6


def test_slots_that_a_row_does_not_need_lead_where_the_row_leads():
    mdp = BitMDP.from_tables([[[0.5, 0.5]], [[0, 1]]], [0, 0], horizon=2)
    assert [int(following[1]) for following, _ in mdp.transitions(np.arange(2), 0)] == [1, 1]


def test_rewards_too_large_for_integers_stay_what_they_are():
    mdp = BitMDP.from_tables([[0]], [[1e20]], horizon=2)
    assert mdp.rewards(np.array([0]), 0) == 1e20 and not mdp.reward_bounds().integer


@pytest.mark.parametrize("ask", ["transitions", "next_codes", "rewards"])
@pytest.mark.parametrize("wrong", [2, -1, np.array([0, 2]), torch.tensor([-1, 0])])
def test_actions_out_of_range_are_refused(ask, wrong):
    codes = torch.arange(2) if isinstance(wrong, torch.Tensor) else np.arange(2)
    with pytest.raises(ValueError, match=r"actions must be in \[0, 2\), not (2|-1)"):
        getattr(plain(), ask)(codes, wrong)


@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy])
def test_codes_and_actions_that_are_no_integers_are_refused(library):
    codes = library(np.arange(2))
    with pytest.raises(ValueError, match=r"integers, not .*float64"):
        plain().next_codes(codes, library(np.array([0.5, 1])))
    with pytest.raises(ValueError, match=r"integers, not .*float64"):
        plain().rewards(library(np.array([0.5, 1])), 0)


def test_rewards_that_are_not_finite_are_refused():
    mdp = BitMDP(2, 2, lambda c, a: c, lambda c, a: c + a * np.nan, horizon=1)
    with pytest.raises(ValueError, match="finite; one of action 0"):
        mdp.reward_bounds()


def plain(**changes):
    settings = {"n_state_bits": 2, "n_actions": 2, "horizon": 3} | changes
    step = settings.pop("step", lambda codes, action: codes)
    return BitMDP(step=step, reward=lambda codes, action: codes, **settings)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"n_state_bits": -1}, "n_state_bits must be at least 0, not -1"),
        ({"n_actions": 0}, "n_actions must be at least 1, not 0"),
        ({"horizon": 0}, "horizon must be an integer of at least 1, not 0"),
        ({"horizon": 2.5}, "not 2.5"),
        ({"horizon": None}, "without a horizon, gamma must be below 1"),
        ({"gamma": 0.0}, r"gamma must be in \(0, 1\], not 0.0"),
        ({"step": lambda codes, action: codes[:1]}, "step must return codes of the shape"),
        (
            {"step": lambda codes, action: [(codes, 1.0)] if action else codes},
            "codes for all actions, or lists for all",
        ),
        ({"state_codes": [0, 1, 1]}, "different codes"),
        ({"state_codes": [0, 4]}, "must fit 2 bits"),
        ({"initial": [0.5, 0.5]}, r"initial must have shape \(4,\)"),
        ({"initial": [0.5, 0.5, 0.5, 0.0]}, "sum to 1, not to 1.5"),
        ({"observation_order": (0, 0)}, "observation_order must hold each"),
        ({"action_codes": [1, 1]}, "2 different codes"),
    ],
)
def test_what_makes_no_process_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        plain(**changes)


def test_too_many_bits_are_refused():
    with pytest.raises(ComplexityLimitError, match="63, above the limit of 62"):
        plain(n_state_bits=63)
    with pytest.raises(ComplexityLimitError, match="one-hot"):
        BitMDP.from_tables(np.zeros((70, 1), int), np.zeros(70), horizon=2, encoding="onehot")


@pytest.mark.parametrize(
    "transitions, rewards, settings, message",
    [
        ([[0], [2]], [0, 0], {}, r"next states must be in \[0, 2\)"),
        ([[0.5], [0.5]], [0, 0], {}, "transitions must be"),
        ([[[0.5, 0.4]], [[0, 1]]], [0, 0], {}, "state 0 and action 0 sum to 0.9"),
        ([[[1.5, -0.5]], [[0, 1]]], [0, 0], {}, "must not be negative"),
        (sparse.csr_array(np.ones((3, 2)) / 2), [0, 0], {}, "sparse transition matrix"),
        ([[0], [1]], [0, 0, 0], {}, "rewards must have shape"),
        ([[0], [1]], [0, np.nan], {}, "rewards must be finite"),
        ([[0], [1]], [0, 0], {"encoding": "grey"}, "not 'grey'"),
        ([[0], [1]], [0, 0], {"encoding": lambda index: index * 0}, "a code of its own"),
        ([[0], [1]], [0, 0], {"encoding": lambda index: index - 1}, "non-negative"),
        ([[0], [1]], [0, 0], {"terminal": [1, 0]}, "terminal must be bool"),
    ],
)
def test_bad_tables_are_refused(transitions, rewards, settings, message):
    with pytest.raises(ValueError, match=message):
        BitMDP.from_tables(transitions, rewards, horizon=2, **settings)


def test_the_matrix_of_the_caller_is_not_changed():
    matrix = sparse.csr_array(np.array([[1.0, 1e-14], [0, 1]]))
    BitMDP.from_tables(matrix, [0, 0], horizon=2)
    assert matrix.nnz == 3

"""Sequential tests of a mean, with their error probabilities computed exactly."""

import itertools
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.core.stats import (
    BettingTest,
    bernoulli_confidence_sequence,
    beta_bernoulli_log_marginal,
)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=20),
    st.floats(0.05, 0.95),
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=5),
)
def test_wealth_is_the_mean_of_products_of_bets(x, mean, fractions):
    test = BettingTest(mean, fractions=fractions)
    log_e = test.update(x)
    wealth = np.mean([math.prod(1 + c / mean * (value - mean) for value in x) for c in fractions])
    assert math.exp(log_e) == pytest.approx(wealth, rel=1e-10)
    assert test.process.num_steps == len(x)


@pytest.mark.parametrize("mean", [0.2, 0.5, 0.85])
def test_expected_wealth_is_one_at_the_boundary_of_the_null(mean):
    # A three-valued law with this mean; all paths of six observations.
    values = np.array([0.0, 0.5, 1.0])
    half = 0.3 * min(mean, 1 - mean)
    probabilities = np.array([1 - mean - half / 2, half, mean - half / 2])
    assert probabilities @ values == pytest.approx(mean)
    total = 0.0
    for path in itertools.product(range(3), repeat=6):
        total += probabilities[list(path)].prod() * math.exp(
            BettingTest(mean).update(values[list(path)])
        )
    assert total == pytest.approx(1.0, rel=1e-11)


def rejection_boundary(mean: float, alpha: float, num_steps: int) -> np.ndarray:
    """Most zeros with which the test still rejects, per number of ones; -1 for none.

    For 0/1 observations the wealth depends on the two counts only and falls with every zero.
    """
    boundary = np.full(num_steps + 1, -1)
    for ones in range(num_steps + 1):
        test = BettingTest(mean)
        if ones:
            test.update(np.ones(ones))
        while test.process.log_e_value >= math.log(1 / alpha) and boundary[ones] < num_steps:
            boundary[ones] += 1
            test.update(0.0)
    return boundary


def crossing_probability(p: float, boundary: np.ndarray) -> float:
    """P(the test ever rejects) for Bernoulli(p) observations, by dynamic programming."""
    crossed, alive = 0.0, np.array([1.0])
    for step in range(1, boundary.size):
        alive = np.convolve(alive, [1 - p, p])
        over = step - np.arange(step + 1) <= boundary[: step + 1]
        crossed += alive[over].sum()
        alive[over] = 0.0
    return crossed


def test_type_one_error_under_continuous_monitoring_and_power():
    alpha = 0.05
    boundary = rejection_boundary(0.4, alpha, 120)
    errors = [crossing_probability(p, boundary) for p in (0.2, 0.3, 0.4)]
    assert errors == sorted(errors)
    assert errors[0] < alpha / 10
    assert alpha / 5 < errors[-1] <= alpha
    assert crossing_probability(0.7, boundary) > 0.99


def test_at_least_null_by_reflection():
    test = BettingTest(1 - 0.6, alpha=0.01)
    test.update(1 - np.tile([0.1, 0.3], 20))
    assert test.rejected
    assert test.p_value < 0.01
    quiet = BettingTest(0.6, alpha=0.01)
    quiet.update(np.tile([0.1, 0.3], 20))
    assert not quiet.rejected


def test_saved_test_continues_as_if_never_stopped():
    rng = np.random.default_rng(0)
    x = rng.random(60)
    whole = BettingTest(0.3, alpha=0.02)
    whole.update(x)
    test = BettingTest(0.3, alpha=0.02)
    for part in np.split(x, 6):
        test.update(part)
        restored = BettingTest.from_json(test.to_json())
        assert restored == test == pickle.loads(pickle.dumps(test))
        test = restored
    assert test == whole
    assert test != BettingTest(0.3, alpha=0.02)
    assert test != 1
    with pytest.raises(TypeError):
        hash(test)


def test_saved_test_errors():
    state = json.loads(BettingTest(0.3).to_json())
    for change in ({"format": "x"}, {"version": 9}, {"fractions": [0.5]}, {"mean": 3.0}):
        with pytest.raises(ValueError):
            BettingTest.from_json(json.dumps(state | change))
    del state["process"]
    with pytest.raises(ValueError, match="lacks the field"):
        BettingTest.from_json(json.dumps(state))
    with pytest.raises(ValueError, match="format"):
        BettingTest.from_json("[]")


def test_betting_errors_leave_the_test_alone():
    for mean in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="mean"):
            BettingTest(mean)
    for fractions in ([], [0.0], [1.0], [[0.5]], [math.nan]):
        with pytest.raises(ValueError, match="fractions"):
            BettingTest(0.5, fractions=fractions)
    test = BettingTest(0.5)
    for bad in (1.1, -0.1, math.nan, [[0.5]], [0.5, 2.0]):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            test.update(bad)
    assert test.process.num_steps == 0


def test_confidence_sequence_inverts_the_mixture_likelihood_ratio():
    alpha = 0.01
    trials = np.array([1, 5, 20, 20, 300, 5000])
    ones = np.array([1, 2, 0, 20, 130, 4999])
    low, high = bernoulli_confidence_sequence(ones, trials, alpha)

    def log_ratio(p: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            likelihood = np.nan_to_num(ones * np.log(p)) + np.nan_to_num(
                (trials - ones) * np.log1p(-p)
            )
        return beta_bernoulli_log_marginal(ones, trials) - likelihood

    inner = ones > 0
    np.testing.assert_allclose(log_ratio(low)[inner], math.log(1 / alpha), rtol=1e-8)
    inner = ones < trials
    np.testing.assert_allclose(log_ratio(high)[inner], math.log(1 / alpha), rtol=1e-8)
    assert np.all((low <= ones / trials) & (ones / trials <= high))
    assert low[2] == 0.0
    assert high[3] == 1.0
    assert np.all(np.diff((high - low)[[1, 4]]) < 0)


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.9])
def test_confidence_sequence_misses_with_probability_at_most_alpha_ever(p):
    alpha, num_steps = 0.1, 250
    alive, missed = np.array([1.0]), 0.0
    for n in range(1, num_steps + 1):
        alive = np.convolve(alive, [1 - p, p])
        low, high = bernoulli_confidence_sequence(np.arange(n + 1), n, alpha)
        out = (p < low) | (p > high)
        missed += alive[out].sum()
        alive[out] = 0.0
    assert alpha / 10 < missed <= alpha


def test_confidence_sequence_edges_and_errors():
    assert bernoulli_confidence_sequence(0, 0) == (0.0, 1.0)
    wide, narrow = (bernoulli_confidence_sequence(30, 100, a) for a in (0.001, 0.2))
    assert wide[0] < narrow[0] < 0.3 < narrow[1] < wide[1]
    for alpha in (0.0, 1.0):
        with pytest.raises(ValueError, match="alpha"):
            bernoulli_confidence_sequence(1, 2, alpha)
    with pytest.raises(ValueError, match="matches"):
        bernoulli_confidence_sequence(3, 2)

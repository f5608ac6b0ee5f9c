"""Poisson-binomial tails against enumeration and SciPy's binomial."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, poisson_binom

from modicum.core.stats import poisson_binomial_prefix_sf, poisson_binomial_sf

probabilities = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 1e-12]))


def enumerated_tail(k: int, probs: list[float]) -> float:
    return math.fsum(
        math.prod(p if hit else 1 - p for p, hit in zip(probs, outcome, strict=True))
        for outcome in itertools.product((0, 1), repeat=len(probs))
        if sum(outcome) >= k
    )


@settings(deadline=None, max_examples=60)
@given(st.lists(probabilities, max_size=9))
def test_tail_matches_enumeration(probs):
    counts = np.arange(-2, len(probs) + 3)
    expected = [enumerated_tail(int(k), probs) for k in counts]
    np.testing.assert_allclose(
        poisson_binomial_sf(counts, np.array(probs)), expected, rtol=1e-13, atol=1e-300
    )


@pytest.mark.parametrize(("n", "p"), [(1, 0.3), (40, 0.01), (400, 0.5), (1000, 0.9)])
def test_equal_probabilities_give_the_binomial_with_relative_accuracy(n, p):
    counts = np.arange(n + 2)
    ours, scipy_tail = poisson_binomial_sf(counts, np.full(n, p)), binom.sf(counts - 1, n, p)
    normal = scipy_tail > 1e-290
    np.testing.assert_allclose(ours[normal], scipy_tail[normal], rtol=1e-10)
    assert ours[0] == 1.0
    assert ours[n + 1] == 0.0


def test_unequal_probabilities_against_scipy():
    probs = np.random.default_rng(5).uniform(0.02, 0.98, size=150)
    counts = np.arange(151)
    np.testing.assert_allclose(
        poisson_binomial_sf(counts, probs), poisson_binom(probs).sf(counts - 1), atol=1e-13
    )


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 30))
def test_prefixes_agree_with_the_single_tail(data, num_steps):
    probs = np.array(data.draw(st.lists(probabilities, min_size=num_steps, max_size=num_steps)))
    hits = np.array(data.draw(st.lists(st.booleans(), min_size=num_steps, max_size=num_steps)))
    expected = [
        poisson_binomial_sf(int(hits[:t].sum()), probs[:t]) for t in range(1, num_steps + 1)
    ]
    np.testing.assert_allclose(
        poisson_binomial_prefix_sf(hits, probs), expected, rtol=1e-13, atol=1e-300
    )


def test_batches_equal_their_rows():
    rng = np.random.default_rng(1)
    probs = rng.uniform(size=(3, 4, 25))
    hits = rng.random(probs.shape) < 0.5
    batch = poisson_binomial_prefix_sf(hits, probs)
    counts = hits.sum(axis=-1)
    tails = poisson_binomial_sf(counts, probs)
    crossed = poisson_binomial_sf(np.arange(26)[:, None], probs[0])
    assert crossed.shape == (26, 4)
    for i, j in itertools.product(range(3), range(4)):
        np.testing.assert_allclose(
            batch[i, j], poisson_binomial_prefix_sf(hits[i, j], probs[i, j]), rtol=1e-14
        )
        assert tails[i, j] == pytest.approx(batch[i, j, -1], rel=1e-14)
    for k, j in itertools.product(range(26), range(4)):
        assert crossed[k, j] == pytest.approx(
            float(poisson_binomial_sf(k, probs[0, j])), rel=1e-13, abs=1e-300
        )


def test_p_value_is_valid_at_every_level_by_enumeration():
    # P(p-value <= level) <= level for every attainable level; equality, as S is the statistic.
    probs = np.random.default_rng(2).uniform(0.05, 0.95, size=11)
    hits = np.array(list(itertools.product((0, 1), repeat=11)))
    weight = np.where(hits == 1, probs, 1 - probs).prod(axis=1)
    p_values = poisson_binomial_prefix_sf(hits, np.broadcast_to(probs, hits.shape))[:, -1]
    for level in np.unique(p_values.round(14)):
        assert weight[p_values <= level + 1e-12].sum() == pytest.approx(level, abs=1e-10)


def test_empty_and_scalar_shapes():
    assert poisson_binomial_sf(0, []) == 1.0
    assert poisson_binomial_sf(1, []) == 0.0
    assert isinstance(poisson_binomial_sf(1, [0.5]), float)
    assert poisson_binomial_prefix_sf([], []).shape == (0,)
    assert poisson_binomial_prefix_sf(np.zeros((0, 5)), np.zeros((0, 5))).shape == (0, 5)


def test_errors():
    for probs in ([1.1], [-0.1], [math.nan]):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            poisson_binomial_sf(1, probs)
    with pytest.raises(ValueError, match="axis"):
        poisson_binomial_sf(1, 0.5)
    with pytest.raises(TypeError, match="integers"):
        poisson_binomial_sf(1.0, [0.5])
    with pytest.raises(ValueError, match="same shape"):
        poisson_binomial_prefix_sf([1, 0], [0.5])
    with pytest.raises(ValueError, match="0 or 1"):
        poisson_binomial_prefix_sf([2], [0.5])

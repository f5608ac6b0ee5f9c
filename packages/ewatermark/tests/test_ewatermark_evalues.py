"""Validity of every one-step score, exactly, and the closed forms of the mixtures."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.core.stats import EProcess, beta_bernoulli_log_marginal
from modicum.ewatermark.evalues import (
    DEFENSIVE_GRID,
    LOG_E_CAP,
    SCORES,
    AnchoredMixtureScore,
    AnchoredScore,
    DefensiveScore,
    Evidence,
    make_score,
)
from modicum.ewatermark.theory import check_evalue, error_entropy


def evidence_table(p: np.ndarray) -> Evidence:
    """Evidence of every pair (token group v, seed s), row-major in v."""
    m = len(p)
    v, s = np.divmod(np.arange(m * m), m)
    h = -(p[p > 0] * np.log(p[p > 0])).sum()
    return Evidence(
        v == s, p[s], p[v], np.full(m * m, h), np.full(m * m, int((p > 0).sum()), dtype=np.int64)
    )


def random_masses(seed: int, m: int, concentration: float) -> np.ndarray:
    p = np.random.default_rng(seed).dirichlet(np.full(m, concentration))
    return np.maximum(p, 1e-8) / np.maximum(p, 1e-8).sum()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.sampled_from([2, 3, 16, 256]),
    concentration=st.sampled_from([0.05, 0.5, 5.0]),
    name=st.sampled_from(SCORES),
    share=st.floats(0.01, 0.99),
)
def test_mean_is_at_most_one_for_every_token_group(seed, m, concentration, name, share):
    p = random_masses(seed, m, concentration)
    score = make_score(name, m, delta=share * 2 * (m - 1) / m, fraction=share)
    log_e = score.log_e(evidence_table(p), matches_before=7, steps_before=19)
    if name == "anchored-mixture":
        # A score that learns is checked at one fixed past, pair by pair.
        full = evidence_table(p)
        pairs = [full.take(np.arange(m * m) == i) for i in range(m * m)] if m <= 16 else []
        log_e = np.array([score.log_e(pair, 7, 19)[0] for pair in pairs])
        if not pairs:
            return
    for column in np.exp(log_e).T:
        table = column.reshape(m, m)
        means = table @ p
        assert means.max() <= 1 + 1e-9
        if log_e.max() < LOG_E_CAP - 1e-9:
            np.testing.assert_allclose(means, 1.0, rtol=1e-9)


@pytest.mark.parametrize("name", SCORES)
def test_truncated_support_stays_valid_for_tokens_outside_it(name):
    p = np.array([0.5, 0.3, 0.2, 0.0, 0.0])
    score = make_score(name, 5, delta=1.4, fraction=0.4)
    table = evidence_table(p)
    for v in range(5):
        pair = [table.take(np.arange(25) == 5 * v + s) for s in range(3)]
        mean = sum(p[s] * np.exp(score.log_e(pair[s], 3, 11)[0]) for s in range(3))
        assert mean.max() <= 1 + 1e-12


@pytest.mark.parametrize("name", SCORES)
def test_certain_seed_never_wins(name):
    p = np.array([1.0, 0.0, 0.0])
    score = make_score(name, 3, delta=0.9)
    hit = Evidence(np.array([True]), np.ones(1), np.ones(1), np.zeros(1), np.ones(1, np.int64))
    assert np.all(score.log_e(hit) <= 1e-12), p


def test_anchored_matches_its_formula():
    p = np.array([0.5, 0.3, 0.2])
    table = np.exp(AnchoredScore(3, 0.3).log_e(evidence_table(p))[:, 0]).reshape(3, 3)
    expected = np.where(np.eye(3, dtype=bool), 1 - 0.15, 0.3 / 4) / p
    np.testing.assert_allclose(table, expected, rtol=1e-12)


def test_defensive_equals_anchored_when_masses_are_uniform():
    m, delta = 5, 0.4
    p = np.full(m, 1 / m)
    a = 1 - delta * m / (2 * (m - 1))
    np.testing.assert_allclose(
        DefensiveScore((a,)).log_e(evidence_table(p)),
        AnchoredScore(m, delta).log_e(evidence_table(p)),
        rtol=1e-12,
    )


def test_defensive_never_loses_on_a_match():
    for seed in range(20):
        p = random_masses(seed, 7, 0.3)
        table = evidence_table(p)
        log_e = DefensiveScore().log_e(table)
        assert log_e[table.match_T].min() >= 0
        np.testing.assert_allclose(
            log_e[~table.match_T], np.broadcast_to(np.log1p(-np.array(DEFENSIVE_GRID)), (42, 12))
        )


def test_gated_score_abstains_exactly_where_entropy_is_too_low():
    threshold = error_entropy(0.3, 2)
    entropies = np.array([threshold - 1e-9, threshold + 1e-9])
    evidence = Evidence(
        np.array([True, True]),
        np.full(2, 0.2),
        np.full(2, 0.2),
        entropies,
        np.full(2, 2, dtype=np.int64),
    )
    log_e = AnchoredScore(2, 0.3, gated=True).log_e(evidence)[:, 0]
    assert log_e[0] == 0 and log_e[1] == pytest.approx(math.log(0.85 / 0.2))


@settings(max_examples=40, deadline=None)
@given(matches=st.lists(st.booleans(), min_size=1, max_size=40), seed=st.integers(0, 999))
def test_anchored_mixture_equals_its_closed_form(matches, seed):
    m = 4
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.05, 0.9, len(matches))
    evidence = Evidence(
        np.array(matches), p, p, np.ones(len(p)), np.full(len(p), m, dtype=np.int64)
    )
    score = AnchoredMixtureScore(m)
    total = score.log_e(evidence).sum()
    hits, n = sum(matches), len(matches)
    closed = (
        -np.log(p).sum()
        - (n - hits) * math.log(m - 1)
        + float(beta_bernoulli_log_marginal(hits, n))
    )
    assert total == pytest.approx(closed, abs=1e-9)
    # Read in two parts, it continues where it stopped.
    cut = n // 2
    first, second = evidence.take(np.arange(n) < cut), evidence.take(np.arange(n) >= cut)
    parts = score.log_e(first).sum() + score.log_e(second, sum(matches[:cut]), cut).sum()
    assert parts == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("start", ["beginning", "mixture"])
@pytest.mark.parametrize("name", SCORES)
def test_wealth_is_a_martingale_for_every_fixed_text(name, start):
    """Sum over all seed paths of (probability of the path) x E_t is 1, for several fixed texts."""
    T = 8
    rng = np.random.default_rng(3)
    p0 = rng.uniform(0.15, 0.85, T)
    for text in rng.integers(0, 2, size=(3, T)):
        total = np.zeros(T)
        for seeds in itertools.product((0, 1), repeat=T):
            s = np.array(seeds)
            probability = np.where(s == 0, p0, 1 - p0)
            entropy = -(p0 * np.log(p0) + (1 - p0) * np.log(1 - p0))
            evidence = Evidence(
                s == text, probability, probability, entropy, np.full(T, 2, dtype=np.int64)
            )
            score = make_score(name, 2, delta=0.3, fraction=0.35)
            process = EProcess(len(score.weights), weights=score.weights, start=start)
            total += np.prod(probability) * np.exp(process.update_many(score.log_e(evidence)))
        np.testing.assert_allclose(total, 1.0, rtol=1e-10)


def test_gains_are_capped_and_small_masses_are_floored():
    rare = Evidence(
        np.array([True]),
        np.array([1e-300]),
        np.array([1e-300]),
        np.ones(1),
        np.array([2], dtype=np.int64),
    )
    for name in SCORES:
        assert make_score(name, 2).log_e(rare).max() <= LOG_E_CAP


def test_check_evalue_sees_an_invalid_table():
    p = np.array([0.5, 0.5])
    assert check_evalue(p, np.array([[1.5, 0.5], [0.5, 1.5]])) == pytest.approx(1.0)
    assert check_evalue(p, np.array([[1.5, 0.6], [0.5, 1.5]])) > 1.04


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "best"}, "unknown score 'best'"),
        ({"name": "anchored", "delta": 0.0}, "delta must lie in"),
        ({"name": "anchored", "delta": 2.0}, "delta must lie in"),
        ({"name": "anchored", "delta": 1.0}, "not below 2"),
        ({"name": "defensive", "fraction": 1.0}, "fraction must lie in"),
        ({"name": "defensive", "gated": True}, "gated=True applies"),
    ],
)
def test_bad_parameters_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        make_score(num_groups=2, **arguments)

"""Peers held to closed forms: pivots, tilted laws, tournaments, tails and error probabilities.

Statistical tests use sizes at which the stated deviation has probability below 1e-6.
"""

import itertools
import math

import numpy as np
import pytest

from modicum.core.stats import poisson_binomial_sf
from modicum.core.watermark.peer_laws import (
    binomial_p_values,
    gumbel_log_wealth,
    gumbel_p_values,
    kgw_law,
)
from modicum.ewatermark.baselines import (
    corrected_p_values,
    count_log_wealth,
    e_process_times,
    peeked_times,
    peer_times,
    seal_p_values,
    simulate_gumbel,
    simulate_kgw,
    simulate_synthid,
    union_bound_times,
)
from modicum.ewatermark.simulation import simulate


def _laws(n: int = 5, vocab: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(vocab, 0.5), size=n)


def _ks_limit(n: int) -> float:
    # Dvoretzky-Kiefer-Wolfowitz with Massart's constant: P(distance > x) <= 2 exp(-2 n x^2).
    return math.sqrt(math.log(2 / 1e-7) / (2 * n))


def _ks(sample: np.ndarray, cdf) -> float:
    ordered = np.sort(sample.ravel())
    n = len(ordered)
    values = cdf(ordered)
    grid = np.arange(n + 1) / n
    return max(np.abs(values - grid[1:]).max(), np.abs(values - grid[:-1]).max())


def test_gumbel_pivot_is_uniform_under_the_null() -> None:
    y = simulate_gumbel(
        _laws(), num_texts=100, num_tokens=200, rng=np.random.default_rng(1), null=True
    )
    assert y.shape == (100, 200)
    assert _ks(y, lambda x: x) < _ks_limit(y.size)


def test_gumbel_pivot_has_its_closed_form_under_the_watermark() -> None:
    # P(Y <= r) = sum_v q_v r^(1/q_v) (arXiv 2404.01245).
    q = np.array([[0.5, 0.3, 0.15, 0.05]])
    y = simulate_gumbel(q, num_texts=100, num_tokens=200, rng=np.random.default_rng(2))
    assert _ks(y, lambda r: sum(p * r ** (1 / p) for p in q[0])) < _ks_limit(y.size)


def test_gumbel_agrees_with_the_scheme_run_literally() -> None:
    q = _laws(1, 6)
    rng = np.random.default_rng(3)
    u = rng.random((40_000, 6))
    token = np.argmax(np.log(u) / q, axis=1)
    literal = np.sort(u[np.arange(len(u)), token])
    y = simulate_gumbel(q, num_texts=1, num_tokens=40_000, rng=np.random.default_rng(4))
    grid = np.linspace(0, 1, 200)
    shares = [np.searchsorted(np.sort(x.ravel()), grid) / x.size for x in (literal, y)]
    assert np.abs(shares[0] - shares[1]).max() < 2 * _ks_limit(40_000)


def test_kgw_green_rate_is_the_mean_over_all_green_lists() -> None:
    q = _laws(1, 6)
    delta = 1.5
    rates = []
    for chosen in itertools.combinations(range(6), 3):
        green = np.zeros((1, 6), bool)
        green[0, list(chosen)] = True
        rates.append(kgw_law(q, green, delta)[green].sum())
    n = 40_000
    hits = simulate_kgw(
        q, num_texts=1, num_tokens=n, rng=np.random.default_rng(6), gamma=0.5, delta=delta
    )
    # Hoeffding: P(|mean - rate| > x) <= 2 exp(-2 n x^2).
    assert abs(hits.mean() - np.mean(rates)) < _ks_limit(n)


def test_synthid_observables() -> None:
    q = _laws(2)
    size = {"num_texts": 20, "num_tokens": 500}
    null = simulate_synthid(q, rng=np.random.default_rng(7), null=True, **size)
    marked = simulate_synthid(q, rng=np.random.default_rng(8), **size)
    assert null.min() >= 0 and null.max() <= 30
    # Hoeffding on 300 000 fair bits.
    assert abs(null.mean() / 30 - 0.5) < _ks_limit(null.size * 30)
    assert marked.mean() / 30 > 0.5 + 3 * _ks_limit(null.size * 30)


@pytest.mark.parametrize(("probability", "trials"), [(0.5, 1), (0.25, 1), (0.5, 3)])
def test_count_e_process_has_mean_one_by_enumeration(probability: float, trials: int) -> None:
    steps = 3
    total = np.zeros(steps)
    for path in itertools.product(range(trials + 1), repeat=steps):
        mass = math.prod(
            math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k) for k in path
        )
        total += mass * np.exp(count_log_wealth(np.array([path]), probability, trials)[0])
    np.testing.assert_allclose(total, 1.0, rtol=1e-12)


def test_union_bound_spends_alpha_exactly() -> None:
    p = np.array([[0.011, 0.0034, 0.0016], [0.0099, 1.0, 1.0], [0.02, 0.5, 0.00166]])
    # Levels of alpha = 0.02: 0.01, 0.00333..., 0.001666...; strictly below.
    np.testing.assert_array_equal(union_bound_times(p, 0.02), [3, 1, 3])
    np.testing.assert_array_equal(peeked_times(p, 0.02), [1, 1, 1])
    np.testing.assert_array_equal(
        e_process_times(np.log([[1.0, 49.0, 51.0], [2.0, 3.0, 4.0]]), 0.02), [3, math.inf]
    )


def test_union_bound_false_positives_of_kgw_by_enumeration() -> None:
    # Every sequence of 12 colours, exactly: no sampling.
    paths = np.array(list(itertools.product((0, 1), repeat=12)))
    for alpha in (0.5, 0.2, 0.05):
        times = union_bound_times(binomial_p_values(paths, 0.5), alpha)
        assert np.isfinite(times).mean() <= alpha
        wealth = e_process_times(count_log_wealth(paths, 0.5), alpha)
        assert np.isfinite(wealth).mean() <= alpha
    peeked = np.isfinite(peeked_times(binomial_p_values(paths, 0.5), 0.2)).mean()
    assert peeked > 0.2


def test_every_peer_keeps_its_level_without_the_key() -> None:
    # True rates are at most alpha; Chernoff: P(rate >= 2 alpha) <= exp(-n alpha / 3) < 1e-8 here.
    alpha, n = 0.05, 1200
    size = {"num_texts": n, "num_tokens": 60, "null": True}
    q = _laws()
    y = simulate_gumbel(q, rng=np.random.default_rng(9), **size)
    green = simulate_kgw(q, rng=np.random.default_rng(10), **size)
    ones = simulate_synthid(q, rng=np.random.default_rng(11), **size)
    times = [
        union_bound_times(gumbel_p_values(y), alpha),
        e_process_times(gumbel_log_wealth(y), alpha),
        union_bound_times(binomial_p_values(green, 0.5), alpha),
        e_process_times(count_log_wealth(green, 0.5), alpha),
        union_bound_times(binomial_p_values(ones, 0.5, 30), alpha),
        e_process_times(count_log_wealth(ones, 0.5, 30), alpha),
    ]
    assert max(np.isfinite(t).mean() for t in times) < 2 * alpha
    assert np.exp(-n * alpha / 3) * len(times) < 1e-6


def test_seal_and_corrected_p_values_take_their_own_probabilities() -> None:
    laws = _laws(4, 8, seed=3)
    texts = simulate(
        laws,
        laws[::-1],
        num_groups=2,
        num_texts=3,
        num_tokens=10,
        rng=np.random.default_rng(12),
        null="anchor-argmax",
    )
    for p_values, probabilities in (
        (seal_p_values(texts), texts.seed_probability_RT),
        (corrected_p_values(texts), texts.token_probability_RT),
    ):
        for row in range(3):
            for t in (1, 5, 10):
                expected = poisson_binomial_sf(
                    int(texts.match_RT[row, :t].sum()), probabilities[row, :t]
                )
                assert p_values[row, t - 1] == pytest.approx(float(expected), rel=1e-10)


def test_peer_times_names_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from modicum.ewatermark import baselines

    monkeypatch.setattr(baselines, "CHUNK_ELEMENTS", 8 * 4 * 7)
    peers = peer_times(
        _laws(), alpha=0.05, num_texts=5, num_tokens=30, rng=np.random.default_rng(13)
    )
    assert len({peer.name for peer in peers}) == len(peers) == 8
    assert all(peer.times_R.shape == (5,) for peer in peers)
    assert {peer.scheme for peer in peers if peer.distorts} == {"KGW δ=1", "KGW δ=2"}


def test_doors() -> None:
    rng = np.random.default_rng(0)
    q = _laws()
    with pytest.raises(ValueError, match="depth"):
        simulate_synthid(q, num_texts=1, num_tokens=1, rng=rng, depth=63)
    with pytest.raises(ValueError, match="must be positive"):
        simulate_gumbel(q, num_texts=0, num_tokens=1, rng=rng)
    with pytest.raises(ValueError, match=r"\[N, V\]"):
        simulate_gumbel(q[0], num_texts=1, num_tokens=1, rng=rng)

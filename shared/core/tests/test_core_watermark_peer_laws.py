"""Peers held to closed forms: tilted laws, tournaments, exact tails."""

import itertools
import math

import numpy as np
import pytest

from modicum.core.stats import poisson_binomial_sf
from modicum.core.watermark.peer_laws import (
    binomial_p_values,
    check_green_list,
    gumbel_log_wealth,
    gumbel_p_values,
    kgw_law,
    tournament_law,
)


def _laws(n: int = 5, vocab: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(vocab, 0.5), size=n)


def test_gumbel_p_value_is_the_gamma_tail() -> None:
    y = np.array([[1 - math.exp(-1.0), 1 - math.exp(-2.0), 1 - math.exp(-0.5)]])
    # P(Gamma(t) >= s) = e^-s sum_{i<t} s^i / i!.
    expected = [
        math.exp(-s) * sum(s**i / math.factorial(i) for i in range(t))
        for t, s in ((1, 1.0), (2, 3.0), (3, 3.5))
    ]
    np.testing.assert_allclose(gumbel_p_values(y)[0], expected, rtol=1e-12)


def test_gumbel_e_process_has_mean_one_over_uniform_pivots() -> None:
    # Midpoint rule over the pivots of two tokens, fine near 1 where the integrand has its pole:
    # with s = (1 - Y)^(1/20) the calibrators k p^(k-1) dp become bounded in s.
    n = 400
    s = (np.arange(n) + 0.5) / n
    weight = 20 * s**19 / n
    first, second = np.meshgrid(1 - s**20, 1 - s**20, indexing="ij")
    pairs = np.stack([first.ravel(), second.ravel()], axis=1)
    # 1 - Y loses its last digits next to Y = 1, where s^20 < 1e-12 carries no mass to speak of.
    e = np.exp(gumbel_log_wealth(np.minimum(pairs, 1 - 2.0**-50)))
    mass = np.outer(weight, weight).ravel()
    assert (e[:, 0] * mass).sum() == pytest.approx(1.0, abs=0.1)
    assert (e[:, 1] * mass).sum() == pytest.approx(1.0, abs=0.2)
    assert (e[:, 1] * mass).sum() <= 1.001


@pytest.mark.parametrize(("gamma", "delta"), [(0.5, 2.0), (0.25, 1.0)])
def test_kgw_law_is_the_softmax_of_raised_logits(gamma: float, delta: float) -> None:
    q = _laws(3)
    green = np.random.default_rng(5).random(q.shape) < gamma
    logits = np.log(q) + delta * green
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(kgw_law(q, green, delta), expected, rtol=1e-12)


def test_kgw_distorts_and_averages_to_another_law() -> None:
    q = _laws(1, 6)
    laws = []
    for chosen in itertools.combinations(range(6), 3):
        green = np.zeros((1, 6), bool)
        green[0, list(chosen)] = True
        laws.append(kgw_law(q, green, 2.0)[0])
    assert np.abs(np.mean(laws, axis=0) - q[0]).max() > 0.01


def test_tournament_law_is_the_law_of_the_tournament() -> None:
    # Two layers by enumeration of the four candidates, ties by a fair coin.
    q = np.array([0.4, 0.3, 0.2, 0.1])
    words = np.array([[0b01, 0b10, 0b11, 0b00]])

    def winner(law: np.ndarray, layer: int) -> np.ndarray:
        out = np.zeros(4)
        for a, b in itertools.product(range(4), repeat=2):
            ga, gb = (words[0, a] >> layer) & 1, (words[0, b] >> layer) & 1
            mass = law[a] * law[b]
            if ga == gb:
                out[a] += mass / 2
                out[b] += mass / 2
            else:
                out[a if ga > gb else b] += mass
        return out

    expected = winner(winner(q, 0), 1)
    np.testing.assert_allclose(tournament_law(q[None], words, 2)[0], expected, rtol=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_synthid_is_free_of_distortion_on_average_over_g_values(depth: int) -> None:
    q = np.array([0.6, 0.3, 0.1])
    all_words = np.array(list(itertools.product(range(1 << depth), repeat=3)))
    laws = tournament_law(np.broadcast_to(q, (len(all_words), 3)), all_words, depth)
    np.testing.assert_allclose(laws.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(laws.mean(axis=0), q, rtol=1e-12)


def test_binomial_p_values_against_the_poisson_binomial() -> None:
    hits = np.array([[0, 1, 1, 0, 1, 1, 1]])
    got = binomial_p_values(hits, 0.3)[0]
    expected = [poisson_binomial_sf(int(hits[0, :t].sum()), np.full(t, 0.3)) for t in range(1, 8)]
    np.testing.assert_allclose(got, expected, rtol=1e-10)
    many = binomial_p_values(np.array([[3, 1, 4]]), 0.5, trials=4)[0]
    expected = [poisson_binomial_sf(k, np.full(4 * t, 0.5)) for t, k in ((1, 3), (2, 4), (3, 8))]
    np.testing.assert_allclose(many, expected, rtol=1e-10)


def test_doors() -> None:
    with pytest.raises(ValueError, match="gamma must lie"):
        check_green_list(0.0, 1.0, 8)
    with pytest.raises(ValueError, match="whole number"):
        check_green_list(0.3, 1.0, 8)
    with pytest.raises(ValueError, match="delta must be"):
        check_green_list(0.5, -1.0, 8)
    with pytest.raises(ValueError, match="hits must lie"):
        binomial_p_values(np.array([[2]]), 0.5)
    with pytest.raises(ValueError, match="probability must"):
        binomial_p_values(np.array([[1]]), 1.0)

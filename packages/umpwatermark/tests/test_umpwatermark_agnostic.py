"""Model-agnostic couplings by enumeration of all regions and all swap coins."""

import itertools
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chisquare

from modicum.umpwatermark.agnostic import (
    AgnosticCoupling,
    draw_regions,
    exact_agnostic_sampler,
    greedy_hit_rate,
    greedy_law,
    optimal_hit_rate,
)
from modicum.umpwatermark.theory import agnostic_type2

ERROR = 1e-6
"""Error probability of a statistical test."""


def all_regions(N, alpha, region="bernoulli"):
    R = np.array(list(itertools.product([False, True], repeat=N)))
    if region == "bernoulli":
        return R, np.where(R, alpha, 1 - alpha).prod(axis=1)
    chosen = R.sum(axis=1) == round(alpha * N)
    return R, chosen / chosen.sum()


def greedy_by_hand(q, region, gamma):
    """The rule as it reads, token by token."""
    order = np.argsort(-q, kind="stable")
    free, reached, law, taken = 1.0, 1.0, np.zeros(len(q)), np.zeros(len(q))
    for v in order:
        taken[v] = min(q[v], gamma * free)
        accept = taken[v] / (gamma * free) if free > 0 else 1.0
        if region[v]:
            law[v] = reached * accept
            reached *= 1 - accept
        free -= taken[v]
    left = np.maximum(q - taken, 0)
    return law + reached * (left / left.sum() if left.sum() > 1e-15 else q), taken.sum()


def random_law(seed, N):
    rng = np.random.default_rng(seed)
    rho = rng.dirichlet(np.full(N, rng.choice([0.1, 0.5, 5.0])))
    if N > 2 and seed % 2:
        rho[rng.integers(N)] = 0
        rho /= rho.sum()
    return rho


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    V=st.integers(1, 9),
    gamma=st.sampled_from([0.02, 0.1, 0.5, 0.9, 0.99]),
    top_k=st.sampled_from([None, 1, 3, 100]),
)
def test_greedy_marginal_is_exact_over_all_regions(seed, V, gamma, top_k):
    q = random_law(seed, V)
    R, probs = all_regions(V, gamma)
    law = greedy_law(np.tile(q, (len(R), 1)), R, gamma, top_k)
    np.testing.assert_allclose(law.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(probs @ law, q, atol=1e-12)
    assert np.all(law[:, q == 0] == 0)
    law_t = greedy_law(torch.tensor(np.tile(q, (len(R), 1))), torch.tensor(R), gamma, top_k)
    np.testing.assert_allclose(law_t.numpy(), law, atol=1e-12)
    hits = (probs[:, None] * law * R).sum()
    rate = greedy_hit_rate(q, gamma, top_k)
    assert isinstance(rate, float)
    assert rate <= hits + 1e-12
    assert hits <= optimal_hit_rate(q, gamma) + 1e-12
    if top_k is None:
        assert greedy_hit_rate(q, gamma) == pytest.approx(greedy_by_hand(q, R[0], gamma)[1], 1e-12)


@pytest.mark.parametrize("gamma", [0.03, 0.3, 0.95])
@pytest.mark.parametrize("V", [1, 5, 63, 64, 65, 300, 1500])
@pytest.mark.parametrize("concentration", [0.02, 0.3, 50.0])
def test_greedy_follows_its_rule_token_by_token(V, gamma, concentration):
    rng = np.random.default_rng(V)
    q = rng.dirichlet(np.full(V, concentration), 3)
    R = rng.random((3, V)) < gamma
    expected = [greedy_by_hand(q[i], R[i], gamma) for i in range(3)]
    np.testing.assert_allclose(greedy_law(q, R, gamma), [law for law, _ in expected], atol=1e-11)
    np.testing.assert_allclose(greedy_hit_rate(q, gamma), [w for _, w in expected], atol=1e-12)


def test_greedy_where_both_rules_agree_all_the_way():
    gamma = 0.05
    q = gamma * (1 - gamma) ** np.arange(3000)
    q /= q.sum()
    started = time.process_time()
    rate = greedy_hit_rate(q, gamma)
    assert time.process_time() - started < 2
    assert rate == pytest.approx(1, abs=1e-6)


def test_greedy_on_uniform_laws_loses_what_theory_says():
    q = np.full(30, 1 / 30)
    assert greedy_hit_rate(q, 0.1) == pytest.approx(0.884, abs=5e-4)
    assert optimal_hit_rate(q, 0.1) == pytest.approx(0.958, abs=5e-4)


def test_greedy_is_nearly_optimal_on_laws_like_a_language_models():
    ranks = np.arange(1, 257)
    q = ranks ** -np.array([[1.2], [1.8], [2.5], [4.0]])
    q /= q.sum(axis=1, keepdims=True)
    for gamma in (0.1, 0.5, 0.9):
        lost = optimal_hit_rate(q, gamma) - greedy_hit_rate(q, gamma)
        assert np.all(lost > -1e-12)
        assert np.all(lost < 2e-3)


@pytest.mark.parametrize("top_k", [None, 5])
def test_greedy_is_the_same_in_torch(top_k):
    rng = np.random.default_rng(0)
    q = rng.dirichlet(np.full(200, 0.2), (2, 3))
    R = rng.random(q.shape) < 0.4
    law = greedy_law(q, R, 0.4, top_k)
    law_t = greedy_law(torch.tensor(q), torch.tensor(R), 0.4, top_k)
    assert law_t.dtype == torch.float64
    np.testing.assert_allclose(law_t.numpy(), law, atol=1e-12)
    rate_t = greedy_hit_rate(torch.tensor(q), 0.4, top_k)
    np.testing.assert_allclose(rate_t.numpy(), greedy_hit_rate(q, 0.4, top_k), atol=1e-12)


def test_greedy_on_a_batch_of_whole_vocabularies():
    rng = np.random.default_rng(1)
    q = 1 / np.arange(1, 2**18 + 1) ** rng.uniform(0.9, 2, (4, 1))
    q /= q.sum(axis=1, keepdims=True)
    R = rng.random(q.shape) < 0.25
    law = greedy_law(q, R, 0.25, top_k=1024)
    np.testing.assert_allclose(law.sum(axis=1), 1, atol=1e-9)
    full = greedy_hit_rate(q, 0.25)
    assert np.all(greedy_hit_rate(q, 0.25, 1024) <= full + 1e-12)
    assert np.all(full <= optimal_hit_rate(q, 0.25) + 1e-12)


@pytest.mark.gpu
def test_greedy_on_the_device_gives_the_same():
    rng = np.random.default_rng(2)
    q = rng.dirichlet(np.full(4000, 0.1), 5)
    R = rng.random(q.shape) < 0.3
    law = greedy_law(torch.tensor(q, device="cuda"), torch.tensor(R, device="cuda"), 0.3)
    assert law.device.type == "cuda"
    np.testing.assert_allclose(law.cpu().numpy(), greedy_law(q, R, 0.3), atol=1e-12)


def enumerate_exact(coupling):
    """Marginal and hits over all regions and all outcomes of the swap coins."""
    N = len(coupling.rho)
    R, probs = all_regions(N, coupling.alpha, coupling.region)
    marginal, hits = np.zeros(N), 0.0
    for bits in itertools.product([False, True], repeat=coupling.num_swaps):
        chance = 1.0
        for swap, stay in zip(bits, coupling.stay_probs, strict=True):
            chance *= 1 - stay if swap else stay
        coins = np.where(bits, np.nextafter(1, 0), 0.0)
        law = coupling.law(R, np.tile(coins, (len(R), 1)))
        np.testing.assert_allclose(law.sum(axis=1), 1, atol=1e-12)
        marginal += chance * (probs @ law)
        hits += chance * (probs[:, None] * law * R).sum()
    return marginal, hits


@pytest.mark.parametrize("region", ["bernoulli", "uniform-k"])
@pytest.mark.parametrize("seed", range(25))
def test_exact_coupling_over_all_regions_and_coins(seed, region):
    rng = np.random.default_rng(seed)
    N = int(rng.integers(2, 8))
    alpha = rng.uniform(0.03, 0.95) if region == "bernoulli" else int(rng.integers(1, N)) / N
    rho = random_law(seed, N)
    coupling = AgnosticCoupling(rho, alpha, region)
    assert coupling.num_swaps <= N - 1
    assert np.all((coupling.stay_probs >= 0.5) & (coupling.stay_probs <= 1))
    marginal, hits = enumerate_exact(coupling)
    np.testing.assert_allclose(marginal, rho, atol=1e-13)
    assert coupling.beta == pytest.approx(agnostic_type2(rho, alpha, region), abs=1e-14)
    assert hits == pytest.approx(1 - coupling.beta, abs=1e-12)
    assert coupling.accepted.sum() == pytest.approx(1 - coupling.beta, abs=1e-13)
    assert np.all(coupling.accepted <= rho + 1e-15)


@pytest.mark.parametrize("rho", [[1.0], [0.5, 0.5], [0.25] * 4, [1.0, 0.0, 0.0], [0.4, 0.4, 0.2]])
def test_exact_coupling_with_ties_and_certain_elements(rho):
    coupling = AgnosticCoupling(rho, 0.3)
    marginal, hits = enumerate_exact(coupling)
    np.testing.assert_allclose(marginal, rho, atol=1e-14)
    assert hits == pytest.approx(1 - agnostic_type2(rho, 0.3), abs=1e-14)


@pytest.mark.parametrize("region", ["bernoulli", "uniform-k"])
def test_exact_sampler_draws_law_and_hits(region):
    """40000 draws: chi-square for the law, binomial for the hits, each with error at most 1e-6."""
    n, alpha = 40_000, 0.25
    rho = np.array([0.05, 0.35, 0.2, 0.02, 0.13, 0.1, 0.08, 0.07])
    x, inside = exact_agnostic_sampler(rho, alpha, n, np.random.default_rng(4), region)
    assert x.shape == (n,)
    assert inside.shape == (n, 8)
    assert chisquare(np.bincount(x, minlength=8), n * rho).pvalue > ERROR
    hits = inside[np.arange(n), x].sum()
    low, high = binom.ppf([ERROR / 2, 1 - ERROR / 2], n, 1 - agnostic_type2(rho, alpha, region))
    assert low <= hits <= high
    if region == "uniform-k":
        np.testing.assert_array_equal(inside.sum(axis=1), 2)
    share = inside.sum(axis=0)
    low, high = binom.ppf([ERROR / 16, 1 - ERROR / 16], n, alpha)
    assert np.all((share >= low) & (share <= high))
    again, _ = exact_agnostic_sampler(rho, alpha, n, np.random.default_rng(4), region)
    np.testing.assert_array_equal(x, again)


def test_exact_sampler_at_its_largest_size():
    rho = np.random.default_rng(5).dirichlet(np.full(4096, 0.02))
    coupling = AgnosticCoupling(rho, 0.05)
    x, inside = coupling.sample(np.random.default_rng(6), 300)
    assert np.all(rho[x] > 0)
    low, high = binom.ppf([ERROR / 2, 1 - ERROR / 2], 300, 1 - coupling.beta)
    assert low <= inside[np.arange(300), x].sum() <= high


def test_law_takes_one_region_and_spare_coins():
    coupling = AgnosticCoupling([0.4, 0.3, 0.2, 0.1], 0.5)
    region = np.array([False, True, False, True])
    law = coupling.law(region, np.full(3, 0.25))
    assert law.shape == (4,)
    batch = coupling.law(np.tile(region, (2, 3, 1)), np.full((2, 3, 9), 0.25))
    np.testing.assert_array_equal(batch[1, 2], law)


def test_region_laws():
    rng = np.random.default_rng(7)
    assert draw_regions(10, 0.3, 5, rng, "uniform-k").sum(axis=1).tolist() == [3] * 5
    assert draw_regions(10, 0.3, 5, rng).dtype == bool


def test_bad_inputs_are_refused():
    q, R = np.full((2, 4), 0.25), np.ones((2, 4), dtype=bool)
    for gamma in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"gamma must lie in \(0, 1\)"):
            greedy_law(q, R, gamma)
        with pytest.raises(ValueError, match="gamma"):
            greedy_hit_rate(q, gamma)
        with pytest.raises(ValueError, match="gamma"):
            optimal_hit_rate(q, gamma)
    with pytest.raises(ValueError, match="in_region_BV has shape"):
        greedy_law(q, R[:1], 0.5)
    with pytest.raises(ValueError, match="top_k"):
        greedy_law(q, R, 0.5, top_k=0)
    with pytest.raises(ValueError, match="sum to 1"):
        greedy_law(q * 2, R, 0.5)
    with pytest.raises(ValueError, match="one law of at most 4096"):
        AgnosticCoupling(q, 0.5)
    with pytest.raises(ValueError, match="greedy_law"):
        AgnosticCoupling(np.full(4097, 1 / 4097), 0.5)
    with pytest.raises(ValueError, match="bernoulli"):
        AgnosticCoupling(q[0], 0.3, "uniform-k")
    with pytest.raises(ValueError, match="region must be one of"):
        draw_regions(4, 0.5, 2, np.random.default_rng(0), "binomial")
    coupling = AgnosticCoupling(np.array([0.7, 0.2, 0.1]), 0.3)
    with pytest.raises(ValueError, match="swap_coins_M"):
        coupling.law(np.ones(4, dtype=bool), np.zeros(2))
    with pytest.raises(ValueError, match="swap_coins_M"):
        coupling.law(np.ones((2, 3), dtype=bool), np.zeros(2))


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_excluded_tokens_stay_excluded_where_round_off_leaves_nothing_free(convert):
    """Thirty tokens at gamma .9 leave 1e-30 free, which is none; the region holds excluded ones."""
    q_V = np.concatenate([np.full(30, 1 / 30), np.zeros(5)])
    inside_V = q_V == 0
    law_V = np.asarray(greedy_law(convert(q_V), convert(inside_V), 0.9))
    assert (law_V[q_V == 0] == 0).all()
    assert law_V.sum() == pytest.approx(1)

"""The coupling by enumeration, on NumPy and torch alike."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.core.prf import make_prf
from modicum.ewatermark.coupling import coupled_group_law, group_bias, group_masses
from modicum.ewatermark.partition import balanced_groups, hash_group_of, hash_groups
from modicum.ewatermark.seed import inverse_cdf_seed, race_seed

KEY = b"coupling test key"


def laws(seed, m, zeros=True):
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.full(m, 0.6), 2)
    if zeros:
        q[rng.integers(m)] = 0.0
        q /= q.sum()
    return p, q


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), m=st.sampled_from([2, 3, 16, 64]), zeros=st.booleans())
def test_marginal_is_exact_and_agreement_is_maximal(seed, m, zeros):
    p, q = laws(seed, m, zeros)
    omega = coupled_group_law(np.tile(q, (m, 1)), np.tile(p, (m, 1)), np.arange(m))
    np.testing.assert_allclose(omega.sum(1), 1.0, atol=1e-12)
    np.testing.assert_allclose(p @ omega, q, atol=1e-12)
    assert (p * np.diag(omega)).sum() == pytest.approx(np.minimum(p, q).sum(), abs=1e-12)
    assert np.all(omega[:, q == 0] == 0)


def test_equal_laws_always_keep_the_seed():
    p = np.random.default_rng(0).dirichlet(np.ones(5))
    omega = coupled_group_law(np.tile(p, (5, 1)), np.tile(p, (5, 1)), np.arange(5))
    np.testing.assert_array_equal(omega, np.eye(5))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), m=st.sampled_from([2, 5]), V=st.sampled_from([7, 40]))
def test_biased_token_law_averages_to_the_target(seed, m, V):
    rng = np.random.default_rng(seed)
    q_V = rng.dirichlet(np.full(V, 0.3))
    q_V[rng.integers(V)] = 0
    q_V /= q_V.sum()
    groups = rng.integers(0, m, V)
    p = rng.dirichlet(np.ones(m))
    q_m = group_masses(np.tile(q_V, (m, 1)), np.tile(groups, (m, 1)), m)
    bias = group_bias(q_m, np.tile(p, (m, 1)), np.arange(m))
    law = q_V * np.exp(bias[:, groups])
    np.testing.assert_allclose(law.sum(1), 1.0, atol=1e-10)
    np.testing.assert_allclose(p @ law, q_V, atol=1e-10)


def test_strength_only_moves_the_seed_group():
    p, q = laws(3, 4, zeros=False)
    plain = group_bias(q[None], p[None], np.array([2]))
    moved = group_bias(q[None], p[None], np.array([2]), strength=1.5)
    np.testing.assert_array_equal(np.delete(moved, 2), np.delete(plain, 2))
    assert moved[0, 2] == pytest.approx(plain[0, 2] + 1.5)


@pytest.mark.parametrize("m", [2, 5, 33])
def test_torch_and_numpy_agree(m):
    rng = np.random.default_rng(m)
    B, V = 6, 50
    probs = rng.dirichlet(np.ones(V), B)
    groups = rng.integers(0, m, (B, V))
    q = group_masses(probs, groups, m)
    q_t = group_masses(torch.from_numpy(probs), torch.from_numpy(groups), m)
    np.testing.assert_allclose(q, q_t.numpy(), atol=1e-14)
    p = rng.dirichlet(np.ones(m), B)
    seed = rng.integers(0, m, B)
    np.testing.assert_allclose(
        group_bias(q, p, seed),
        group_bias(q_t, torch.from_numpy(p), torch.from_numpy(seed)).numpy(),
        atol=1e-12,
    )


def test_masses_equal_a_loop():
    rng = np.random.default_rng(1)
    probs, groups = rng.dirichlet(np.ones(9), 3), rng.integers(0, 4, (3, 9))
    expected = [[probs[b][groups[b] == k].sum() for k in range(4)] for b in range(3)]
    np.testing.assert_allclose(group_masses(probs, groups, 4), expected, atol=1e-15)
    np.testing.assert_allclose(group_masses(probs, None, 9), probs, atol=1e-15)


def test_seed_laws_are_the_anchor_masses():
    """Chi-square of drawn seeds over 40 000 contexts; each fails by chance with p < 1e-7."""
    from scipy.stats import chi2

    n = 40_000
    contexts = np.arange(4 * n, dtype=np.int64).reshape(n, 4)
    for m, draw, domain in ((2, inverse_cdf_seed, "seed"), (7, race_seed, "race")):
        prf = make_prf("philox", KEY, domain)
        p = np.random.default_rng(m).dirichlet(np.ones(m))
        seeds = draw(prf, prf.context_state(contexts), np.tile(p, (n, 1)))
        counts = np.bincount(seeds, minlength=m)
        statistic = ((counts - n * p) ** 2 / (n * p)).sum()
        assert chi2.sf(statistic, m - 1) > 1e-7


def test_race_is_the_same_on_torch_and_skips_empty_symbols():
    prf = make_prf("philox", KEY, "race")
    contexts = np.random.default_rng(0).integers(0, 1000, (500, 4))
    masses = np.random.default_rng(1).dirichlet(np.full(12, 0.2), 500)
    masses[:, 3] = 0
    masses /= masses.sum(1, keepdims=True)
    seeds = race_seed(prf, prf.context_state(contexts), masses)
    ids = torch.from_numpy(contexts)
    again = race_seed(prf, prf.context_state(ids), torch.from_numpy(masses))
    np.testing.assert_array_equal(seeds, again.numpy())
    assert 3 not in seeds


def test_race_rarely_changes_its_winner_under_noise():
    """With total variation about .03 the race changes about 3 % of seeds, the inverse CDF 12 %."""
    rng = np.random.default_rng(2)
    n, m = 4000, 256
    logits = rng.normal(0, 2, (n, m))
    noisy = logits + rng.normal(0, 0.1, (n, m))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    p2 = np.exp(noisy) / np.exp(noisy).sum(1, keepdims=True)
    prf = make_prf("philox", KEY, "race")
    state = prf.context_state(np.arange(4 * n, dtype=np.int64).reshape(n, 4))
    changed = (race_seed(prf, state, p) != race_seed(prf, state, p2)).mean()
    tv = 0.5 * np.abs(p - p2).sum(1).mean()
    # Maximal couplings change with probability TV; the race stays below twice that.
    assert tv / 2 < changed < 2 * tv


def test_hash_partition_is_even_and_pointwise_consistent():
    prf = make_prf("philox", KEY, "part")
    contexts = np.random.default_rng(3).integers(0, 99, (40, 4))
    state = prf.context_state(contexts)
    groups = hash_groups(prf, state, 5000, 16)
    counts = np.bincount(groups.ravel(), minlength=16)
    # 200 000 draws: the standard deviation of a count is 108; seven of them is p < 1e-10.
    assert np.abs(counts - 12_500).max() < 7 * 108
    tokens = np.arange(40) * 100
    np.testing.assert_array_equal(
        hash_group_of(prf, state, tokens, 16), groups[np.arange(40), tokens]
    )


def test_balanced_partition_evens_out_masses():
    prf = make_prf("philox", KEY, "part")
    rng = np.random.default_rng(4)
    logp = np.log(rng.dirichlet(np.full(300, 0.1), 20) + 1e-30)
    logp -= np.log(np.exp(logp).sum(1, keepdims=True))
    state = prf.context_state(rng.integers(0, 99, (20, 4)))
    balanced = balanced_groups(prf, state, logp, 4)
    hashed = hash_groups(prf, state, 300, 4)
    spread = [np.ptp(group_masses(np.exp(logp), g, 4), axis=1).mean() for g in (balanced, hashed)]
    assert spread[0] < spread[1] / 2
    # Greedy placement: no group without its last token outweighs the lightest group.
    for row in range(20):
        order = np.argsort(-logp[row], kind="stable")
        load = np.zeros(4)
        for token in order:
            assert load[balanced[row, token]] <= load.min() + 1e-9
            load[balanced[row, token]] += np.exp(logp[row, token])
    again = balanced_groups(prf, torch.from_numpy(state), torch.from_numpy(logp), 4)
    np.testing.assert_array_equal(balanced, again.numpy())

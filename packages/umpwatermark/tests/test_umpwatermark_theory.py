"""Closed forms against linear programs over all watermarks, enumeration and simulation."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import binom

from modicum.umpwatermark.theory import (
    agnostic_type2,
    check_alpha,
    check_epsilon,
    check_law,
    minimax_price,
    normal_tokens_needed,
    rate_reference,
    region_hit_probability,
    seq_gumbel_type2,
    surprisal_type2,
    tradeoff_curve,
    type2_lower_bound,
    ump_law,
    ump_type2,
)

EXAMPLE = np.array([0.5, 0.3, 0.15, 0.05])


def subsets(num_elements):
    return np.array(list(itertools.product([0, 1], repeat=num_elements)), dtype=float)


def solved(*args, **kwargs):
    result = linprog(*args, method="highs", **kwargs)
    assert result.status == 0, result.message
    return result.fun


def lp_over_output_laws(rho, alpha, epsilon):
    """Least sum of (law - alpha)+ over laws within epsilon: law = rho + up - down, over t."""
    N = len(rho)
    eye, zero = np.eye(N), np.zeros((N, N))
    cost = np.r_[np.ones(N), np.zeros(2 * N)]
    upper = np.block([[-eye, eye, -eye], [zero, -eye, eye]])
    budget = np.r_[np.zeros(N), np.ones(N), np.zeros(N)]
    return solved(
        cost,
        A_ub=np.vstack([upper, budget]),
        b_ub=np.r_[alpha - rho, rho, epsilon],
        A_eq=[np.r_[np.zeros(N), np.ones(N), -np.ones(N)]],
        b_eq=[0.0],
    )


def lp_over_joint_laws(rho, alpha, epsilon):
    """Least P(X not in R) over every joint law of (X, R) of level alpha within epsilon of rho."""
    N, R = len(rho), subsets(len(rho))
    pairs = N * len(R)
    miss = (1 - R.T).ravel()
    marginal = np.kron(np.eye(N), np.ones(len(R)))
    level = np.tile(R.T, (1, N))
    return solved(
        np.r_[miss, np.zeros(2 * N)],
        A_ub=np.vstack(
            [
                np.hstack([level, np.zeros((N, 2 * N))]),
                np.r_[np.zeros(pairs), np.ones(N), np.zeros(N)],
            ]
        ),
        b_ub=np.r_[np.full(N, alpha), epsilon],
        A_eq=np.vstack(
            [
                np.hstack([marginal, -np.eye(N), np.eye(N)]),
                np.r_[np.zeros(pairs), np.ones(N), -np.ones(N)],
            ]
        ),
        b_eq=np.r_[rho, 0.0],
    )


def region_law(num_elements, alpha, region):
    R = subsets(num_elements)
    if region == "bernoulli":
        return R, np.where(R > 0, alpha, 1 - alpha).prod(axis=1)
    chosen = R.sum(axis=1) == round(alpha * num_elements)
    return R, chosen / chosen.sum()


def lp_over_agnostic_couplings(rho, alpha, region):
    """Least P(X not in R) over couplings of rho with the fixed law of the region: a max-flow."""
    R, probs = region_law(len(rho), alpha, region)
    N = len(rho)
    return solved(
        (1 - R.T).ravel(),
        A_eq=np.vstack([np.kron(np.eye(N), np.ones(len(R))), np.tile(np.eye(len(R)), (1, N))]),
        b_eq=np.r_[rho, probs],
    )


def random_case(seed):
    rng = np.random.default_rng(seed)
    N = int(rng.integers(3, 6))
    rho = rng.dirichlet(np.full(N, rng.choice([0.2, 1.0, 10.0])))
    if seed % 5 == 0:
        rho[rng.integers(N)] = 0
        rho /= rho.sum()
    # Half of the levels below 1/N, half above.
    alpha = rng.uniform(0.02, 1 / N) if seed % 2 else rng.uniform(1 / N, 0.9)
    epsilon = 0.0 if seed % 3 == 0 else rng.uniform(0, 0.6)
    return rho, alpha, epsilon


@pytest.mark.parametrize("seed", range(60))
def test_optimum_is_that_of_the_program_over_all_joint_laws(seed):
    rho, alpha, epsilon = random_case(seed)
    assert ump_type2(rho, alpha, epsilon) == pytest.approx(
        lp_over_joint_laws(rho, alpha, epsilon), abs=1e-9
    )


@pytest.mark.parametrize("seed", range(100, 200))
def test_optimum_is_that_of_the_program_over_output_laws(seed):
    rho, alpha, epsilon = random_case(seed)
    assert ump_type2(rho, alpha, epsilon) == pytest.approx(
        lp_over_output_laws(rho, alpha, epsilon), abs=1e-9
    )


def test_worked_example():
    values = [ump_type2(EXAMPLE, 0.2, epsilon) for epsilon in (0, 0.1, 0.35)]
    np.testing.assert_allclose(values, [0.4, 0.3, 0.2], atol=1e-15)
    assert agnostic_type2(EXAMPLE, 0.2) == pytest.approx(0.462, abs=1e-15)
    assert seq_gumbel_type2(EXAMPLE, 0.2) == pytest.approx(0.49705, abs=5e-6)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    N=st.sampled_from([1, 2, 3, 8, 50]),
    alpha=st.floats(0.01, 0.95),
    epsilon=st.floats(0, 0.95),
    fill=st.sampled_from(["room", "proportional"]),
)
def test_moved_law_pays_its_budget_and_no_more(seed, N, alpha, epsilon, fill):
    rng = np.random.default_rng(seed)
    rho = rng.dirichlet(np.full(N, 0.4))
    if N > 2:
        rho[0] = 0
        rho /= rho.sum()
    law = ump_law(rho, alpha, epsilon, fill)
    assert law.sum() == pytest.approx(1, abs=1e-12)
    assert np.all(law >= 0)
    excess, room = np.maximum(rho - alpha, 0), np.maximum(alpha - rho, 0)
    if fill == "proportional":
        room = np.where(rho > 0, room, 0)
        assert np.all(law[rho == 0] == 0)
    moved = min(epsilon, excess.sum(), room.sum())
    assert np.abs(law - rho).sum() / 2 == pytest.approx(moved, abs=1e-12)
    assert np.all(law[rho < alpha] <= alpha)
    assert np.maximum(law - alpha, 0).sum() == pytest.approx(excess.sum() - moved, abs=1e-12)
    if fill == "room":
        beta = ump_type2(rho, alpha, epsilon)
        assert np.maximum(law - alpha, 0).sum() == pytest.approx(beta, abs=1e-12)


def test_proportional_fill_keeps_ratios_below_the_cap():
    rho = np.array([0.7, 0.18, 0.06, 0.04, 0.02])
    law = ump_law(rho, 0.2, 0.08, "proportional")
    # .18 reaches the cap with .02; the other .06 raises the last three by one half.
    np.testing.assert_allclose(law, [0.62, 0.2, 0.09, 0.06, 0.03], atol=1e-15)


def test_fill_with_subnormal_probabilities_stays_finite():
    rho = np.array([1.0, 1e-310, 0.0])
    law = ump_law(rho, 0.3, 0.2, "proportional")
    np.testing.assert_array_equal(law, [1.0, 1e-310, 0.0])
    np.testing.assert_allclose(ump_law(rho, 0.3, 0.2), [0.8, 0.1, 0.1], atol=1e-15)


@pytest.mark.parametrize("fill", ["room", "proportional"])
@pytest.mark.parametrize("epsilon", [0.0, 0.07, 0.4])
def test_moved_law_is_the_same_in_torch(fill, epsilon):
    rho = np.random.default_rng(0).dirichlet(np.full(40, 0.2), (3, 5))
    law = ump_law(torch.tensor(rho), 0.1, epsilon, fill)
    np.testing.assert_allclose(law.numpy(), ump_law(rho, 0.1, epsilon, fill), atol=1e-15)


@pytest.mark.parametrize("region", ["uniform-k", "bernoulli"])
@pytest.mark.parametrize("seed", range(15))
def test_agnostic_optimum_is_the_max_flow(region, seed):
    rng = np.random.default_rng(seed)
    N = int(rng.integers(2, 7))
    alpha = rng.integers(1, N) / N if region == "uniform-k" else rng.uniform(0.05, 0.9)
    rho = rng.dirichlet(np.full(N, rng.choice([0.3, 1.0, 20.0])))
    assert agnostic_type2(rho, alpha, region) == pytest.approx(
        lp_over_agnostic_couplings(rho, alpha, region), abs=1e-9
    )


def test_hit_probabilities_against_counting():
    N, k = 30, 6
    j = np.arange(N + 1)
    exact = [1 - math.comb(N - i, k) / math.comb(N, k) for i in j]
    np.testing.assert_allclose(region_hit_probability(j, N, k / N), exact, atol=1e-14)
    assert region_hit_probability(4, N, k / N) == pytest.approx(exact[4], abs=1e-14)
    thirds = region_hit_probability(np.array([[0, 1], [2, 5]]), None, 1 / 3, "bernoulli")
    np.testing.assert_allclose(thirds, 1 - (2 / 3) ** np.array([[0, 1], [2, 5]]), atol=1e-15)
    assert region_hit_probability(N, N, 1 / 30) == 1.0


@pytest.mark.parametrize(
    ("N", "k", "price"),
    [(8, 2, 0.2142857), (12, 3, 0.2545455), (100, 10, 0.3304762), (1000, 100, 0.3469277)],
)
def test_minimax_price(N, k, price):
    alpha = k / N
    assert minimax_price(alpha, N) == pytest.approx(price, abs=5e-8)
    assert minimax_price(alpha, N) < minimax_price(alpha) < math.exp(-1)
    assert minimax_price(alpha) == pytest.approx((1 - alpha) ** (1 / alpha), abs=1e-12)


@pytest.mark.parametrize("region", ["uniform-k", "bernoulli"])
@pytest.mark.parametrize(("N", "alpha"), [(8, 0.25), (12, 0.25), (10, 0.3), (20, 0.35), (9, 2 / 3)])
def test_random_laws_never_pay_more_than_the_minimax_price(region, N, alpha):
    price = minimax_price(alpha, N, region)
    rng = np.random.default_rng(N)
    laws = [rng.dirichlet(np.full(N, a), 1500) for a in (0.1, 0.5, 2.0, 30.0)]
    # Near the worst: uniform on j elements, or j elements at alpha and the rest spread.
    for j in range(1, N):
        laws.append(np.r_[np.full(j, 1 / j), np.zeros(N - j)][None])
        if alpha * j < 1:
            laws.append(np.r_[np.full(j, alpha), np.full(N - j, (1 - alpha * j) / (N - j))][None])
    laws = np.concatenate(laws)
    paid = agnostic_type2(laws, alpha, region) - ump_type2(laws, alpha)
    assert paid.max() == pytest.approx(price, abs=1e-12)


def test_no_exchangeable_region_law_beats_the_minimax_price():
    """For any law of |R| with mean at most alpha N the law uniform on 1/alpha elements pays it."""
    N, k = 12, 3
    sizes = np.arange(N + 1)
    missed = np.array([math.comb(N - 4, r) / math.comb(N, r) for r in sizes])
    best = solved(missed, A_ub=[sizes], b_ub=[k], A_eq=[np.ones(N + 1)], b_eq=[1.0])
    assert best == pytest.approx(minimax_price(k / N, N), abs=1e-9)


def test_price_when_the_space_is_smaller_than_one_over_alpha():
    uniform = np.full(4, 0.25)
    paid = agnostic_type2(uniform, 0.1) - ump_type2(uniform, 0.1)
    assert minimax_price(0.1, 4, "bernoulli") == pytest.approx(paid, abs=1e-14)


def test_sequence_gumbel_is_what_gumbel_max_does():
    """20000 races; a two-sided test with error probability 1e-6."""
    n, alpha = 20_000, 0.2
    rng = np.random.default_rng(5)
    rho = np.array([0.35, 0.3, 0.2, 0.15, 0.0])
    u = rng.random((n, 5))
    with np.errstate(divide="ignore"):
        x = np.argmax(np.where(rho > 0, np.log(u) / rho, -np.inf), axis=1)
    missed = (u[np.arange(n), x] <= 1 - alpha).sum()
    beta = seq_gumbel_type2(rho, alpha)
    low, high = binom.ppf([5e-7, 1 - 5e-7], n, beta)
    assert low <= missed <= high


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), N=st.integers(1, 40), alpha=st.floats(0.01, 0.9))
def test_order_of_the_three_errors(seed, N, alpha):
    rho = np.random.default_rng(seed).dirichlet(np.full(N, 0.5))
    ump, agnostic, gumbel = (
        tradeoff_curve(rho, [alpha], scheme=scheme)[0]
        for scheme in ("ump", "agnostic", "sequence-gumbel")
    )
    assert ump <= agnostic + 1e-12
    assert agnostic <= gumbel + 1e-12
    if N * alpha >= 1:
        assert gumbel - ump <= (1 - alpha) ** (1 / alpha) + 1e-12


def test_sequence_gumbel_with_vanishing_probabilities():
    assert seq_gumbel_type2([1 - 1e-7, 1e-7 - 1e-310, 1e-310, 0.0], 0.5) == pytest.approx(0.5, 1e-6)


def spike(delta, n):
    """Surprisals and probabilities, by number of rare symbols, of n tokens of (1-delta, delta)."""
    rare = np.arange(n + 1)
    surprisal = -(rare * math.log(delta) + (n - rare) * math.log1p(-delta))
    return surprisal, binom.pmf(rare, n, delta)


def test_surprisal_form_is_the_optimum_on_the_product_space():
    delta, n, alpha = 0.2, 9, 0.03
    rho = np.ones(1)
    for _ in range(n):
        rho = np.outer(rho, [1 - delta, delta]).ravel()
    surprisal, probs = spike(delta, n)
    assert surprisal_type2(surprisal, alpha, probs) == pytest.approx(ump_type2(rho, alpha), 1e-12)
    assert surprisal_type2(-np.log(rho), alpha, rho) == pytest.approx(ump_type2(rho, alpha), 1e-12)


@pytest.mark.parametrize(
    ("alpha", "beta", "h", "delta", "n", "factor"),
    [
        (1e-2, 1e-2, 0.1, 0.0205, 189, 1.78),
        (1e-6, 1e-2, 0.1, 0.0205, 320, 2.32),
        (1e-2, 1e-6, 0.1, 0.0205, 223, 2.10),
        (1e-6, 1e-6, 0.01, 0.00131, 10016, 1.57),
    ],
)
def test_tokens_needed_on_the_two_point_family(alpha, beta, h, delta, n, factor):
    from scipy.optimize import brentq

    def entropy(d):
        return -(d * math.log(d) + (1 - d) * math.log1p(-d))

    exact = brentq(lambda d: entropy(d) - h, 1e-9, 0.5)
    assert exact == pytest.approx(delta, rel=5e-3)
    errors = []
    for tokens in (n - 1, n):
        surprisal, probs = spike(exact, tokens)
        errors.append(surprisal_type2(surprisal, alpha, probs / probs.sum()))
    assert errors[0] > beta >= errors[1]
    assert n / rate_reference(h, alpha, beta) == pytest.approx(factor, abs=0.006)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), N=st.integers(1, 300), alpha=st.floats(1e-4, 0.9))
def test_lower_bound_is_one_and_the_best_of_its_kind(seed, N, alpha):
    rho = np.random.default_rng(seed).dirichlet(np.full(N, 0.3))
    with np.errstate(divide="ignore"):
        surprisal = -np.log(rho)
    bound = type2_lower_bound(surprisal, alpha, rho)
    assert 0 <= bound <= ump_type2(rho, alpha) + 1e-12
    for c in (1.001, 1.5, 2.0, 10.0, 1e3):
        tail = rho[surprisal <= math.log(1 / alpha) - math.log(c)].sum()
        assert bound >= (1 - 1 / c) * tail - 1e-12


def test_a_sample_of_surprisals_counts_equally():
    sample = [0.1, 0.1, 3.0, math.inf]
    assert surprisal_type2(sample, 0.1) == pytest.approx((1 - 0.1 * math.exp(0.1)) / 2, abs=1e-15)
    assert type2_lower_bound(sample, 0.1) == pytest.approx((1 - 0.1 * math.exp(0.1)) / 2, abs=1e-15)


def test_normal_approximation_solves_its_equation_and_is_near_the_truth():
    law = np.array([0.6, 0.3, 0.1])
    s = -np.log(law)
    h, alpha, beta = float(law @ s), 1e-6, 0.02
    variance = float(law @ (s - h) ** 2)
    n = normal_tokens_needed(h, variance, alpha, beta)
    z = 2.053748910631823
    assert n * h - z * math.sqrt(variance * n) == pytest.approx(-math.log(alpha), rel=1e-9)
    assert normal_tokens_needed(h, 0.0, alpha, beta) == pytest.approx(-math.log(alpha) / h)
    sums, probs = np.zeros(1), np.ones(1)
    for _ in range(round(n)):
        sums, where = np.unique(np.add.outer(sums, s).round(9).ravel(), return_inverse=True)
        probs = np.bincount(where.ravel(), np.outer(probs, law).ravel())
    assert 0.2 * beta < surprisal_type2(sums, alpha, probs) < 5 * beta


def test_batches_and_scalars():
    laws = np.random.default_rng(1).dirichlet(np.ones(7), (2, 3))
    for function in (ump_type2, agnostic_type2, seq_gumbel_type2):
        batch = function(laws, 0.2)
        assert batch.shape == (2, 3)
        single = function(laws[1, 2].tolist(), 0.2)
        assert isinstance(single, float)
        assert single == batch[1, 2]
        np.testing.assert_array_equal(function(torch.tensor(laws), 0.2), batch)
    curve = tradeoff_curve(laws, [0.1, 0.2, 0.4], epsilon=0.05)
    assert curve.shape == (2, 3, 3)
    np.testing.assert_array_equal(curve[..., 1], ump_type2(laws, 0.2, 0.05))
    assert np.all(np.diff(curve, axis=-1) <= 0)
    assert tradeoff_curve(laws, []).shape == (2, 3, 0)


def test_whole_vocabularies():
    laws = 1 / np.arange(1, 2**18 + 1) ** np.array([[1.0], [1.3]])
    laws /= laws.sum(axis=1, keepdims=True)
    beta, best = agnostic_type2(laws, 2**-6, "uniform-k"), ump_type2(laws, 2**-6)
    assert np.all(beta - best <= minimax_price(2**-6, 2**18) + 1e-12)
    assert np.all(beta >= best)


@pytest.mark.parametrize(
    ("rho", "message"),
    [
        ([0.5, 0.4], "sum to 1"),
        ([0.5, 0.5 + 3e-6], "sum to 1"),
        ([1.2, -0.2], "negative"),
        ([0.5, math.nan], "non-finite"),
        ([0.5, math.inf], "sum to 1"),
        (1.0, "at least one"),
        ([], "at least one"),
        (np.zeros((0, 3)), "at least one"),
    ],
)
def test_bad_laws_are_refused(rho, message):
    for given_rho in (rho, torch.tensor(rho, dtype=torch.float64)):
        with pytest.raises(ValueError, match=message):
            check_law(given_rho)
    for function in (ump_type2, ump_law, agnostic_type2, seq_gumbel_type2):
        with pytest.raises(ValueError, match="rho"):
            function(rho, 0.1)


def test_a_law_within_the_tolerance_is_normalised():
    np.testing.assert_allclose(check_law([0.5, 0.5 + 5e-7]).sum(), 1, atol=1e-15)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5, math.nan])
def test_bad_levels_are_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha must lie in \(0, 1\), got"):
        check_alpha(alpha)
    for function in (ump_type2, ump_law, agnostic_type2, seq_gumbel_type2):
        with pytest.raises(ValueError, match="alpha"):
            function(EXAMPLE, alpha)
    with pytest.raises(ValueError, match="alpha"):
        minimax_price(alpha)
    with pytest.raises(ValueError, match="alpha"):
        rate_reference(0.1, alpha, 0.5)
    with pytest.raises(ValueError, match="beta"):
        rate_reference(0.1, 0.5, alpha)


@pytest.mark.parametrize("epsilon", [-1e-9, 1, 2.0, math.nan])
def test_bad_budgets_are_refused(epsilon):
    with pytest.raises(ValueError, match=r"epsilon must lie in \[0, 1\), got"):
        check_epsilon(epsilon)
    for function in (ump_type2, ump_law):
        with pytest.raises(ValueError, match="epsilon"):
            function(EXAMPLE, 0.1, epsilon)


def test_bad_regions_are_refused():
    for call in (
        lambda: agnostic_type2(EXAMPLE, 0.3, "uniform-k"),
        lambda: minimax_price(0.3, 11),
        lambda: region_hit_probability(1, 4, 0.1),
    ):
        with pytest.raises(ValueError, match="bernoulli"):
            call()
    with pytest.raises(ValueError, match="region must be one of"):
        agnostic_type2(EXAMPLE, 0.25, "uniform")
    with pytest.raises(ValueError, match="needs num_elements"):
        region_hit_probability(1, None, 0.25)
    with pytest.raises(ValueError, match="between 0 and"):
        region_hit_probability([1, 5], 4, 0.25)
    with pytest.raises(ValueError, match="between 0 and"):
        region_hit_probability(-1, 4, 0.25)
    with pytest.raises(ValueError, match="whole numbers"):
        region_hit_probability(1.5, 4, 0.25)
    with pytest.raises(ValueError, match="at least 1"):
        minimax_price(0.25, 0, "bernoulli")


def test_other_bad_inputs_are_refused():
    with pytest.raises(ValueError, match="fill must be one of"):
        ump_law(EXAMPLE, 0.2, 0.1, fill="even")
    with pytest.raises(ValueError, match="scheme must be one of"):
        tradeoff_curve(EXAMPLE, [0.1], scheme="kgw")
    with pytest.raises(ValueError, match="distortion-free"):
        tradeoff_curve(EXAMPLE, [0.1], epsilon=0.1, scheme="agnostic")
    with pytest.raises(ValueError, match="shape"):
        tradeoff_curve(EXAMPLE, 0.1)
    for function in (surprisal_type2, type2_lower_bound):
        with pytest.raises(ValueError, match="not negative"):
            function([-0.1, 1.0], 0.1)
        with pytest.raises(ValueError, match="not negative"):
            function([math.nan], 0.1)
        with pytest.raises(ValueError, match="probabilities of shape"):
            function([0.1, 1.0], 0.1, [1.0])
        with pytest.raises(ValueError, match="shape"):
            function([], 0.1)
    for entropy in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="entropy"):
            rate_reference(entropy, 0.1, 0.1)
        with pytest.raises(ValueError, match="entropy"):
            normal_tokens_needed(entropy, 1.0, 0.1, 0.1)
    with pytest.raises(ValueError, match="variance"):
        normal_tokens_needed(1.0, -1.0, 0.1, 0.1)


@pytest.mark.parametrize("alpha", [5e-324, 1e-300, 1e-19, 1e-16, 1e-12])
def test_minimax_price_of_tiny_levels_is_its_limit(alpha):
    assert minimax_price(alpha) == pytest.approx(math.exp(-1), rel=2e-12)
    assert minimax_price(alpha, 10, "bernoulli") == pytest.approx(0, abs=1e-10)

"""Closed forms against convex programming, enumeration and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.ewatermark import theory
from modicum.ewatermark.coupling import coupled_group_law


@pytest.mark.parametrize(
    ("p", "delta", "value"),
    [
        ((0.5, 0.5), 0.3, 0.270438),
        ((0.7, 0.3), 0.2, 0.285781),
        ((0.5, 0.3, 0.2), 0.15, 0.711283),
    ],
)
def test_optimal_growth_reference_values(p, delta, value):
    assert theory.optimal_growth(p, delta) == pytest.approx(value, abs=5e-7)


def test_growth_of_uniform_binary_anchor_is_log2_minus_binary_entropy():
    h = -(0.15 * math.log(0.15) + 0.85 * math.log(0.85))
    assert theory.optimal_growth([0.5, 0.5], 0.3) == pytest.approx(math.log(2) - h, abs=1e-15)


def joint_law(p, q):
    """Joint law of (seed, group) under the maximal coupling, by the sampler's own code."""
    m = len(p)
    laws = coupled_group_law(np.tile(q, (m, 1)), np.tile(p, (m, 1)), np.arange(m))
    return p[:, None] * laws


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), m=st.sampled_from([2, 3, 9]), a=st.floats(0.02, 0.97))
def test_growth_rate_equals_the_mean_over_the_coupling(seed, m, a):
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.ones(m), 2)
    joint = joint_law(p, q)
    match = np.eye(m, dtype=bool)
    defensive = np.where(match, 1 - a + a / p[:, None], 1 - a)
    expected = (joint * np.log(defensive)).sum()
    assert theory.growth_rate(p, q, score="defensive", fraction=a) == pytest.approx(expected)
    delta = a * 2 * (m - 1) / m
    anchored = np.where(match, 1 - delta / 2, delta / (2 * (m - 1))) / p[:, None]
    expected = (joint * np.log(anchored)).sum()
    assert theory.growth_rate(p, q, delta=delta) == pytest.approx(expected)


def test_optimal_delta_and_fraction_beat_their_neighbours():
    rng = np.random.default_rng(5)
    p = rng.dirichlet(np.ones(4), 30)
    q = 0.8 * p + 0.2 * rng.dirichlet(np.ones(4), 30)
    best = theory.optimal_fraction(p, q)
    at = [
        np.mean(theory.growth_rate(p, q, score="defensive", fraction=best + step))
        for step in (-0.01, 0, 0.01)
    ]
    assert at[1] == max(at)
    tau = float(theory.total_variation(q[0], p[0]))
    delta = theory.optimal_delta(tau)
    at = [theory.growth_rate(p[0], q[0], delta=delta + step) for step in (-0.01, 0, 0.01)]
    assert at[1] == max(at)


def test_growth_never_exceeds_mutual_information():
    rng = np.random.default_rng(6)
    for _ in range(50):
        p, q = rng.dirichlet(np.ones(5), 2)
        joint = joint_law(p, q)
        positive = joint > 0
        information = (joint * np.log(np.where(positive, joint / np.outer(p, q), 1.0)))[
            positive
        ].sum()
        best = theory.growth_rate(p, q, score="defensive", fraction=theory.optimal_fraction(p, q))
        assert best <= information + 1e-9


def test_optimal_growth_is_the_max_min_value_by_convex_programming():
    """Fix the couplings at all vertices, maximise the worst growth over valid e-values."""
    cp = pytest.importorskip("cvxpy")
    for p, delta in (([0.5, 0.5], 0.3), ([0.7, 0.3], 0.2), ([0.5, 0.3, 0.2], 0.15)):
        p = np.array(p)
        m = len(p)
        vertices = [
            p + (delta / 2) * (np.eye(m)[i] - np.eye(m)[j])
            for i in range(m)
            for j in range(m)
            if i != j
        ]
        couplings = [joint_law(p, q).T for q in vertices]
        e = cp.Variable((m, m), pos=True)
        worst = cp.min(cp.hstack([cp.sum(cp.multiply(c, cp.log(e))) for c in couplings]))
        problem = cp.Problem(cp.Maximize(worst), [e @ p <= 1])
        problem.solve(solver="CLARABEL")
        assert problem.value == pytest.approx(theory.optimal_growth(p, delta), abs=1e-5)


def test_stopping_time_bounds_hold_exactly():
    """Mean stopping time by exact propagation lies within Wald's bounds."""
    tau, delta, alpha = 0.15, 0.3, 1e-3
    values = [math.log(0.85 / 0.5), math.log(0.15 / 0.5)]
    curve = theory.power_curve(values, [1 - tau, tau], alpha, 600, step=1 / 1024)
    assert curve[-1] > 1 - 1e-9
    mean = 600 - curve[:-1].sum()
    bounds = theory.expected_stopping_time(
        alpha, float(theory.growth_rate([0.5, 0.5], [0.65, 0.35], delta=delta)), values[0]
    )
    assert bounds.lower <= mean <= bounds.upper * 1.001


@settings(max_examples=20, deadline=None)
@given(hit=st.floats(0.3, 0.95), a=st.floats(0.1, 0.9))
def test_power_curve_agrees_with_enumeration(hit, a):
    alpha, T = 0.2, 9
    values = np.array([math.log1p(a), math.log1p(-a)])
    curve = theory.power_curve(values, [hit, 1 - hit], alpha, T, step=1e-3)
    # Exact law of the running maximum by enumeration over all 2^T paths.
    paths = (np.arange(2**T)[:, None] >> np.arange(T)) & 1
    wealth = np.cumsum(np.where(paths == 1, values[0], values[1]), axis=1)
    probability = np.prod(np.where(paths == 1, hit, 1 - hit), axis=1)
    exact = np.array(
        [probability[(wealth[:, : t + 1] >= -math.log(alpha)).any(1)].sum() for t in range(T)]
    )
    assert np.all(curve <= exact + 1e-12)
    generous = theory.power_curve(values + 1e-3, [hit, 1 - hit], alpha, T, step=1e-3)
    assert np.all(generous >= exact - 1e-12)


def test_required_entropy_inverts_growth():
    n, alpha, delta = 60, 1e-4, 0.2
    need = theory.required_entropy(alpha, n, delta, 2)
    assert n * (need - theory.error_entropy(delta, 2)) == pytest.approx(-math.log(alpha))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: theory.optimal_growth([0.5, 0.6], 0.3), "must sum to 1"),
        (lambda: theory.optimal_growth([-0.5, 1.5], 0.3), "negative"),
        (lambda: theory.optimal_growth([1.0], 0.3), "at least two"),
        (lambda: theory.expected_stopping_time(0.0, 1.0, 1.0), "alpha must lie"),
        (lambda: theory.growth_rate([0.5, 0.5], [0.5, 0.5], score="x"), "no growth formula"),
        (lambda: theory.optimal_delta(1.0), "tau must lie"),
        (lambda: theory.required_entropy(0.1, 0, 0.1, 2), "num_tokens"),
        (lambda: theory.check_evalue([0.5, 0.5], [[1.0]]), "must have shape"),
        (lambda: theory.check_evalue([0.5, 0.5], [[-1.0, 1.0]]), "not negative"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_no_growth_means_no_stopping():
    assert theory.expected_stopping_time(0.01, -0.1, 1.0).lower == math.inf


def test_power_curve_with_jumps_beyond_the_grid():
    np.testing.assert_allclose(theory.power_curve([1.0, 0.5], [0.5, 0.5], 0.5, 3), [0.5, 1.0, 1.0])
    np.testing.assert_allclose(
        theory.power_curve([5.0, -0.1], [0.25, 0.75], 0.1, 2), [0.25, 1 - 0.75**2]
    )
    for bad in ({"num_tokens": 0}, {"num_tokens": 3, "step": 0.0}):
        with pytest.raises(ValueError, match="must be positive"):
            theory.power_curve([1.0, -1.0], [0.5, 0.5], 0.1, **bad)

"""Lots: the closed forms of single rows, a general optimiser, brute force."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize

from modicum.daved import bundles, steps
from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.frank_wolfe import FrankWolfe
from modicum.daved.solvers.greedy import Greedy, default_prior
from modicum.daved.solvers.multiplicative import Multiplicative


def market(seed=0, lots=6, size=3, d=4, m=2):
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.repeat(np.arange(lots), size))
    return rng.normal(size=(lots * size, d)), codes, rng.normal(size=(m, d))


def loss_of(X, codes, Q, weights):
    gram = (X * weights[codes][:, None]).T @ X
    return np.mean(np.einsum("md,de,me->m", Q, np.linalg.pinv(gram), Q))


@pytest.mark.parametrize("seed", range(5))
def test_line_search_with_one_eigenvalue_is_that_of_one_row(seed):
    rng = np.random.default_rng(seed)
    loss, leverage = rng.uniform(0.5, 2), rng.uniform(2, 50)
    score = rng.uniform(0.2, 1) * loss * leverage
    found = bundles.line_search(loss, np.array([score]), np.array([leverage]))
    assert found == pytest.approx(steps.line_search(loss, score, leverage), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [2, 9])
def test_line_search_finds_the_minimum_along_a_lot_smaller_or_larger_than_d(seed, size):
    X, codes, Q = market(seed, size=size)
    weights = np.full(6, 1 / 6)
    inverse = np.linalg.inv((X / 6).T @ X)
    loss = loss_of(X, codes, Q, weights)
    for lot in range(6):
        rows = X[codes == lot]
        alpha = bundles.line_search(loss, *bundles._along(rows, inverse, Q))

        def at(step, lot=lot):
            return loss_of(X, codes, Q, (1 - step) * weights + step * np.eye(6)[lot])

        grid = [at(step) for step in np.linspace(0, 0.999, 400)]
        assert at(alpha) <= min(grid) + 1e-12
        derivative = loss - bundles._along(rows, inverse, Q)[0].sum()
        assert (alpha == 0) == (derivative >= 0)


def test_lots_of_one_record_are_records():
    X, _, Q = market(1)
    pool, codes = ArrayPool(X), np.arange(len(X))
    rows = FrankWolfe(max_iter=40, tol=0).solve(Problem(pool, Q))
    lots = bundles.lots_frank_wolfe(pool, codes, Q, 40, 0)
    np.testing.assert_array_equal(lots.picks, rows.picks)
    np.testing.assert_allclose(lots.weights, rows.weights, atol=1e-9)
    assert lots.floor == pytest.approx(rows.floor)
    assert lots.gap == pytest.approx(rows.gap, abs=1e-8)
    rows = Multiplicative(30, 0).solve(Problem(pool, Q))
    lots = bundles.lots_multiplicative(pool, codes, Q, 30, 0)
    np.testing.assert_allclose(lots.weights, rows.weights, atol=1e-12)
    prices = np.random.default_rng(0).integers(1, 5, len(X)).astype(float)
    rows = Greedy().solve(Problem(pool, Q, prices, 9.0, prices))
    np.testing.assert_array_equal(bundles.lots_greedy(pool, codes, Q, prices, 9.0), rows.order)


@pytest.mark.parametrize("seed", range(3))
def test_both_solvers_reach_the_optimum_of_a_general_optimiser_within_their_certificates(seed):
    X, codes, Q = market(seed)
    best = minimize(
        lambda weights: loss_of(X, codes, Q, weights),
        np.full(6, 1 / 6),
        method="SLSQP",
        bounds=[(1e-9, 1)] * 6,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        options={"ftol": 1e-12, "maxiter": 500},
    ).fun
    for solve in (bundles.lots_frank_wolfe, bundles.lots_multiplicative):
        found = solve(ArrayPool(X), codes, Q, 3000, 1e-3)
        assert found.converged
        assert found.weights.sum() == pytest.approx(1)
        assert found.objective == pytest.approx(loss_of(X, codes, Q, found.weights))
        assert found.weights @ found.scores == pytest.approx(found.objective)
        assert best - 1e-6 <= found.objective <= best * 1.001 + 1e-6
        for step in found.history:
            assert step.objective - best <= step.gap + 1e-6
        losses = [step.objective for step in found.history]
        assert all(after <= before + 1e-12 for before, after in pairwise(losses))


def test_scores_are_minus_the_derivative_by_a_lots_weight():
    X, codes, Q = market(2)
    found = bundles.lots_frank_wolfe(ArrayPool(X), codes, Q, 5, 0)
    for lot in range(6):
        change = 1e-6 * np.eye(6)[lot]
        up, down = (loss_of(X, codes, Q, found.weights + t * change) for t in (1, -1))
        assert found.scores[lot] == pytest.approx((down - up) / 2e-6, rel=1e-5)


def test_greedy_lots_against_the_posterior_from_scratch():
    X, codes, Q = market(3, size=5)
    prices = np.array([3.0, 1.0, 2.0, 4.0, 2.0, 1.0])
    owned = np.diag([1.0, 2.0, 3.0, 4.0])
    prior, budget = 0.7, 6.0

    def variance(lots):
        rows = X[np.isin(codes, lots)]
        precision = prior * np.eye(4) + owned + rows.T @ rows
        return np.mean(np.diag(Q @ np.linalg.inv(precision) @ Q.T))

    expected, left, before = [], budget, []
    while True:
        open_lots = [g for g in range(6) if g not in expected and prices[g] <= left]
        if not open_lots:
            break
        now = variance(expected)
        before.append(now)
        gains = [(now - variance([*expected, g])) / prices[g] for g in open_lots]
        expected.append(open_lots[int(np.argmax(gains))])
        left -= prices[expected[-1]]
    seen = []
    found = bundles.lots_greedy(ArrayPool(X), codes, Q, prices, budget, prior, owned, seen.append)
    assert found.tolist() == expected
    np.testing.assert_allclose([step.objective for step in seen], before)
    assert [step.pick for step in seen] == expected


def test_greedy_on_one_purchase_is_the_best_of_all():
    X, codes, Q = market(4)
    pool = ArrayPool(X)
    prior = default_prior(pool.gram(), pool.n)
    assert prior == pytest.approx(0.05 * np.mean(np.square(X).sum(axis=1)))

    def variance(lots):
        rows = X[np.isin(codes, lots)]
        return np.mean(np.diag(Q @ np.linalg.inv(prior * np.eye(4) + rows.T @ rows) @ Q.T))

    (found,) = bundles.lots_greedy(pool, codes, Q, np.ones(6), 1.0).tolist()
    assert found == min(range(6), key=lambda lot: variance([lot]))


def test_lots_that_do_not_span_all_features_leave_the_rest_out():
    X, codes, Q = market(5)
    X[:, 3] = 0
    inside = Q * np.array([1, 1, 1, 0])
    whole, part = (
        bundles.lots_frank_wolfe(ArrayPool(X), codes, queries, 20) for queries in (Q, inside)
    )
    assert whole.objective == pytest.approx(part.objective)

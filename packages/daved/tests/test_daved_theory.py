import numpy as np
import pytest

from modicum.daved import theory
from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.exact import Exact
from modicum.daved.solvers.multiplicative import Multiplicative


def test_validation_bound_is_the_error_of_least_squares_on_the_validation_rows():
    assert theory.validation_risk_bound(2.0, 6, 48) == 0.25
    # With orthogonal validation rows, E‖θ̂ - θ‖² of least squares is σ² d / v exactly.
    rows = np.tile(np.eye(6), (8, 1)) * np.sqrt(6)
    assert 2.0 * np.trace(np.linalg.inv(rows.T @ rows)) == pytest.approx(
        theory.validation_risk_bound(2.0, 6, 48)
    )


def test_budget_curve_is_the_optimum_at_every_budget():
    rng = np.random.default_rng(0)
    rows, query = rng.standard_normal((40, 4)), rng.standard_normal((1, 4))
    design = Exact().solve(Problem(ArrayPool(rows), query))
    curve = theory.budget_curve(design.objective, [2, 5.0], sigma2=0.3)
    for budget, error in zip([2, 5.0], curve, strict=True):
        inverse = np.linalg.inv(budget * (rows.T * design.weights) @ rows)
        np.testing.assert_allclose(0.3 * query[0] @ inverse @ query[0], error, rtol=1e-8)
    assert curve[1] == pytest.approx(theory.predicted_error(0.3, design.objective, 5))


def test_shadow_price_is_the_slope_of_the_curve():
    low, high = theory.budget_curve(7.0, np.array([3 - 1e-5, 3 + 1e-5]))
    assert theory.shadow_price(7.0, 3) == pytest.approx((low - high) / 2e-5, rel=1e-8)


def test_fair_price_is_the_price_of_what_is_bought_and_below_that_of_the_rest():
    rng = np.random.default_rng(1)
    rows, queries = rng.standard_normal((60, 4)), rng.standard_normal((1, 4))
    prices, budget = rng.integers(1, 6, 60).astype(float), 11.0
    design = Exact().solve(Problem(ArrayPool(rows, scale=1 / np.sqrt(prices)), queries))
    weights = budget * design.weights / prices
    inverse = np.linalg.inv((rows.T * weights) @ rows)
    scores = np.square(rows @ inverse @ queries.T).mean(axis=1)
    loss = float(queries[0] @ inverse @ queries[0])
    quotes = theory.fair_price(scores, budget, loss)
    bought = design.weights > 1e-6
    np.testing.assert_allclose(quotes[bought], prices[bought], rtol=1e-6)
    assert (quotes <= prices * (1 + 1e-6)).all()
    assert (quotes[~bought] < prices[~bought]).any()
    # The same from the design itself, whose scores and objective belong to weights of sum 1.
    again = theory.fair_price(prices * design.scores, 1.0, design.objective)
    np.testing.assert_allclose(again, quotes, rtol=1e-6, atol=1e-9)


def test_a_record_is_bought_below_its_fair_price_and_not_above_it():
    rng = np.random.default_rng(2)
    rows, queries = rng.standard_normal((40, 3)), rng.standard_normal((1, 3))
    without = Exact().solve(Problem(ArrayPool(rows), queries))
    new = rng.standard_normal(3)
    score = float(new @ without.inverse @ queries[0]) ** 2
    quote = float(theory.fair_price(np.array([score]), 1.0, without.objective)[0])
    for price, worth_it in ((0.9 * quote, True), (1.1 * quote, False)):
        scale = np.r_[np.ones(40), 1 / np.sqrt(price)]
        design = Exact().solve(Problem(ArrayPool(np.vstack([rows, new]), scale=scale), queries))
        assert bool(design.objective < without.objective * (1 - 1e-6)) is worth_it
        assert bool(design.weights[40] > 1e-6) is worth_it


def test_efficiency_is_a_lower_bound_on_the_share_of_the_optimum():
    rng = np.random.default_rng(3)
    problem = Problem(ArrayPool(rng.standard_normal((80, 5))), rng.standard_normal((1, 5)))
    optimum = Exact().solve(problem).objective
    bounds = []
    for steps in (5, 30, 200):
        design = Multiplicative(max_iter=steps, tol=0).solve(problem)
        bounds.append(theory.efficiency(design.gap, design.objective))
        assert 0 <= bounds[-1] <= optimum / design.objective + 1e-9
    assert bounds[-1] > 0.9
    assert theory.efficiency(30.0, 10.0) == 0


def test_effective_sample_size_counts_equal_weights():
    assert theory.effective_sample_size(np.array([0, 3.0, 3.0, 0, 3.0])) == pytest.approx(3)
    assert theory.effective_sample_size(np.array([0.0, 0.2])) == 1
    assert 1 < theory.effective_sample_size(np.array([0.9, 0.1])) < 2


def test_predicted_error_is_the_error_of_the_model_of_a_repeated_design():
    # Three orthogonal rows, bought 2, 4 and 6 times: exact weights of sum 1, exact variance.
    counts, query = np.array([2, 4, 6]), np.array([1.0, 2.0, -1.0])
    objective = float(np.sum(query**2 / (counts / 12)))
    bought = np.repeat(np.eye(3), counts, axis=0)
    variance = 0.5 * query @ np.linalg.inv(bought.T @ bought) @ query
    assert theory.predicted_error(0.5, objective, 12) == pytest.approx(variance)


def test_support_bound():
    assert [theory.support_bound(6, m) for m in (1, 2, 9)] == [6, 21, 21]

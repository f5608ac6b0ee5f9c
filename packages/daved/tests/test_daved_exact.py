import sys

import numpy as np
import pytest

from modicum.daved.integrations.socp import least_sum_of_norms
from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.exact import Exact
from modicum.daved.theory import support_bound


def problem_of(n, d, m, seed):
    rng = np.random.default_rng(seed)
    return Problem(ArrayPool(rng.standard_normal((n, d))), rng.standard_normal((m, d)))


def loss_of(rows, weights, queries):
    inverse = np.linalg.pinv((rows.T * weights) @ rows)
    return np.mean([query @ inverse @ query for query in queries])


@pytest.mark.parametrize(("n", "d", "m"), [(40, 4, 1), (500, 12, 1), (40, 4, 3), (80, 6, 5)])
def test_equivalence_theorem(n, d, m):
    problem = problem_of(n, d, m, seed=n + m)
    rows = problem.pool.rows(range(n))
    design = Exact().solve(problem)
    assert (design.weights >= 0).all()
    assert design.weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(
        loss_of(rows, design.weights, problem.queries_md), design.objective, rtol=1e-8
    )
    # Certificate, scores and optimality, all recomputed from the weights alone.
    inverse = np.linalg.inv((rows.T * design.weights) @ rows)
    scores = np.square(rows @ inverse @ problem.queries_md.T).mean(axis=1)
    assert scores.max() <= design.objective * (1 + 1e-5)
    support = design.weights > 1e-4
    np.testing.assert_allclose(scores[support], design.objective, rtol=1e-4)
    np.testing.assert_allclose(design.scores, scores, rtol=1e-3, atol=1e-4 * design.objective)
    assert 0 <= design.gap <= 1e-5 * design.objective
    assert support.sum() <= support_bound(d, m)


def test_orthogonal_rows_have_the_closed_form():
    sizes = np.array([1.0, 2.0, 0.5])
    queries = np.array([[3.0, 1.0, 0.2], [0.0, 2.0, 1.0]])
    for chosen in (queries[:1], queries):
        share = np.sqrt(np.square(chosen).mean(axis=0)) / sizes
        design = Exact().solve(Problem(ArrayPool(np.diag(sizes)), chosen))
        np.testing.assert_allclose(design.weights, share / share.sum(), rtol=1e-5)
        np.testing.assert_allclose(design.objective, share.sum() ** 2, rtol=1e-8)


def test_no_grid_point_of_three_rows_is_better():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3, 2))
    for queries in (rng.standard_normal((1, 2)), rng.standard_normal((3, 2))):
        design = Exact().solve(Problem(ArrayPool(rows), queries))
        steps = np.linspace(0.01, 0.98, 98)
        losses = [
            loss_of(rows, np.array([a, b, 1 - a - b]), queries)
            for a in steps
            for b in steps
            if a + b < 0.99
        ]
        assert design.objective <= min(losses) * (1 + 1e-7)
        assert design.objective >= min(losses) * 0.95


def test_program_for_many_queries_agrees_with_the_one_for_one():
    problem = problem_of(60, 5, 1, seed=1)
    twice = Problem(problem.pool, np.repeat(problem.queries_md, 2, axis=0))
    one, two = Exact().solve(problem), Exact().solve(twice)
    np.testing.assert_allclose(one.objective, two.objective, rtol=1e-6)
    np.testing.assert_allclose(one.weights, two.weights, atol=1e-4)


def test_a_multiple_of_a_row_is_bought_there():
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((30, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    design = Exact().solve(Problem(ArrayPool(rows), 1.5 * rows[[4]]))
    np.testing.assert_allclose(design.objective, 1.5**2, rtol=1e-9)
    assert design.weights[4] == pytest.approx(1)
    # One row of weight, six features: the scores come from the dual solution.
    assert 0 <= design.gap <= 1e-7
    assert design.scores.max() <= design.objective * (1 + 1e-7)
    assert design.scores[4] == pytest.approx(design.objective)


def test_inverse_quotes_the_scores_even_where_the_design_lacks_directions():
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((30, 6))
    rows[7] *= 5
    query = 0.3 * rows[[7]]
    design = Exact().solve(Problem(ArrayPool(rows), query))
    assert np.linalg.matrix_rank((rows.T * design.weights) @ rows, tol=1e-6) < 6
    scores = np.square(rows @ design.inverse @ query.T)[:, 0]
    np.testing.assert_allclose(scores, design.scores, atol=1e-9)
    np.testing.assert_allclose(query[0] @ design.inverse @ query[0], design.objective, rtol=1e-9)
    gram = (rows.T * design.weights) @ rows
    np.testing.assert_allclose(gram @ design.inverse @ gram, gram, atol=1e-9)
    assert np.linalg.eigvalsh(design.inverse).min() >= -1e-9


def test_only_the_covered_part_of_a_query_counts():
    rng = np.random.default_rng(4)
    rows = np.hstack([rng.standard_normal((20, 3)), np.zeros((20, 2))])
    for m in (1, 2):
        queries = rng.standard_normal((m, 5))
        inside = Exact().solve(Problem(ArrayPool(rows[:, :3]), queries[:, :3]))
        whole = Exact().solve(Problem(ArrayPool(rows), queries))
        np.testing.assert_allclose(whole.objective, inside.objective, rtol=1e-6)
        assert whole.inverse.shape == (5, 5)


def test_features_of_very_different_size_are_no_obstacle():
    problem = problem_of(50, 5, 1, seed=5)
    rows, sizes = problem.pool.rows(range(50)), np.logspace(-3, 3, 5)
    scaled = Exact().solve(Problem(ArrayPool(rows * sizes), problem.queries_md * sizes))
    np.testing.assert_allclose(scaled.objective, Exact().solve(problem).objective, rtol=1e-6)


def test_prices_in_the_rows_solve_the_priced_problem():
    rng = np.random.default_rng(6)
    rows, queries = rng.standard_normal((60, 4)), rng.standard_normal((3, 4))
    prices, budget = rng.integers(1, 6, 60).astype(float), 7.0
    design = Exact().solve(Problem(ArrayPool(rows, scale=1 / np.sqrt(prices)), queries))
    weights = budget * design.weights / prices
    assert prices @ weights == pytest.approx(budget)
    loss = loss_of(rows, weights, queries)
    np.testing.assert_allclose(loss, design.objective / budget, rtol=1e-7)
    # First-order condition of the priced problem, recomputed: g_j / c_j ≤ L / B.
    inverse = np.linalg.inv((rows.T * weights) @ rows)
    scores = np.square(rows @ inverse @ queries.T).mean(axis=1)
    assert (scores / prices).max() <= loss / budget * (1 + 1e-5)


def test_cone_program_meets_its_constraint_and_its_dual():
    rng = np.random.default_rng(7)
    rows, targets = rng.standard_normal((30, 4)), rng.standard_normal((4, 3))
    found, dual = least_sum_of_norms(rows, targets)
    np.testing.assert_allclose(rows.T @ found, targets, atol=1e-7)
    total = np.linalg.norm(found, axis=1).sum()
    np.testing.assert_allclose(np.sum(dual * targets), total, rtol=1e-6)
    assert np.linalg.norm(rows @ dual, axis=1).max() <= 1 + 1e-6


def test_missing_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    problem = problem_of(10, 3, 2, seed=8)
    with pytest.raises(ImportError, match=r'pip install "modicum-daved\[socp\]"'):
        Exact().solve(problem)
    assert Exact().solve(problem_of(10, 3, 1, seed=8)).converged

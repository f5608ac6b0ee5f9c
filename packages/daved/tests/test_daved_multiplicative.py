import numpy as np
import pytest

from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.exact import Exact
from modicum.daved.solvers.multiplicative import Multiplicative


def problem_of(n, d, m, seed):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, d))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries = rng.standard_normal((m, d))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return Problem(ArrayPool(rows), queries)


def loss_of(rows, weights, queries):
    inverse = np.linalg.pinv((rows.T * weights) @ rows)
    return np.mean([query @ inverse @ query for query in queries])


@pytest.mark.parametrize("m", [1, 4])
def test_one_step_is_the_formula(m):
    problem = problem_of(20, 4, m, seed=0)
    rows = problem.pool.rows(range(20))
    inverse = np.linalg.inv(rows.T @ rows / 20)
    scores = np.array(
        [np.mean([(query @ inverse @ row) ** 2 for query in problem.queries_md]) for row in rows]
    )
    expected = np.sqrt(scores) / np.sqrt(scores).sum()
    design = Multiplicative(max_iter=1, tol=0).solve(problem)
    np.testing.assert_allclose(design.weights, expected, rtol=1e-10)
    np.testing.assert_allclose(
        design.objective, loss_of(rows, expected, problem.queries_md), rtol=1e-10
    )
    np.testing.assert_allclose(design.history[0].objective, np.mean(scores), rtol=1e-10)
    np.testing.assert_allclose(design.history[0].gap, scores.max() - scores.mean(), rtol=1e-10)


def test_orthogonal_rows_have_the_closed_form():
    sizes, query = np.array([1.0, 2.0, 0.5]), np.array([3.0, 1.0, 0.2])
    # L = Σ q_i² / (s_i² w_i) on the simplex: w_i in proportion to |q_i| / s_i.
    share = query / sizes
    design = Multiplicative(max_iter=3, tol=1e-12).solve(
        Problem(ArrayPool(np.diag(sizes)), query[None])
    )
    np.testing.assert_allclose(design.weights, share / share.sum(), rtol=1e-12)
    np.testing.assert_allclose(design.objective, share.sum() ** 2, rtol=1e-12)
    assert design.converged


@pytest.mark.parametrize(("n", "d", "m", "seed"), [(300, 6, 1, 1), (100, 5, 4, 2), (60, 10, 9, 3)])
def test_objective_never_rises_and_the_certificate_holds_at_every_step(n, d, m, seed):
    problem = problem_of(n, d, m, seed)
    optimum = Exact().solve(problem).objective
    design = Multiplicative(max_iter=60, tol=0).solve(problem)
    losses = np.array([step.objective for step in design.history] + [design.objective])
    gaps = np.array([step.gap for step in design.history] + [design.gap])
    assert len(losses) == 61
    assert (np.diff(losses) <= 1e-12 * losses[:-1]).all()
    assert (losses - optimum <= gaps + 1e-7 * optimum).all()
    assert (losses >= optimum * (1 - 1e-7)).all()


def test_a_percent_of_the_optimum_after_a_hundred_steps():
    problem = problem_of(2000, 30, 1, seed=0)
    optimum = Exact().solve(problem).objective
    design = Multiplicative(max_iter=100, tol=0).solve(problem)
    assert optimum * (1 - 1e-9) <= design.objective <= 1.01 * optimum


def test_stops_at_the_tolerance():
    problem = problem_of(80, 5, 2, seed=4)
    design = Multiplicative(max_iter=5000, tol=1e-2).solve(problem)
    assert design.converged
    assert design.gap <= 1e-2 * design.objective
    assert design.history[-1].gap > 1e-2 * design.history[-1].objective
    assert not Multiplicative(max_iter=2, tol=1e-9).solve(problem).converged


def test_what_it_returns_belongs_together():
    problem = problem_of(50, 5, 3, seed=5)
    rows = problem.pool.rows(range(50))
    design = Multiplicative(max_iter=20).solve(problem)
    assert design.weights.sum() == pytest.approx(1, abs=1e-12)
    assert (design.weights > 0).all()
    inverse = np.linalg.inv((rows.T * design.weights) @ rows)
    np.testing.assert_allclose(design.inverse, inverse, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(design.weights @ design.scores, design.objective, rtol=1e-10)
    np.testing.assert_allclose(design.gap, design.scores.max() - design.objective, rtol=1e-9)


def test_rows_that_do_not_span_the_space_are_no_obstacle():
    rng = np.random.default_rng(6)
    rows = rng.standard_normal((40, 3)) @ rng.standard_normal((3, 7))
    query = rng.standard_normal((1, 40)) @ rows
    problem = Problem(ArrayPool(rows), query)
    design = Multiplicative(max_iter=400, tol=1e-4).solve(problem)
    assert design.converged
    np.testing.assert_allclose(design.objective, Exact().solve(problem).objective, rtol=1e-4)


def test_on_step_sees_every_iteration():
    seen = []
    design = Multiplicative(max_iter=7, tol=0).solve(problem_of(30, 4, 1, seed=7), seen.append)
    assert tuple(seen) == design.history
    assert len(seen) == 7


def test_certificate_holds_where_the_optimum_is_one_row_and_float64_ends():
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((30, 6))
    rows[7] *= 5
    problem = Problem(ArrayPool(rows), 0.3 * rows[[7]])
    design = Multiplicative(max_iter=500, tol=0).solve(problem)
    optimum = 0.3**2
    assert len(design.history) < 500
    assert design.weights[7] > 0.99
    for loss, gap in [(design.objective, design.gap)] + [
        (step.objective, step.gap) for step in design.history
    ]:
        assert -1e-9 * optimum <= loss - optimum <= gap + 1e-9 * optimum
    again = loss_of(rows, design.weights, problem.queries_md)
    np.testing.assert_allclose(design.objective, again, rtol=1e-6)

"""Designs beside information that is there already: steps, certificates and optima."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

from modicum.daved.design import InverseBesideConstant, WhitenedInverse, constant_part
from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.frank_wolfe import FrankWolfe
from modicum.daved.solvers.multiplicative import Multiplicative
from modicum.daved.steps import line_search

SOLVERS = {
    "line_search": FrankWolfe(max_iter=400, tol=1e-3),
    "open_loop": FrankWolfe("open_loop", max_iter=1000, tol=1e-3),
    "multiplicative": Multiplicative(max_iter=3000, tol=1e-4),
}
SMALL_OWNED = {"full": 4, "one row": 1}


def drawn(seed=0, n=14, d=4, m=2, owned=4, size=0.3):
    rng = np.random.default_rng(seed)
    rows, queries = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    constant_rows = rng.normal(size=(owned, d)) * size
    return rows, queries, constant_rows.T @ constant_rows


def loss_of(rows, queries, constant, weights):
    matrix = constant + (rows.T * weights) @ rows
    return float(np.mean([q @ np.linalg.solve(matrix, q) for q in queries]))


def scores_of(rows, queries, constant, weights):
    inverse = np.linalg.inv(constant + (rows.T * weights) @ rows)
    return np.square(rows @ inverse @ queries.T).mean(axis=1)


def optimum(rows, queries, constant):
    """Give the least loss on the simplex, by a general optimiser."""
    n = len(rows)
    found = minimize(
        lambda w: loss_of(rows, queries, constant, w),
        np.full(n, 1 / n),
        jac=lambda w: -scores_of(rows, queries, constant, w),
        method="SLSQP",
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    return found.fun


@pytest.mark.parametrize("owned", SMALL_OWNED.values(), ids=SMALL_OWNED)
@pytest.mark.parametrize("seed", range(4))
def test_the_best_step_is_the_minimum_along_the_direction(seed, owned):
    rows, queries, constant = drawn(seed, owned=owned)
    weights = np.random.default_rng(seed).dirichlet(np.ones(len(rows)))
    design = (rows.T * weights) @ rows
    inverse = InverseBesideConstant(design, constant, queries)
    for row in range(len(rows)):
        unit = np.eye(len(rows))[row]

        def at(step, unit=unit):
            return loss_of(rows, queries, constant, (1 - step) * weights + step * unit)

        step = inverse.best_step(rows[row])
        best = minimize_scalar(at, bounds=(0, 0.999), method="bounded", options={"xatol": 1e-12})
        assert at(step) <= min(best.fun, at(0.0), at(0.999)) + 1e-12 * at(0.0)
        # Where the minimum is inside, the slope there is 0.
        if 0 < step < 0.999:
            shrunk = (1 - step) * weights + step * unit
            scores = scores_of(rows, queries, constant, shrunk)
            assert scores @ (unit - weights) == pytest.approx(0, abs=1e-8 * at(0.0))


def test_a_vanishing_constant_leaves_the_closed_form():
    rows, queries, constant = drawn(1)
    design = rows.T @ rows / len(rows)
    beside = InverseBesideConstant(design, 1e-13 * constant, queries)
    alone = WhitenedInverse(design, queries)
    for row, score in zip(rows, np.square(rows @ alone.directions()).mean(axis=1), strict=True):
        expected = line_search(alone.loss(), float(score), alone.leverage(row))
        assert beside.best_step(row) == pytest.approx(expected, abs=1e-8)
    one = FrankWolfe(max_iter=30, tol=0).solve(Problem(ArrayPool(rows), queries))
    other = FrankWolfe(max_iter=30, tol=0).solve(
        Problem(ArrayPool(rows), queries, constant=1e-13 * constant)
    )
    np.testing.assert_array_equal(one.picks, other.picks)
    np.testing.assert_allclose(one.weights, other.weights, atol=1e-6)


def test_the_inverse_follows_and_is_built_anew_alike():
    rows, queries, constant = drawn(2)
    start = rows.T @ rows / len(rows)
    inverse = InverseBesideConstant(start, constant, queries)
    weights = np.full(len(rows), 1 / len(rows))
    for row, step in ((3, 0.4), (5, 0.2), (3, 0.7)):
        assert inverse.follow(rows[row], step)
        weights = (1 - step) * weights
        weights[row] += step
    matrix = constant + (rows.T * weights) @ rows
    np.testing.assert_allclose(inverse.matrix(), np.linalg.inv(matrix), rtol=1e-9)
    scores = scores_of(rows, queries, constant, weights)
    assert inverse.loss() == pytest.approx(loss_of(rows, queries, constant, weights))
    assert inverse.mean_score() == pytest.approx(weights @ scores)
    assert constant_part(np.linalg.inv(matrix), constant, queries) == pytest.approx(
        inverse.loss() - weights @ scores
    )
    share = 0.6 * 0.8 * 0.3
    picked = weights[[3, 5]] - share / len(rows)
    inverse.rebuild(share, rows[[3, 5]], picked)
    np.testing.assert_allclose(inverse.matrix(), np.linalg.inv(matrix), rtol=1e-9)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("owned", SMALL_OWNED.values(), ids=SMALL_OWNED)
@pytest.mark.parametrize("seed", range(3))
def test_solvers_come_to_the_optimum_and_every_certificate_covers_the_distance(name, seed, owned):
    rows, queries, constant = drawn(seed, owned=owned)
    best = optimum(rows, queries, constant)
    found = SOLVERS[name].solve(Problem(ArrayPool(rows), queries, constant=constant))
    weights = found.weights
    assert weights.sum() == pytest.approx(1)
    assert found.objective == pytest.approx(loss_of(rows, queries, constant, weights), rel=1e-9)
    scores = scores_of(rows, queries, constant, weights)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-6)
    assert found.gap == pytest.approx(scores.max() - weights @ scores, abs=1e-8 * best)
    assert best - 1e-8 <= found.objective <= best * (1.01 if name == "line_search" else 1.002)
    for step in found.history:
        assert step.objective - best <= step.gap + 1e-8 * best
    if name != "open_loop":
        losses = [step.objective for step in found.history]
        assert all(after <= before * (1 + 1e-12) for before, after in pairwise(losses))


def test_the_optimum_is_that_of_a_conic_solver():
    cvxpy = pytest.importorskip("cvxpy")
    rows, queries, constant = drawn(7, n=20, m=3)
    weights = cvxpy.Variable(20, nonneg=True)
    matrix = constant + rows.T @ cvxpy.diag(weights) @ rows
    loss = cvxpy.matrix_frac(queries.T, matrix) / len(queries)
    best = cvxpy.Problem(cvxpy.Minimize(loss), [cvxpy.sum(weights) == 1]).solve("CLARABEL")
    for solver, excess in (
        (FrankWolfe(max_iter=400, tol=0), 1e-2),
        (Multiplicative(max_iter=5000, tol=1e-5), 2e-5),
    ):
        found = solver.solve(Problem(ArrayPool(rows), queries, constant=constant))
        assert best * (1 - 1e-6) <= found.objective <= best * (1 + excess)
        alone = solver.solve(Problem(ArrayPool(rows), queries))
        assert loss_of(rows, queries, constant, alone.weights) > found.objective * 1.002


def test_a_long_run_beside_a_singular_constant_keeps_its_certificate():
    # One query along one row: all weight goes there, and the start is all that spans the rest.
    rng = np.random.default_rng(3)
    rows = np.vstack([3 * np.eye(5)[:1], rng.normal(size=(30, 5)) * [0.1, 1, 1, 1, 1]])
    queries = np.eye(5)[:1]
    constant = np.diag([0.0, 1.0, 0.0, 0.0, 0.0])
    for solver in (FrankWolfe(max_iter=200, tol=0), FrankWolfe(0.9, max_iter=200, tol=0)):
        found = solver.solve(Problem(ArrayPool(rows), queries, constant=constant))
        assert found.weights[0] > 1 - 1e-6
        assert found.objective == pytest.approx(1 / 9, rel=1e-6)
        # With 1e-10 of the weight on the start scores have seven digits left.
        assert found.objective - 1 / 9 <= found.gap + 1e-7


def test_one_row_can_be_all_that_is_worth_buying():
    # With much known in all directions the best is to spend everything on one row.
    rows = np.array([[3.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    queries = np.array([[1.0, 0.0]])
    for solver in SOLVERS.values():
        found = solver.solve(Problem(ArrayPool(rows), queries, constant=10 * np.eye(2)))
        assert found.weights[0] > 0.99
        assert found.converged
        assert found.objective == pytest.approx(1 / 19, rel=1e-3)


def test_what_is_owned_in_one_direction_only_opens_that_direction():
    rows = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    queries = np.array([[1.0, 1.0, 2.0]])
    constant = np.diag([0.0, 0.0, 4.0])
    for solver in SOLVERS.values():
        found = solver.solve(Problem(ArrayPool(rows), queries, constant=constant))
        # Along the owned direction 2²/4, in the others what one row for both gives.
        assert found.objective == pytest.approx(1 + 1, rel=1e-3)

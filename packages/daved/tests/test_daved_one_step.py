import numpy as np
import pytest

from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.one_step import OneStep


def market(n, d, m, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d))


def test_costs_divide_the_weights_and_not_the_scores():
    rows, queries = market(30, 4, 2)
    costs = np.random.default_rng(1).uniform(1, 5, 30)
    plain = OneStep().solve(Problem(ArrayPool(rows), queries))
    priced = OneStep().solve(Problem(ArrayPool(rows), queries, costs=costs))
    np.testing.assert_array_equal(priced.scores, plain.scores)
    value = plain.scores / costs
    np.testing.assert_allclose(priced.weights, value / value.sum(), rtol=1e-12)


def test_what_is_reported_is_of_uniform_weights():
    rows, queries = market(50, 5, 3)
    seen = []
    found = OneStep().solve(Problem(ArrayPool(rows), queries), seen.append)
    inverse = np.linalg.inv(rows.T @ rows / 50)
    np.testing.assert_allclose(found.inverse, inverse, rtol=1e-10, atol=1e-14)
    assert found.objective == pytest.approx(np.mean([q @ inverse @ q for q in queries]))
    assert found.scores.mean() == pytest.approx(found.objective)
    assert found.gap == pytest.approx(found.scores.max() - found.objective)
    assert tuple(seen) == found.history


def test_nothing_answers_a_query_outside_the_span():
    rows = np.eye(3)[[0, 1, 0, 1]]
    found = OneStep().solve(Problem(ArrayPool(rows), np.eye(3)[2:]))
    np.testing.assert_array_equal(found.weights, 0.25)
    assert found.objective == 0

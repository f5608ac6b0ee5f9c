"""What a design must not depend on, for solvers with weights; and what it may."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.exact import Exact
from modicum.daved.solvers.frank_wolfe import FrankWolfe
from modicum.daved.solvers.greedy import Greedy
from modicum.daved.solvers.multiplicative import Multiplicative
from modicum.daved.solvers.one_step import OneStep

WEIGHTED = {
    "frank_wolfe": FrankWolfe(max_iter=15, tol=0),
    "multiplicative": Multiplicative(max_iter=15, tol=0),
    "one_step": OneStep(),
}
GREEDY = Greedy()
BUDGET = 6.0

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(12, 40), st.integers(2, 6), st.integers(1, 4))
property_test = settings(max_examples=12, deadline=None, derandomize=True)


def drawn(size, seed):
    n, d, m = size
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.standard_normal((m, d)), rng


def invertible(d, rng):
    """Give a matrix whose condition number is at most 9."""
    left, right = (np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(2))
    return (left * rng.uniform(1 / 3, 3, d)) @ right


def problem(rows, queries, prices=None):
    scale = None if prices is None else 1 / np.sqrt(prices)
    return Problem(ArrayPool(rows, scale=scale), queries, budget=BUDGET)


def optimum(rows, queries):
    """Give L* for one query."""
    return Exact().solve(problem(rows, queries[:1])).objective


@pytest.mark.parametrize("name", WEIGHTED)
@given(size=sizes, seed=seeds)
@property_test
def test_order_of_the_rows_does_not_matter(name, size, seed):
    rows, queries, rng = drawn(size, seed)
    order = rng.permutation(len(rows))
    one = WEIGHTED[name].solve(problem(rows, queries))
    two = WEIGHTED[name].solve(problem(rows[order], queries))
    np.testing.assert_allclose(two.weights, one.weights[order], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(two.objective, one.objective, rtol=1e-7)
    assert order[two.picks].tolist() == one.picks.tolist()


@given(size=sizes, seed=seeds)
@property_test
def test_order_of_the_rows_does_not_matter_to_greedy(size, seed):
    rows, queries, rng = drawn(size, seed)
    order = rng.permutation(len(rows))
    one = GREEDY.solve(problem(rows, queries)).order
    two = GREEDY.solve(problem(rows[order], queries)).order
    assert order[two].tolist() == one.tolist()


@pytest.mark.parametrize("name", WEIGHTED)
@given(size=sizes, seed=seeds)
@property_test
def test_a_linear_map_of_rows_and_queries_does_not_matter(name, size, seed):
    rows, queries, rng = drawn(size, seed)
    change = invertible(rows.shape[1], rng)
    one = WEIGHTED[name].solve(problem(rows, queries))
    two = WEIGHTED[name].solve(problem(rows @ change, queries @ change))
    np.testing.assert_allclose(two.weights, one.weights, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(two.objective, one.objective, rtol=1e-7)
    np.testing.assert_allclose(two.scores, one.scores, rtol=1e-6, atol=1e-9 * one.objective)


def test_a_linear_map_does_matter_to_greedy():
    rows = np.array([[1.0, 0.0], [0.0, 1.0]])
    query = np.array([[1.0, 0.9]])
    change = np.diag([0.1, 1.0])
    first = Greedy(prior=1.0).solve(problem(rows, query)).order[0]
    mapped = Greedy(prior=1.0).solve(problem(rows @ change, query @ change)).order[0]
    assert (first, mapped) == (0, 1)


@pytest.mark.parametrize("name", WEIGHTED)
@given(size=sizes, seed=seeds, factor=st.sampled_from([1e-3, -1.0, 0.4, 7.0, 1e3]))
@property_test
def test_scaled_queries_scale_the_objective_and_keep_the_design(name, size, seed, factor):
    rows, queries, _ = drawn(size, seed)
    one = WEIGHTED[name].solve(problem(rows, queries))
    two = WEIGHTED[name].solve(problem(rows, factor * queries))
    np.testing.assert_allclose(two.weights, one.weights, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(two.objective, factor**2 * one.objective, rtol=1e-8)
    np.testing.assert_allclose(two.gap, factor**2 * one.gap, rtol=1e-5, atol=1e-9 * two.objective)
    assert two.picks.tolist() == one.picks.tolist()


@given(size=sizes, seed=seeds, factor=st.sampled_from([1e-3, -1.0, 0.4, 7.0, 1e3]))
@property_test
def test_scaled_queries_keep_the_greedy_purchase(size, seed, factor):
    rows, queries, _ = drawn(size, seed)
    one = GREEDY.solve(problem(rows, queries))
    two = GREEDY.solve(problem(rows, factor * queries))
    assert two.order.tolist() == one.order.tolist()
    np.testing.assert_allclose(two.objective, factor**2 * one.objective, rtol=1e-9)


@pytest.mark.parametrize("name", WEIGHTED)
@given(size=sizes, seed=seeds, factor=st.sampled_from([0.01, 3.0, 250.0]))
@property_test
def test_the_currency_does_not_matter(name, size, seed, factor):
    rows, queries, rng = drawn(size, seed)
    prices = rng.uniform(1, 5, len(rows))
    one = WEIGHTED[name].solve(problem(rows, queries, prices))
    two = WEIGHTED[name].solve(problem(rows, queries, factor * prices))
    np.testing.assert_allclose(two.weights, one.weights, rtol=1e-6, atol=1e-12)
    # Predicted error at the same purchasing power: L(B) = L / B with B in the currency.
    np.testing.assert_allclose(two.objective / (factor * BUDGET), one.objective / BUDGET, rtol=1e-8)


@given(size=sizes, seed=seeds, factor=st.sampled_from([0.01, 3.0, 250.0]))
@property_test
def test_the_currency_does_not_matter_to_greedy(size, seed, factor):
    rows, queries, rng = drawn(size, seed)
    prices = rng.uniform(1, 5, len(rows))
    orders = [
        GREEDY.solve(
            Problem(
                ArrayPool(rows),
                queries,
                costs=unit * prices,
                budget=unit * BUDGET,
                prices=unit * prices,
            )
        ).order.tolist()
        for unit in (1.0, factor)
    ]
    assert orders[0] == orders[1]


@pytest.mark.parametrize("name", WEIGHTED)
def test_prices_do_matter(name):
    rows, queries, rng = drawn((30, 4, 2), 0)
    prices = rng.uniform(1, 5, 30)
    blind = WEIGHTED[name].solve(problem(rows, queries)).weights
    assert np.abs(WEIGHTED[name].solve(problem(rows, queries, prices)).weights - blind).max() > 1e-3


@given(size=sizes, seed=seeds)
@property_test
def test_splitting_a_record_in_two_leaves_the_optimum(size, seed):
    rows, queries, rng = drawn(size, seed)
    twin = rows[rng.integers(len(rows))]
    before, after = optimum(rows, queries), optimum(np.vstack([rows, twin]), queries)
    np.testing.assert_allclose(after, before, rtol=1e-7)


@given(size=sizes, seed=seeds)
@property_test
def test_more_records_never_raise_the_optimum(size, seed):
    rows, queries, _ = drawn(size, seed)
    fewer = rows[: len(rows) // 2 + 1]
    assert optimum(rows, queries) <= optimum(fewer, queries) * (1 + 1e-7)


@given(size=sizes, seed=seeds, multiple=st.floats(0.1, 4))
@property_test
def test_a_query_along_a_row_costs_at_most_its_square(size, seed, multiple):
    rows, _, rng = drawn(size, seed)
    along = multiple * rows[[rng.integers(len(rows))]]
    assert optimum(rows, along) <= multiple**2 * (1 + 1e-7)


@pytest.mark.parametrize("name", WEIGHTED)
@given(size=sizes, seed=seeds)
@property_test
def test_weighted_scores_sum_to_the_objective(name, size, seed):
    rows, queries, _ = drawn(size, seed)
    design = WEIGHTED[name].solve(problem(rows, queries))
    inverse = np.linalg.pinv((rows.T * design.weights) @ rows)
    scores = np.square(rows @ inverse @ queries.T).mean(axis=1)
    loss = np.mean([query @ inverse @ query for query in queries])
    np.testing.assert_allclose(design.weights @ scores, loss, rtol=1e-8)
    assert design.weights.sum() == pytest.approx(1, abs=1e-9)


@given(size=sizes, seed=seeds)
@property_test
def test_certificates_bound_the_distance_to_the_optimum(size, seed):
    rows, queries, _ = drawn(size, seed)
    best = optimum(rows, queries)
    for name in ("frank_wolfe", "multiplicative"):
        design = WEIGHTED[name].solve(problem(rows, queries[:1]))
        assert best * (1 - 1e-8) <= design.objective <= best + design.gap + 1e-8 * best

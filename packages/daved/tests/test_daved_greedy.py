import numpy as np
import pytest

from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.greedy import Greedy


def posterior_variance(rows, queries, prior, owned=None):
    precision = prior * np.eye(queries.shape[1]) + rows.T @ rows
    inverse = np.linalg.inv(precision if owned is None else precision + owned)
    return np.mean([query @ inverse @ query for query in queries])


def naive_greedy(rows, queries, prior, budget, prices, costs, owned=None):
    """Try every affordable row in every step, with every variance from scratch."""
    bought, left = [], budget
    while True:
        now = posterior_variance(rows[bought], queries, prior, owned)
        values = {
            j: (now - posterior_variance(rows[[*bought, j]], queries, prior, owned)) / costs[j]
            for j in range(len(rows))
            if j not in bought and prices[j] <= left
        }
        if not values:
            return bought
        best = max(values, key=values.get)
        bought.append(best)
        left -= prices[best]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("with_owned", [False, True])
def test_greedy_is_the_greedy_that_tries_everything(seed, with_owned):
    rng = np.random.default_rng(seed)
    rows, queries = rng.standard_normal((40, 6)), rng.standard_normal((3, 6))
    prices = rng.uniform(0.5, 3, 40)
    owned = None
    if with_owned:
        have = rng.standard_normal((4, 6))
        owned = have.T @ have
    problem = Problem(
        ArrayPool(rows, chunk_size=7),
        queries,
        costs=prices,
        budget=12.0,
        prices=prices,
        owned=owned,
    )
    design = Greedy(prior=0.3).solve(problem)
    expected = naive_greedy(rows, queries, 0.3, 12.0, prices, prices, owned)
    assert design.order.tolist() == expected
    assert len(expected) >= 8
    bought = len(expected)
    np.testing.assert_allclose(
        design.objective / bought,
        posterior_variance(rows[expected], queries, 0.3, owned),
        rtol=1e-10,
    )
    assert design.weights.sum() == pytest.approx(1)
    assert set(np.flatnonzero(design.weights)) == set(expected)
    before = [step.objective for step in design.history]
    again = [
        posterior_variance(rows[expected[:k]], queries, 0.3, owned) for k in range(len(expected))
    ]
    np.testing.assert_allclose(before, again, rtol=1e-9)


def test_prices_limit_the_purchase_even_when_scores_ignore_them():
    rng = np.random.default_rng(5)
    rows, queries = rng.standard_normal((30, 4)), rng.standard_normal((1, 4))
    prices = rng.uniform(1, 4, 30)
    design = Greedy(prior=0.1).solve(Problem(ArrayPool(rows), queries, budget=9.0, prices=prices))
    expected = naive_greedy(rows, queries, 0.1, 9.0, prices, np.ones(30))
    assert design.order.tolist() == expected
    left = np.delete(prices, expected)
    assert prices[expected].sum() <= 9.0 < prices[expected].sum() + left.min()


def test_scores_are_the_slope_of_the_objective():
    rng = np.random.default_rng(6)
    rows, queries = rng.standard_normal((12, 3)), rng.standard_normal((2, 3))
    design = Greedy(prior=0.7).solve(Problem(ArrayPool(rows), queries, budget=4))

    def loss(weights):
        inverse = np.linalg.inv(0.7 / 4 * np.eye(3) + (rows.T * weights) @ rows)
        return np.mean([query @ inverse @ query for query in queries])

    np.testing.assert_allclose(loss(design.weights), design.objective, rtol=1e-12)
    for j in range(12):
        small = np.zeros(12)
        small[j] = 1e-5
        slope = (loss(design.weights - small) - loss(design.weights + small)) / 2e-5
        np.testing.assert_allclose(design.scores[j], slope, rtol=1e-6)


def test_default_prior_is_a_twentieth_of_the_mean_squared_norm():
    rng = np.random.default_rng(7)
    rows, queries = rng.standard_normal((25, 5)), rng.standard_normal((2, 5))
    problem = Problem(ArrayPool(rows), queries, budget=6)
    explicit = Greedy(prior=0.05 * np.square(rows).sum(axis=1).mean()).solve(problem)
    design = Greedy().solve(problem)
    assert design.order.tolist() == explicit.order.tolist()
    np.testing.assert_allclose(design.objective, explicit.objective, rtol=1e-12)


def test_without_a_budget_every_row_is_bought_once():
    rng = np.random.default_rng(8)
    rows, queries = rng.standard_normal((9, 3)), rng.standard_normal((1, 3))
    order = Greedy().solve(Problem(ArrayPool(rows), queries)).order
    assert sorted(order) == list(range(9))


def test_nothing_affordable_gives_an_empty_order_and_the_prior():
    rows, queries = np.eye(3), np.ones((1, 3))
    problem = Problem(ArrayPool(rows), queries, budget=0.5, prices=np.ones(3))
    design = Greedy(prior=2.0).solve(problem)
    assert design.order.tolist() == []
    assert design.weights.tolist() == [0, 0, 0]
    assert design.objective == pytest.approx(3 / 2)


def test_ties_and_duplicates_go_to_the_smallest_index():
    rows = np.array([[0.0, 1.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    design = Greedy(prior=1.0).solve(Problem(ArrayPool(rows), np.array([[1.0, 0.0]]), budget=3))
    assert design.order.tolist() == [1, 2, 3]


def test_ten_tenths_fit_in_one():
    rows = np.eye(10)
    problem = Problem(
        ArrayPool(rows),
        np.ones((1, 10)),
        budget=1.0,
        prices=np.full(10, 0.1),
        costs=np.full(10, 0.1),
    )
    assert len(Greedy(prior=1.0).solve(problem).order) == 10


def test_what_is_owned_is_not_bought_again():
    rows = np.eye(3)
    query = np.array([[1.0, 0.9, 0.0]])
    owned = 100 * np.outer(rows[0], rows[0])
    first = Greedy(prior=1.0).solve(Problem(ArrayPool(rows), query, budget=1))
    assert first.order.tolist() == [0]
    warm = Greedy(prior=1.0).solve(Problem(ArrayPool(rows), query, budget=1, owned=owned))
    assert warm.order.tolist() == [1]


def test_buying_in_two_parts_is_buying_at_once():
    rng = np.random.default_rng(9)
    rows, queries = rng.standard_normal((50, 8)), rng.standard_normal((2, 8))
    whole = Greedy(prior=0.2).solve(Problem(ArrayPool(rows), queries, budget=10)).order
    first = whole[:4]
    rest = np.setdiff1d(np.arange(50), first)
    owned = rows[first].T @ rows[first]
    second = Greedy(prior=0.2).solve(Problem(ArrayPool(rows[rest]), queries, budget=6, owned=owned))
    assert rest[second.order].tolist() == whole[4:].tolist()


def test_on_step_sees_the_purchases_as_they_come():
    rng = np.random.default_rng(10)
    rows, queries = rng.standard_normal((20, 4)), rng.standard_normal((1, 4))
    seen = []
    design = Greedy().solve(Problem(ArrayPool(rows), queries, budget=5), seen.append)
    assert tuple(seen) == design.history
    assert [step.pick for step in seen] == design.order.tolist()
    assert [step.iteration for step in seen] == list(range(5))


def test_long_purchases_do_not_drift():
    rng = np.random.default_rng(11)
    rows = rng.standard_normal((400, 10)) * np.logspace(0, -2, 10)
    queries = rng.standard_normal((3, 10)) * np.logspace(0, -2, 10)
    prior = 1e-4
    design = Greedy(prior=prior).solve(Problem(ArrayPool(rows), queries))
    np.testing.assert_allclose(
        design.objective / 400, posterior_variance(rows, queries, prior), rtol=1e-9
    )

import numpy as np
import pytest

from modicum.daved import batch
from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.frank_wolfe import FrankWolfe


def market(sizes, n=200, d=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), [rng.normal(size=(m, d)) for m in sizes]


def assert_alone(found, pool, queries, solvers, costs=None):
    assert len(found) == len(queries)
    for design, own, solver in zip(found, queries, solvers, strict=True):
        alone = solver.solve(Problem(pool, own, costs=costs))
        np.testing.assert_array_equal(design.picks, alone.picks)
        np.testing.assert_allclose(design.weights, alone.weights, rtol=1e-9)
        np.testing.assert_allclose(design.scores, alone.scores, rtol=1e-8)
        assert design.objective == pytest.approx(alone.objective, rel=1e-10)
        assert design.converged == alone.converged
        assert len(design.history) == len(alone.history)


@pytest.mark.parametrize("sizes", [[1] * 9, [2, 1, 5], [3]])
@pytest.mark.parametrize("step", ["line_search", "herding"])
def test_every_buyer_gets_what_it_would_get_alone(sizes, step, monkeypatch):
    monkeypatch.setattr(batch, "_SCORES_AT_ONCE", 400)
    rows, queries = market(sizes)
    pool, solver = ArrayPool(rows, chunk_size=64), FrankWolfe(step, 40, tol=0.3, refresh=9)
    found = batch.frank_wolfe_many(pool, queries, solver)
    assert_alone(found, pool, queries, [solver] * len(sizes))


def test_buyers_with_settings_of_their_own_and_prices():
    rows, queries = market([1, 2, 1])
    costs = np.random.default_rng(1).uniform(1, 5, len(rows))
    solvers = [
        FrankWolfe(max_iter=3),
        FrankWolfe("herding", 12, tol=0, repeat=False),
        FrankWolfe(max_iter=30, compat="reference"),
    ]
    pool = ArrayPool(rows)
    seen = []
    found = batch.frank_wolfe_many(
        pool, queries, solvers, costs=costs, on_round=lambda *at: seen.append(at)
    )
    assert_alone(found, pool, queries, solvers, costs)
    assert seen[0] == (0, 3)
    assert seen[-1] == (30, 1)


def test_a_pool_that_knows_no_groups():
    class Plain:
        def __init__(self, pool):
            self.n, self.d = pool.n, pool.d
            self.scores, self.gram = pool.scores, pool.gram
            self.rows, self.products = pool.rows, pool.products

    rows, queries = market([1, 3])
    pool, solver = Plain(ArrayPool(rows)), FrankWolfe(max_iter=10)
    assert_alone(batch.frank_wolfe_many(pool, queries, solver), pool, queries, [solver] * 2)


def test_no_buyers_and_a_wrong_number_of_solvers():
    rows, queries = market([1, 1])
    assert batch.frank_wolfe_many(ArrayPool(rows), []) == []
    with pytest.raises(ValueError, match="2 buyers, but 3 solvers"):
        batch.frank_wolfe_many(ArrayPool(rows), queries, [FrankWolfe()] * 3)

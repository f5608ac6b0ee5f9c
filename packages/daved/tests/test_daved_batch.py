"""Many buyers at once: designs in shared passes, purchases, and records that are sold once."""

from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.daved import batch
from modicum.daved.batch import batch_select
from modicum.daved.errors import DAVEDWarning, InfeasibleBudgetError
from modicum.daved.pool import ArrayPool, ScaledPool
from modicum.daved.select import select
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


# Purchases ----------------------------------------------------------------------------------------

SOLVERS = ["fw", "one_step", "greedy", "multiplicative", "exact"]
pytestmark = pytest.mark.filterwarnings(
    "ignore:the budget buys about", "ignore:[0-9]+ rows have norms above"
)


def sales(seed, sizes=(1, 3, 1, 2), n=120, d=5):
    rng = np.random.default_rng(seed)
    rows, costs = rng.normal(size=(n, d)), rng.integers(1, 6, n).astype(float)
    queries = [rng.normal(size=(m, d)) for m in sizes]
    return rows, queries, costs, rng.uniform(6, 40, len(sizes)).tolist()


def assert_sales(found, expected, rtol=1e-8):
    """Hold every field to what `select` gives: integers equal, numbers to rounding."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.indices, other.indices)
        np.testing.assert_array_equal(one.picks, other.picks)
        np.testing.assert_allclose(one.weights, other.weights, rtol=rtol)
        for name in ("scores", "fair_price", "coverage", "marginal_benefit", "prices"):
            np.testing.assert_allclose(
                getattr(one, name), getattr(other, name), rtol=1e-7, atol=1e-9, err_msg=name
            )
        assert (one.spent, one.budget) == (other.spent, other.budget)
        assert one.objective == pytest.approx(other.objective, rel=rtol)
        assert one.prior_error == pytest.approx(other.prior_error, rel=rtol)
        assert one.gap == pytest.approx(other.gap, abs=1e-7 * other.objective, nan_ok=True)
        assert one.converged == other.converged
        assert dict(one.settings) == dict(other.settings)
        assert one.lots == other.lots
        np.testing.assert_array_equal(one.bought_labels, other.bought_labels)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    priced=st.booleans(),
    options=st.sampled_from(
        [
            {},
            {"step": "herding"},
            {"cost_mode": "paper"},
            {"compat": "reference"},
            {"max_iter": 7, "repeat": False},
            {"rounding": "greedy"},
            {"rounding": "sample", "random_state": 3},
            {"fill": False, "unique": True},
            {"reg_lambda": 0.2},
            {"reg_lambda": 0.2, "ridge": "fixed"},
            {"solver": "greedy"},
            {"solver": "one_step"},
        ]
    ),
)
def test_every_sale_is_the_one_alone(seed, sizes, priced, options):
    rows, queries, costs, budgets = sales(seed, sizes)
    costs = costs if priced else None
    found = batch_select(rows, queries, budgets, costs=costs, **options)
    alone = [
        select(rows, own, budget, costs=costs, **options)
        for own, budget in zip(queries, budgets, strict=True)
    ]
    assert_sales(found, alone)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_budget_for_all_and_queries_in_one_array(solver):
    rows, _, costs, _ = sales(0)
    queries = np.random.default_rng(1).normal(size=(3, 2 if solver != "exact" else 1, 5))
    found = batch_select(rows, queries, 12, costs=costs, solver=solver)
    assert_sales(found, [select(rows, own, 12, costs=costs, solver=solver) for own in queries])


@pytest.mark.parametrize("solver", ["fw", "greedy", "multiplicative"])
def test_quotas_and_lots(solver):
    rows, queries, _, _ = sales(2)
    groups = np.arange(120) // 4
    quotas = {"groups": groups, "max_per_group": 1}
    found = batch_select(rows, queries, 9, solver=solver, **quotas)
    assert_sales(found, [select(rows, own, 9, solver=solver, **quotas) for own in queries])
    costs = (1.0 + groups % 3) * 4
    lots = {"groups": groups, "costs": costs, "solver": solver}
    found = batch_select(rows, queries, 40, **lots)
    assert_sales(found, [select(rows, own, 40, **lots) for own in queries])
    assert all(sale.lots for sale in found)


@pytest.mark.parametrize("solver", ["fw", "greedy"])
def test_what_each_buyer_owns_and_noise_and_row_weights(solver):
    rows, queries, costs, budgets = sales(3)
    rng = np.random.default_rng(0)
    owned = [rng.normal(size=(4, 5)), None, rng.normal(size=(1, 5)), None]
    shared = {
        "costs": costs,
        "solver": solver,
        "noise_var": rng.uniform(0.5, 2, 120),
        "row_weight": rng.uniform(0, 1, 120),
    }
    with pytest.warns(DAVEDWarning) if solver == "fw" else nullcontext():
        found = batch_select(rows, queries, budgets, X_owned=owned, **shared)
        alone = [
            select(rows, own, budget, X_owned=has, **shared)
            for own, budget, has in zip(queries, budgets, owned, strict=True)
        ]
    assert_sales(found, alone)


def test_features_frames_and_labels():
    pandas = pytest.importorskip("pandas")
    rows, queries, costs, budgets = sales(4)
    names = list("abcde")
    table = pandas.DataFrame(rows, columns=names, index=[f"r{i}" for i in range(120)])
    asked = [pandas.DataFrame(own, columns=names)[names[::-1]] for own in queries]
    options = {"costs": costs, "features": "standardize", "fit_intercept": True}
    found = batch_select(table, asked, budgets, **options)
    alone = [
        select(table, own, budget, **options) for own, budget in zip(asked, budgets, strict=True)
    ]
    assert_sales(found, alone)
    assert all(label.startswith("r") for label in found[0].bought_labels)


@pytest.mark.parametrize("kind", ["shards", "scaled", "tensor"])
def test_rows_in_other_forms(kind):
    torch = pytest.importorskip("torch")
    rows, queries, costs, budgets = sales(5)
    given = {
        "shards": lambda: [rows[:50], rows[50:]],
        "scaled": lambda: ScaledPool(ArrayPool(rows), np.linspace(0.5, 2, 120)),
        "tensor": lambda: torch.from_numpy(rows),
    }[kind]()
    found = batch_select(given, queries, budgets, costs=costs)
    alone = [
        select(given, own, budget, costs=costs)
        for own, budget in zip(queries, budgets, strict=True)
    ]
    assert_sales(found, alone)


def test_all_buyers_share_every_pass():
    rows, queries, _, _ = sales(6, sizes=[1] * 40)
    passes = []

    class Counting(ArrayPool):
        def chunks(self):
            passes.append(1)
            return super().chunks()

    batch_select(Counting(rows), queries, 10, max_iter=12, tol=0)
    # Information twice, scores of 12 steps and of the end, once more after a refresh at most.
    assert len(passes) <= 2 + 14


def test_a_generator_goes_from_buyer_to_buyer():
    rows, queries, _, _ = sales(7)
    options = {"rounding": "sample", "drop_floor": False}
    found = batch_select(rows, queries, 8, random_state=np.random.default_rng(5), **options)
    rng = np.random.default_rng(5)
    assert_sales(found, [select(rows, own, 8, random_state=rng, **options) for own in queries])


# What is sold once --------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    options=st.sampled_from(
        [
            {},
            {"step": "herding"},
            {"solver": "greedy"},
            {"solver": "one_step"},
            {"solver": "multiplicative", "max_iter": 20},
            {"unique": True},
        ]
    ),
)
def test_an_exclusive_sale_is_a_selection_from_what_is_left(seed, options):
    rows, queries, costs, budgets = sales(seed)
    # Two buyers who want the same.
    queries[1] = queries[0]
    found = batch_select(rows, queries, budgets, costs=costs, exclusive=True, **options)
    left = np.arange(len(rows))
    for sale, own, budget in zip(found, queries, budgets, strict=True):
        alone = select(rows[left], own, budget, costs=costs[left], **options)
        np.testing.assert_array_equal(sale.indices, left[alone.indices])
        np.testing.assert_array_equal(sale.picks, left[alone.picks])
        assert [step.pick for step in sale.history if step.pick >= 0] == sale.picks.tolist() or (
            options.get("solver") in ("one_step", "multiplicative")
        )
        sold = np.setdiff1d(np.arange(len(rows)), left)
        for name in ("weights", "scores", "fair_price"):
            values = getattr(sale, name)
            np.testing.assert_allclose(values[left], getattr(alone, name), rtol=1e-7, atol=1e-12)
            assert not values[sold].any()
        np.testing.assert_array_equal(sale.prices, costs)
        assert sale.spent == alone.spent == costs[sale.indices].sum()
        np.testing.assert_allclose(sale.predicted_error, alone.predicted_error, rtol=1e-8)
        assert len(sale.plan()) == len(sale)
        left = np.setdiff1d(left, sale.indices)
    everything = np.concatenate([sale.indices for sale in found])
    assert len(everything) == len(set(everything.tolist()))


def test_the_first_buyer_of_an_exclusive_sale_sees_all_and_nothing_else_changes():
    rows, queries, costs, budgets = sales(1)
    once = batch_select(rows, queries, budgets, costs=costs, exclusive=True)
    often = batch_select(rows, queries, budgets, costs=costs)
    assert_sales(once[:1], often[:1])
    assert once[0].to_dict().keys() == often[0].to_dict().keys()


def test_an_exclusive_sale_ends_where_nothing_is_left():
    rows, queries, _, _ = sales(2)
    whole = pytest.warns(DAVEDWarning)
    with whole, pytest.raises(InfeasibleBudgetError, match=r"nothing is left for Qs\[2\]"):
        batch_select(rows[:6], queries, [3, 3, 1, 1], exclusive=True, solver="greedy")
    costs = np.array([1.0, 1, 1, 9, 9, 9])
    with (
        whole,
        pytest.raises(
            InfeasibleBudgetError, match=r"Qs\[1\], of 3 .* budgets\[1\] 3.0 buys nothing.* 9.0"
        ),
    ):
        batch_select(rows[:6], queries[:2], 3, costs=costs, exclusive=True, solver="greedy")


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"Qs": np.ones((3, 5))}, ValueError, r"Qs has one table for each buyer"),
        ({"Qs": [np.ones(5)]}, ValueError, r"Qs\[0\] has shape \(5,\)"),
        ({"Qs": [np.ones((1, 5)), np.ones((1, 4))]}, ValueError, r"Qs\[1\] has 4 features, but X"),
        ({"Qs": [np.ones((1, 5)), np.full((1, 5), np.nan)]}, ValueError, r"Qs\[1\] has 5 values"),
        ({"Qs": [np.ones((1, 5)), np.zeros((1, 5))]}, ValueError, r"Qs\[1\] has 1 rows of zeros"),
        ({"budgets": [1.0]}, ValueError, "budgets has 1 values for 4 buyers"),
        ({"budgets": [1, 2, -1, 1]}, ValueError, r"budgets\[2\] must be positive"),
        ({"budgets": [1, 2, "x", 1]}, TypeError, r"budgets\[2\] must be a positive number"),
        (
            {"budgets": [5, 5, 5, 0.5], "costs": np.full(120, 2.0)},
            InfeasibleBudgetError,
            r"budgets\[3\] 0.5 buys nothing",
        ),
        ({"X_owned": np.ones((3, 5))}, ValueError, "X_owned has one table for each buyer"),
        ({"X_owned": [None]}, ValueError, "X_owned has 1 entries for 4 buyers"),
        (
            {"exclusive": True, "groups": np.arange(120)},
            ValueError,
            "exclusive=True sells records singly",
        ),
        ({"exclusive": True, "max_per_group": 1}, ValueError, "max_per_group .* need groups"),
        ({"solver": "frank"}, ValueError, "solver must be one of"),
        ({"costs": -np.ones(120)}, ValueError, "costs has 120 values that are not positive"),
    ],
)
def test_what_is_not_valid_is_named(changes, error, message):
    rows, queries, _, _ = sales(0)
    arguments = {"X": rows, "Qs": queries, "budgets": 10.0, **changes}
    with pytest.raises(error, match=message):
        batch_select(**arguments)


def test_queries_that_no_row_helps_are_named():
    rows, queries, _, _ = sales(0)
    rows[:, 4] = 0
    queries[1] = np.eye(5)[4:]
    with pytest.warns(DAVEDWarning), pytest.raises(ValueError, match=r"Qs\[1\]: no part of the 1"):
        batch_select(rows, queries, 5)


def test_no_buyers():
    assert batch_select(np.ones((3, 2)), [], 1.0) == []

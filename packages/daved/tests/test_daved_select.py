"""One call from rows to a purchase: units, price rules, invariances, options, bad inputs."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from modicum.daved import acquisition
from modicum.daved.acquisition import automatic_iterations, solver_by_name
from modicum.daved.errors import DAVEDWarning, InfeasibleBudgetError
from modicum.daved.features import MinMax, Shaped, Standardize, logistic_row_weight
from modicum.daved.pool import ArrayPool, ScaledPool
from modicum.daved.select import score, select
from modicum.daved.selection import Selection
from modicum.daved.solvers.base import Problem

SOLVERS = ["fw", "one_step", "multiplicative", "exact"]
pytestmark = pytest.mark.filterwarnings(
    "ignore:the budget buys about", "ignore:[0-9]+ rows have norms above"
)


def market(seed=0, n=80, d=4, m=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)), rng.integers(1, 6, n).astype(float)


def loss_of(X, Q, weights):
    return np.mean(np.diag(Q @ np.linalg.pinv((X * weights[:, None]).T @ X) @ Q.T))


def scores_of(X, Q, weights):
    return np.square(X @ np.linalg.pinv((X * weights[:, None]).T @ X) @ Q.T).mean(axis=1)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("priced", [False, True])
def test_everything_is_in_the_unit_of_weights_that_spend_the_budget(solver, priced):
    X, Q, costs = market(1)
    costs = costs if priced else None
    found = select(X, Q, 9.0, costs=costs, solver=solver, max_iter=60)
    prices = found.prices
    assert found.weights @ prices == pytest.approx(9.0)
    assert found.objective == pytest.approx(loss_of(X, Q, found.weights), rel=1e-8)
    assert found.weights @ found.scores == pytest.approx(found.objective, rel=1e-6)
    if solver != "exact":
        np.testing.assert_allclose(found.scores, scores_of(X, Q, found.weights), rtol=1e-6)
    np.testing.assert_allclose(found.fair_price, 9 * found.scores / found.objective)
    assert found.gap == pytest.approx(
        9 * (found.scores / prices).max() - found.objective, abs=1e-7 * found.objective
    )
    best = select(X, Q, 9.0, costs=costs, solver="exact").objective
    assert -1e-9 <= found.objective - best <= found.gap + 1e-9
    assert found.spent == pytest.approx(prices[found.indices].sum())
    assert found.spent <= 9


def test_at_the_optimum_what_is_in_the_design_costs_its_fair_price_and_nothing_costs_less():
    X, Q, costs = market(2)
    found = select(X, Q, 12.0, costs=costs, solver="exact")
    support = found.weights > 1e-9
    np.testing.assert_allclose(found.fair_price[support], costs[support], rtol=1e-6)
    assert (found.fair_price <= costs * (1 + 1e-6)).all()
    assert found.efficiency == pytest.approx(1)


def test_the_optimum_goes_with_one_over_the_budget():
    X, Q, costs = market(3)
    one, three = (select(X, Q, b, costs=costs, solver="exact").objective for b in (10, 30))
    assert one == pytest.approx(3 * three)


@pytest.mark.parametrize("seed", range(3))
def test_the_exact_rule_reaches_the_optimum_and_the_papers_rule_stays_away(seed):
    X, Q, costs = market(seed, n=200, d=5, m=4)
    best = select(X, Q, 30.0, costs=costs, solver="multiplicative", max_iter=3000, tol=1e-5)
    assert best.gap <= 1e-3 * best.objective
    exact, paper, paper_open_loop = (
        select(X, Q, 30.0, costs=costs, cost_mode=mode, step=step, max_iter=2000, tol=1e-6)
        for mode, step in (
            ("exact", "line_search"),
            ("paper", "line_search"),
            ("paper", "open_loop"),
        )
    )
    assert exact.objective <= 1.005 * best.objective
    assert paper.objective >= 1.2 * best.objective
    assert paper.weights @ costs == pytest.approx(30)
    assert paper.objective - best.objective <= paper.gap
    # The rule picks the right row; it is the line search over plain weights that stops too early.
    assert paper_open_loop.objective <= 1.005 * best.objective


@pytest.mark.parametrize("solver", [*SOLVERS, "greedy"])
@given(seed=st.integers(0, 10**6), power=st.sampled_from([-3, 1, 6]))
@settings(derandomize=True, deadline=None, max_examples=6)
def test_another_currency_changes_no_purchase(solver, seed, power):
    X, Q, costs = market(seed, n=30)
    rate = 2.0**power
    one = select(X, Q, 11.0, costs=costs, solver=solver)
    other = select(X, Q, 11.0 * rate, costs=costs * rate, solver=solver)
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(rate * one.fair_price, other.fair_price, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("solver", ["fw", "one_step", "greedy", "multiplicative"])
def test_the_order_of_records_and_the_size_of_queries_change_no_purchase(solver):
    X, Q, costs = market(4)
    one = select(X, Q, 11.0, costs=costs, solver=solver)
    mixed = np.random.default_rng(0).permutation(len(X))
    other = select(X[mixed], 3 * Q, 11.0, costs=costs[mixed], solver=solver)
    assert len(one) >= 2
    assert one.indices.tolist() == mixed[other.indices].tolist()
    assert other.objective == pytest.approx(9 * one.objective)


@pytest.mark.parametrize("solver", ["fw", "one_step", "multiplicative"])
def test_a_linear_map_of_rows_and_queries_changes_no_weight(solver):
    X, Q, costs = market(5)
    A = np.random.default_rng(1).normal(size=(4, 4))
    one = select(X, Q, 11.0, costs=costs, solver=solver)
    other = select(X @ A, Q @ A, 11.0, costs=costs, solver=solver)
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-6, atol=1e-9)


def test_equal_prices_are_no_prices():
    X, Q, _ = market(6)
    one = select(X, Q, 5)
    other = select(X, Q, 10, costs=np.full(80, 2.0))
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_allclose(one.weights, other.weights)
    assert other.spent == 10
    assert len(one) == 5


def test_iterations_are_twice_the_purchase_within_limits():
    prices = np.array([1.0, 2.0, 9.0])
    assert automatic_iterations(60.0, prices) == 60
    assert automatic_iterations(1.0, prices) == 20
    assert automatic_iterations(1e6, prices) == 500
    assert automatic_iterations(1e308, np.full(3, 0.1)) == 500
    assert automatic_iterations(None, prices) == 100
    X, Q, _ = market(7)
    found = select(X, Q, 30, tol=0, step="herding")
    assert len(found.history) == found.settings["max_iter"] == 60
    assert select(X, Q, 30, solver="multiplicative").settings["max_iter"] == 100


def test_herding_buys_in_the_order_of_picks():
    X, Q, _ = market(8)
    found = select(X, Q, 6, step="herding", repeat=False, tol=0)
    np.testing.assert_array_equal(found.indices, found.picks[:6])
    assert len(set(found.picks.tolist())) == len(found.picks)


def test_greedy_buys_what_its_definition_buys_on_top_of_what_is_owned():
    X, Q, costs = market(9, n=25, m=2)
    owned = np.random.default_rng(2).normal(size=(3, 4))
    prior = 0.3

    def variance(rows):
        known = np.vstack([owned, X[rows]])
        return np.mean(np.diag(Q @ np.linalg.inv(prior * np.eye(4) + known.T @ known) @ Q.T))

    expected, left = [], 9.0
    while any(costs[j] <= left for j in range(25) if j not in expected):
        options = [j for j in range(25) if j not in expected and costs[j] <= left]
        gains = [(variance(expected) - variance([*expected, j])) / costs[j] for j in options]
        expected.append(options[int(np.argmax(gains))])
        left -= costs[expected[-1]]
    found = select(X, Q, 9.0, costs=costs, solver="greedy", X_owned=owned, prior=prior)
    assert found.indices.tolist() == expected
    assert found.prior_error == pytest.approx(variance([]))
    after = [variance(expected[: k + 1]) for k in range(len(expected))]
    np.testing.assert_allclose(found.predicted_error, after)
    assert found.objective == pytest.approx(after[-1])
    assert np.isnan(found.gap)
    np.testing.assert_array_equal(np.flatnonzero(found.weights), np.sort(expected))
    other = select(X, Q, 9.0, costs=costs, solver="greedy", prior=prior)
    assert other.prior_error > found.prior_error


def test_noise_counts_as_rows_divided_by_its_deviation():
    X, Q, costs = market(10)
    noise = np.random.default_rng(3).uniform(0.2, 5, len(X))
    scaled = X / np.sqrt(noise)[:, None]
    one = select(X, Q, 10.0, costs=costs, noise_var=noise, solver="greedy")
    other = select(scaled, Q, 10.0, costs=costs, solver="greedy")
    np.testing.assert_array_equal(one.indices, other.indices)
    with pytest.warns(DAVEDWarning, match="noise_var with rounded weights"):
        one = select(X, Q, 10.0, costs=costs, noise_var=noise)
    np.testing.assert_allclose(one.weights, select(scaled, Q, 10.0, costs=costs).weights)


def test_greedy_rounding_stays_in_what_was_picked_while_that_lasts():
    X, Q, costs = market(11)
    found = select(X, Q, 10.0, costs=costs, rounding="greedy", max_iter=40)
    picked = np.unique(found.picks)
    alone = select(X[picked], Q, 10.0, costs=costs[picked], solver="greedy", prior=0.2)
    same = select(X, Q, 10.0, costs=costs, rounding="greedy", max_iter=40, prior=0.2)
    np.testing.assert_array_equal(same.indices[: len(alone)], picked[alone.indices])


def test_samples_repeat_with_the_seed_and_take_what_was_picked_first():
    X, Q, _ = market(12)
    one, again, other = (
        select(X, Q, 4, rounding="sample", random_state=seed, max_iter=30) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.indices, again.indices)
    assert one.indices.tolist() != other.indices.tolist()
    for found in (one, other):
        assert set(found.indices) <= set(found.picks) or set(found.picks) <= set(found.indices)
    free = select(X, Q, 4, rounding="sample", random_state=0, drop_floor=False, max_iter=1)
    assert not set(free.indices) <= set(free.picks)


def test_unique_buys_one_of_equal_rows_for_every_solver():
    X, Q, _ = market(13, n=20)
    X = np.vstack([X, X])
    for solver in ("fw", "greedy", "one_step", "multiplicative"):
        once = select(X, Q, 10, solver=solver, unique=True)
        if solver in ("one_step", "multiplicative"):
            twice = select(X, Q, 10, solver=solver)
            assert len(np.unique(twice.indices % 20)) == 5
        assert len(np.unique(once.indices % 20)) == len(once) == 10


@pytest.mark.parametrize("solver", ["fw", "greedy", "multiplicative"])
def test_quotas(solver):
    X, Q, costs = market(14)
    groups = np.arange(80) % 4
    found = select(
        X, Q, 40.0, costs=costs, solver=solver, groups=groups, max_per_group=5, min_per_group=2
    )
    counts = np.bincount(groups[found.indices], minlength=4)
    assert counts.min() >= 2
    assert counts.max() <= 5
    assert found.lots is None
    affordable = [
        row
        for row in range(80)
        if row not in found.indices and counts[groups[row]] < 5 and costs[row] <= 40 - found.spent
    ]
    assert not affordable


def test_lots_are_bought_whole():
    X, Q, _ = market(15)
    names = np.array(["x", "y", "z", "t", "s"])[np.arange(80) // 16]
    price = {"x": 4.0, "y": 3.0, "z": 2.0, "t": 5.0, "s": 1.0}
    costs = np.array([price[name] for name in names])
    for solver in ("fw", "multiplicative", "greedy"):
        found = select(X, Q, 7.0, costs=costs, groups=names, solver=solver)
        bought = {name for name in names[found.indices]}
        assert bought == set(found.lots)
        assert len(found) == 16 * len(bought)
        assert found.spent == pytest.approx(sum(price[name] for name in bought))
        left = 7 - found.spent
        assert all(price[name] > left - 1e-9 for name in price if name not in bought)
        order = list(dict.fromkeys(names[found.indices].tolist()))
        assert order == list(found.lots)


def test_prices_of_lots_are_exact_at_the_optimum():
    X, Q, _ = market(16, m=3)
    codes = np.arange(80) // 10
    prices = np.random.default_rng(4).uniform(1, 4, 8)
    found = select(
        X,
        Q,
        9.0,
        costs=prices[codes],
        groups=codes,
        solver="multiplicative",
        max_iter=20_000,
        tol=1e-9,
    )
    assert found.objective == pytest.approx(loss_of(X, Q, found.weights))
    assert found.weights @ found.prices == pytest.approx(9)
    fair = np.bincount(codes, found.fair_price)
    weights = np.bincount(codes, found.weights)
    used = weights > 1e-3 * weights.max()
    np.testing.assert_allclose(fair[used], prices[used], rtol=1e-3)
    assert (fair <= prices * (1 + 1e-6)).all()


def test_reference_settings_stop_below_the_budget_and_break_ties_from_above():
    X, Q, costs = market(17)
    found = select(X, Q, 4, compat="reference")
    assert found.spent == 3
    assert found.settings["cost_mode"] == "paper"
    untouched = np.setdiff1d(np.arange(80), found.picks)
    long = select(X, Q, 60, compat="reference", max_iter=10)
    rest = [row for row in long.indices if row not in long.picks]
    untouched = np.setdiff1d(np.arange(80), long.picks)
    assert rest == sorted(untouched.tolist(), reverse=True)[: len(rest)]
    first = select(X, Q, 12.0, costs=costs, compat="reference")
    assert first.spent < 12


def test_features_rows_and_queries_are_shaped_alike():
    X, Q, _ = market(18, m=2)
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    one = select(X, Q, 6, normalize="l2")
    np.testing.assert_allclose(one.weights, select(unit(X), unit(Q), 6).weights)
    ones = np.ones((80, 1))
    one = select(X, Q, 6, fit_intercept=True)
    other = select(np.hstack([X, ones]), np.hstack([Q, ones[:2]]), 6)
    np.testing.assert_allclose(one.weights, other.weights)
    shrink = np.minimum(1, 1.5 / np.linalg.norm(X, axis=1))[:, None]
    short_Q = Q * np.minimum(1, 1.5 / np.linalg.norm(Q, axis=1))[:, None]
    one = select(X, Q, 6, max_norm=1.5)
    np.testing.assert_allclose(one.weights, select(X * shrink, short_Q, 6).weights)


def test_an_inflated_seller_is_noticed_and_bounded():
    rng = np.random.default_rng(19)
    X = rng.normal(size=(300, 8))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    X[:15] *= 4
    Q = rng.normal(size=(1, 8))
    with pytest.warns(DAVEDWarning, match="15 rows have norms above"):
        fooled = select(X, Q, 10)
    bounded = select(X, Q, 10, normalize="l2")
    assert (fooled.indices < 15).mean() > 0.5
    assert (bounded.indices < 15).mean() < 0.3


def test_frames_shards_and_pools_give_the_same_and_labels_are_kept():
    pandas = pytest.importorskip("pandas")
    X, Q, costs = market(20)
    one = select(X, Q, 9.0, costs=costs)
    shards = select([X[:30], X[30:]], Q, 9.0, costs=list(costs), chunk_size=7)
    pool = select(ArrayPool(X), Q, 9.0, costs=costs)
    names = [f"r{row}" for row in range(80)]
    frame = pandas.DataFrame(X, columns=list("abcd"), index=names)
    # Columns in another order are put right by name.
    framed = select(frame, pandas.DataFrame(Q[:, ::-1], columns=list("dcba")), 9.0, costs=costs)
    for other in (shards, pool, framed):
        np.testing.assert_array_equal(one.indices, other.indices)
        np.testing.assert_allclose(one.weights, other.weights, rtol=1e-6)
    assert [row.label for row in framed.plan()] == [names[row] for row in one.indices]


def test_a_selection_of_a_run_goes_into_json_and_back():
    X, Q, costs = market(21)
    for changes in ({}, {"solver": "greedy"}, {"groups": np.arange(80) // 8}):
        price = np.ones(80) if "groups" in changes else costs
        found = select(X, Q, 5.0, costs=price, **changes)
        assert Selection.from_json(found.to_json()) == found
        assert found.plan()[-1].spent == pytest.approx(found.spent)


def test_what_was_never_picked_follows_by_its_score_per_price():
    X, Q, costs = market(33)
    for prices in (None, costs):
        found = select(X, Q, 60.0, costs=prices, max_iter=5, tol=0)
        picked = [row for row in found.indices if row in found.picks]
        rest = [row for row in found.indices if row not in found.picks]
        assert found.indices.tolist() == picked + rest
        assert len(rest) > 10
        worth = (found.scores / found.prices)[rest]
        assert (np.diff(worth) <= 1e-12).all()
        # Equal rows have equal scores, and the first of them goes first.
        twins = select(np.vstack([X, X]), Q, 60.0, max_iter=5, tol=0).indices.tolist()
        both = [row for row in twins if row < 80 and row + 80 in twins]
        assert len(both) > 10
        assert all(twins.index(row) < twins.index(row + 80) for row in both)


def least_loss(X, Q, constant, costs, budget):
    """Give the optimum over weights that spend a budget, beside a constant, in shares of it."""
    rows = X / np.sqrt(costs)[:, None]

    def loss(share):
        inverse = np.linalg.inv(constant + budget * (rows.T * share) @ rows)
        return np.mean(np.diag(Q @ inverse @ Q.T))

    def slope(share):
        inverse = np.linalg.inv(constant + budget * (rows.T * share) @ rows)
        return -budget * np.square(rows @ inverse @ Q.T).mean(axis=1)

    return minimize(
        loss,
        np.full(len(X), 1 / len(X)),
        jac=slope,
        method="SLSQP",
        bounds=[(0, 1)] * len(X),
        constraints={"type": "eq", "fun": lambda u: u.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-13, "maxiter": 1000},
    ).fun


@pytest.mark.parametrize("solver", ["fw", "multiplicative"])
@pytest.mark.parametrize("prices", ["one", "two", "many"])
def test_what_is_owned_counts_beside_what_the_budget_buys(solver, prices):
    X, Q, costs = market(34, n=20, m=2)
    costs = {"one": np.ones(20), "two": np.full(20, 2.0), "many": costs[:20]}[prices]
    owned = np.random.default_rng(6).normal(size=(3, 4)) * 2
    known = owned.T @ owned
    for budget in (3.0, 30.0):
        found = select(
            X, Q, budget, costs=costs, solver=solver, X_owned=owned, max_iter=600, tol=1e-3
        )
        weights = found.weights
        assert weights @ costs == pytest.approx(budget)
        inverse = np.linalg.inv(known + (X.T * weights) @ X)
        assert found.objective == pytest.approx(np.mean(np.diag(Q @ inverse @ Q.T)), rel=1e-8)
        scores = np.square(X @ inverse @ Q.T).mean(axis=1)
        np.testing.assert_allclose(found.scores, scores, rtol=1e-6)
        assert found.gap == pytest.approx(
            budget * (scores / costs).max() - weights @ scores, abs=1e-8
        )
        best = least_loss(X, Q, known, costs, budget)
        assert -1e-7 * best <= found.objective - best <= found.gap + 1e-7 * best
        assert found.objective <= 1.01 * best
        np.testing.assert_allclose(found.fair_price, budget * scores / (weights @ scores))
        # What is known already makes another design best.
        blind = select(X, Q, budget, costs=costs, solver=solver, max_iter=600, tol=1e-3)
        inverse = np.linalg.inv(known + (X.T * blind.weights) @ X)
        assert np.mean(np.diag(Q @ inverse @ Q.T)) > found.objective


def test_a_purchase_on_top_of_what_is_owned_leaves_out_what_is_known():
    # One of two directions is known well: all is spent on the other.
    X = np.array([[1.0, 0.0], [0.0, 1.0]] * 10)
    Q = np.array([[1.0, 1.0]])
    owned = 100 * np.array([[1.0, 0.0]])
    for solver in ("fw", "multiplicative"):
        found = select(X, Q, 6, solver=solver, X_owned=owned, max_iter=200)
        assert found.weights[::2].sum() < 0.1
        assert (found.indices % 2 == 1).all()


@pytest.mark.parametrize("solver", ["fw", "multiplicative"])
@pytest.mark.parametrize("priced", [False, True])
def test_a_fixed_ridge_stays_in_the_information(solver, priced):
    X, Q, costs = market(35, n=20, m=2)
    costs = costs[:20] if priced else np.ones(20)
    share, budget = 0.3, 10.0
    ridge = share * np.diag(X.std(axis=0)) * (1 / costs).mean()
    found = select(
        X,
        Q,
        budget,
        costs=costs,
        solver=solver,
        reg_lambda=share,
        ridge="fixed",
        max_iter=600,
        tol=1e-3,
    )

    def inverse_at(weights):
        return np.linalg.inv(budget * ridge + (1 - share) * (X.T * weights) @ X)

    inverse = inverse_at(found.weights)
    assert found.objective == pytest.approx(np.mean(np.diag(Q @ inverse @ Q.T)), rel=1e-8)
    scores = (1 - share) * np.square(X @ inverse @ Q.T).mean(axis=1)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-6)
    best = least_loss(np.sqrt(1 - share) * X, Q, budget * ridge, costs, budget)
    assert -1e-7 * best <= found.objective - best <= found.gap + 1e-7 * best
    assert found.objective <= 1.01 * best
    plain = select(X, Q, budget, costs=costs, solver=solver, max_iter=600, tol=1e-3)
    inverse = inverse_at(plain.weights)
    assert np.mean(np.diag(Q @ inverse @ Q.T)) > found.objective


def test_a_fixed_ridge_and_owned_records_add_up():
    X, Q, _ = market(36, n=20)
    owned = np.random.default_rng(7).normal(size=(2, 4))
    ridge = 0.2 * np.diag(X.std(axis=0))
    for solver in ("fw", "multiplicative"):
        found = select(
            X, Q, 8, solver=solver, X_owned=owned, reg_lambda=0.2, ridge="fixed", max_iter=600
        )
        known = owned.T @ owned + 8 * ridge
        best = least_loss(np.sqrt(0.8) * X, Q, known, np.ones(20), 8)
        assert best * (1 - 1e-7) <= found.objective <= 1.01 * best
        assert found.objective - best <= found.gap + 1e-7 * best


@pytest.mark.parametrize("ridge", ["decay", "fixed"])
def test_a_ridge_is_the_same_in_another_currency(ridge):
    X, Q, costs = market(37)
    one = select(X, Q, 11.0, costs=costs, reg_lambda=0.3, ridge=ridge)
    other = select(X, Q, 44.0, costs=4 * costs, reg_lambda=0.3, ridge=ridge)
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-6, atol=1e-9)
    # As it is where prices are equal and so no prices.
    costs = 3.0 * (1 + 1e-9 * np.arange(80))
    one = select(X, Q, 11.0, reg_lambda=0.3, ridge=ridge)
    other = select(X, Q, 33.0, costs=costs, reg_lambda=0.3, ridge=ridge)
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-5, atol=1e-7)


def test_without_a_share_a_fixed_ridge_is_none():
    X, Q, _ = market(38)
    one, other = select(X, Q, 7), select(X, Q, 7, ridge="fixed")
    np.testing.assert_array_equal(one.weights, other.weights)


def test_too_many_features_to_invert_in_every_step_are_refused(monkeypatch):
    monkeypatch.setattr(acquisition, "MOST_FEATURES_TO_INVERT", 3)
    X, Q, _ = market(39)
    for changes in ({"X_owned": X[:2]}, {"ridge": "fixed", "reg_lambda": 0.1}):
        with pytest.raises(ValueError, match="d is 4, at most 3; take solver='multiplicative'"):
            select(X, Q, 5, **changes)
        select(X, Q, 5, solver="multiplicative", **changes)


@pytest.mark.parametrize("solver", [*SOLVERS, "greedy"])
def test_row_weights_multiply_the_information_of_rows(solver):
    X, Q, costs = market(40)
    probabilities = np.random.default_rng(8).uniform(0.02, 0.98, len(X))
    weight = probabilities * (1 - probabilities)
    np.testing.assert_allclose(weight, logistic_row_weight(probabilities))
    one = select(X, Q, 10.0, costs=costs, row_weight=weight, solver=solver)
    other = select(X * np.sqrt(weight)[:, None], Q, 10.0, costs=costs, solver=solver)
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-6, atol=1e-9)
    assert one.objective == pytest.approx(other.objective)
    if solver != "greedy":
        found = score(X, Q, costs=costs, row_weight=weight, solver=solver)
        expected = score(X * np.sqrt(weight)[:, None], Q, costs=costs, solver=solver)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_row_weights_and_noise_go_together_and_a_weight_of_0_buys_nothing_of_use():
    X, Q, _ = market(41)
    rng = np.random.default_rng(9)
    weight, noise = rng.uniform(0, 1, 80), rng.uniform(0.5, 2, 80)
    one = select(X, Q, 5, row_weight=weight, noise_var=noise, solver="greedy")
    other = select(X, Q, 5, noise_var=noise / weight, solver="greedy")
    np.testing.assert_array_equal(one.indices, other.indices)
    weight = np.ones(80)
    weight[select(X, Q, 5).indices] = 0
    assert not (weight[select(X, Q, 5, row_weight=weight).indices] == 0).any()


def test_functions_get_the_records_as_they_are_given():
    texts = ["a", "bb", "ccc", "dddd"] * 5
    lengths = lambda many: np.array([[len(text), 1.0] for text in many])  # noqa: E731
    found = select(texts, ["ee"], 3, features=lengths)
    assert len(found) == 3
    seen = []

    def spy(records):
        seen.append(records)
        return np.asarray(records)

    X, Q, _ = market(42)
    given = X.tolist()
    select(given, Q, 3, features=spy)
    assert seen[0] is given


def test_names_are_matched_for_maps_of_rows_however_they_are_made():
    pandas = pytest.importorskip("pandas")
    X, Q, _ = market(43)
    frame = pandas.DataFrame(X, columns=list("abcd"))
    turned = pandas.DataFrame(Q, columns=list("abcd"))[list("dbca")]
    for features in ("standardize", Standardize(), Shaped(MinMax(), fit_intercept=True)):
        one = select(frame, turned, 5, features=features)
        np.testing.assert_allclose(
            one.weights, select(X, Q, 5, features=features).weights, rtol=1e-9
        )


def test_every_iteration_is_shown():
    X, Q, _ = market(22)
    for changes in ({}, {"solver": "greedy"}, {"groups": np.arange(80) // 8}):
        seen = []
        found = select(X, Q, 5, on_step=seen.append, **changes)
        assert [step.pick for step in seen] == [step.pick for step in found.history]
        assert seen


def test_a_ridge_at_the_start_changes_the_run_and_vanishes_with_its_share():
    X, Q, _ = market(23)
    plain, tiny, large = (select(X, Q, 6, reg_lambda=x) for x in (0.0, 1e-10, 0.5))
    np.testing.assert_allclose(plain.weights, tiny.weights, rtol=1e-5)
    assert not np.allclose(plain.weights, large.weights, rtol=1e-3)


def test_scores_of_one_step_sum_to_the_loss_of_everything():
    X, Q, costs = market(24, m=3)
    found = score(X, Q)
    np.testing.assert_allclose(found, scores_of(X, Q, np.ones(80)))
    assert found.sum() == pytest.approx(loss_of(X, Q, np.ones(80)))
    np.testing.assert_allclose(score(X, Q, costs=costs), found / costs)


@pytest.mark.parametrize("solver", ["fw", "multiplicative", "exact"])
def test_scores_at_a_design_are_per_currency(solver):
    X, Q, costs = market(25)
    found = score(X, Q, costs=costs, solver=solver, max_iter=300)
    design = select(X, Q, 10.0, costs=costs, solver=solver, max_iter=300)
    np.testing.assert_allclose(found, 100 * design.scores / costs, rtol=1e-5, atol=1e-9)


def test_a_scaled_pool_is_a_pool_of_scaled_rows():
    X, Q, costs = market(26, m=2)
    weights = np.random.default_rng(5).random(80)
    one, other = ScaledPool(ArrayPool(X), costs), ArrayPool(X, costs)
    np.testing.assert_allclose(one.scores(Q.T), other.scores(Q.T))
    np.testing.assert_allclose(one.gram(), other.gram())
    np.testing.assert_allclose(one.gram(weights), other.gram(weights))
    np.testing.assert_allclose(one.rows([3, 1]), other.rows([3, 1]))
    np.testing.assert_allclose(one.products(Q.T), other.products(Q.T))
    problems = [Problem(pool, Q) for pool in (one, other)]
    first, second = (solver_by_name("fw").solve(problem) for problem in problems)
    np.testing.assert_allclose(first.weights, second.weights)


BAD = {
    "solver": ({"solver": "frank"}, "solver must be one of 'fw'"),
    "step": ({"step": "linesearch"}, "did you mean 'line_search'"),
    "fixed step": ({"step": 1.0}, r"number in \(0, 1\), not 1\.0"),
    "rounding": ({"rounding": "top"}, "rounding must be one of"),
    "cost_mode": ({"cost_mode": "exakt"}, "did you mean 'exact'"),
    "max_iter": ({"max_iter": "all"}, "max_iter must be 'auto' or an integer, not 'all'"),
    "no iterations": ({"max_iter": 0}, "max_iter must be at least 1"),
    "tol": ({"tol": -1.0}, r"tol must be in \[0, 1\)"),
    "lambda": ({"reg_lambda": 1.0}, r"reg_lambda must be in \[0, 1\)"),
    "prior": ({"prior": 0.0}, "prior must be positive"),
    "compat": ({"compat": "paper"}, "compat must be one of 'reference'"),
    "budget": ({"budget": -1}, "budget must be positive"),
    "costs": ({"costs": np.ones(3)}, r"costs has shape \(3,\)"),
    "negative": ({"costs": -np.ones(80)}, "not positive"),
    "paper elsewhere": ({"cost_mode": "paper", "solver": "exact"}, "needs solver='fw'"),
    "lambda elsewhere": ({"reg_lambda": 0.1, "solver": "greedy"}, "reg_lambda needs solver='fw'"),
    "sampled greedy": ({"solver": "greedy", "rounding": "sample"}, "has not"),
    "owned": (
        {"X_owned": np.ones((2, 4)), "solver": "exact"},
        "X_owned needs solver='fw', 'multiplicative', 'greedy', not 'exact'",
    ),
    "owned in one step": ({"X_owned": np.ones((2, 4)), "solver": "one_step"}, "not 'one_step'"),
    "owned by the paper": (
        {"X_owned": np.ones((2, 4)), "cost_mode": "paper"},
        "X_owned is not for cost_mode='paper'",
    ),
    "owned as published": (
        {"X_owned": np.ones((2, 4)), "compat": "reference"},
        "X_owned is not for compat='reference'",
    ),
    "owned and a decaying ridge": (
        {"X_owned": np.ones((2, 4)), "reg_lambda": 0.1},
        "X_owned with reg_lambda needs ridge='fixed'",
    ),
    "owned lots": (
        {"X_owned": np.ones((2, 4)), "groups": np.arange(80) // 8},
        "X_owned with solver='fw' is not for lots",
    ),
    "owned holes": ({"X_owned": np.full((2, 4), np.nan)}, "X_owned has 8 values that are NaN"),
    "ridge": ({"ridge": "fix"}, "ridge must be one of 'decay', 'fixed'"),
    "fixed ridge elsewhere": (
        {"ridge": "fixed", "reg_lambda": 0.1, "solver": "exact"},
        "ridge='fixed' needs solver='fw', 'multiplicative', not 'exact'",
    ),
    "fixed ridge as published": (
        {"ridge": "fixed", "reg_lambda": 0.1, "compat": "reference"},
        "ridge='fixed' is not for compat='reference'",
    ),
    "row weights": ({"row_weight": np.ones(3)}, r"row_weight has shape \(3,\)"),
    "negative weight": ({"row_weight": -np.ones(80)}, "row_weight has 80 values below 0"),
    "no weight": ({"row_weight": np.zeros(80)}, "row_weight is 0 for all"),
    "device": ({"device": "moon"}, "device must be"),
    "dtype": ({"dtype": "int8"}, "dtype must be one of 'float64', 'float32'"),
    "owned features": ({"X_owned": np.ones((2, 3)), "solver": "greedy"}, "X_owned has 3 features"),
    "noise": ({"noise_var": np.zeros(80)}, "noise_var has 80 values that are not positive"),
    "quotas": ({"max_per_group": 1}, "need groups"),
    "crossed": (
        {"groups": np.zeros(80), "max_per_group": 1, "min_per_group": 2},
        "min_per_group=2 is above max_per_group=1",
    ),
    "mixed lot": ({"groups": np.arange(80) // 2, "costs": np.arange(1, 81)}, "costs mixes prices"),
    "lot solver": ({"groups": np.zeros(80), "solver": "exact"}, "solver of lots must be one of"),
    "lots of the reference": (
        {"groups": np.zeros(80), "compat": "reference"},
        "compat='reference' is not for lots",
    ),
    "lots without repeat": ({"groups": np.zeros(80), "repeat": False}, "repeat=False is not for"),
    "chunks of none": ({"chunk_size": 0}, "chunk_size must be at least 1"),
    "lot step": ({"groups": np.zeros(80), "step": "herding"}, "is not for lots"),
    "normalize": ({"normalize": "l1"}, "normalize"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused_by_name(name):
    X, Q, _ = market()
    changes, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        select(X, Q, **({"budget": 5} | changes))


def test_bad_data_are_refused_by_name():
    X, Q, _ = market()
    hole = X.copy()
    hole[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"X has 1 values .* \(3, 1\)"):
        select(hole, Q, 5)
    with pytest.raises(ValueError, match="Q has 3 features, but X has 4"):
        select(X, Q[:, :3], 5)
    with pytest.raises(ValueError, match="Q has 3 features, but X has 4"):
        select(ArrayPool(X), Q[:, :3], 5)
    with pytest.raises(ValueError, match="Q has 1 rows of zeros"):
        select(X, 0 * Q, 5)
    with pytest.raises(ValueError, match="X is a pool"):
        select(ArrayPool(X), Q, 5, normalize="l2")
    with pytest.raises(InfeasibleBudgetError, match=r"the cheapest price is 2\.0"):
        select(X, Q, 1, costs=np.full(80, 2.0))
    with pytest.raises(ValueError, match="solver must be one of"):
        score(X, Q, solver="greedy")


def test_warnings_come_where_they_are_due_and_name_this_file():
    X, Q, _ = market(27, n=200, d=4)
    X[:, 3] = 0
    with pytest.warns(DAVEDWarning) as caught:
        select(X, Q, 10)
    messages = [str(item.message) for item in caught]
    assert any("rank 3 in 4 features" in message for message in messages)
    assert any("coverage below 0.99" in message for message in messages)
    assert {item.filename for item in caught} == {__file__}
    X, Q, _ = market(28, n=300, d=4, m=40)
    with pytest.warns(DAVEDWarning, match="40 queries in one design"):
        select(X, Q, 10)


@pytest.mark.filterwarnings("default:the budget buys about")
def test_converged_weights_for_fewer_records_than_features_are_warned_of():
    X, Q, _ = market(29, n=100, d=6)
    for changes in ({"solver": "multiplicative"}, {"max_iter": 90, "tol": 0}):
        with pytest.warns(DAVEDWarning, match="about 3 records, fewer than the 6 features"):
            select(X, Q, 3, **changes)
    for changes in ({}, {"solver": "greedy"}, {"solver": "multiplicative", "rounding": "greedy"}):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            select(X, Q, 3, **changes)


def test_integers_booleans_and_more_budget_than_records():
    rng = np.random.default_rng(30)
    X, Q = rng.integers(-3, 4, size=(40, 3)), np.array([[1, 0, 1]])
    np.testing.assert_array_equal(
        select(X, Q, 5).indices, select(X.astype(float), Q.astype(float), 5).indices
    )
    assert sorted(select(X, Q, 100).indices.tolist()) == list(range(40))
    assert len(select(X > 0, Q > 0, 5)) == 5


@pytest.mark.parametrize("solver", [*SOLVERS, "greedy"])
def test_queries_that_no_seller_can_help_are_refused(solver):
    X, _, _ = market()
    X[:, 3] = 0
    with pytest.raises(ValueError, match="no part of the 1 queries lies in the span"):
        select(X, np.array([[0.0, 0, 0, 1]]), 3, solver=solver)


@pytest.mark.parametrize("solver", ["fw", "greedy"])
def test_equal_rows_are_those_of_equal_features_whatever_their_noise_and_weight(solver):
    X, Q, _ = market(3, n=20, d=3)
    doubled = np.concatenate([X, X])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DAVEDWarning)
        for of_records in ("noise_var", "row_weight"):
            values = {of_records: np.random.default_rng(5).uniform(0.5, 2, 40)}
            once = select(doubled, Q, 20, solver=solver, unique=True, **values)
            assert sorted(once.indices % 20) == list(range(20))
        # Longer and noisier by the same factor: as much information, but another row.
        longer = select(
            np.concatenate([X, 2 * X]),
            Q,
            40,
            solver=solver,
            unique=True,
            noise_var=np.repeat([1.0, 4.0], 20),
        )
    assert len(longer) == 40


def greedy_that_stops(X, Q, prices, budget, prior):
    bought, inverse = [], np.linalg.inv(prior * np.eye(X.shape[1]))
    while len(bought) < len(X):
        gains = np.square(X @ inverse @ Q.T).mean(axis=1) / (
            1 + np.einsum("nd,de,ne->n", X, inverse, X)
        )
        gains[bought] = -1
        best = int(np.argmax(gains / prices))
        if prices[[*bought, best]].sum() > budget:
            break
        bought.append(best)
        inverse = np.linalg.inv(np.linalg.inv(inverse) + np.outer(X[best], X[best]))
    return bought


def test_greedy_purchases_end_at_the_first_that_does_not_fit_where_nothing_is_filled_up():
    shorter = 0
    for seed in range(10):
        X, Q, prices = market(seed, n=30, d=4, m=2)
        filled, stopped = (
            select(X, Q, 11, costs=prices, solver="greedy", prior=0.2, fill=fill)
            for fill in (True, False)
        )
        expected = greedy_that_stops(X, Q, prices, 11, 0.2)
        assert stopped.indices.tolist() == expected
        assert filled.indices[: len(expected)].tolist() == expected
        lots = select(
            X, Q, 11, costs=prices, solver="greedy", prior=0.2, groups=np.arange(30), fill=False
        )
        assert lots.indices.tolist() == expected
        shorter += len(stopped) < len(filled)
    assert shorter


def test_rows_whose_squares_leave_float64_are_refused_by_name():
    X, Q, _ = market()
    with pytest.raises(ValueError, match="X has 80 rows whose squared values are beyond float64"):
        select(1e200 * X, Q, 3)
    for size in (1e200, 1e-200):
        with pytest.raises(ValueError, match="Q has 1 rows whose squared values are beyond"):
            select(X, size * Q, 3)

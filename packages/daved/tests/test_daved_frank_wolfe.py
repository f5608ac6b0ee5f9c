from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import linprog, minimize_scalar

from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.frank_wolfe import FrankWolfe, SparseWeights
from modicum.daved.solvers.one_step import OneStep


def market(n, d, m, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, rng.normal(size=(m, d)) / np.sqrt(d)


def loss_of(weights, rows, queries):
    information = rows.T @ (weights[:, None] * rows)
    return np.mean([q @ np.linalg.pinv(information) @ q for q in queries])


def optimum(rows, query):
    """Solve the design problem of one query exactly: a least absolute sum."""
    found = linprog(np.ones(2 * len(rows)), A_eq=np.hstack([rows.T, -rows.T]), b_eq=query)
    return found.fun**2


@pytest.mark.parametrize("step", ["line_search", "open_loop", "herding", 0.02])
@pytest.mark.parametrize(("n", "d", "m"), [(40, 5, 1), (30, 4, 3), (300, 12, 2)])
def test_what_is_reported_is_true_of_the_weights(step, n, d, m):
    rows, queries = market(n, d, m)
    found = FrankWolfe(step, 37, tol=0, refresh=10).solve(Problem(ArrayPool(rows), queries))
    assert found.weights.sum() == pytest.approx(1, abs=1e-12)
    assert found.weights.min() >= 0
    assert found.objective == pytest.approx(loss_of(found.weights, rows, queries), rel=1e-9)
    assert found.weights @ found.scores == pytest.approx(found.objective, rel=1e-9)
    assert found.gap == pytest.approx(found.scores.max() - found.objective)
    assert len(found.picks) == len(found.history) == 37
    untouched = np.setdiff1d(np.arange(n), found.picks)
    np.testing.assert_allclose(found.weights[untouched], found.floor)


def test_the_certificate_is_above_the_true_gap_in_every_step():
    rows, queries = market(400, 8, 1, seed=3)
    best = optimum(rows, queries[0])
    found = FrankWolfe(max_iter=400, tol=0).solve(Problem(ArrayPool(rows), queries))
    for step in found.history:
        assert -1e-9 <= step.objective - best <= step.gap + 1e-9
    losses = [step.objective for step in found.history]
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(losses))
    assert found.objective <= 1.1 * best


def test_it_stops_at_the_tolerance():
    rows, queries = market(200, 4, 2)
    found = FrankWolfe("open_loop", 20_000, tol=0.02).solve(Problem(ArrayPool(rows), queries))
    assert found.converged
    assert found.gap <= 0.02 * found.objective
    assert len(found.picks) < 20_000


def test_rank_one_updates_do_not_drift():
    rows, queries = market(300, 10, 2)
    rows = rows * np.logspace(0, -2, 10)
    queries = queries * np.logspace(0, -2, 10)
    found = FrankWolfe(max_iter=1500, tol=0, refresh=0).solve(Problem(ArrayPool(rows), queries))
    assert found.objective == pytest.approx(loss_of(found.weights, rows, queries), rel=1e-6)


def test_rows_may_be_permuted_and_features_transformed():
    rows, queries = market(60, 5, 2)
    mix = np.random.default_rng(1).normal(size=(5, 5))
    plain = FrankWolfe(max_iter=15).solve(Problem(ArrayPool(rows), queries))
    mixed = FrankWolfe(max_iter=15).solve(Problem(ArrayPool(rows @ mix), queries @ mix))
    np.testing.assert_array_equal(plain.picks, mixed.picks)
    assert mixed.objective == pytest.approx(plain.objective, rel=1e-8)
    order = np.random.default_rng(2).permutation(60)
    moved = FrankWolfe(max_iter=15).solve(Problem(ArrayPool(rows[order]), queries))
    np.testing.assert_array_equal(order[moved.picks], plain.picks)
    longer = FrankWolfe(max_iter=15).solve(Problem(ArrayPool(rows), 3 * queries))
    np.testing.assert_array_equal(longer.picks, plain.picks)
    assert longer.objective == pytest.approx(9 * plain.objective, rel=1e-12)


def test_rows_on_the_disk_in_shards_and_chunks(tmp_path):
    rows, queries = market(50, 6, 2)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    plain = FrankWolfe(max_iter=20).solve(Problem(ArrayPool(rows), queries))
    parts = ArrayPool([mapped[:7], mapped[7:30], mapped[30:]], chunk_size=4)
    found = FrankWolfe(max_iter=20).solve(Problem(parts, queries))
    np.testing.assert_array_equal(found.picks, plain.picks)
    np.testing.assert_allclose(found.weights, plain.weights, rtol=1e-9)


def test_no_row_twice():
    rows, queries = market(20, 4, 1)
    problem = Problem(ArrayPool(rows), queries)
    found = FrankWolfe("herding", 50, tol=-np.inf, repeat=False).solve(problem)
    assert sorted(found.picks) == list(range(20))


def test_ties_go_to_the_smallest_index():
    rows, queries = market(8, 3, 1)
    found = FrankWolfe(max_iter=1).solve(Problem(ArrayPool(np.tile(rows, (3, 1))), queries))
    assert found.picks[0] < 8


def test_costs_divide_the_scores():
    rows, queries = market(30, 4, 1)
    costs = np.linspace(1, 9, 30)
    first = FrankWolfe(max_iter=0).solve(Problem(ArrayPool(rows), queries))
    found = FrankWolfe(max_iter=1).solve(Problem(ArrayPool(rows), queries, costs=costs))
    assert found.picks[0] == np.argmax(first.scores / costs)


def test_published_behaviour_stalls_where_ours_goes_on():
    rows, queries = market(1000, 30, 1)
    problem = Problem(ArrayPool(rows), queries)
    published = FrankWolfe(max_iter=200, compat="reference").solve(problem)
    ours = FrankWolfe(max_iter=200).solve(problem)
    stalled = [step.objective for step in published.history]
    assert len(stalled) == 200
    assert stalled[40] / published.objective < 1.02
    assert ours.objective < 0.7 * published.objective
    assert ours.objective < 1.25 * optimum(rows, queries[0])


def published_run(rows, queries, steps, costs, start):
    """Follow the published procedure: a numeric search that always sees the first loss."""
    n = len(rows)
    weights = np.full(n, 1 / n)
    inverse = np.linalg.pinv(start)
    first_loss = np.mean([q @ inverse @ q for q in queries])
    for _ in range(steps):
        scores = np.square(rows @ inverse @ queries.T).mean(axis=1)
        row = int(np.argmax(scores / costs))
        column = inverse @ rows[row]
        leverage = rows[row] @ column

        def loss(alpha, score=scores[row], leverage=leverage):
            return (first_loss - alpha * score / (1 - alpha + alpha * leverage)) / (1 - alpha)

        alpha = minimize_scalar(loss, bounds=(0, 0.9), method="bounded").x
        weights *= 1 - alpha
        weights[row] += alpha
        inverse = inverse / (1 - alpha)
        column = inverse @ rows[row]
        inverse -= alpha * np.outer(column, column) / (1 + alpha * rows[row] @ column)
    return weights


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("priced", [False, True])
def test_published_behaviour_is_that_of_a_numeric_search_with_the_first_loss(seed, share, priced):
    rows, queries = market(500, 12, 1 + seed, seed)
    costs = np.random.default_rng(seed).integers(1, 6, 500) if priced else np.ones(500)
    regulariser = np.diag(rows.std(axis=0))
    start = (1 - share) * rows.T @ rows / 500 + share * regulariser
    expected = published_run(rows, queries, 60, costs, start)
    found = FrankWolfe(
        max_iter=60, compat="reference", regulariser=regulariser, reg_lambda=share
    ).solve(Problem(ArrayPool(rows), queries, costs=costs if priced else None))
    assert np.corrcoef(found.weights, expected)[0, 1] > 0.999
    top = np.argsort(-found.weights, kind="stable")[:10]
    assert set(top) == set(np.argsort(-expected, kind="stable")[:10])


@pytest.mark.parametrize("scales", [np.ones(6), np.logspace(0, -6, 6)])
def test_a_start_that_almost_vanishes_loses_no_direction(scales):
    rows, queries = market(60, 6, 1)
    rows, queries = rows * scales, queries * scales
    found = FrankWolfe(0.9, 500, tol=-np.inf).solve(Problem(ArrayPool(rows), queries))
    assert len(found.picks) < 500
    assert 60 * found.floor == pytest.approx(1e-10)
    assert found.weights @ found.scores == pytest.approx(found.objective, rel=1e-6)
    unit, unit_queries = rows / scales, queries / scales
    expected = loss_of(found.weights, unit, unit_queries)
    assert found.objective == pytest.approx(expected, rel=1e-4)


def test_a_query_that_a_row_answers_alone():
    rows = np.eye(3)[[0, 1, 2, 0]] * np.array([[1.0], [1], [1], [3]])
    found = FrankWolfe(max_iter=50, tol=0).solve(Problem(ArrayPool(rows), 2 * np.eye(3)[:1]))
    assert set(found.picks) == {3}
    assert found.objective == pytest.approx((2 / 3) ** 2, rel=1e-6)


def test_queries_outside_the_span_of_the_rows_have_no_loss():
    rows = np.eye(3)[[0, 1, 0]]
    found = FrankWolfe().solve(Problem(ArrayPool(rows), np.eye(3)[2:]))
    assert found.objective == found.gap == 0
    assert len(found.picks) == 0
    assert found.converged


def test_a_regulariser_takes_part_of_the_start_and_decays_with_it():
    rows, queries = market(50, 5, 2)
    regulariser = np.diag(np.arange(1.0, 6))
    found = FrankWolfe(max_iter=30, tol=0, refresh=7, regulariser=regulariser, reg_lambda=0.4)
    design = found.solve(Problem(ArrayPool(rows), queries))
    start = design.floor * 50
    extra = design.weights - design.floor
    information = start * (0.6 * rows.T @ rows / 50 + 0.4 * regulariser)
    information += rows.T @ (extra[:, None] * rows)
    np.testing.assert_allclose(design.inverse, np.linalg.inv(information), rtol=1e-8, atol=1e-12)


def test_equal_rows_are_a_tie_wherever_they_lie():
    rows, queries = market(37, 7, 3)
    for start in range(37):
        turned = np.roll(rows, start, axis=0)
        found = FrankWolfe(max_iter=1).solve(Problem(ArrayPool(np.tile(turned, (5, 1))), queries))
        assert found.picks[0] < 37


def test_weights_survive_many_large_steps():
    weights = SparseWeights(4)
    expected = np.full(4, 0.25)
    for turn in range(300):
        weights.move(turn % 3, 0.9)
        expected = 0.1 * expected
        expected[turn % 3] += 0.9
    np.testing.assert_allclose(weights.dense(), expected, rtol=1e-12)


@pytest.mark.parametrize(("n", "d", "m"), [(40, 5, 1), (7, 9, 3)])
def test_one_step_scores_sum_to_the_loss_of_buying_everything(n, d, m):
    rows, queries = market(n, d, m)
    found = OneStep().solve(Problem(ArrayPool(rows), queries))
    whole = np.linalg.pinv(rows.T @ rows)
    expected = np.square(rows @ whole @ queries.T).mean(axis=1)
    np.testing.assert_allclose(found.scores / n**2, expected, rtol=1e-8)
    assert expected.sum() == pytest.approx(np.mean([q @ whole @ q for q in queries]))
    np.testing.assert_allclose(found.weights, expected / expected.sum(), rtol=1e-8)

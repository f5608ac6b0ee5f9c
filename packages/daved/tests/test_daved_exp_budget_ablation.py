from dataclasses import replace

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.daved.evaluation import buyer_errors
from modicum.daved.experiments import budget_ablation as experiment
from modicum.daved.experiments._shared import purchase_order
from modicum.daved.experiments.budget_ablation import (
    BARE,
    BUDGETS,
    CURVE,
    GREEDY,
    HEAVIEST,
    HERDING,
    IN_ORDER,
    LINE_SEARCH,
    OBJECTIVES,
    PICKED,
    QUERIES,
    RANDOM,
    RIDGED,
    ROWS_BOUGHT,
    RULES_PART,
    SAMPLE,
    STEPS_PART,
    TOP,
    Setting,
    variant,
)
from modicum.daved.markets import gaussian_market
from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.frank_wolfe import FrankWolfe

SMALL = Setting(150, 4, 2, everything=True)


@pytest.fixture
def context(tmp_path):
    made = Experiment("budget_ablation", "modicum-daved", "title", "summary", experiment.run)
    return RunContext(made, tmp_path)


@pytest.fixture
def market():
    return gaussian_market(150, 30, 3, rng=np.random.default_rng(0))


def test_roundings_buy_what_they_say(market):
    designs = experiment._designs(market, "line_search")
    shorter = FrankWolfe(max_iter=20, tol=0.0).solve(
        Problem(ArrayPool(market.rows_nd), market.queries_md[:1])
    )
    stopped = experiment._stopped(market, designs, 20)
    orders = experiment.rounded(stopped, np.random.default_rng(1))
    assert orders[TOP][0].tolist() == purchase_order(shorter).tolist()
    for buyer, design in enumerate(designs):
        distinct = set(design.picks[:20].tolist())
        assert set(orders[PICKED][buyer][: len(distinct)].tolist()) == distinct
        for mine in orders.values():
            assert sorted(mine[buyer].tolist()) == list(range(150))
    first = {mine[0] for mine in orders[SAMPLE]}
    again = experiment.rounded(stopped, np.random.default_rng(1))
    assert first == {mine[0] for mine in again[SAMPLE]}


def test_orders_may_be_cut_behind_the_largest_budget(market):
    orders = experiment.random_orders(market, np.random.default_rng(0))
    found = experiment._errors(market, list(orders), (1, 7), ridge=0.1)
    np.testing.assert_array_equal(found, buyer_errors(market, orders, (1, 7), ridge=0.1))


def test_objectives_are_those_of_shorter_runs(market):
    one = replace(market, queries_md=market.queries_md[1:2])
    for step in experiment.RULES:
        problem = Problem(ArrayPool(market.rows_nd), market.queries_md[1:2])
        design = FrankWolfe(step, max_iter=200, tol=0.0).solve(problem)
        for steps in (10, 200):
            shorter = FrankWolfe(step, max_iter=steps, tol=0.0).solve(problem)
            (found,) = experiment._stopped(one, [design], steps)
            assert found.objective == pytest.approx(shorter.objective, rel=1e-9)


def test_a_market_is_played_as_often_as_wanted():
    once, twice, other = (experiment.play(SMALL, index, 5) for index in (0, 0, 1))
    assert once.keys() == {STEPS_PART, CURVE, QUERIES, RULES_PART, OBJECTIVES}
    for part, variants in once.items():
        for name, errors in variants.items():
            np.testing.assert_array_equal(errors, twice[part][name])
            assert len(errors) == SMALL.buyers and np.isfinite(errors).all()
    top = variant(TOP, 20)
    assert not np.array_equal(once[STEPS_PART][top], other[STEPS_PART][top])
    # The same orders under two names, and the same model.
    np.testing.assert_array_equal(
        once[STEPS_PART][top], once[RULES_PART][variant(f"{LINE_SEARCH}, {HEAVIEST}", 20)]
    )
    both = experiment.together([once, other])
    assert both[CURVE][f"{RANDOM}, {BARE}"].shape == (2 * SMALL.buyers, len(ROWS_BOUGHT))
    small = experiment.play(Setting(150, 4, 1, everything=False), 0, 5)
    assert small.keys() == {STEPS_PART, CURVE}


def _constant(value, columns):
    return np.full((SMALL.buyers * SMALL.markets, columns), float(value))


def _outcome(good):
    """An outcome in which all claims hold, or none."""
    low, high = (1.0, 4.0) if good else (4.0, 1.0)
    small, curve = len(BUDGETS), len(ROWS_BOUGHT)
    steps = {
        RANDOM: _constant(9, small),
        variant(TOP, 20): _constant(low, small),
        variant(TOP, 200): _constant(high, small),
        variant(SAMPLE, 20): _constant(2 * high if good else 2, small),
        variant(PICKED, 20): _constant(high if good else 3, small),
    }
    curves = {
        f"{variant(TOP, 10)}, {BARE}": _constant(high, curve),
        f"{variant(TOP, 200)}, {BARE}": _constant(low, curve),
        f"{RANDOM}, {BARE}": _constant(50, curve),
        f"{RANDOM}, {RIDGED}": _constant(4 if good else 40, curve),
    }
    queries = {
        RANDOM: _constant(2.0, small),
        **{f"{TOP}, {size}": _constant(low, small) for size in (1, 4)},
        f"{TOP}, 8": _constant(low, small),
        f"{TOP}, 32": _constant(high, small),
        f"{GREEDY}, 1": _constant(low, small),
        f"{GREEDY}, 32": _constant(high, small),
    }
    rules = {
        variant(f"{rule}, {buying}", count): _constant(high, small)
        for rule in experiment.RULES.values()
        for buying in (HEAVIEST, IN_ORDER)
        for count in (10, 20)
    }
    rules[variant(f"{LINE_SEARCH}, {HEAVIEST}", 20)] = _constant(low, small)
    rules[variant(f"{LINE_SEARCH}, {IN_ORDER}", 20)] = _constant(low / 2 if good else 5, small)
    rules[variant(f"{HERDING}, {HEAVIEST}", 10)] = _constant(low / 8 if good else 9, small)
    return {STEPS_PART: steps, CURVE: curves, QUERIES: queries, RULES_PART: rules}


def test_claims_fail_where_they_should():
    good = experiment.claims(SMALL, _outcome(True), quick=False)
    assert [claim.name for claim in good if not claim.holds] == []
    bad = experiment.claims(SMALL, _outcome(False), quick=False)
    assert [claim.name for claim in bad if claim.holds] == []
    assert len({claim.name for claim in good}) == len(good) == len(bad)
    by_name = {claim.name: claim for claim in good}
    assert by_name["stop_early_n150"].measured == 0.25
    assert by_name["double_descent_n150"].measured == 12.5
    assert [claim.name for claim in good if claim.paper] == ["eight_queries_n150"]


def test_scaled_down_run_resumes_and_reports_what_it_kept(context, monkeypatch):
    monkeypatch.setattr(experiment, "QUICK_SETTINGS", (SMALL,))
    monkeypatch.setattr(experiment, "LONG_STEPS", 60)
    monkeypatch.setattr(experiment, "STEPS_TRIED", (10, 20, 60))
    monkeypatch.setattr(experiment, "RULE_STEPS", (10, 20))
    result = experiment.run(context)
    steps, curve, queries, rules = result.tables
    assert [row[0] for row in curve.rows] == list(ROWS_BOUGHT)
    assert [row[0] for row in queries.rows] == [1, 4, 8, 32] and len(rules.rows) == 6
    by_name = {claim.name: claim for claim in result.claims}
    at_20, at_60 = (next(row for row in steps.rows if row[0] == count) for count in (20, 60))
    assert by_name["stop_early_n150"].measured == pytest.approx(at_20[1] / at_60[1])
    assert by_name["heaviest_beat_drawn_n150"].measured == pytest.approx(at_20[1] / at_20[2])

    def never(*_):
        raise AssertionError("a kept market was played again")

    monkeypatch.setattr(experiment, "play", never)
    again = experiment.run(context)
    assert [claim.measured for claim in again.claims] == [c.measured for c in result.claims]
    assert [table.rows for table in again.tables] == [table.rows for table in result.tables]

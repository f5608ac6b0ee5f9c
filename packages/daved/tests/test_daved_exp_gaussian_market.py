import warnings
from dataclasses import replace

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.daved.errors import DAVEDWarning
from modicum.daved.evaluation import Ratio
from modicum.daved.experiments import EXPERIMENTS, _shared
from modicum.daved.experiments import gaussian_market as experiment
from modicum.daved.experiments._purchases import frank_wolfe_orders
from modicum.daved.experiments.gaussian_market import Outcome, Setting
from modicum.daved.markets import gaussian_market
from modicum.daved.peers.cheapest import Cheapest
from modicum.daved.peers.nearest import Nearest
from modicum.daved.pool import ArrayPool
from modicum.daved.rounding import purchase
from modicum.daved.select import select
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.frank_wolfe import FrankWolfe
from modicum.daved.solvers.greedy import Greedy
from modicum.daved.solvers.one_step import OneStep


@pytest.fixture
def context(tmp_path):
    made = Experiment("gaussian_market", "modicum-daved", "title", "summary", experiment.run)
    return RunContext(made, tmp_path)


@pytest.fixture
def market():
    return gaussian_market(80, 6, 6, validation=10, rng=np.random.default_rng(0))


def test_listed_experiments_are_there():
    names = [listed.name for listed in EXPERIMENTS]
    assert len(set(names)) == len(names)
    assert {listed.package for listed in EXPERIMENTS} == {"modicum-daved"}


def test_replayed_weights_are_those_of_a_shorter_run(market):
    problem = Problem(ArrayPool(market.rows_nd), market.queries_md[:1])
    for step in ("line_search", "herding", "open_loop"):
        design = FrankWolfe(step, max_iter=60, tol=0.0).solve(problem)
        for steps in (1, 7, 60, 100):
            shorter = FrankWolfe(step, max_iter=min(steps, 60), tol=0.0).solve(problem)
            found = _shared.stopped_after(problem.pool, problem.queries_md, design, steps)
            np.testing.assert_allclose(found.weights, shorter.weights, atol=1e-12)
            np.testing.assert_allclose(found.scores, shorter.scores, rtol=1e-7)
            assert found.objective == pytest.approx(shorter.objective, rel=1e-9)
            assert found.floor == pytest.approx(shorter.floor)
            assert found.picks.tolist() == shorter.picks.tolist()
            # Weights of herding are equal up to rounding: it buys in the order of picks.
            order = _shared.pick_order if step == "herding" else _shared.purchase_order
            mine, theirs = order(found), order(shorter)
            assert mine.tolist() == theirs.tolist()
    start = _shared.stopped_after(problem.pool, problem.queries_md, design, 0)
    assert start.weights.tolist() == [1 / 80] * 80


# Of 80 rows a run of 5 steps picks few: what follows is bought by the score.
@pytest.mark.parametrize("budget", [3, 30, 80])
@pytest.mark.parametrize("seed", range(3))
def test_experiments_buy_as_select_does(budget, seed):
    rng = np.random.default_rng(seed)
    market = gaussian_market(80, 6, 4, validation=10, rng=rng)
    rows, prices = market.rows_nd, rng.choice([1.0, 2.0, 3.0], size=80)
    pool = ArrayPool(rows)
    priced = replace(market, prices_n=prices)
    exact = frank_wolfe_orders(ArrayPool(rows, prices**-0.5), priced, 5, tol=0.0, rule="exact")
    paper = frank_wolfe_orders(pool, priced, 5, tol=0.0, rule="paper")
    together = frank_wolfe_orders(pool, market, 5, tol=0.0)
    alone = _shared.bought_orders(market, FrankWolfe(max_iter=5, tol=0.0), float(budget))
    fw = {"max_iter": 5, "tol": 0.0}
    for buyer, query in enumerate(market.queries_md):
        problem = Problem(pool, query[None])
        herded = FrankWolfe("herding", **fw).solve(problem)
        published = FrankWolfe(compat="reference", **fw).solve(problem)
        single = OneStep().solve(problem)
        for order, mine, settings in (
            (together[buyer], market, fw),
            (alone[buyer], market, fw),
            (exact[buyer], priced, fw),
            (paper[buyer], priced, {**fw, "cost_mode": "paper"}),
            (_shared.pick_order(herded), market, {**fw, "step": "herding"}),
            (_shared.purchase_order(single), market, {"solver": "one_step"}),
        ):
            bought = purchase(order, mine.prices_n, budget)
            costs = None if mine is market else prices
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DAVEDWarning)
                selected = select(rows, query[None], budget, costs=costs, **settings)
            assert bought.tolist() == selected.indices.tolist(), settings
        # The published code spends less than the budget.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DAVEDWarning)
            selected = select(rows, query[None], budget, compat="reference", **fw)
        first = _shared.published_order(published)[: budget - 1]
        assert first.tolist() == selected.indices.tolist()


def test_buyers_together_share_an_order(market):
    orders = _shared.bought_orders(market, Greedy(prior=0.01), 5.0, size=4)
    assert len(orders) == 6
    assert all(order is orders[0] for order in orders[:4])
    problem = Problem(
        ArrayPool(market.rows_nd), market.queries_md[4:], budget=5.0, prices=market.prices_n
    )
    alone = Greedy(prior=0.01).solve(problem).order
    assert orders[4].tolist() == orders[5].tolist() == alone.tolist()
    by_weight = _shared.bought_orders(market, FrankWolfe(max_iter=9, tol=0.0), 5.0)
    problem = Problem(ArrayPool(market.rows_nd), market.queries_md[2:3])
    design = FrankWolfe(max_iter=9, tol=0.0).solve(problem)
    assert by_weight[2].tolist() == _shared.purchase_order(design).tolist()


def test_peers_are_asked_per_buyer_if_they_see_queries(market):
    orders = _shared.peer_orders(market, Nearest(), np.random.default_rng(0))
    for order, query in zip(orders, market.queries_md, strict=True):
        assert order[0] == np.linalg.norm(market.rows_nd - query, axis=1).argmin()
    common = _shared.peer_orders(market, Cheapest(), np.random.default_rng(0))
    assert len(common) == 6
    assert all(order is common[0] for order in common)


def test_quick_verdicts_need_the_whole_interval():
    for ratio, quick, expected in (
        (Ratio(0.4, 0.3, 0.5), True, None),
        (Ratio(0.4, 0.3, 0.5), False, True),
        (Ratio(0.4, 0.3, 0.44), True, True),
        (Ratio(0.6, 0.5, 0.7), True, False),
    ):
        assert _shared.verdict(ratio, 0.45, quick=quick) is expected
    assert _shared.verdict(Ratio(0.6, 0.5, 0.7), 0.45, at_least=True, quick=True) is True
    assert _shared.verdict(Ratio(0.4, 0.3, 0.44), 0.45, at_least=True, quick=False) is False


def _outcome(**factors):
    random = np.random.default_rng(0).exponential(size=(50, 10))
    shown = {
        experiment.RANDOM: 1.0,
        experiment.MULTI: factors["multi"],
        experiment.SINGLE: factors["single"],
        experiment.GREEDY: factors["greedy"],
        **dict.fromkeys(experiment.BY_VALIDATION, 1.1),
        experiment.BY_VALIDATION[-1]: factors["best"],
    }
    errors = {name: factor * random for name, factor in shown.items()}
    return Outcome(errors, dict.fromkeys(errors, 0.0), {}, {}, {})


def test_claims_fail_where_they_should():
    def judged(**factors):
        made = experiment.claims(Setting(1000, 50, 1), _outcome(**factors), quick=False)
        return [claim.holds for claim in made], [claim.measured for claim in made]

    holds, measured = judged(multi=0.4, single=0.5, greedy=0.04, best=0.9)
    assert holds == [True] * 5
    assert measured == pytest.approx([0.4, 0.8, 0.5, 0.9, 0.04])
    holds, measured = judged(multi=0.8, single=0.7, greedy=0.06, best=0.6)
    assert holds == [False] * 5
    assert measured == pytest.approx([0.8, 8 / 7, 0.7, 0.6, 0.06])


def test_scaled_down_run_reports_what_its_tables_say(context, monkeypatch):
    monkeypatch.setattr(experiment, "QUICK_SETTINGS", (Setting(150, 8, 2, 5),))
    monkeypatch.setattr(experiment, "QUERIES_TRIED", (1, 4))
    monkeypatch.setattr(experiment, "LARGE_BUDGETS", (40,))
    result = experiment.run(context)
    methods, steps, large, shared = result.tables
    assert methods.title.endswith("n = 150")
    rows = {row[0]: row for row in methods.rows}
    assert len(rows) == 13
    assert rows["random"][3] == 1
    for row in rows.values():
        assert row[3] == pytest.approx(row[2] / rows["random"][2])
        assert row[4] <= row[3] <= row[5]
    claims = {claim.name: claim for claim in result.claims}
    assert len(claims) == 5
    assert claims["multi_step_beats_random_n150"].measured == rows[experiment.MULTI][3]
    assert claims["validation_peers_near_random_n150"].measured == min(
        rows[name][3] for name in experiment.BY_VALIDATION
    )
    assert "16 buyers in 2 markets" in claims["greedy_at_10_n150"].note
    by_steps = {row[0]: row[1] for row in steps.rows}
    # The same run, replayed, and a run of its own.
    assert by_steps[experiment.STEPS] == pytest.approx(rows[experiment.MULTI][2])
    assert by_steps[experiment.LONG_STEPS] == rows[experiment.CONVERGED][2]
    assert len(large.rows) == 5
    assert [row[0] for row in shared.rows] == [1, 4]
    # Whoever asks alone gets a purchase of their own.
    assert shared.rows[0][2] < shared.rows[1][2]


def test_seeds_repeat_and_differ():
    setting = Setting(100, 3, 1, 3)
    first, again, other = (experiment.play(setting, 0, seed).errors for seed in (1, 1, 2))
    for name in first:
        assert first[name].tolist() == again[name].tolist(), name
    assert first["random"].tolist() != other["random"].tolist()

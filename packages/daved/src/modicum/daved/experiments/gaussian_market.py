"""Small purchases on the published synthetic market: designs beside chance and data valuation.

Every buyer has one query, buys a few of the sellers' rows and fits the least-squares model of
smallest norm. Designs see features alone; some peers see the sellers' labels or a labelled
validation set. All choose from the same markets, and ratios are to random purchases by the same
buyers.

Three tables follow from the same markets: how the number of Frank-Wolfe steps matters, what larger
budgets change, and what happens if many buyers share a purchase. Around a purchase as large as the
number of features, least squares of smallest norm has errors without bound; where that matters
a small ridge is used, and it is said.

Shapes: n sellers' rows, d features, m buyers, b budgets.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.daved.evaluation import (
    Ratio,
    buyer_errors,
    error_ratio,
    random_orders,
)
from modicum.daved.experiments._shared import (
    bought_orders,
    drawn_over,
    folds_of,
    peer_orders,
    per_buyer,
    published_order,
    purchase_order,
    stopped_after,
    verdict,
)
from modicum.daved.markets import Market, gaussian_market
from modicum.daved.peers.base import Peer
from modicum.daved.peers.cosine import AbsoluteCosine
from modicum.daved.peers.data_oob import DataOOB
from modicum.daved.peers.knn_shapley import KNNShapley, KNNShapleyRegression
from modicum.daved.peers.lava import LAVA
from modicum.daved.peers.leverage import Leverage
from modicum.daved.peers.nearest import Nearest
from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Design, Problem, Solver
from modicum.daved.solvers.frank_wolfe import FrankWolfe
from modicum.daved.solvers.greedy import Greedy
from modicum.daved.solvers.one_step import OneStep

FEATURES = 30
BUDGETS = tuple(range(1, 11))
LARGE_BUDGETS = (60, 100)
STEPS = 20
"""Frank-Wolfe steps for budgets up to 10: twice the budget."""
LONG_STEPS = 200
STEPS_TRIED = (5, 10, 20, 50, 200)
QUERIES_TRIED = (1, 4, 8, 32)
PRIOR = 0.01
"""Prior precision of the greedy design."""
RIDGE = 1e-3
"""Of the model in the tables of larger and of shared purchases."""
MODELS, QUICK_MODELS = 200, 50

PUBLISHED = {"multi_step_beats_random": "0.16 (0.16 / 1.01, n = 100,000)"}
"""Figures of the paper for the same market, by claim."""

MULTI_STEP_MOST = 0.45
SINGLE_STEP_MOST = 0.6
VALIDATION_LEAST = 0.7
GREEDY_MOST_AT_LAST = 0.05

RANDOM, REFERENCE, SINGLE = "random", "Frank-Wolfe, as published code", "single step"
MULTI, CONVERGED = f"Frank-Wolfe, {STEPS} steps", f"Frank-Wolfe, {LONG_STEPS} steps"
GREEDY, OOB = "greedy design", "Data-OOB"
BY_VALIDATION = ("KNN-Shapley, matching labels", "KNN-Shapley, regression", "LAVA")
SEES = {
    RANDOM: "nothing",
    "leverage": "features",
    OOB: "features, labels",
    **dict.fromkeys(BY_VALIDATION, "features, labels, labelled validation rows"),
}
"""What a method sees; the others see features and the query."""


@dataclass(frozen=True)
class Setting:
    """Markets of one size."""

    n: int
    buyers: int
    markets: int
    models: int = MODELS


SETTINGS = (Setting(1000, 100, 5), Setting(5000, 40, 3))
QUICK_SETTINGS = (Setting(1000, 40, 1, QUICK_MODELS),)

Orders = Sequence[np.ndarray]


@dataclass(frozen=True)
class Outcome:
    """What the methods found on the markets of a setting, buyers of all markets together.

    Attributes
    ----------
    errors
        By method the errors at the small budgets, (m, b).
    seconds
        By method the mean seconds of a market's selections, all buyers.
    by_steps
        Errors of Frank-Wolfe at the small budgets by number of steps.
    large
        By method the errors at the large budgets, with the small ridge.
    shared
        By number of buyers who buy together, and method, the errors at the small budgets, with the
        small ridge.
    """

    errors: dict[str, np.ndarray]
    seconds: dict[str, float]
    by_steps: dict[int, np.ndarray]
    large: dict[str, np.ndarray]
    shared: dict[int, dict[str, np.ndarray]]


def _design_orders(
    market: Market, solver: Solver, order: Callable[[Design], np.ndarray] = purchase_order
) -> Orders:
    designs = per_buyer(market, lambda pool, queries_qd: solver.solve(Problem(pool, queries_qd)))
    return [order(design) for design in designs]


def methods(market: Market, models: int, rng: np.random.Generator) -> dict[str, Callable[[], Any]]:
    """Give, by method, what makes the orders of all buyers."""
    peers: dict[str, Peer] = {
        "absolute cosine": AbsoluteCosine(),
        "nearest": Nearest(),
        "leverage": Leverage(),
        OOB: DataOOB(learner="least_squares", models=models),
        BY_VALIDATION[0]: KNNShapley(),
        BY_VALIDATION[1]: KNNShapleyRegression(),
        BY_VALIDATION[2]: LAVA(),
    }
    largest = float(max(LARGE_BUDGETS))
    return {
        RANDOM: lambda: random_orders(market, rng),
        REFERENCE: lambda: _design_orders(
            market, FrankWolfe(max_iter=LONG_STEPS, compat="reference"), published_order
        ),
        MULTI: lambda: _design_orders(market, FrankWolfe(max_iter=STEPS, tol=0.0)),
        SINGLE: lambda: _design_orders(market, OneStep()),
        GREEDY: lambda: bought_orders(market, Greedy(prior=PRIOR), largest),
        **{name: partial(peer_orders, market, peer, rng) for name, peer in peers.items()},
    }


def _steps_orders(market: Market) -> tuple[dict[int, Orders], float]:
    """Run Frank-Wolfe once for every buyer and give the orders after fewer steps as well."""
    start = time.perf_counter()
    solver = FrankWolfe(max_iter=max(STEPS_TRIED), tol=0.0)
    designs = per_buyer(market, lambda pool, queries_qd: solver.solve(Problem(pool, queries_qd)))
    seconds = time.perf_counter() - start
    pool = ArrayPool(market.rows_nd)
    orders: dict[int, Orders] = {
        steps: [
            purchase_order(stopped_after(pool, query_d[None], design, steps))
            for query_d, design in zip(market.queries_md, designs, strict=True)
        ]
        for steps in STEPS_TRIED
    }
    return orders, seconds


def _shared_errors(market: Market, size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    orders: dict[str, Orders] = {
        RANDOM: list(random_orders(market, rng)),
        MULTI: bought_orders(market, FrankWolfe(max_iter=STEPS, tol=0.0), max(BUDGETS), size),
        GREEDY: bought_orders(market, Greedy(prior=PRIOR), max(BUDGETS), size),
    }
    return {name: buyer_errors(market, mine, BUDGETS, ridge=RIDGE) for name, mine in orders.items()}


def play(setting: Setting, index: int, seed: int) -> Outcome:
    """Let every method buy on one market."""
    rng = numpy_generator(seed, "gaussian market", setting.n, index)
    market = gaussian_market(setting.n, FEATURES, setting.buyers, rng=rng)
    orders: dict[str, Orders] = {}
    seconds = {}
    for name, select in methods(market, setting.models, rng).items():
        start = time.perf_counter()
        orders[name] = select()
        seconds[name] = time.perf_counter() - start
    by_steps, seconds[CONVERGED] = _steps_orders(market)
    orders[CONVERGED] = by_steps[LONG_STEPS]
    large = {name: orders[name] for name in (RANDOM, MULTI, CONVERGED, GREEDY, OOB)}
    return Outcome(
        {name: buyer_errors(market, mine, BUDGETS) for name, mine in orders.items()},
        seconds,
        {steps: buyer_errors(market, mine, BUDGETS) for steps, mine in by_steps.items()},
        {
            name: buyer_errors(market, mine, LARGE_BUDGETS, ridge=RIDGE)
            for name, mine in large.items()
        },
        {size: _shared_errors(market, size, rng) for size in QUERIES_TRIED},
    )


def together(played: Sequence[Outcome]) -> Outcome:
    """Put the buyers of several markets together."""
    first = played[0]
    seconds = {name: np.mean([one.seconds[name] for one in played]) for name in first.seconds}
    return Outcome(
        _joined([one.errors for one in played]),
        {name: float(mean) for name, mean in seconds.items()},
        _joined([one.by_steps for one in played]),
        _joined([one.large for one in played]),
        {size: _joined([one.shared[size] for one in played]) for size in first.shared},
    )


def _joined(errors: Sequence[Mapping[Any, np.ndarray]]) -> dict[Any, np.ndarray]:
    return {key: np.concatenate([one[key] for one in errors]) for key in errors[0]}


def _folds(setting: Setting) -> np.ndarray:
    return folds_of(setting.markets, setting.buyers)


def _ratio(setting: Setting, mine_mb: np.ndarray, theirs_mb: np.ndarray) -> Ratio:
    return error_ratio(mine_mb, theirs_mb, folds_m=_folds(setting), rng=np.random.default_rng(0))


def claims(setting: Setting, outcome: Outcome, *, quick: bool) -> list[Claim]:
    """Judge the designs and the peers that need a validation set on markets of one size."""
    errors = outcome.errors
    to_random = {name: _ratio(setting, mine, errors[RANDOM]) for name, mine in errors.items()}
    best_peer = min(BY_VALIDATION, key=lambda name: to_random[name].value)
    last = {name: mine[:, -1:] for name, mine in errors.items()}
    listed = [
        (
            "multi_step_beats_random",
            "Frank-Wolfe's purchases have a fraction of the error of random ones.",
            to_random[MULTI],
            MULTI_STEP_MOST,
            False,
            MULTI,
        ),
        (
            "multi_step_beats_single",
            "Frank-Wolfe's purchases have a lower error than those of a single step.",
            _ratio(setting, errors[MULTI], errors[SINGLE]),
            1.0,
            False,
            f"{MULTI}, over {SINGLE}",
        ),
        (
            "single_step_beats_random",
            "A single step's purchases have a lower error than random ones.",
            to_random[SINGLE],
            SINGLE_STEP_MOST,
            False,
            SINGLE,
        ),
        (
            "validation_peers_near_random",
            "Data valuation by a validation set is not much better than random purchases.",
            to_random[best_peer],
            VALIDATION_LEAST,
            True,
            f"The best of {len(BY_VALIDATION)}: {best_peer}",
        ),
        (
            f"greedy_at_{BUDGETS[-1]}",
            f"At {BUDGETS[-1]} rows the greedy design has next to no error.",
            _ratio(setting, last[GREEDY], last[RANDOM]),
            GREEDY_MOST_AT_LAST,
            False,
            GREEDY,
        ),
    ]
    return [
        Claim(
            f"{name}_n{setting.n}",
            statement,
            PUBLISHED.get(name),
            ratio.value,
            (ratio.low, ratio.high),
            verdict(ratio, limit, at_least=at_least, quick=quick),
            "ratio of errors",
            f"{subject}; n = {setting.n:,}; holds if {'at least' if at_least else 'at most'}"
            f" {limit:g}. {drawn_over(_folds(setting), 'market')}",
        )
        for name, statement, ratio, limit, at_least, subject in listed
    ]


def tables(setting: Setting, outcome: Outcome) -> list[Table]:
    """Give the tables of one size."""
    size = f"n = {setting.n:,}"
    rows: list[list[Any]] = []
    for name, mine in outcome.errors.items():
        ratio = _ratio(setting, mine, outcome.errors[RANDOM])
        sees = SEES.get(name, "features, query")
        row = [name, sees, float(mine.mean()), ratio.value, ratio.low, ratio.high]
        rows.append([*row, float(mine[:, -1].mean()), outcome.seconds[name]])
    columns = ["method", "sees", "mean error", "ratio to random", "95 % low", "95 % high"]
    columns += [f"error at {BUDGETS[-1]}", "seconds, all buyers"]
    steps = [
        [taken, float(mine.mean()), _ratio(setting, mine, outcome.errors[RANDOM]).value]
        for taken, mine in outcome.by_steps.items()
    ]
    large = [
        [name, *(float(error) for error in mine.mean(axis=0))]
        for name, mine in outcome.large.items()
    ]
    shared = [
        [buyers, *(_ratio(setting, mine[name], mine[RANDOM]).value for name in (MULTI, GREEDY))]
        for buyers, mine in outcome.shared.items()
    ]
    return [
        Table(
            f"Error after purchases of {BUDGETS[0]} to {BUDGETS[-1]} rows, {size}", columns, rows
        ),
        Table(
            f"Frank-Wolfe by number of steps, {size}",
            ["steps", "mean error", "ratio to random"],
            steps,
            "Bought by weight. For budgets below the number of features stop early.",
        ),
        Table(
            f"Larger purchases, {size}",
            ["method", *(f"error at {budget}" for budget in LARGE_BUDGETS)],
            large,
            f"Model with a ridge of {RIDGE:g}. {OOB} sees labels, and drops noisy ones.",
        ),
        Table(
            f"Buyers who buy together, {size}",
            ["buyers", f"{MULTI}, ratio to random", f"{GREEDY}, ratio to random"],
            shared,
            f"Model with a ridge of {RIDGE:g}. The gain comes from targeting few queries.",
        ),
    ]


def _figures(setting: Setting, outcome: Outcome) -> list[Figure]:
    from modicum.daved import plots

    names = (RANDOM, BY_VALIDATION[1], OOB, SINGLE, MULTI, GREEDY)
    curves = {name: (BUDGETS, outcome.errors[name].mean(axis=0)) for name in names}
    try:
        figure = plots.error_against_budget(curves, ylabel="mean squared error of buyers")
    except ImportError:
        # matplotlib is optional; tables and claims stand without it.
        return []
    caption = f"n = {setting.n:,}, {FEATURES} features, {len(outcome.errors[RANDOM])} buyers."
    title = f"Error against rows bought, n = {setting.n:,}"
    return [Figure.from_matplotlib(figure, title, caption, "Errors of methods over the budget")]


def run(ctx: RunContext) -> Result:
    """Let every method buy on markets of every size."""
    settings = QUICK_SETTINGS if ctx.quick else SETTINGS
    task = ctx.progress(sum(setting.markets for setting in settings), "markets")
    found = {}
    for setting in settings:
        played = []
        for index in range(setting.markets):
            played.append(play(setting, index, ctx.seed))
            task.advance(1)
        found[setting] = together(played)
    return ctx.result(
        claims=[claim for s, o in found.items() for claim in claims(s, o, quick=ctx.quick)],
        tables=[table for s, o in found.items() for table in tables(s, o)],
        figures=[figure for s, o in found.items() for figure in _figures(s, o)],
    )

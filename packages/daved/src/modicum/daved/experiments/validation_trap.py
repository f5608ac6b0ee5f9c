"""Choosing data by a labelled validation set fits the noise of that set, and loses to designs.

A buyer with a few labelled validation rows can choose training rows so that the validation error
falls. The choice then fits the noise of the validation labels. Designs look at the validation rows'
features alone. All choose from the same pool of noisy linear data, three rows per dimension; what
counts is the excess error on fresh rows, in closed form.

Shapes: n sellers' rows, d features, v validation rows, k rows chosen.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import Claim, Result, RunContext, Table
from modicum.daved.evaluation import Ratio, error_ratio
from modicum.daved.experiments._shared import purchase_order, verdict
from modicum.daved.markets import Market, gaussian_market
from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.frank_wolfe import FrankWolfe
from modicum.daved.solvers.greedy import Greedy

DIMENSIONS = (5, 10, 20, 40)
ROWS, VALIDATION, NOISE = 1000, 40, 1.0
ROWS_PER_DIMENSION = 3
SEEDS, QUICK_SEEDS = 30, 6
QUERIES = 8
"""Validation rows that Frank-Wolfe takes as queries: it is advised for few of them."""
STEPS_PER_ROW = 2
START_RIDGE = 1e-3
"""Ridge with which the validation-error greedy starts, when it has fewer rows than features."""

RANDOM_FACTOR = 3.0
DESIGN_FROM = 10
"""From this dimension on the greedy design should be best."""


def validation_greedy(
    rows_nd: np.ndarray,
    labels_n: np.ndarray,
    validation_vd: np.ndarray,
    validation_labels_v: np.ndarray,
    k: int,
) -> np.ndarray:
    """Add, k times, the row after which a linear model's validation error is smallest.

    Every candidate's model is exact: a rank-one update of the ridge model of what is chosen.

    Returns
    -------
    ndarray of int, (k,)
        Rows in the order in which they were chosen.
    """
    d = rows_nd.shape[1]
    inverse_dd, theta_d = np.eye(d) / START_RIDGE, np.zeros(d)
    open_n = np.ones(len(rows_nd), dtype=bool)
    chosen: list[int] = []
    for _ in range(k):
        directions_nd = rows_nd @ inverse_dd
        leverages_n = np.einsum("nd,nd->n", directions_nd, rows_nd)
        moves_n = (labels_n - rows_nd @ theta_d) / (1 + leverages_n)
        residuals_v = validation_labels_v - validation_vd @ theta_d
        after_nv = residuals_v - moves_n[:, None] * (directions_nd @ validation_vd.T)
        errors_n = np.where(open_n, np.square(after_nv).mean(axis=1), np.inf)
        best = int(errors_n.argmin())
        theta_d = theta_d + moves_n[best] * directions_nd[best]
        inverse_dd -= np.outer(directions_nd[best], directions_nd[best]) / (1 + leverages_n[best])
        open_n[best] = False
        chosen.append(best)
    return np.array(chosen)


def _by_validation(market: Market, k: int, rng: np.random.Generator) -> np.ndarray:
    labelled = (market.validation_vd, market.validation_labels_v)
    return validation_greedy(market.rows_nd, market.labels_n, *labelled, k)


def _at_random(market: Market, k: int, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(len(market.rows_nd), size=k, replace=False)


def _by_frank_wolfe(market: Market, k: int, rng: np.random.Generator) -> np.ndarray:
    problem = Problem(ArrayPool(market.rows_nd), market.validation_vd[:QUERIES])
    design = FrankWolfe(max_iter=STEPS_PER_ROW * k).solve(problem)
    return purchase_order(design)[:k]


def _by_greedy_design(market: Market, k: int, rng: np.random.Generator) -> np.ndarray:
    prices_n = np.ones(len(market.rows_nd))
    pool = ArrayPool(market.rows_nd)
    problem = Problem(pool, market.validation_vd, budget=float(k), prices=prices_n)
    order = Greedy().solve(problem).order
    assert order is not None
    return order[:k]


VALIDATION_GREEDY, RANDOM, ON_VALIDATION = "greedy on validation error", "random", "validation rows"
DESIGN = "greedy design, all queries"
CHOICES: dict[str, Callable[[Market, int, np.random.Generator], np.ndarray]] = {
    VALIDATION_GREEDY: _by_validation,
    RANDOM: _at_random,
    f"Frank-Wolfe, {QUERIES} queries": _by_frank_wolfe,
    DESIGN: _by_greedy_design,
}


def excess_error(rows_kd: np.ndarray, labels_k: np.ndarray, theta_d: np.ndarray) -> float:
    """Give E (xᵀ(θ̂ - θ))² = ‖θ̂ - θ‖² over fresh standard Gaussian x, θ̂ by least squares."""
    return float(np.square(np.linalg.pinv(rows_kd) @ labels_k - theta_d).sum())


def play(d: int, index: int, seed: int) -> dict[str, float]:
    """Give the excess error of every choice on one market."""
    rng = numpy_generator(seed, "validation trap", d, index)
    market = gaussian_market(
        ROWS, d, buyers=1, validation=VALIDATION, noise=NOISE, normalize=False, rng=rng
    )
    theta_d = np.linalg.lstsq(market.rows_nd, market.clean_n, rcond=None)[0]
    found = {}
    for name, choose in CHOICES.items():
        chosen = choose(market, ROWS_PER_DIMENSION * d, rng)
        found[name] = excess_error(market.rows_nd[chosen], market.labels_n[chosen], theta_d)
    found[ON_VALIDATION] = excess_error(market.validation_vd, market.validation_labels_v, theta_d)
    return found


Outcomes = dict[int, dict[str, np.ndarray]]


def _ratio(mine: np.ndarray, theirs: np.ndarray) -> Ratio:
    return error_ratio(mine[:, None], theirs[:, None], rng=np.random.default_rng(0))


def claims(found: Outcomes, *, quick: bool) -> list[Claim]:
    """Judge growth with the dimension, the loss against chance, and the design's lead."""
    dimensions = sorted(found)
    last = dimensions[-1]
    growth = [
        _ratio(found[small][VALIDATION_GREEDY], found[large][VALIDATION_GREEDY])
        for small, large in pairwise(dimensions)
    ]
    slowest = max(growth, key=lambda ratio: ratio.value)
    loss = _ratio(found[last][VALIDATION_GREEDY], found[last][RANDOM])
    leads = {}
    for d in (d for d in dimensions if d >= DESIGN_FROM):
        others = {name: errors for name, errors in found[d].items() if name != DESIGN}
        best = min(others, key=lambda name: others[name].mean())
        leads[d, best] = _ratio(found[d][DESIGN], others[best])
    (nearest_d, nearest), lead = max(leads.items(), key=lambda item: item[1].value)
    seeds = len(found[last][RANDOM])
    note = f"{seeds} seeds; 95 %, bootstrap over seeds."
    return [
        _claim(
            "validation_error_grows",
            "Excess error of choosing by validation error grows with the dimension.",
            "grows as d / v",
            slowest,
            verdict(slowest, 1.0, quick=quick),
            "Error at a dimension over error at the next, the largest; holds if below 1 at every"
            f" step. {note}",
        ),
        _claim(
            "worse_than_random",
            f"At {last} dimensions choosing by validation error is worse than choosing at random.",
            None,
            loss,
            verdict(loss, RANDOM_FACTOR, at_least=True, quick=quick),
            f"Ratio of excess errors; holds if above {RANDOM_FACTOR:g}. {note}",
        ),
        _claim(
            "greedy_design_is_best",
            f"From {DESIGN_FROM} dimensions on the greedy design has the lowest excess error.",
            None,
            lead,
            verdict(lead, 1.0, quick=quick),
            f"Over the best other choice, the nearest: {nearest} at {nearest_d} dimensions; holds"
            f" if below 1. {note}",
        ),
    ]


def _claim(
    name: str, statement: str, paper: str | None, ratio: Ratio, holds: bool | None, note: str
) -> Claim:
    interval = (ratio.low, ratio.high)
    return Claim(name, statement, paper, ratio.value, interval, holds, "ratio", note)


def rows(found: Outcomes) -> list[list[Any]]:
    """Give a row per choice with its mean excess error at every dimension, and the bound's rate."""
    names = [VALIDATION_GREEDY, RANDOM, ON_VALIDATION, *list(CHOICES)[2:]]
    listed: list[list[Any]] = [
        [name, *(float(found[d][name].mean()) for d in sorted(found))] for name in names
    ]
    return [*listed, ["σ² d / v", *(NOISE**2 * d / VALIDATION for d in sorted(found))]]


def run(ctx: RunContext) -> Result:
    """Run every choice on fresh markets of every dimension."""
    seeds = QUICK_SEEDS if ctx.quick else SEEDS
    task = ctx.progress(seeds * len(DIMENSIONS), "markets")
    found: Outcomes = {}
    for d in DIMENSIONS:
        played = []
        for index in range(seeds):
            played.append(play(d, index, ctx.seed))
            task.advance(1)
        found[d] = {name: np.array([one[name] for one in played]) for name in played[0]}
    columns = ["choice", *(f"d = {d}" for d in DIMENSIONS)]
    title = (
        f"Excess error, {ROWS} rows, {VALIDATION} validation rows, {ROWS_PER_DIMENSION} d chosen"
    )
    note = "Mean over seeds. With as many features as validation rows, training on these rows alone"
    note += " has an error without bound, and a mean that no number of seeds settles."
    return ctx.result(
        claims=claims(found, quick=ctx.quick), tables=[Table(title, columns, rows(found), note)]
    )

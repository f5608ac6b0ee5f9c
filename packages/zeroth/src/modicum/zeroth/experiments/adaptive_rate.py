"""Regret of the default method against the budget, with and without the function's constants.

The function's Hessian changes fastest at its minimum, where the bias of estimates is then as large
as it may be, and it is rotated at random. With the constants known, the regret should be near the
formula for a last step with a quarter of the budget as pairs, and fall as ``T^(-2/3)``. Without
them it should not be much worse, and not for single seeds either. The method also says what regret
it expects; that is held beside what it had.

Legend: ``S`` seeds.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.core.stats import SlopeResult
from modicum.zeroth.errors import ZerothWarning
from modicum.zeroth.experiments._regret import (
    exponent,
    mean_interval,
    ratio_interval,
    subject,
    verdict,
)
from modicum.zeroth.methods.adaptive import Adaptive
from modicum.zeroth.problems import skew

DIMENSIONS = (5, 10)
BUDGETS = (10**3, 10**4, 31_623, 10**5, 316_228, 10**6)
QUICK_BUDGETS = (10**3, 10**4, 10**5)
SEEDS, QUICK_SEEDS = 20, 8

NOISE, STRONG_CONVEXITY, HESSIAN_LIPSCHITZ = 1.0, 1.0, 1.0
CURVATURE = 2.0
"""Of the test function at its minimum, in every direction."""

SLOPE, SLOPE_TOLERANCE, UNKNOWN_SLOPE = -2 / 3, 0.08, -0.5
LEAST_BUDGET = 10**4
"""From which budget on slopes are fitted and the formula must hold."""

FORMULA_MOST = 1.6
UNKNOWN_MOST = 3.0
SPREAD_MOST = 10.0
PREDICTED_FACTOR = 3.0


@dataclass(frozen=True)
class Runs:
    """Regrets and predicted regrets ``(S,)`` of runs that differ in the seed only."""

    regret: np.ndarray
    predicted: np.ndarray


Found = dict[tuple[int, bool], dict[int, Runs]]
"""Runs by dimension and whether the constants are known, and by budget."""


def formula(
    dimension: int,
    budget: int,
    *,
    noise: float = NOISE,
    hessian_lipschitz: float = HESSIAN_LIPSCHITZ,
) -> float:
    """Give ``(3/8) d ρ^(2/3) σ^(4/3) / (λ n^(2/3))`` with a quarter of the budget as pairs."""
    scale = hessian_lipschitz ** (2 / 3) * noise ** (4 / 3)
    return float(3 / 8 * dimension * scale / (CURVATURE * (budget / 4) ** (2 / 3)))


def one_run(
    dimension: int,
    budget: int,
    known: bool,
    rng: np.random.Generator,
    *,
    noise: float = NOISE,
    hessian_lipschitz: float = HESSIAN_LIPSCHITZ,
) -> tuple[float, float]:
    """Give the regret of one run and what the method predicted.

    With generators of the same seed, a run that knows the constants and one that does not have the
    same function.
    """
    problem = skew(
        dimension,
        strong_convexity=STRONG_CONVEXITY,
        hessian_lipschitz=hessian_lipschitz,
        rotation=True,
        rng=rng,
    )
    told: dict[str, Any] = {}
    if known:
        told = {
            "noise": noise,
            "strong_convexity": STRONG_CONVEXITY,
            "hessian_lipschitz": hessian_lipschitz,
        }
    with warnings.catch_warnings():
        # With a tiny budget the Hessian may look as if the function were not convex.
        warnings.simplefilter("ignore", ZerothWarning)
        found = Adaptive(problem.start, budget, rng=rng, **told).run(problem.noisy(noise, rng))
    return float(problem.regret(found.x)), float(found.predicted_regret)


def measure(
    ctx: RunContext, budgets: Sequence[int], seeds: int, dimensions: Sequence[int] = DIMENSIONS
) -> Found:
    """Give all runs; those of an interrupted run are not repeated."""
    task = ctx.progress(2 * len(dimensions) * sum(budgets) * seeds, "evaluations")
    found: Found = {}
    for dimension in dimensions:
        for known in (False, True):
            cells = found[dimension, known] = {}
            for budget in budgets:
                part = f"d{dimension}-{'known' if known else 'unknown'}-{budget}"
                runs = ctx.load_partial(part)
                if runs is None:
                    runs = [
                        one_run(
                            dimension,
                            budget,
                            known,
                            numpy_generator(ctx.seed, "adaptive_rate", dimension, budget, index),
                        )
                        for index in range(seeds)
                    ]
                    ctx.save_partial(part, runs)
                task.advance(budget * seeds)
                cells[budget] = Runs(*np.array(runs, dtype=float).T)
    return found


def slopes(found: Found, seed: int) -> dict[tuple[int, bool], SlopeResult]:
    """Fit the exponents of the mean regrets."""
    fits = {}
    for key, cells in found.items():
        budgets = [budget for budget in cells if budget >= LEAST_BUDGET]
        rng = numpy_generator(seed, "slope", key[0], int(key[1]))
        fits[key] = exponent(budgets, [cells[budget].regret for budget in budgets], rng)
    return fits


def _slope_claim(dimension: int, known: bool, fit: SlopeResult, quick: bool) -> Claim:
    most = SLOPE + SLOPE_TOLERANCE if known else UNKNOWN_SLOPE
    least = SLOPE - SLOPE_TOLERANCE if known else -np.inf
    allowed = f"-2/3 ± {SLOPE_TOLERANCE}" if known else f"what is at most {UNKNOWN_SLOPE}"
    knowledge = "known" if known else "unknown"
    return Claim(
        f"slope_{knowledge}_{dimension}",
        f"Constants {knowledge}, d = {dimension}: the regret falls as a power of the budget.",
        SLOPE,
        fit.slope,
        fit.interval,
        verdict(fit.slope, fit.interval, least, most, quick=quick),
        "exponent",
        f"Slope of log mean regret over budgets from {LEAST_BUDGET:,} on; holds if"
        f" {subject(quick)} in {allowed}. 95 %, bootstrap over seeds.",
    )


def _formula_claim(found: Found, seed: int, quick: bool) -> Claim:
    shares = {
        (dimension, budget): runs.regret / formula(dimension, budget)
        for (dimension, known), cells in found.items()
        for budget, runs in cells.items()
        if known and budget >= LEAST_BUDGET
    }
    worst = max(shares, key=lambda key: shares[key].mean())
    interval = mean_interval(shares[worst], numpy_generator(seed, "formula"))
    share = float(shares[worst].mean())
    return Claim(
        "formula",
        "Constants known: the regret is not much above the formula for a step with T/4 pairs.",
        1.0,
        share,
        interval,
        verdict(share, interval, 0.0, FORMULA_MOST, quick=quick),
        "measured / formula",
        f"Largest of {len(shares)} ratios at budgets from {LEAST_BUDGET:,} on (d={worst[0]},"
        f" T={worst[1]:,}); holds if {subject(quick)} at most"
        f" {FORMULA_MOST:g}. 95 %, bootstrap over seeds.",
    )


def _cost_claim(found: Found, seed: int, quick: bool) -> Claim:
    cells = [(key[0], budget) for key in found if key[1] for budget in found[key]]

    def ratio(cell: tuple[int, int]) -> float:
        d, T = cell
        return float(found[d, False][T].regret.mean() / found[d, True][T].regret.mean())

    d, T = worst = max(cells, key=ratio)
    rng = numpy_generator(seed, "cost")
    interval = ratio_interval(found[d, False][T].regret, found[d, True][T].regret, rng)
    return Claim(
        "cost_of_not_knowing",
        "Without the constants the regret is not much larger.",
        None,
        ratio(worst),
        interval,
        verdict(ratio(worst), interval, 0.0, UNKNOWN_MOST, quick=quick),
        "unknown / known",
        f"Largest of {len(cells)} ratios of means (d={d}, T={T:,}); holds if"
        f" {subject(quick)} at most {UNKNOWN_MOST:g}. 95 %, bootstrap over"
        " seeds.",
    )


def _spread_claim(found: Found) -> Claim:
    cells = {
        (dimension, budget): float(runs.regret.max() / np.median(runs.regret))
        for (dimension, known), by_budget in found.items()
        for budget, runs in by_budget.items()
        if not known
    }
    d, T = worst = max(cells, key=lambda key: cells[key])
    return Claim(
        "no_bad_seed",
        "Constants unknown: no seed is much worse than the median.",
        None,
        cells[worst],
        None,
        cells[worst] <= SPREAD_MOST,
        "maximum / median",
        f"Largest of {len(cells)} ratios (d={d}, T={T:,}); holds up to {SPREAD_MOST:g}.",
    )


def _predicted_claim(found: Found, seed: int, quick: bool) -> Claim:
    cells = {
        (*key, budget): (runs.predicted, runs.regret)
        for key, by_budget in found.items()
        for budget, runs in by_budget.items()
    }
    ratios = {key: predicted.mean() / regret.mean() for key, (predicted, regret) in cells.items()}
    worst = max(ratios, key=lambda key: abs(np.log(ratios[key])))
    interval = ratio_interval(*cells[worst], numpy_generator(seed, "predicted"))
    ratio = float(ratios[worst])
    return Claim(
        "predicted_regret",
        "The regret that the method predicts is right to a factor.",
        1.0,
        ratio,
        interval,
        verdict(ratio, interval, 1 / PREDICTED_FACTOR, PREDICTED_FACTOR, quick=quick),
        "predicted / realised",
        f"Ratio of means farthest from 1 of {len(cells)} (d={worst[0]}, constants"
        f" {'known' if worst[1] else 'unknown'}, T={worst[2]:,}); holds if"
        f" {subject(quick)} within a factor {PREDICTED_FACTOR:g}."
        " 95 %, bootstrap over seeds.",
    )


def claims(
    found: Found, fits: dict[tuple[int, bool], SlopeResult], seed: int, quick: bool
) -> list[Claim]:
    """Hold what was measured to what was said beforehand."""
    return [
        *(_slope_claim(*key, fit, quick) for key, fit in fits.items()),
        _formula_claim(found, seed, quick),
        _cost_claim(found, seed, quick),
        _spread_claim(found),
        _predicted_claim(found, seed, quick),
    ]


COLUMNS = [
    "dimension",
    "constants",
    "budget",
    "seeds",
    "mean regret",
    "95 % low",
    "95 % high",
    "median",
    "maximum",
    "predicted",
    "formula",
    "measured / formula",
]


def rows(found: Found, seed: int) -> list[list[Any]]:
    """Give a row per dimension, knowledge and budget."""
    rng = numpy_generator(seed, "rows")
    listed: list[list[Any]] = []
    for (dimension, known), cells in found.items():
        for budget, runs in cells.items():
            mean, expected = float(runs.regret.mean()), formula(dimension, budget)
            listed.append(
                [
                    dimension,
                    "known" if known else "unknown",
                    budget,
                    len(runs.regret),
                    mean,
                    *mean_interval(runs.regret, rng),
                    float(np.median(runs.regret)),
                    float(runs.regret.max()),
                    float(runs.predicted.mean()),
                    expected,
                    mean / expected,
                ]
            )
    return listed


def _figure(table_rows: list[list[Any]], fits: dict[tuple[int, bool], SlopeResult]) -> list[Figure]:
    from modicum.zeroth import plots

    curves: dict[str, Any] = {}
    lines: dict[str, Any] = {}
    labels = {}
    for (dimension, known), fit in fits.items():
        knowledge = "known" if known else "unknown"
        own = [row for row in table_rows if row[:2] == [dimension, knowledge]]
        budgets = [row[2] for row in own]
        name = f"d = {dimension}, {knowledge}"
        curves[name] = (budgets, *([row[at] for row in own] for at in (4, 5, 6)))
        lines[f"formula, d = {dimension}"] = (budgets, [row[10] for row in own])
        labels[name] = fit
    try:
        figure = plots.regret_curves(curves, slopes=labels, theory=lines)
    except ImportError:
        # matplotlib is optional; tables and claims stand without it.
        return []
    return [
        Figure.from_matplotlib(
            figure,
            "Regret against the budget",
            "Default method, constants known and unknown.",
            "Falling lines in a log-log plot near those of the formula",
        )
    ]


def run(ctx: RunContext) -> Result:
    """Run the default method over budgets and dimensions, with and without the constants."""
    budgets, seeds = (QUICK_BUDGETS, QUICK_SEEDS) if ctx.quick else (BUDGETS, SEEDS)
    found = measure(ctx, budgets, seeds)
    fits = slopes(found, ctx.seed)
    table_rows = rows(found, ctx.seed)
    note = (
        f"M = {STRONG_CONVEXITY:g}, ρ = {HESSIAN_LIPSCHITZ:g}, σ = {NOISE:g}, start at distance 1;"
        f" curvature {CURVATURE:g} at the minimum. Predicted: mean of what the method says. 95 %,"
        " bootstrap over seeds."
    )
    spelled = [
        f"{fit.slope:.3f} (d = {d}, {'known' if known else 'unknown'})"
        for (d, known), fit in fits.items()
    ]
    return ctx.result(
        claims=claims(found, fits, ctx.seed, ctx.quick),
        tables=[Table("Regret of the default method", COLUMNS, table_rows, note)],
        figures=_figure(table_rows, fits),
        text=f"Slopes: {', '.join(spelled)}.",
    )

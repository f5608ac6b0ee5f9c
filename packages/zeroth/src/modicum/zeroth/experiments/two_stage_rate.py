"""Regret of the two-stage algorithm against the budget, constants known.

The function's Hessian changes fastest at its minimum, at the rate that the algorithm is told, so
that the bias of its estimates is as large as it may be. Its regret should fall as ``T^(-2/3)`` and
be what the formula for the last step says; and it should be much below the regret of the point that
the first stage found, or the last step would be for nothing. The function is rotated at random; the
last of these is looked at without rotation as well, where the axes are those of the coordinate
differences and the bias of the first stage is largest.

Legend: ``S`` seeds, ``B`` resamples.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.core.stats import SlopeResult
from modicum.zeroth import theory
from modicum.zeroth.errors import ZerothWarning
from modicum.zeroth.experiments._regret import (
    ends,
    exponent,
    mean_interval,
    ratio_interval,
    resampled_means,
    subject,
    verdict,
)
from modicum.zeroth.methods.two_stage import TwoStage
from modicum.zeroth.problems import skew

DIMENSIONS = (2, 5, 10)
BUDGETS = (10**4, 10**5, 316_228, 10**6, 3_162_278, 10**7)
QUICK_BUDGETS = (10**4, 10**5, 10**6)
SEEDS, QUICK_SEEDS = 20, 5

NOISE, STRONG_CONVEXITY, HESSIAN_LIPSCHITZ = 1.0, 1.0, 1.0
CURVATURE = 2.0
"""Of the test function at its minimum, in every direction."""

SLOPE, SLOPE_TOLERANCE = -2 / 3, 0.1
SLOPE_DIMENSIONS = (5, 10)
SLOPE_BUDGET, QUICK_SLOPE_BUDGET = 10**5, 10**4
"""Least budget that the slope is fitted to."""

FORMULA_BUDGET = 10**6
"""Least budget at which the formula must be right."""

FORMULA_RANGE = (0.4, 2.0)
GAIN_RANGE = (3.0, 5.0)
GAIN_BUDGET = 10**7
"""Where the last step must gain that much, in the largest dimension."""


@dataclass(frozen=True)
class Runs:
    """Regrets of runs that differ in the seed only.

    Attributes
    ----------
    final, first
        Of the recommended point and of the one after the first stage, ``(S,)``.
    evaluations
        Used by each run.
    """

    final: np.ndarray
    first: np.ndarray
    evaluations: int


def formula(dimension: int, budget: int) -> float:
    """Give ``(3/8) d ρ^(2/3) σ^(4/3) / (λ n_g^(2/3))``, a bound of the last step's regret."""
    pairs = budget // 10
    scale = HESSIAN_LIPSCHITZ ** (2 / 3) * NOISE ** (4 / 3)
    return 3 / 8 * dimension * scale / (CURVATURE * pairs ** (2 / 3))


def one_run(
    dimension: int, budget: int, seed: int, index: int, *, rotation: bool = True
) -> tuple[float, float, int]:
    """Give the final regret, the one after the first stage, and the evaluations of one run."""
    rng = numpy_generator(seed, "two_stage_rate", dimension, budget, index)
    problem = skew(
        dimension,
        strong_convexity=STRONG_CONVEXITY,
        hessian_lipschitz=HESSIAN_LIPSCHITZ,
        rotation=rotation,
        rng=rng,
    )
    with warnings.catch_warnings():
        # Small budgets are meant to be too small for the guarantee.
        warnings.simplefilter("ignore", ZerothWarning)
        method = TwoStage(
            problem.start,
            budget,
            noise=NOISE,
            strong_convexity=STRONG_CONVEXITY,
            hessian_lipschitz=HESSIAN_LIPSCHITZ,
            rng=rng,
        )
        found = method.run(problem.noisy(NOISE, rng))
    first = method.trace[-2].x
    return float(problem.regret(found.x)), float(problem.regret(first)), method.nfev


def measure(
    ctx: RunContext, budgets: Sequence[int], seeds: int, dimensions: Sequence[int] = DIMENSIONS
) -> dict[int, dict[int, Runs]]:
    """Give the runs by dimension and budget."""
    task = ctx.progress(len(dimensions) * sum(budgets) * seeds, "evaluations")
    found: dict[int, dict[int, Runs]] = {}
    for dimension in dimensions:
        found[dimension] = {}
        for budget in budgets:
            found[dimension][budget] = runs_of(dimension, budget, ctx.seed, seeds)
            task.advance(budget * seeds)
    return found


def runs_of(dimension: int, budget: int, seed: int, seeds: int, *, rotation: bool = True) -> Runs:
    """Give the runs of one cell."""
    runs = [one_run(dimension, budget, seed, index, rotation=rotation) for index in range(seeds)]
    final, first, evaluations = zip(*runs, strict=True)
    return Runs(np.array(final), np.array(first), evaluations[0])


def slope(runs: dict[int, Runs], least: int, seed: int) -> SlopeResult:
    """Fit the exponent of the mean regret from a budget on; the interval resamples the seeds."""
    rng = numpy_generator(seed, "slope")
    budgets = [budget for budget in runs if budget >= least]
    return exponent(budgets, [runs[budget].final for budget in budgets], rng)


def _slope_claim(dimension: int, fit: SlopeResult, least: int, quick: bool) -> Claim:
    low, high = SLOPE - SLOPE_TOLERANCE, SLOPE + SLOPE_TOLERANCE
    return Claim(
        f"slope_{dimension}",
        f"In {dimension} dimensions the regret falls as the budget to the power -2/3.",
        SLOPE,
        fit.slope,
        fit.interval,
        verdict(fit.slope, fit.interval, low, high, quick=quick),
        "exponent",
        f"Slope of log mean regret over budgets from {least:,} on; holds if {subject(quick)} within"
        f" {SLOPE_TOLERANCE} of -2/3. 95 %, bootstrap over seeds.",
    )


def _formula_claim(found: dict[int, dict[int, Runs]], seed: int, quick: bool) -> Claim:
    rng = numpy_generator(seed, "formula")
    cells = [
        (dimension, budget)
        for dimension, runs in found.items()
        for budget in runs
        if budget >= FORMULA_BUDGET
    ]
    shares = [found[d][T].final.mean() / formula(d, T) for d, T in cells]
    worst = int(np.argmax(np.abs(np.log(shares))))
    d, T = cells[worst]
    interval = ends(resampled_means(found[d][T].final, rng) / formula(d, T))
    low, high = FORMULA_RANGE
    return Claim(
        "formula",
        "The regret is what the formula for the last step says.",
        1.0,
        float(shares[worst]),
        interval,
        verdict(float(shares[worst]), interval, low, high, quick=quick),
        "measured / formula",
        f"The farthest from 1 of {len(cells)} ratios at budgets from {FORMULA_BUDGET:,} on (d={d},"
        f" T={T:,}); holds if {subject(quick)} within {low:g} to {high:g}. 95 %, bootstrap over"
        " seeds.",
    )


def _gain_claim(name: str, axes: str, runs: Runs, dimension: int, budget: int, seed: int) -> Claim:
    interval = ratio_interval(runs.first, runs.final, numpy_generator(seed, "gain"))
    gain = float(runs.first.mean() / runs.final.mean())
    holds = GAIN_RANGE[0] <= gain <= GAIN_RANGE[1] if budget >= GAIN_BUDGET else None
    return Claim(
        name,
        f"The point after the first stage has several times the regret of the final one, {axes}.",
        None,
        gain,
        interval,
        holds,
        "first stage / final",
        f"Ratio of means, d={dimension}, T={budget:,}; decided at T={GAIN_BUDGET:,}, holds within"
        f" {GAIN_RANGE[0]:g} to {GAIN_RANGE[1]:g}. 95 %, bootstrap over seeds.",
    )


def claims(
    found: dict[int, dict[int, Runs]], straight: Runs, seed: int, quick: bool
) -> list[Claim]:
    """Hold slopes, formula and gain to what was said beforehand.

    `straight` are the runs of the largest dimension and budget on the function without rotation.
    """
    least = QUICK_SLOPE_BUDGET if quick else SLOPE_BUDGET
    largest = max(found)
    budget = max(found[largest])
    return [
        *(
            _slope_claim(d, slope(runs, least, seed), least, quick)
            for d, runs in found.items()
            if d in SLOPE_DIMENSIONS
        ),
        _formula_claim(found, seed, quick),
        _gain_claim(
            "last_step_pays",
            "rotated at random",
            found[largest][budget],
            largest,
            budget,
            seed,
        ),
        _gain_claim(
            "last_step_pays_straight",
            "its axes those of the coordinate differences",
            straight,
            largest,
            budget,
            seed,
        ),
    ]


def rows(found: dict[int, dict[int, Runs]], seed: int) -> list[list[Any]]:
    """Give a row per dimension and budget."""
    rng = numpy_generator(seed, "rows")
    listed: list[list[Any]] = []
    for dimension, by_budget in found.items():
        for budget, runs in by_budget.items():
            mean = float(runs.final.mean())
            low, high = mean_interval(runs.final, rng)
            expected = formula(dimension, budget)
            listed.append(
                [
                    dimension,
                    budget,
                    runs.evaluations,
                    len(runs.final),
                    mean,
                    low,
                    high,
                    float(np.median(runs.final)),
                    float(runs.first.mean()),
                    expected,
                    mean / expected,
                ]
            )
    return listed


COLUMNS = [
    "dimension",
    "budget",
    "evaluations",
    "seeds",
    "mean regret",
    "95 % low",
    "95 % high",
    "median",
    "after first stage",
    "formula",
    "measured / formula",
]


def _figure(table_rows: list[list[Any]], fits: dict[int, SlopeResult]) -> list[Figure]:
    from modicum.zeroth import plots

    curves: dict[str, Any] = {}
    lines: dict[str, Any] = {}
    for dimension in fits:
        own = [row for row in table_rows if row[0] == dimension]
        budgets = [row[1] for row in own]
        curves[f"d = {dimension}"] = (budgets, *([row[at] for row in own] for at in (4, 5, 6)))
        lines[f"formula, d = {dimension}"] = (budgets, [row[9] for row in own])
    largest = max(fits)
    budgets = [row[1] for row in table_rows if row[0] == largest]
    for name, bound in (("upper", theory.upper_bound), ("lower", theory.lower_bound)):
        values = bound(
            dimension=largest,
            strong_convexity=STRONG_CONVEXITY,
            hessian_lipschitz=HESSIAN_LIPSCHITZ,
            noise=NOISE,
            budget=np.array(budgets, dtype=float),
        )
        lines[f"{name} bound, d = {largest}"] = (budgets, values)
    try:
        figure = plots.regret_curves(
            curves, slopes={f"d = {d}": fit for d, fit in fits.items()}, theory=lines
        )
    except ImportError:
        # matplotlib is optional; tables and claims stand without it.
        return []
    return [
        Figure.from_matplotlib(
            figure,
            "Regret against the budget",
            "Two-stage algorithm, constants known; bounds for large budgets.",
            "Falling lines in a log-log plot, parallel to those of the formula",
        )
    ]


def run(ctx: RunContext) -> Result:
    """Run the two-stage algorithm over budgets and dimensions and fit the exponents."""
    budgets, seeds = (QUICK_BUDGETS, QUICK_SEEDS) if ctx.quick else (BUDGETS, SEEDS)
    found = measure(ctx, budgets, seeds)
    straight = runs_of(max(found), max(budgets), ctx.seed, seeds, rotation=False)
    table_rows = rows(found, ctx.seed)
    least = QUICK_SLOPE_BUDGET if ctx.quick else SLOPE_BUDGET
    fits = {dimension: slope(runs, least, ctx.seed) for dimension, runs in found.items()}
    note = (
        f"M = {STRONG_CONVEXITY:g}, ρ = {HESSIAN_LIPSCHITZ:g}, σ = {NOISE:g}, start at distance 1;"
        f" curvature {CURVATURE:g} at the minimum. 95 %, bootstrap over seeds."
    )
    return ctx.result(
        claims=claims(found, straight, ctx.seed, ctx.quick),
        tables=[Table("Regret of the two-stage algorithm", COLUMNS, table_rows, note)],
        figures=_figure(table_rows, fits),
        text="Slopes: " + ", ".join(f"{fit.slope:.3f} (d = {d})" for d, fit in fits.items()) + ".",
    )

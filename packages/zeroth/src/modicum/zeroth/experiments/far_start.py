"""Starts far away, and curvature without bound: what the default method's steps cost and save.

First on a function of bounded curvature, from a start ten times as far as the method is told:
further rounds travel, and what is left should do almost as well as a near start. Then on a function
whose curvature grows with the distance. Gradient descent whose step suits the curvature at the
optimum explodes there from far away; the default method, which knows no curvature, must not.

Legend: ``S`` seeds.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.zeroth.errors import ZerothWarning
from modicum.zeroth.experiments._regret import (
    mean_interval,
    ratio_interval,
    subject,
    verdict,
)
from modicum.zeroth.methods.adaptive import Adaptive
from modicum.zeroth.methods.zosgd import ZOSGD
from modicum.zeroth.problems import hypot, skew
from modicum.zeroth.problems.problem import Problem

DIMENSION, NOISE = 10, 1.0
NEAR, FAR = 1.0, 10.0
DISTANCES = (3.0, 30.0)
"""Of the optimum, where the curvature is without bound; the method is told 1."""

BUDGETS = (10**4, 10**5)
GROWN_BUDGETS = (10**4, 10**5)
QUICK_GROWN_BUDGETS = (10**4,)
SEEDS, QUICK_SEEDS = 30, 4

RATIO_MOST = 4.0
WORST_MOST = 0.05
DECIDING = 10**5
"""Budget at which the far start is held to the near one."""

LOCAL_CURVATURE = 4.0
"""A bound of the curvature within a length of 1 or so of the optimum: M + L + ρ."""

BOUNDED, UNBOUNDED = "bounded", "unbounded"
ADAPTIVE, SGD = "adaptive", "SGD, local curvature"

Cell = tuple[str, float, str, int]
"""Curvature, distance, method, budget."""


@dataclass(frozen=True)
class Runs:
    """Regrets ``(S,)`` of the recommended points and of the starts; inf beyond all numbers."""

    regret: np.ndarray
    start: np.ndarray

    @property
    def diverged(self) -> int:
        """Number of runs that end no better than they started."""
        return int(np.count_nonzero(~(self.regret < self.start)))


Found = dict[Cell, Runs]


def _problem(curvature: str, distance: float, rng: np.random.Generator) -> Problem:
    make = skew if curvature == BOUNDED else hypot
    return make(DIMENSION, shift=distance, rotation=True, rng=rng)


def one_run(cell: Cell, rng: np.random.Generator) -> tuple[float, float]:
    """Give the regret of one run, and that of its start."""
    curvature, distance, name, budget = cell
    problem = _problem(curvature, distance, rng)
    method: Adaptive | ZOSGD
    with warnings.catch_warnings(), np.errstate(over="ignore", invalid="ignore"):
        # That values explode is what is measured.
        warnings.simplefilter("ignore", ZerothWarning)
        if name == ADAPTIVE:
            method = Adaptive(problem.start, budget, rng=rng)
        else:
            method = ZOSGD(
                problem.start,
                budget,
                noise=NOISE,
                strong_convexity=problem.strong_convexity,
                hessian_lipschitz=problem.hessian_lipschitz,
                smoothness=LOCAL_CURVATURE,
                rng=rng,
            )
        found = method.run(problem.noisy(NOISE, rng))
        regret = float(problem.regret(found.x))
    return (
        regret if np.isfinite(regret) else np.inf,
        float(problem.regret(problem.start)),
    )


def cells_of(quick: bool) -> list[Cell]:
    """List what is run."""
    budgets = QUICK_GROWN_BUDGETS if quick else GROWN_BUDGETS
    return [
        *((BOUNDED, distance, ADAPTIVE, T) for distance in (NEAR, FAR) for T in BUDGETS),
        *((UNBOUNDED, distance, ADAPTIVE, T) for distance in DISTANCES for T in budgets),
        *((UNBOUNDED, distance, SGD, budgets[0]) for distance in DISTANCES),
    ]


def measure(ctx: RunContext, cells: Sequence[Cell], seeds: int) -> Found:
    """Give all runs; those of an interrupted run are not repeated."""
    task = ctx.progress(seeds * sum(cell[3] for cell in cells), "evaluations")
    found: Found = {}
    for number, cell in enumerate(cells):
        part = f"cell-{number}"
        runs = ctx.load_partial(part)
        if runs is None:
            curvature, distance, _, budget = cell
            stream = "far_start", curvature, int(distance), budget
            runs = [
                one_run(cell, numpy_generator(ctx.seed, *stream, index)) for index in range(seeds)
            ]
            # JSON has no infinity; None becomes nan.
            kept = [[value if np.isfinite(value) else None for value in run] for run in runs]
            ctx.save_partial(part, kept)
        task.advance(seeds * cell[3])
        found[cell] = Runs(*np.nan_to_num(np.array(runs, dtype=float), nan=np.inf, posinf=np.inf).T)
    return found


def claims(found: Found, seed: int, quick: bool) -> list[Claim]:
    """Hold far starts and unbounded curvature to what was said beforehand."""
    near, far = (found[BOUNDED, distance, ADAPTIVE, DECIDING].regret for distance in (NEAR, FAR))
    interval = ratio_interval(far, near, numpy_generator(seed, "ratio"))
    ratio = float(far.mean() / near.mean())
    own = [runs for cell, runs in found.items() if cell[0] == UNBOUNDED and cell[2] == ADAPTIVE]
    own_diverged = sum(runs.diverged for runs in own)
    own_runs = sum(len(runs.regret) for runs in own)
    distance = max(DISTANCES)
    (peer,) = (runs for cell, runs in found.items() if cell[1:3] == (distance, SGD))
    share = peer.diverged / len(peer.regret)
    return [
        Claim(
            "far_start",
            "A start ten times as far as the method is told costs little.",
            None,
            ratio,
            interval,
            verdict(ratio, interval, 0.0, RATIO_MOST, quick=quick),
            "far / near",
            f"Ratio of mean regrets, d={DIMENSION}, T={DECIDING:,}; holds if"
            f" {subject(quick)} at most {RATIO_MOST:g}. 95 %, bootstrap over"
            " seeds.",
        ),
        Claim(
            "far_start_worst",
            "No run from the far start fails.",
            None,
            float(far.max()),
            None,
            bool(far.max() <= WORST_MOST),
            "regret",
            f"Largest of {len(far)} seeds, T={DECIDING:,}; holds up to {WORST_MOST:g}.",
        ),
        Claim(
            "nothing_diverges",
            "Where curvature has no bound, the default method always gains.",
            0.0,
            own_diverged / own_runs,
            None,
            own_diverged == 0,
            "share of runs",
            f"Of {own_runs} runs from distances {DISTANCES[0]:g} and {DISTANCES[1]:g}, those whose"
            " regret is not below that of the start.",
        ),
        Claim(
            "local_steps_diverge",
            "Gradient descent whose steps suit the curvature near the optimum explodes from afar.",
            None,
            share,
            None,
            share == 1,
            "share of runs",
            f"Distance {distance:g}, smoothness {LOCAL_CURVATURE:g} and all other constants known;"
            " holds if every run ends above the regret of the start.",
        ),
    ]


COLUMNS = [
    "curvature",
    "distance",
    "method",
    "budget",
    "seeds",
    "mean regret",
    "95 % low",
    "95 % high",
    "median",
    "maximum",
    "diverged",
]


def rows(found: Found, seed: int) -> list[list[Any]]:
    """Give a row per cell; means of runs that diverged are left out."""
    rng = numpy_generator(seed, "rows")
    listed: list[list[Any]] = []
    for cell, runs in found.items():
        summary: list[Any] = [None] * 5
        if not runs.diverged:
            regrets = runs.regret
            mean, median, worst = regrets.mean(), np.median(regrets), regrets.max()
            summary = [float(mean), *mean_interval(regrets, rng), float(median), float(worst)]
        listed.append([*cell, len(runs.regret), *summary, runs.diverged])
    return listed


def _figure(table_rows: list[list[Any]]) -> list[Figure]:
    from modicum.zeroth import plots

    curves: dict[str, Any] = {}
    for curvature, distance in dict.fromkeys((row[0], row[1]) for row in table_rows):
        own = [row for row in table_rows if row[:3] == [curvature, distance, ADAPTIVE]]
        own = [row for row in own if row[5] is not None]
        if own:
            curves[f"{curvature} curvature, distance {distance:g}"] = (
                [row[3] for row in own],
                *([row[at] for row in own] for at in (5, 6, 7)),
            )
    try:
        figure = plots.regret_curves(curves)
    except ImportError:
        # matplotlib is optional; tables and claims stand without it.
        return []
    return [
        Figure.from_matplotlib(
            figure,
            "Regret from near and far",
            f"Default method, d = {DIMENSION}, told a length of 1.",
            "Falling lines in a log-log plot, close to each other",
        )
    ]


def run(ctx: RunContext) -> Result:
    """Start far away, on functions of bounded and unbounded curvature."""
    found = measure(ctx, cells_of(ctx.quick), QUICK_SEEDS if ctx.quick else SEEDS)
    table_rows = rows(found, ctx.seed)
    note = (
        f"d = {DIMENSION}, σ = {NOISE:g}, scale 1; nothing else is told to the default method."
        " Diverged: runs that end no better than they started. 95 %, bootstrap over seeds."
    )
    return ctx.result(
        claims=claims(found, ctx.seed, ctx.quick),
        tables=[Table("Regret from near and far", COLUMNS, table_rows, note)],
        figures=_figure(table_rows),
    )

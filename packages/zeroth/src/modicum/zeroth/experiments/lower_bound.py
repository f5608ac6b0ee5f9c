"""The hardest instance for a budget: regret between the lower and the upper bound.

For every budget there is a function on which no method can tell, coordinate by coordinate, on which
side of the middle the minimum lies. Both methods run on it from a start at distance 1; their regret
must lie above the lower bound, and should not lie above the upper bound of the two-stage algorithm.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.core.stats import bootstrap_interval
from modicum.zeroth import theory
from modicum.zeroth.errors import ZerothWarning
from modicum.zeroth.methods.adaptive import Adaptive
from modicum.zeroth.methods.two_stage import TwoStage
from modicum.zeroth.optimizer import Optimizer
from modicum.zeroth.problems import LowerBoundInstance, lower_bound_instance

DIMENSIONS, QUICK_DIMENSIONS = (1, 3, 10), (1, 3)
BUDGETS, QUICK_BUDGETS = (10_000, 100_000, 1_000_000), (3_000, 30_000)
SEEDS, QUICK_SEEDS = 40, 15

CONSTANTS: dict[str, Any] = {"strong_convexity": 1.0, "hessian_lipschitz": 1.0, "noise": 1.0}
DISTANCE = 1.0
"""Of the start from the middle between the minima."""

METHODS: dict[str, Callable[..., Optimizer]] = {
    "two-stage": lambda x0, budget, rng: TwoStage(x0, budget, rng=rng, **CONSTANTS),
    "adaptive, constants known": lambda x0, budget, rng: Adaptive(x0, budget, rng=rng, **CONSTANTS),
    "adaptive": lambda x0, budget, rng: Adaptive(x0, budget, rng=rng),
}


@dataclass(frozen=True)
class Setting:
    """One method on the instance of one dimension and budget."""

    method: str
    dimension: int
    budget: int


@dataclass(frozen=True)
class Outcome:
    """Regrets ``(seeds,)`` and the share of coordinates moved to the right side of the middle."""

    regrets: np.ndarray
    right_side: float


def play(setting: Setting, seeds: int, seed: int) -> Outcome:
    """Run a method with fresh signs, start and noise for each seed."""
    regrets, right = [], []
    for index in range(seeds):
        rng = numpy_generator(seed, "lower bound", setting.dimension, setting.budget, index)
        problem = lower_bound_instance(
            setting.dimension, budget=setting.budget, rng=rng, **CONSTANTS
        )
        start = rng.standard_normal(setting.dimension)
        start *= DISTANCE / np.linalg.norm(start)
        x = _solution(setting, start, problem, index, rng)
        regrets.append(float(problem.regret(x)))
        right.append(float((x * problem.optimum > 0).mean()))
    return Outcome(np.array(regrets), float(np.mean(right)))


def _solution(
    setting: Setting,
    start: np.ndarray,
    problem: LowerBoundInstance,
    seed: int,
    rng: np.random.Generator,
) -> np.ndarray:
    with warnings.catch_warnings():
        # What budgets the proofs need; here it is measured what happens at these.
        warnings.simplefilter("ignore", ZerothWarning)
        method = METHODS[setting.method](start, setting.budget, seed)
        return method.run(problem.noisy(CONSTANTS["noise"], rng)).x


def bounds(dimension: int, budget: int) -> tuple[float, float]:
    """Give the lower and the upper bound of the mean regret."""
    settings = {"dimension": dimension, "budget": budget, **CONSTANTS}
    return float(theory.lower_bound(**settings)), float(theory.upper_bound(**settings))


def claims(found: dict[Setting, Outcome]) -> list[Claim]:
    """Say of every method how near it comes to the bounds."""
    listed = []
    for name in dict.fromkeys(setting.method for setting in found):
        mine = {setting: found[setting] for setting in found if setting.method == name}
        short = name.replace(", ", "_").replace("-", "_").replace(" ", "_")
        above = {s: o.regrets.mean() / bounds(s.dimension, s.budget)[0] for s, o in mine.items()}
        below = {s: o.regrets.mean() / bounds(s.dimension, s.budget)[1] for s, o in mine.items()}
        lowest, highest = min(above, key=lambda s: above[s]), max(below, key=lambda s: below[s])
        listed += [
            _claim(
                f"above_lower_bound_{short}",
                f"Mean regret of {name} lies above the lower bound for all methods.",
                "at least 1",
                lowest,
                mine[lowest],
                bounds(lowest.dimension, lowest.budget)[0],
                above[lowest] >= 1,
                "regret / lower bound",
            ),
            _claim(
                f"below_upper_bound_{short}",
                f"Mean regret of {name} lies below the upper bound of the two-stage algorithm.",
                "at most 1",
                highest,
                mine[highest],
                bounds(highest.dimension, highest.budget)[1],
                below[highest] <= 1,
                "regret / upper bound",
            ),
        ]
    return listed


def _claim(
    name: str,
    statement: str,
    paper: str,
    setting: Setting,
    outcome: Outcome,
    bound: float,
    holds: bool,
    unit: str,
) -> Claim:
    low, high = bootstrap_interval(outcome.regrets / bound, rng=0)
    note = (
        f"The nearest of all settings, d = {setting.dimension}, budget {setting.budget:,}, "
        f"{len(outcome.regrets)} seeds; 95 %, bootstrap. The bounds are limits for large budgets."
    )
    return Claim(
        name, statement, paper, outcome.regrets.mean() / bound, (low, high), holds, unit, note
    )


def rows(found: dict[Setting, Outcome]) -> list[list[Any]]:
    """Give a row per setting."""
    listed: list[list[Any]] = []
    for setting, outcome in found.items():
        low, high = bootstrap_interval(outcome.regrets, rng=0)
        lower, upper = bounds(setting.dimension, setting.budget)
        mean = float(outcome.regrets.mean())
        row = [setting.method, setting.dimension, setting.budget, mean, low, high, lower, upper]
        listed.append([*row, float(outcome.regrets.max()), outcome.right_side])
    return listed


def _figure(table_rows: list[list[Any]]) -> list[Figure]:
    from modicum.zeroth import plots

    dimension = max(row[1] for row in table_rows)
    chosen = [row for row in table_rows if row[1] == dimension]
    curves, lines = {}, {}
    for name in dict.fromkeys(row[0] for row in chosen):
        _, _, budgets, mean, low, high, lower, upper, _, _ = zip(
            *(row for row in chosen if row[0] == name), strict=True
        )
        curves[name] = (budgets, mean, low, high)
        lines = {"lower bound": (budgets, lower), "upper bound": (budgets, upper)}
    try:
        figure = plots.regret_curves(curves, theory=lines)
    except ImportError:
        # matplotlib is optional; tables and claims stand without it.
        return []
    return [
        Figure.from_matplotlib(
            figure,
            "Regret on the hardest instance",
            f"{dimension} dimensions; every budget has an instance of its own.",
            "Falling lines in a log-log plot, between the two bounds",
        )
    ]


def run(ctx: RunContext) -> Result:
    """Run the methods on the instance of every dimension and budget."""
    dimensions = QUICK_DIMENSIONS if ctx.quick else DIMENSIONS
    budgets = QUICK_BUDGETS if ctx.quick else BUDGETS
    settings = [
        Setting(name, dimension, budget)
        for name in METHODS
        for dimension in dimensions
        for budget in budgets
    ]
    task = ctx.progress(len(settings), "instances")
    found = {}
    for setting in settings:
        found[setting] = play(setting, QUICK_SEEDS if ctx.quick else SEEDS, ctx.seed)
        task.advance(1)
    table_rows = rows(found)
    columns = ["method", "dimension", "budget", "mean regret", "95 % low", "95 % high"]
    columns += ["lower bound", "upper bound", "largest regret", "coordinates on the right side"]
    return ctx.result(
        claims=claims(found),
        tables=[Table("Regret on the hardest instance", columns, table_rows)],
        figures=_figure(table_rows),
    )

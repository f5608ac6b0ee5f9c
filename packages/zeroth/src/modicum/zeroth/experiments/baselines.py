"""The default method beside streaming methods, on the same problems at equal budget.

Streaming methods take a small step after every pair. Some are told nothing but the scale, as the
default method is; one is told every constant there is. Regret is exact, of the recommended point.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from modicum.core.experiment import Claim, Result, RunContext, Table
from modicum.core.stats import median_interval, ratio_of_medians_interval
from modicum.zeroth.comparison import measure
from modicum.zeroth.errors import ZerothWarning
from modicum.zeroth.experiments._regret import ratio_interval, subject, verdict
from modicum.zeroth.plan import minimum_budget

DIMENSION = 10
SIGMA = 1.0
COLUMNS = (
    ("skew", 10_000),
    ("skew", 100_000),
    ("stretched", 1_000),
    ("stretched", 10_000),
    ("stretched", 100_000),
    ("logreg", 10_000),
    ("hypot", 10_000),
)
QUICK_COLUMNS = (("skew", 10_000), ("stretched", 1_000))
SEEDS, LARGE_SEEDS, QUICK_SEEDS = 24, 6, 3
"""Seeds of a column, of one with a budget above `LARGE`, and of a quick run."""
UNTUNED = ("spsa", "spsa-asymptotic", "zosgd", "kernel", "mezo")
TUNED = "zosgd-tuned"
KNOWN = ("adaptive-known", "two-stage")
LARGE = 10_000
"""Budgets from which on the default method should not lose."""
WORST_RATIO = 2.0
BEHIND = 3.0
"""A sequence of gains that is this many times worse somewhere does not work everywhere."""

STATISTICS: dict[str, Callable[[np.ndarray], Any]] = {"mean": np.mean, "median": np.median}

Regrets = dict[tuple[str, str, int], np.ndarray]
"""By method, problem and budget: regrets ``[S]`` of the seeds."""


def _measured(ctx: RunContext) -> Regrets:
    """Run everything, keeping what is done so that a run that is cut off goes on."""
    columns = QUICK_COLUMNS if ctx.quick else COLUMNS
    methods = ("adaptive", *KNOWN, *UNTUNED, TUNED)
    bar = ctx.progress(len(columns) * len(methods), "methods on problems")
    regrets = {}
    for problem, budget in columns:
        for method in methods:
            part = f"{method}-{problem}-{budget}"
            found = ctx.load_partial(part)
            if found is None:
                found = _regrets(method, problem, budget, ctx)
                ctx.save_partial(part, found)
            if found:
                regrets[method, problem, budget] = np.array(found)
            bar.advance()
    return regrets


def _regrets(method: str, problem: str, budget: int, ctx: RunContext) -> list[float]:
    """Give the regrets of all seeds; none where the budget is too small for the method."""
    full = LARGE_SEEDS if budget > LARGE else SEEDS
    seeds = range(ctx.seed, ctx.seed + (QUICK_SEEDS if ctx.quick else full))
    setting: dict[str, Any] = {"dimension": DIMENSION, "sigma": SIGMA, "budget": budget}
    with warnings.catch_warnings():
        # Of the conditions of a guarantee, which hold in none of these settings.
        warnings.simplefilter("ignore", ZerothWarning)
        if method == "two-stage" and budget < minimum_budget(DIMENSION):
            return []
        return [measure(problem, method, seed=seed, **setting).regret for seed in seeds]


def _ratio(regrets: Regrets, over: str, under: str, column: tuple[str, int]) -> Any:
    """Give the ratio of two methods' median regrets on a column, with its interval."""
    return ratio_of_medians_interval(regrets[over, *column], regrets[under, *column], paired=True)


def _against_the_best(
    regrets: Regrets, columns: list[tuple[str, int]], statistic: str, quick: bool
) -> Claim:
    """Compare with the best method that is told as little, in each column of a large budget."""
    summary = STATISTICS[statistic]
    ratios = {}
    for column in columns:
        best = min(UNTUNED, key=lambda name: summary(regrets[name, *column]))
        own, other = regrets["adaptive", *column], regrets[best, *column]
        if statistic == "mean":
            ratio, interval = own.mean() / other.mean(), _mean_interval(own, other)
        else:
            ratio, interval = _ratio(regrets, "adaptive", best, column)
        ratios[column] = (best, float(ratio), interval)
    problem, budget = worst = max(ratios, key=lambda column: ratios[column][1])
    best, ratio, interval = ratios[worst]
    return Claim(
        f"against_best_untuned_{statistic}",
        "From 10,000 evaluations on the default method is never far behind whichever streaming"
        f" method happens to be the best there, by {statistic} regret.",
        paper=None,
        measured=ratio,
        interval=interval,
        holds=verdict(ratio, interval, 0.0, WORST_RATIO, quick=quick),
        unit="times its regret",
        note=f"worst of {len(ratios)} columns: {problem}, {budget:,} evaluations, beside {best};"
        f" ratio of {statistic}s, interval of that column alone; holds if {subject(quick)} at most"
        f" {WORST_RATIO:g}",
    )


def _mean_interval(own_S: np.ndarray, other_S: np.ndarray) -> tuple[float, float]:
    return ratio_interval(own_S, other_S, np.random.default_rng(0))


def _no_gains_for_all(regrets: Regrets, columns: list[tuple[str, int]], quick: bool) -> list[Claim]:
    """Show where each sequence of gains fails; small budgets cannot decide it."""
    claims = []
    for name in ("spsa", "spsa-asymptotic"):
        ratios = {column: _ratio(regrets, name, "adaptive", column) for column in columns}
        problem, budget = worst = max(ratios, key=lambda column: ratios[column][0])
        ratio, interval = ratios[worst]
        claims.append(
            Claim(
                f"{name.replace('-', '_')}_fails_somewhere",
                f"The gains of {name} are far behind on some problem.",
                paper=None,
                measured=ratio,
                interval=interval,
                holds=None if quick else ratio >= BEHIND,
                unit="times the default's regret",
                note=f"worst of {len(ratios)} columns: {problem}, {budget:,} evaluations; ratio of"
                f" medians, interval of that column alone; criterion: at least {BEHIND:g}, with"
                " budgets up to 100,000",
            )
        )
    return claims


def _price_of_not_knowing(regrets: Regrets, columns: list[tuple[str, int]]) -> Claim:
    """Report the largest loss to a method that is told all constants."""
    ratios = {column: _ratio(regrets, "adaptive", TUNED, column) for column in columns}
    problem, budget = worst = max(ratios, key=lambda column: ratios[column][0])
    ratio, interval = ratios[worst]
    return Claim(
        "loss_to_tuned",
        "Averaged gradient descent that is told every constant is better than the default method,"
        " which is told none.",
        paper=None,
        measured=ratio,
        interval=interval,
        unit="times its regret",
        note=f"worst of {len(ratios)} columns: {problem}, {budget:,} evaluations; ratio of medians,"
        " interval of that column alone; a price, without a criterion",
    )


def _table(regrets: Regrets) -> Table:
    columns = list(dict.fromkeys((problem, budget) for _, problem, budget in regrets))
    methods = list(dict.fromkeys(method for method, _, _ in regrets))
    rows = []
    for method in methods:
        cells: list[str | None] = []
        for column in columns:
            values = regrets.get((method, *column))
            cells.append(None if values is None else _with_interval(values))
        rows.append([method, *cells])
    headings = [f"{problem}, T = {budget:,}" for problem, budget in columns]
    return Table(
        f"Median regret, d = {DIMENSION}",
        ["method", *headings],
        rows,
        note=f"{_seeds_of(regrets)} seeds of problem, noise and method; in brackets"
        f" 95 % interval of the median where there are enough seeds; noise {SIGMA:g}, but for"
        " logreg that of its mini-batches",
    )


def _seeds_of(regrets: Regrets) -> str:
    return " or ".join(str(count) for count in sorted({len(each) for each in regrets.values()}))


def _with_interval(values_S: np.ndarray) -> str:
    low, high = median_interval(values_S)
    text = f"{np.median(values_S):.3g}"
    return text if np.isinf(high) else f"{text} ({low:.2g}-{high:.2g})"


def run(ctx: RunContext) -> Result:
    """Measure the regret of all methods."""
    regrets = _measured(ctx)
    columns = list(dict.fromkeys((problem, budget) for _, problem, budget in regrets))
    large = [column for column in columns if column[1] >= LARGE]
    return ctx.result(
        claims=[
            *(_against_the_best(regrets, large, name, ctx.quick) for name in STATISTICS),
            *_no_gains_for_all(regrets, large, ctx.quick),
            _price_of_not_knowing(regrets, large),
        ],
        tables=[_table(regrets)],
    )

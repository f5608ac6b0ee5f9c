"""Regret of the default method against the noise and against the change of curvature.

Budget and dimension stay; the noise ``σ`` and the Lipschitz constant ``ρ`` of the Hessian vary one
at a time. Theory has ``σ^(4/3)`` and ``ρ^(2/3)`` where the budget is large enough for the last step
to decide. Methods that know the constants are held to that; those that do not stand beside them.

Legend: ``S`` seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.core.stats import SlopeResult
from modicum.zeroth.experiments._regret import (
    exponent,
    mean_interval,
    ratio_interval,
    subject,
    verdict,
)
from modicum.zeroth.experiments.adaptive_rate import formula, one_run

DIMENSION, BUDGET = 5, 20_000
NOISES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
LIPSCHITZ = (0.25, 0.5, 1.0, 2.0, 4.0)
QUICK_NOISES = (0.01, 0.1, 1.0, 3.0)
QUICK_LIPSCHITZ = (0.25, 1.0, 4.0)
SEEDS, QUICK_SEEDS = 100, 8

NOISE_EXPONENT, NOISE_TOLERANCE = 4 / 3, 0.1
NOISE_BAND = (1.33 - NOISE_TOLERANCE, 1.33 + NOISE_TOLERANCE)
LIPSCHITZ_EXPONENT = 2 / 3


@dataclass(frozen=True)
class Law:
    """What varies, and what theory says of it."""

    symbol: str
    keyword: str
    exponent: float


LAWS = {
    "noise": Law("σ", "noise", NOISE_EXPONENT),
    "lipschitz": Law("ρ", "hessian_lipschitz", LIPSCHITZ_EXPONENT),
}

Found = dict[tuple[str, bool], dict[float, np.ndarray]]
"""Regrets ``(S,)`` by law and whether the constants are known, and by value."""


def measure(ctx: RunContext, values: dict[str, Sequence[float]], seeds: int) -> Found:
    """Give all runs; those of an interrupted run are not repeated."""
    task = ctx.progress(2 * seeds * sum(map(len, values.values())), "runs")
    found: Found = {}
    for name, law in LAWS.items():
        for known in (False, True):
            cells = found[name, known] = {}
            for place, value in enumerate(values[name]):
                part = f"{name}-{'known' if known else 'unknown'}-{place}"
                regrets = ctx.load_partial(part)
                if regrets is None:
                    regrets = [
                        one_run(
                            DIMENSION,
                            BUDGET,
                            known,
                            numpy_generator(ctx.seed, "scaling_laws", name, place, index),
                            **{law.keyword: value},
                        )[0]
                        for index in range(seeds)
                    ]
                    ctx.save_partial(part, regrets)
                task.advance(seeds)
                cells[value] = np.array(regrets, dtype=float)
    return found


def fits_of(found: Found, seed: int) -> dict[tuple[str, bool], SlopeResult]:
    """Fit the exponents of the mean regrets."""
    return {
        (name, known): exponent(
            list(cells), list(cells.values()), numpy_generator(seed, "exponent", name, int(known))
        )
        for (name, known), cells in found.items()
    }


def _exponent_claim(name: str, known: bool, fit: SlopeResult, quick: bool) -> Claim:
    law = LAWS[name]
    knowledge = "known" if known else "unknown"
    decided = name == "noise" and known
    holds, criterion = None, "reported, not decided"
    if decided:
        holds = verdict(fit.slope, fit.interval, *NOISE_BAND, quick=quick)
        criterion = f"holds if {subject(quick)} within {NOISE_BAND[0]:.2f} to {NOISE_BAND[1]:.2f}"
    return Claim(
        f"{name}_{knowledge}",
        f"Constants {knowledge}: the regret grows as a power of {law.symbol}.",
        law.exponent,
        fit.slope,
        fit.interval,
        holds,
        "exponent",
        f"Slope of log mean regret, d={DIMENSION}, T={BUDGET:,}; {criterion}. 95 %, bootstrap over"
        " seeds.",
    )


def _cost_claim(found: Found, seed: int) -> Claim:
    unknown, known = found["noise", False], found["noise", True]
    worst = max(known, key=lambda value: unknown[value].mean() / known[value].mean())
    interval = ratio_interval(unknown[worst], known[worst], numpy_generator(seed, "cost"))
    return Claim(
        "cost_of_not_knowing",
        "Without the constants the regret is larger by a factor that the noise hardly changes.",
        None,
        float(unknown[worst].mean() / known[worst].mean()),
        interval,
        None,
        "unknown / known",
        f"Largest of {len(known)} ratios of means (σ={worst:g}); reported, not decided. 95 %,"
        " bootstrap over seeds.",
    )


def claims(
    found: Found, fits: dict[tuple[str, bool], SlopeResult], seed: int, quick: bool
) -> list[Claim]:
    """Hold the exponents to what was said beforehand."""
    return [
        *(_exponent_claim(*key, fit, quick) for key, fit in fits.items()),
        _cost_claim(found, seed),
    ]


COLUMNS = [
    "varied",
    "constants",
    "value",
    "seeds",
    "mean regret",
    "95 % low",
    "95 % high",
    "median",
    "formula",
    "measured / formula",
]


def rows(found: Found, seed: int) -> list[list[Any]]:
    """Give a row per law, knowledge and value."""
    rng = numpy_generator(seed, "rows")
    listed: list[list[Any]] = []
    for (name, known), cells in found.items():
        law = LAWS[name]
        for value, regrets in cells.items():
            mean = float(regrets.mean())
            expected = formula(DIMENSION, BUDGET, **{law.keyword: value})
            listed.append(
                [
                    law.symbol,
                    "known" if known else "unknown",
                    value,
                    len(regrets),
                    mean,
                    *mean_interval(regrets, rng),
                    float(np.median(regrets)),
                    expected,
                    mean / expected,
                ]
            )
    return listed


def _figures(
    table_rows: list[list[Any]], fits: dict[tuple[str, bool], SlopeResult]
) -> list[Figure]:
    from modicum.zeroth import plots

    figures = []
    for name, law in LAWS.items():
        curves: dict[str, Any] = {}
        lines: dict[str, Any] = {}
        for knowledge in ("unknown", "known"):
            own = [row for row in table_rows if row[:2] == [law.symbol, knowledge]]
            values = [row[2] for row in own]
            curves[knowledge] = (values, *([row[at] for row in own] for at in (4, 5, 6)))
            lines["formula"] = (values, [row[8] for row in own])
        slopes = {"unknown": fits[name, False], "known": fits[name, True]}
        try:
            figure = plots.regret_curves(curves, slopes=slopes, theory=lines, xlabel=law.symbol)
        except ImportError:
            # matplotlib is optional; tables and claims stand without it.
            return []
        figures.append(
            Figure.from_matplotlib(
                figure,
                f"Regret against {law.symbol}",
                f"Default method, d = {DIMENSION}, T = {BUDGET:,}.",
                "Rising lines in a log-log plot near that of the formula",
            )
        )
    return figures


def run(ctx: RunContext) -> Result:
    """Vary the noise and the change of curvature and fit the exponents."""
    values: dict[str, Sequence[float]] = {"noise": NOISES, "lipschitz": LIPSCHITZ}
    if ctx.quick:
        values = {"noise": QUICK_NOISES, "lipschitz": QUICK_LIPSCHITZ}
    found = measure(ctx, values, QUICK_SEEDS if ctx.quick else SEEDS)
    fits = fits_of(found, ctx.seed)
    table_rows = rows(found, ctx.seed)
    note = (
        f"d = {DIMENSION}, T = {BUDGET:,}; what is not varied is 1. Formula: a last step with T/4"
        " pairs. 95 %, bootstrap over seeds."
    )
    return ctx.result(
        claims=claims(found, fits, ctx.seed, ctx.quick),
        tables=[Table("Regret against noise and curvature change", COLUMNS, table_rows, note)],
        figures=_figures(table_rows, fits),
    )

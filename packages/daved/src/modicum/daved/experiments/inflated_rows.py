"""A seller who multiplies features is bought more often, until rows are normalised.

Scores are quadratic in a row's length, so that a seller who inflates features looks more
informative without being so. Some rows of a market are multiplied by a factor; counted is which
share of the purchases they take, as they are, with rows of norm 1 and with clipped norms.

Shapes: n sellers' rows, d features, m buyers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import Claim, Result, RunContext, Table
from modicum.daved.evaluation import Ratio
from modicum.daved.experiments._shared import (
    drawn_over,
    folds_of,
    mean_of,
    per_buyer,
    purchase_order,
    verdict,
)
from modicum.daved.features import clip_norms, normalize_rows
from modicum.daved.markets import Market, gaussian_market, inflate_rows
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.frank_wolfe import FrankWolfe

ROWS, FEATURES, INFLATED, PICKS, STEPS = 1000, 30, 50, 10, 20
FACTORS = (1.0, 2.0, 4.0)
MARKETS, QUICK_MARKETS = 10, 2
BUYERS, QUICK_BUYERS = 40, 20
MOST = 0.1
"""Largest share of purchases after a remedy."""


def _clipped(rows_nd: np.ndarray) -> np.ndarray:
    return clip_norms(rows_nd, float(np.median(np.linalg.norm(rows_nd, axis=1))))


REMEDIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda rows_nd: rows_nd,
    "norm 1": normalize_rows,
    "norm at most the median": _clipped,
}
LENGTHS = {"rows of norm 1": True, "Gaussian rows": False}


@dataclass(frozen=True)
class Setting:
    """How long honest rows are, what a dishonest seller multiplies with, what a buyer does."""

    lengths: str
    factor: float
    remedy: str


def shares(market: Market, inflated: np.ndarray) -> np.ndarray:
    """Give the share of every buyer's purchases that are among some rows, (m,)."""
    solver = FrankWolfe(max_iter=STEPS)
    designs = per_buyer(market, lambda pool, queries_qd: solver.solve(Problem(pool, queries_qd)))
    bought = [purchase_order(design)[:PICKS] for design in designs]
    return np.isin(np.array(bought), inflated).mean(axis=1)


def play(setting: Setting, markets: int, buyers: int, seed: int) -> np.ndarray:
    """Give the share of every buyer on every market, (markets * buyers,)."""
    found = []
    for index in range(markets):
        # The same markets and the same seller for every factor and remedy.
        rng = numpy_generator(seed, "inflated rows", setting.lengths, index)
        honest = gaussian_market(
            ROWS, FEATURES, buyers, normalize=LENGTHS[setting.lengths], rng=rng
        )
        market, inflated = inflate_rows(honest, INFLATED, setting.factor, rng)
        treated = replace(market, rows_nd=REMEDIES[setting.remedy](market.rows_nd))
        found.append(shares(treated, inflated))
    return np.concatenate(found)


def claims(found: dict[Setting, np.ndarray], markets: int, *, quick: bool) -> list[Claim]:
    """Judge the growth with the factor and every remedy at the largest factor.

    Parameters
    ----------
    found
        By setting the shares of all buyers, market after market, (m,).
    markets
        How many markets there are, with equally many buyers each.
    quick
        As for `verdict`.
    """
    lengths = next(iter(LENGTHS))
    bare = [found[Setting(lengths, factor, "none")] for factor in FACTORS]
    means = [float(share_m.mean()) for share_m in bare]
    folds_m = folds_of(markets, len(bare[-1]) // markets)
    most = mean_of(bare[-1], folds_m)
    nearly_all = verdict(most, 1 - MOST, at_least=True, quick=quick)
    listed = [
        _claim(
            "inflation_pays",
            f"Multiplying {INFLATED} of {ROWS} rows by {FACTORS[-1]:g} lets them take nearly all"
            " purchases.",
            most,
            nearly_all if means == sorted(means) else False,
            f"Holds if rising with the factor and at last at least {1 - MOST:g}.",
            folds_m,
        )
    ]
    for remedy in list(REMEDIES)[1:]:
        share = mean_of(found[Setting(lengths, FACTORS[-1], remedy)], folds_m)
        listed.append(
            _claim(
                "remedy_" + remedy.replace(" ", "_"),
                f"With {remedy} the inflated rows take no more than their share, about.",
                share,
                verdict(share, MOST, quick=quick),
                f"Factor {FACTORS[-1]:g}; holds if at most {MOST:g}.",
                folds_m,
            )
        )
    return listed


def _claim(
    name: str,
    statement: str,
    share: Ratio,
    holds: bool | None,
    note: str,
    folds_m: np.ndarray,
) -> Claim:
    note += f" {PICKS} purchases each, {drawn_over(folds_m, 'market')}"
    interval = (share.low, share.high)
    return Claim(name, statement, None, share.value, interval, holds, "share", note)


def run(ctx: RunContext) -> Result:
    """Count the inflated rows among the purchases for every factor and remedy."""
    markets = QUICK_MARKETS if ctx.quick else MARKETS
    buyers = QUICK_BUYERS if ctx.quick else BUYERS
    settings = [
        Setting(lengths, factor, remedy)
        for lengths in LENGTHS
        for factor in FACTORS
        for remedy in REMEDIES
    ]
    task = ctx.progress(len(settings), "settings")
    found = {}
    for setting in settings:
        found[setting] = play(setting, markets, buyers, ctx.seed)
        task.advance(1)
    folds_m = folds_of(markets, buyers)
    shares_of = {s: mean_of(share_m, folds_m) for s, share_m in found.items()}
    rows: list[list[Any]] = [
        [s.lengths, s.factor, s.remedy, share.value, share.low, share.high]
        for s, share in shares_of.items()
    ]
    columns = ["honest rows", "factor", "remedy", "share of purchases", "95 % low", "95 % high"]
    title = f"Share of {PICKS} purchases taken by {INFLATED} of {ROWS} rows"
    note = drawn_over(folds_m, "market")
    return ctx.result(
        claims=claims(found, markets, quick=ctx.quick), tables=[Table(title, columns, rows, note)]
    )

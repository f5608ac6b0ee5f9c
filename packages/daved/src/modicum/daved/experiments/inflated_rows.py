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
from modicum.core.stats import bootstrap_interval
from modicum.daved.experiments._shared import per_buyer
from modicum.daved.features import clip_norms, normalize_rows
from modicum.daved.markets import Market, gaussian_market, inflate_rows
from modicum.daved.rounding import topk_ranking
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
    bought = [topk_ranking(design.weights)[:PICKS] for design in designs]
    return np.isin(np.array(bought), inflated).mean(axis=1)


def play(setting: Setting, markets: int, buyers: int, seed: int) -> np.ndarray:
    """Give the mean share of every market, (markets,)."""
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


def claims(found: dict[Setting, np.ndarray]) -> list[Claim]:
    """Judge the growth with the factor and every remedy at the largest factor."""
    lengths = next(iter(LENGTHS))
    bare = [found[Setting(lengths, factor, "none")] for factor in FACTORS]
    means = [float(share_m.mean()) for share_m in bare]
    listed = [
        _claim(
            "inflation_pays",
            f"Multiplying {INFLATED} of {ROWS} rows by {FACTORS[-1]:g} lets them take nearly all"
            " purchases.",
            bare[-1],
            means == sorted(means) and means[-1] > 1 - MOST,
            f"Holds if rising with the factor and at last above {1 - MOST:g}. ",
        )
    ]
    for remedy in list(REMEDIES)[1:]:
        share_m = found[Setting(lengths, FACTORS[-1], remedy)]
        listed.append(
            _claim(
                "remedy_" + remedy.replace(" ", "_"),
                f"With {remedy} the inflated rows take no more than their share, about.",
                share_m,
                float(share_m.mean()) <= MOST,
                f"Factor {FACTORS[-1]:g}; holds if at most {MOST:g}. ",
            )
        )
    return listed


def _claim(name: str, statement: str, share_m: np.ndarray, holds: bool, note: str) -> Claim:
    interval = _interval(share_m)
    note += f"{len(share_m)} buyers, {PICKS} purchases each; 95 %, bootstrap over buyers."
    return Claim(name, statement, None, share_m.mean(), interval, holds, "share", note)


def _interval(share_m: np.ndarray) -> tuple[float, float]:
    low, high = bootstrap_interval(share_m, rng=0)
    return float(low), float(high)


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
    rows: list[list[Any]] = [
        [s.lengths, s.factor, s.remedy, float(share_m.mean()), *_interval(share_m)]
        for s, share_m in found.items()
    ]
    columns = ["honest rows", "factor", "remedy", "share of purchases", "95 % low", "95 % high"]
    title = f"Share of {PICKS} purchases taken by {INFLATED} of {ROWS} rows"
    return ctx.result(claims=claims(found), tables=[Table(title, columns, rows)])

"""Errors of many buyers on several markets, and their ratios: what tables and prices share.

Orders come from solvers and peers as the selection of the package gives them; errors come from
`modicum.daved.evaluation`. Nothing here is about one experiment.

Shapes: n sellers' rows, m buyers, b budgets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from modicum.daved.batch import frank_wolfe_many
from modicum.daved.evaluation import Ratio, buyer_errors, error_ratio, random_orders
from modicum.daved.experiments._shared import drawn_over, purchase_order
from modicum.daved.markets import Market
from modicum.daved.peers.base import Peer
from modicum.daved.pool import Pool
from modicum.daved.solvers.frank_wolfe import FrankWolfe

__all__ = [
    "RANDOM",
    "Outcome",
    "Played",
    "frank_wolfe_orders",
    "random_errors",
    "sees",
    "subject",
    "together",
]

RANDOM = "random"


def frank_wolfe_orders(
    pool: Pool,
    market: Market,
    steps: int,
    *,
    tol: float = 1e-3,
    rule: str = "none",
) -> list[np.ndarray]:
    """Give the order of purchase of every buyer by Frank-Wolfe.

    Parameters
    ----------
    pool
        The sellers' rows; under the exact rule divided by the roots of their prices.
    market
        Where queries and prices come from.
    steps
        Most steps.
    tol
        As in `FrankWolfe`.
    rule
        What is known of prices: ``"none"``, ``"paper"`` or ``"exact"``.
    """
    prices_n = market.prices_n
    queries = [query_d[None] for query_d in market.queries_md]
    costs_n = prices_n if rule == "paper" else None
    designs = frank_wolfe_many(pool, queries, FrankWolfe(max_iter=steps, tol=tol), costs=costs_n)
    known_n = None if rule == "none" else prices_n
    return [purchase_order(design, known_n, is_priced=rule == "exact") for design in designs]


def random_errors(
    market: Market, budgets: Sequence[float], ridge: float, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """Give every buyer's mean error over several random purchases, (m, b)."""
    drawn = [
        buyer_errors(market, random_orders(market, rng), budgets, ridge=ridge) for _ in range(draws)
    ]
    return np.asarray(np.mean(drawn, axis=0))


def sees(peer: Peer | None) -> str:
    """Say what a peer looks at, or a design, which is no peer."""
    return ", ".join(["features", *sorted({"queries"} if peer is None else peer.sees)])


@dataclass(frozen=True)
class Played:
    """What the methods found on one market: errors (m, b), and seconds of all buyers, by method."""

    errors: dict[str, np.ndarray]
    seconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Give lists and numbers."""
        return {"errors": self.errors, "seconds": self.seconds}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> "Played":
        """Take what `to_json` gave."""
        errors = {name: np.array(errors_mb) for name, errors_mb in kept["errors"].items()}
        return cls(errors, kept["seconds"])


@dataclass(frozen=True)
class Outcome:
    """What the methods found on several markets, buyers of all markets together.

    Attributes
    ----------
    budgets
        In the order of the columns of errors.
    errors
        By method, (m, b).
    markets
        Market of every buyer, (m,).
    seconds
        By method the mean of a market.
    """

    budgets: tuple[int, ...]
    errors: dict[str, np.ndarray]
    markets: np.ndarray
    seconds: dict[str, float]

    def ratio(self, mine: str, theirs: str, budget: int | None = None) -> Ratio:
        """Compare two methods at a budget, or by the mean error of all budgets."""
        columns = slice(None) if budget is None else [self.budgets.index(budget)]
        return error_ratio(
            self.errors[mine][:, columns],
            self.errors[theirs][:, columns],
            folds_m=self.markets,
            rng=np.random.default_rng(0),
        )

    def mean(self, name: str, budget: int) -> float:
        """Give a method's mean error at a budget."""
        return float(self.errors[name][:, self.budgets.index(budget)].mean())

    @cached_property
    def to_random(self) -> dict[tuple[str, int], Ratio]:
        """Ratios to random purchases by method and budget."""
        return {
            (name, budget): self.ratio(name, RANDOM, budget)
            for name in self.errors
            for budget in self.budgets
        }


def together(budgets: tuple[int, ...], played: Sequence[Played]) -> Outcome:
    """Put the buyers of several markets together."""
    first = played[0]
    sizes = [len(next(iter(one.errors.values()))) for one in played]
    return Outcome(
        budgets,
        {name: np.concatenate([one.errors[name] for one in played]) for name in first.errors},
        np.repeat(np.arange(len(played)), sizes),
        {name: float(np.mean([one.seconds[name] for one in played])) for name in first.seconds},
    )


def subject(outcome: Outcome, noun: str) -> str:
    """Say for a note how many buyers there are and what intervals are; a market is a ``noun``."""
    return drawn_over(outcome.markets, noun)

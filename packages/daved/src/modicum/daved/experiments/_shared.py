"""What several experiments do: orders of many buyers by a solver or a peer, and verdicts.

Shapes: n sellers' rows, d features, m buyers, q queries of one buyer, b budgets.
"""

from collections.abc import Callable

import numpy as np

from modicum.daved.evaluation import Ratio
from modicum.daved.markets import Market
from modicum.daved.peers.base import QUERIES, Peer
from modicum.daved.pool import ArrayPool
from modicum.daved.rounding import topk_ranking
from modicum.daved.solvers.base import Design, Problem, Solver, Step

__all__ = [
    "bought_orders",
    "peer_orders",
    "per_buyer",
    "verdict",
    "weights_after",
]


def per_buyer(market: Market, solve: Callable[[ArrayPool, np.ndarray], Design]) -> list[Design]:
    """Solve for every buyer's one query by itself."""
    pool = ArrayPool(market.rows_nd)
    return [solve(pool, query_d[None]) for query_d in market.queries_md]


def bought_orders(market: Market, solver: Solver, budget: float, size: int = 1) -> list[np.ndarray]:
    """Give the order of purchase for every buyer, by a solver that buys row after row.

    Parameters
    ----------
    market
        Rows, queries and prices.
    solver
        One whose designs have an order, or otherwise are bought by weight.
    budget
        Largest budget that the orders have to last for.
    size
        So many buyers ask together and share an order.
    """
    pool, orders = ArrayPool(market.rows_nd), []
    for start in range(0, len(market.queries_md), size):
        queries_qd = market.queries_md[start : start + size]
        problem = Problem(pool, queries_qd, budget=budget, prices=market.prices_n)
        design = solver.solve(problem)
        order = topk_ranking(design.weights) if design.order is None else design.order
        orders += [order] * len(queries_qd)
    return orders


def peer_orders(market: Market, peer: Peer, rng: np.random.Generator) -> list[np.ndarray]:
    """Give the order of purchase for every buyer by a peer; one order for all if it sees no query.

    The peer is handed the sellers' labels and the labelled validation rows.
    """

    def rank(queries_qd: np.ndarray) -> np.ndarray:
        return peer.rank(
            market.rows_nd,
            market.labels_n,
            queries_qd,
            market.prices_n,
            market.validation_vd,
            market.validation_labels_v,
            rng,
        )

    if QUERIES in peer.sees:
        return [rank(query_d[None]) for query_d in market.queries_md]
    return [rank(market.queries_md)] * len(market.queries_md)


def weights_after(history: tuple[Step, ...], n: int, steps: int) -> np.ndarray:
    """Replay the first steps of a Frank-Wolfe run from uniform weights, (n,)."""
    weights_n = np.full(n, 1 / n)
    for step in history[:steps]:
        # A run that stops notes the last look at the objective without a step.
        if np.isfinite(step.step_size) and step.pick >= 0:
            weights_n *= 1 - step.step_size
            weights_n[step.pick] += step.step_size
    return weights_n


def verdict(ratio: Ratio, most: float, *, at_least: bool = False, quick: bool) -> bool | None:
    """Say whether a ratio is at most (or at least) a limit.

    A quick run has few buyers: it decides only where the whole interval lies on one side, and
    otherwise says None.
    """
    holds = ratio.value >= most if at_least else ratio.value <= most
    if quick and ratio.low < most < ratio.high:
        return None
    return holds

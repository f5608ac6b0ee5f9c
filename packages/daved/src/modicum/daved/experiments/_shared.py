"""What several experiments do: orders of many buyers by a solver or a peer, ratios and verdicts.

Whatever the experiment, weights become a purchase in one way, that of `select`: `purchase_order`.

Shapes: n sellers' rows, d features, m buyers, q queries of one buyer, b budgets.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from modicum.daved.acquisition import in_budget
from modicum.daved.design import directions, objective, pseudo_inverse
from modicum.daved.evaluation import Ratio, error_ratio
from modicum.daved.markets import Market
from modicum.daved.peers.base import QUERIES, Peer
from modicum.daved.pool import ArrayPool, Pool
from modicum.daved.rounding import at_floor, pick_ranking, topk_ranking
from modicum.daved.solvers.base import Design, Problem, Solver

__all__ = [
    "bought_orders",
    "drawn_over",
    "folds_of",
    "mean_of",
    "peer_orders",
    "per_buyer",
    "pick_order",
    "published_order",
    "purchase_order",
    "stopped_after",
    "verdict",
]


def purchase_order(
    design: Design, prices_n: np.ndarray | None = None, *, is_priced: bool = False
) -> np.ndarray:
    """Rank rows as `select` does by default: by weight, rows never picked last, by score per price.

    Parameters
    ----------
    design
        Of a solver; one that buys row by row has its own order, and keeps it.
    prices_n
        Prices, (n,), that the purchase knows of; 1 each by default.
    is_priced
        Whether the design's rows carry the prices, so that its weights are shares of the spending.
    """
    if design.order is not None:
        return design.order
    weights_n, values_n = _weights_and_values(design, prices_n, is_priced)
    return topk_ranking(weights_n, values_n)


def pick_order(design: Design) -> np.ndarray:
    """Rank rows as `select` does for herding: by their first pick, the others by their score."""
    return pick_ranking(design.picks, *_weights_and_values(design, None, False))


def published_order(design: Design) -> np.ndarray:
    """Rank rows as the published code does: by weight, equal weights from the last row down."""
    return np.argsort(design.weights, kind="stable")[::-1]


def _weights_and_values(
    design: Design, prices_n: np.ndarray | None, is_priced: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Give weights, 0 for rows never picked, and scores per price, (n,) both."""
    known_n = np.ones(len(design.weights)) if prices_n is None else prices_n
    found = in_budget(design, known_n, 1.0, is_priced)
    weights_n = np.where(at_floor(design.weights, design.floor), 0.0, found.weights)
    return weights_n, found.scores / known_n


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
        orders += [purchase_order(design, market.prices_n)] * len(queries_qd)
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


def stopped_after(pool: Pool, queries_qd: np.ndarray, design: Design, steps: int) -> Design:
    """Replay the first steps of a Frank-Wolfe run from uniform weights.

    Parameters
    ----------
    pool, queries_qd
        What the run was about; the pool without costs.
    design
        What it found, with its history.
    steps
        After how many steps it is stopped; a run that stopped by then is given as it is.

    Returns
    -------
    Design
        The design of a run with so many steps, without its history.
    """
    # A run that stops notes the last look at the objective without a step.
    taken = [step for step in design.history if np.isfinite(step.step_size) and step.pick >= 0]
    if steps >= len(taken):
        return design
    weights_n, floor = np.full(pool.n, 1 / pool.n), 1 / pool.n
    for step in taken[:steps]:
        weights_n *= 1 - step.step_size
        weights_n[step.pick] += step.step_size
        floor *= 1 - step.step_size
    inverse_dd = pseudo_inverse(pool.gram(weights_n)).matrix
    scores_n = pool.scores(directions(inverse_dd, queries_qd))
    loss = objective(inverse_dd, queries_qd)
    return replace(
        design,
        weights=weights_n,
        objective=loss,
        gap=float(scores_n.max()) - loss,
        scores=scores_n,
        inverse=inverse_dd,
        picks=design.picks[:steps],
        history=(),
        floor=floor,
        converged=False,
    )


def folds_of(groups: int, size: int) -> np.ndarray:
    """Give the number of every buyer's market where all have equally many, (groups * size,)."""
    return np.repeat(np.arange(groups), size)


def mean_of(values_m: np.ndarray, folds_m: np.ndarray) -> Ratio:
    """Give a mean over buyers with its interval, of the bootstrap over markets and buyers."""
    ones_m1 = np.ones((len(values_m), 1))
    return error_ratio(values_m[:, None], ones_m1, folds_m=folds_m, rng=np.random.default_rng(0))


def drawn_over(folds_m: np.ndarray, noun: str) -> str:
    """Say for a note how many buyers there are and what intervals are; a fold is a ``noun``."""
    count = len(np.unique(folds_m))
    if count == 1:
        return f"{len(folds_m)} buyers in 1 {noun}. 95 %, bootstrap over buyers."
    return f"{len(folds_m)} buyers in {count} {noun}s. 95 %, bootstrap over {noun}s and buyers."


def verdict(ratio: Ratio, most: float, *, at_least: bool = False, quick: bool) -> bool | None:
    """Say whether a ratio is at most (or at least) a limit.

    A quick run has few buyers: it decides only where the whole interval lies on one side, and
    otherwise says None.
    """
    holds = ratio.value >= most if at_least else ratio.value <= most
    if quick and ratio.low < most < ratio.high:
        return None
    return holds

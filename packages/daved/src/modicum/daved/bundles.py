"""Lots: sellers who sell whole groups of records, at one price for each group.

A lot s contributes the information G_s = Σ x_j x_j' of its rows, and its score is the sum of its
records' scores. The solvers here are those for single records with rows replaced by lots; a step
is of rank |s|. Takes a pool and the number of every record's lot; prices are in the pool's rows
already where they count (each row divided by the root of its lot's price), except in greedy
purchases. Quotas, where records are sold one by one and groups only limit them, are elsewhere
(see `modicum.daved.rounding`).

Shapes: n records, d features, m queries, g lots, s records of one lot, r eigenvalues.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from modicum.daved.design import directions, objective, pseudo_inverse
from modicum.daved.pool import Pool
from modicum.daved.rounding import BUDGET_TOLERANCE
from modicum.daved.solvers.base import Design, Step
from modicum.daved.solvers.greedy import default_prior

__all__ = ["line_search", "lots_frank_wolfe", "lots_greedy", "lots_multiplicative"]

_ALPHA_MAX = 0.999
_BISECTIONS = 60


def line_search(loss: float, scores_r: np.ndarray, leverages_r: np.ndarray) -> float:
    """Find the step from M to (1 - α) M + α G that lowers L most.

    Parameters
    ----------
    loss
        L at M.
    scores_r
        Shares of the lot's score along the eigenvectors of R P R', (r,); they sum to the score.
    leverages_r
        The eigenvalues, (r,), where R are the lot's rows and P is the inverse of M.

    Returns
    -------
    float
        α in [0, .999]; 0 where there is no descent. With one eigenvalue it is the step for one row.

    Notes
    -----
    With t = α / (1 - α), L(t) = (1 + t) (L - Σ c t / (1 + t λ)); L is convex in α, so that its
    slope changes sign once, which bisection finds.
    """

    def falls(alpha: float) -> bool:
        ratio = alpha / (1 - alpha)
        shrunk_r = 1 + ratio * leverages_r
        slope = loss - (scores_r * ratio / shrunk_r).sum()
        return bool(slope < (1 + ratio) * (scores_r / np.square(shrunk_r)).sum())

    if not falls(0.0):
        return 0.0
    if falls(_ALPHA_MAX):
        return _ALPHA_MAX
    low, high = 0.0, _ALPHA_MAX
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if falls(middle) else (low, middle)
    return low


def lots_frank_wolfe(
    pool: Pool,
    codes_n: np.ndarray,
    queries_md: np.ndarray,
    max_iter: int = 100,
    tol: float = 1e-3,
    on_step: Callable[[Step], None] | None = None,
) -> Design:
    """Find weights of lots by Frank-Wolfe steps with exact line search.

    Parameters
    ----------
    pool
        The records.
    codes_n
        Number of each record's lot, (n,), from 0; every number occurs.
    queries_md
        The buyer's rows, (m, d) float64.
    max_iter
        Most steps.
    tol
        Stop when the certificate is below this share of the objective.
    on_step
        Called with every `Step` before it is made.

    Returns
    -------
    Design
        ``weights`` and ``scores`` are of lots, (g,).

    Notes
    -----
    Source: the multi-step method of "DAVED: Data Acquisition via Experimental Design for Data
    Markets", Lu et al., NeurIPS 2024, arXiv 2403.13893, for groups of rows. The information matrix
    is kept and its inverse is computed in every step, O(d³), so that nothing drifts.
    """
    lots = _Lots(pool, codes_n, queries_md)

    def move(weights_g: np.ndarray, gram_dd: np.ndarray, seen: _Look) -> _Move:
        pick = int(np.argmax(seen.scores))
        rows_sd = lots.rows(pick)
        alpha = line_search(seen.loss, *_along(rows_sd, seen.inverse, queries_md))
        weights_g = (1 - alpha) * weights_g
        weights_g[pick] += alpha
        return _Move(weights_g, (1 - alpha) * gram_dd + alpha * rows_sd.T @ rows_sd, pick, alpha)

    design = _run(lots, move, max_iter, tol, on_step)
    left = np.prod([1 - step.step_size for step in design.history])
    return replace(design, floor=float(left / lots.count))


def lots_multiplicative(
    pool: Pool,
    codes_n: np.ndarray,
    queries_md: np.ndarray,
    max_iter: int = 100,
    tol: float = 1e-3,
    on_step: Callable[[Step], None] | None = None,
) -> Design:
    """Find weights of lots by w_s ← w_s √g_s, scaled to sum 1: monotone, without picks.

    Parameters and result are those of `lots_frank_wolfe`.
    """
    lots = _Lots(pool, codes_n, queries_md)

    def move(weights_g: np.ndarray, gram_dd: np.ndarray, seen: _Look) -> _Move:
        weights_g = weights_g * np.sqrt(seen.scores)
        weights_g /= weights_g.sum()
        return _Move(weights_g, lots.gram(weights_g))

    return _run(lots, move, max_iter, tol, on_step)


class _Look(NamedTuple):
    """The inverse, the lots' scores and the loss at an information matrix."""

    inverse: np.ndarray
    scores: np.ndarray
    loss: float


class _Move(NamedTuple):
    """Weights and information after an iteration, and what it did, as in a `Step`."""

    weights: np.ndarray
    gram: np.ndarray
    pick: int = -1
    step_size: float = float("nan")


def _run(
    lots: "_Lots",
    move: Callable[[np.ndarray, np.ndarray, _Look], _Move],
    max_iter: int,
    tol: float,
    on_step: Callable[[Step], None] | None,
) -> Design:
    """Move from equal weights until the certificate is small, steps are used up, or one is 0."""
    weights_g = np.full(lots.count, 1 / lots.count)
    gram_dd = lots.gram(weights_g)
    history: list[Step] = []
    for iteration in range(max_iter + 1):
        seen = lots.look(gram_dd)
        gap = float(seen.scores.max()) - seen.loss
        converged = gap <= tol * seen.loss
        if converged or iteration == max_iter:
            break
        moved = move(weights_g, gram_dd, seen)
        history.append(Step(iteration, seen.loss, gap, moved.pick, moved.step_size))
        if on_step is not None:
            on_step(history[-1])
        if moved.step_size == 0:
            break
        weights_g, gram_dd = moved.weights, moved.gram
    return Design(
        weights=weights_g,
        objective=seen.loss,
        gap=gap,
        scores=seen.scores,
        inverse=seen.inverse,
        picks=np.array([step.pick for step in history if step.step_size > 0], dtype=np.int64),
        history=tuple(history),
        converged=converged,
    )


def lots_greedy(
    pool: Pool,
    codes_n: np.ndarray,
    queries_md: np.ndarray,
    prices_g: np.ndarray,
    budget: float,
    prior: float | None = None,
    owned_dd: np.ndarray | None = None,
    on_step: Callable[[Step], None] | None = None,
    fill: bool = True,
) -> np.ndarray:
    """Buy lot after lot, always the one that lowers the posterior variance most per price.

    Parameters
    ----------
    pool, codes_n, queries_md
        As for `lots_frank_wolfe`; rows carry no prices here.
    prices_g
        Price of every lot, (g,), in currency.
    budget
        What may be spent, in currency.
    prior
        Prior precision; by default .05 times the rows' mean squared norm.
    owned_dd
        Gram matrix of owned rows, (d, d).
    on_step
        Called with every `Step` before its purchase; its pick is a lot.
    fill
        Whether lots that the rest of the budget does not buy are passed over; else the first such
        lot that is the best ends the purchase.

    Returns
    -------
    numpy.ndarray
        Lots in the order of purchase.
    """
    lots = _Lots(pool, codes_n, queries_md)
    gram_dd = (default_prior(pool.gram(), pool.n) if prior is None else prior) * np.eye(pool.d)
    gram_dd = gram_dd if owned_dd is None else gram_dd + owned_dd
    left = budget * (1 + BUDGET_TOLERANCE)
    open_g, left_g = prices_g <= left, np.ones(lots.count, dtype=bool)
    order: list[int] = []
    while open_g.any():
        inverse_dd = np.linalg.inv(gram_dd)
        value_g = np.full(lots.count, -np.inf)
        for lot in np.flatnonzero(open_g if fill else left_g):
            scores_r, leverages_r = _along(lots.rows(lot), inverse_dd, queries_md)
            value_g[lot] = (scores_r / (1 + leverages_r)).sum() / prices_g[lot]
        pick = int(np.argmax(value_g))
        if not open_g[pick]:
            break
        if on_step is not None:
            loss = objective(inverse_dd, queries_md)
            on_step(Step(len(order), loss, float("nan"), pick))
        order.append(pick)
        rows_sd = lots.rows(pick)
        gram_dd = gram_dd + rows_sd.T @ rows_sd
        left -= float(prices_g[pick])
        left_g[pick] = open_g[pick] = False
        open_g &= prices_g <= left
    return np.array(order, dtype=np.int64)


class _Lots:
    """A pool and which of its rows make a lot."""

    def __init__(self, pool: Pool, codes_n: np.ndarray, queries_md: np.ndarray) -> None:
        self.pool = pool
        self.codes_n = codes_n
        self.queries_md = queries_md
        self.count = int(codes_n.max()) + 1
        self.by_lot = np.argsort(codes_n, kind="stable")
        self.starts = np.searchsorted(codes_n[self.by_lot], np.arange(self.count + 1))

    def rows(self, lot: int) -> np.ndarray:
        """Give the rows of a lot, (s, d)."""
        return self.pool.rows(self.by_lot[self.starts[lot] : self.starts[lot + 1]])

    def gram(self, weights_g: np.ndarray) -> np.ndarray:
        """Give the information of weighted lots, (d, d)."""
        return self.pool.gram(weights_g[self.codes_n])

    def look(self, gram_dd: np.ndarray) -> _Look:
        """Look at an information matrix."""
        inverse_dd = pseudo_inverse(gram_dd).matrix
        scores_n = self.pool.scores(directions(inverse_dd, self.queries_md))
        scores_g = np.bincount(self.codes_n, scores_n, minlength=self.count)
        return _Look(inverse_dd, scores_g, objective(inverse_dd, self.queries_md))


def _along(
    rows_sd: np.ndarray, inverse_dd: np.ndarray, queries_md: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Split a lot's score along the eigenvectors of R P R': shares (r,) and eigenvalues (r,)."""
    if len(rows_sd) > rows_sd.shape[1]:
        # As many rows as features with the same information.
        rows_sd = np.asarray(np.linalg.qr(rows_sd, mode="r"))
    leverages_s, vectors_ss = np.linalg.eigh(rows_sd @ inverse_dd @ rows_sd.T)
    products_sm = vectors_ss.T @ (rows_sd @ directions(inverse_dd, queries_md))
    return np.square(products_sm).mean(axis=1), np.maximum(leverages_s, 0.0)

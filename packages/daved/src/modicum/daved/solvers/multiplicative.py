"""Multiplicative updates: every weight grows or shrinks with the root of its score.

Takes a problem (a pool of rows and a buyer's queries) and gives design weights with a certificate.
Every step builds the information matrix anew, so nothing drifts; both passes of a step are sums
over rows, which sellers can add up without showing any. Prices come in through rows that are scaled
already; `Problem.costs`, `budget` and `owned` are not looked at, `constant` is.

Shapes: n rows, d features, m queries.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from modicum.daved.design import constant_part, directions, objective, pseudo_inverse
from modicum.daved.solvers.base import Design, Problem, Step

__all__ = ["Multiplicative"]

IDENTITY_TOLERANCE = 1e-9
"""Share of L by which Σ w g may differ from what it must be. It differs by more once float64 loses
directions of M: where the optimum needs fewer rows than there are features, M becomes singular on
the way."""

ROUNDING_MARGIN = 10
"""Rounding errors of a pool's scores by which that sum may differ at least."""

_ROWS_CHECKED = 64


class Multiplicative:
    """Multiply every weight by √g and divide by the sum, from uniform weights.

    Use it where at least as many rows are bought as there are features, or where a tight
    certificate or fair prices are wanted. For purchases of fewer rows than features an early
    stopped `FrankWolfe` or `Greedy` ranks better.

    Parameters
    ----------
    max_iter
        Most steps; each costs O(n d²).
    tol
        Stop when the certificate is below this share of the objective. Steps also end where
        float64 does: the last weights with a certificate that can be trusted are kept.

    Notes
    -----
    The classical algorithm of optimal design, for the criterion of "DAVED: Data Acquisition via
    Experimental Design for Data Markets", Lu et al., NeurIPS 2024, arXiv 2403.13893. The objective
    never rises. All weights stay positive, so that the weights themselves are the ranking.

    With a `Problem.constant` C it rises neither: L(w) is the least of (1/m) Σ_i (Σ_j a_ij² / w_j +
    b_i' C⁻¹ b_i) over all a and b with Σ_j a_ij x_j + b_i = q_i, reached at a_ij = w_j x_j' P q_i,
    and of all weights those in proportion to w_j √g_j make it least for these a and b.
    """

    def __init__(self, max_iter: int = 100, tol: float = 1e-3) -> None:
        self.max_iter = max_iter
        self.tol = tol

    def solve(self, problem: Problem, on_step: Callable[[Step], None] | None = None) -> Design:
        """Find a design; ``on_step`` sees every iteration before it is made."""
        weights_n = np.full(problem.pool.n, 1 / problem.pool.n)
        history: list[Step] = []
        now = _look(problem, weights_n)
        tolerance = max(IDENTITY_TOLERANCE, ROUNDING_MARGIN * _rounding(problem, now))
        converged = now.gap <= self.tol * now.loss
        for iteration in range(self.max_iter):
            if converged:
                break
            step = Step(iteration, now.loss, now.gap)
            history.append(step)
            if on_step is not None:
                on_step(step)
            next_n = weights_n * np.sqrt(now.scores)
            next_n /= next_n.sum()
            seen = _look(problem, next_n)
            if abs(next_n @ seen.scores - seen.mean_score) > tolerance * seen.loss:
                break
            weights_n, now = next_n, seen
            converged = now.gap <= self.tol * now.loss
        return Design(
            weights=weights_n,
            objective=now.loss,
            gap=now.gap,
            scores=now.scores,
            inverse=now.inverse,
            history=tuple(history),
            converged=bool(converged),
        )


class _Look(NamedTuple):
    """The inverse, all scores, the loss and Σ w g at some weights."""

    inverse: np.ndarray
    scores: np.ndarray
    loss: float
    mean_score: float

    @property
    def gap(self) -> float:
        """The certificate."""
        return float(self.scores.max()) - self.mean_score


def _look(problem: Problem, weights_n: np.ndarray) -> _Look:
    gram_dd = problem.pool.gram(weights_n)
    if problem.constant is not None:
        gram_dd = gram_dd + problem.constant
    inverse_dd = pseudo_inverse(gram_dd).matrix
    scores_n = problem.pool.scores(directions(inverse_dd, problem.queries_md))
    loss = objective(inverse_dd, problem.queries_md)
    beside = constant_part(inverse_dd, problem.constant, problem.queries_md)
    return _Look(inverse_dd, scores_n, loss, loss - beside)


def _rounding(problem: Problem, seen: _Look) -> float:
    """Give the rounding error of the pool's scores, as a share of the largest: 0 in float64."""
    rows_k = np.unique(np.linspace(0, problem.pool.n - 1, _ROWS_CHECKED).astype(np.int64))
    columns_dm = directions(seen.inverse, problem.queries_md)
    exact_k = np.square(problem.pool.rows(rows_k) @ columns_dm).mean(axis=1)
    return float(np.abs(exact_k - seen.scores[rows_k]).max() / (seen.scores.max() or 1.0))

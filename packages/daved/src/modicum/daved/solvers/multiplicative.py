"""Multiplicative updates: every weight grows or shrinks with the root of its score.

Takes a problem (a pool of rows and a buyer's queries) and gives design weights with a certificate.
Every step builds the information matrix anew, so nothing drifts; both passes of a step are sums
over rows, which sellers can add up without showing any. Prices come in through rows that are scaled
already; `Problem.costs`, `budget` and `owned` are not looked at.

Shapes: n rows, d features, m queries.
"""

from collections.abc import Callable

import numpy as np

from modicum.daved.design import directions, objective, pseudo_inverse
from modicum.daved.solvers.base import Design, Problem, Step

__all__ = ["Multiplicative"]

IDENTITY_TOLERANCE = 1e-9
"""Share of L by which Σ w g may differ from it. It differs by more once float64 loses directions of
M: where the optimum needs fewer rows than there are features, M becomes singular on the way."""


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
    """

    def __init__(self, max_iter: int = 100, tol: float = 1e-3) -> None:
        self.max_iter = max_iter
        self.tol = tol

    def solve(self, problem: Problem, on_step: Callable[[Step], None] | None = None) -> Design:
        """Find a design; ``on_step`` sees every iteration before it is made."""
        weights_n = np.full(problem.pool.n, 1 / problem.pool.n)
        history: list[Step] = []
        inverse_dd, scores_n, loss, gap = _look(problem, weights_n)
        converged = gap <= self.tol * loss
        for iteration in range(self.max_iter):
            if converged:
                break
            step = Step(iteration, loss, gap)
            history.append(step)
            if on_step is not None:
                on_step(step)
            next_n = weights_n * np.sqrt(scores_n)
            next_n /= next_n.sum()
            seen = _look(problem, next_n)
            if abs(next_n @ seen[1] - seen[2]) > IDENTITY_TOLERANCE * seen[2]:
                break
            weights_n, (inverse_dd, scores_n, loss, gap) = next_n, seen
            converged = gap <= self.tol * loss
        return Design(
            weights=weights_n,
            objective=loss,
            gap=gap,
            scores=scores_n,
            inverse=inverse_dd,
            history=tuple(history),
            converged=bool(converged),
        )


def _look(problem: Problem, weights_n: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Give the inverse, all scores, the loss and the certificate at these weights."""
    inverse_dd = pseudo_inverse(problem.pool.gram(weights_n)).matrix
    scores_n = problem.pool.scores(directions(inverse_dd, problem.queries_md))
    loss = objective(inverse_dd, problem.queries_md)
    return inverse_dd, scores_n, loss, float(scores_n.max()) - loss

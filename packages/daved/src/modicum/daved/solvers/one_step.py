"""One step: every row is scored once, at the design that buys everything.

The cheapest solver: two passes over the pool, nothing iterative.
"""

from collections.abc import Callable

import numpy as np

from modicum.daved.design import directions, objective, pseudo_inverse
from modicum.daved.solvers.base import Design, Problem, Step

__all__ = ["OneStep"]


class OneStep:
    """Score every row by mean (q' (X'X)⁺ x)² and rank by it, divided by the costs where given.

    The scores sum to the mean of q' (X'X)⁺ q. Use it for a first look, or where two passes are all
    that can be afforded; `FrankWolfe` looks again after every pick.

    Notes
    -----
    Source: the single-step method of "DAVED: Data Acquisition via Experimental Design for Data
    Markets", Lu et al., NeurIPS 2024, arXiv 2403.13893.
    """

    def solve(self, problem: Problem, on_step: Callable[[Step], None] | None = None) -> Design:
        """Find a design whose weights are proportional to the scores.

        Returns
        -------
        Design
            `objective`, `gap`, `scores` and `inverse` are those of uniform weights, where the
            scores were taken.
        """
        count = problem.pool.n
        inverse_dd = pseudo_inverse(problem.pool.gram() / count).matrix
        scores_n = problem.pool.scores(directions(inverse_dd, problem.queries_md))
        loss = objective(inverse_dd, problem.queries_md)
        step = Step(0, loss, float(scores_n.max()) - loss)
        if on_step is not None:
            on_step(step)
        value_n = scores_n if problem.costs is None else scores_n / problem.costs
        total = value_n.sum()
        weights_n = value_n / total if total > 0 else np.full(count, 1 / count)
        return Design(weights_n, loss, step.gap, scores_n, inverse_dd, history=(step,))

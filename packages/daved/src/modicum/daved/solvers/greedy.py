"""Greedy purchases: in every step the row that lowers the queries' posterior variance most.

Takes a problem (a pool of rows, queries, prices, a budget, what is owned) and gives an order of
purchase. It is a Bayesian design: with a prior, directions that nothing bought yet speaks of are
uncertain, where a pseudo-inverse takes them as known. No labels, no relaxation of the weights.

Shapes: n rows, d features, m queries.
"""

from collections.abc import Callable

import numpy as np

from modicum.daved.design import directions, objective
from modicum.daved.rounding import BUDGET_TOLERANCE
from modicum.daved.solvers.base import Design, Problem, Step

__all__ = ["Greedy", "default_prior"]

PRIOR_SHARE = 0.05
"""Prior precision by default, as a share of the rows' mean squared norm."""


def default_prior(gram_dd: np.ndarray, n: int) -> float:
    """Give the prior precision by default, in squared units of the features.

    Parameters
    ----------
    gram_dd
        Gram matrix of the rows, (d, d).
    n
        Number of rows.
    """
    return PRIOR_SHARE * float(np.trace(gram_dd)) / n


class Greedy:
    """Buy one row after the other, always the one with the largest gain per cost.

    Use it for purchases of fewer rows than there are features on linear data, for sequential
    purchases on top of owned rows, and where a plain set, not weights, is wanted. It has no
    certificate, and it is not invariant under a linear map of rows and queries.

    Parameters
    ----------
    prior
        Prior precision λ in squared units of the features: label-noise variance over the variance
        of a coefficient. By default .05 times the rows' mean squared norm.
    fill
        Whether rows that the rest of the budget does not buy are passed over; else the first such
        row that is the best ends the purchase.

    Notes
    -----
    The classical greedy of variance reduction, for the design criterion of "DAVED: Data
    Acquisition via Experimental Design for Data Markets", Lu et al., NeurIPS 2024, arXiv
    2403.13893. One pass over the pool, O(n d + n m), per purchase. Ties go to the smallest index.
    """

    def __init__(self, prior: float | None = None, fill: bool = True) -> None:
        self.prior = prior
        self.fill = fill

    def solve(self, problem: Problem, on_step: Callable[[Step], None] | None = None) -> Design:
        """Buy until nothing that is left is affordable, or `fill` ends it.

        Parameters
        ----------
        problem
            Gains are divided by `costs`, `prices` are what is paid (1 each by default), `budget`
            limits their sum (everything is bought by default), `owned` adds to the prior. The
            pool's rows carry no prices here.
        on_step
            Called with every `Step` before its purchase; its objective is the posterior variance
            (1/m) Σ q' P q so far, in units of label variance, not per unit weight.

        Returns
        -------
        Design
            With ``order``; ``weights`` are 1/k on the k bought rows, all 0 when none is affordable.
            ``objective``, ``inverse`` and ``scores`` belong to the information (λ I + owned +
            Σ x x') / k, so that ``objective / k`` is the posterior variance after the purchase.
        """
        state = _Posterior(problem, self._precision(problem))
        affordable = _Purse(problem)
        history: list[Step] = []
        while affordable.any():
            gains_n = state.gains()
            value_n = gains_n if problem.costs is None else gains_n / problem.costs
            looked_at_n = affordable.open_n if self.fill else affordable.left_n
            row = int(np.argmax(np.where(looked_at_n, value_n, -1.0)))
            if not affordable.open_n[row]:
                break
            step = Step(len(history), state.variance(), float("nan"), row)
            history.append(step)
            if on_step is not None:
                on_step(step)
            state.buy(row)
            affordable.buy(row)
        order = np.array([step.pick for step in history], dtype=np.int64)
        return _design(state, order, tuple(history))

    def _precision(self, problem: Problem) -> np.ndarray:
        """Give the information before the first purchase, (d, d)."""
        pool = problem.pool
        prior = self.prior
        if prior is None:
            prior = default_prior(pool.gram(), pool.n)
        precision_dd = prior * np.eye(pool.d)
        return precision_dd if problem.owned is None else precision_dd + problem.owned


def _design(state: "_Posterior", order: np.ndarray, history: tuple[Step, ...]) -> Design:
    bought = max(len(order), 1)
    weights_n = np.zeros(state.pool.n)
    weights_n[order] = 1 / bought
    inverse_dd = bought * state.inverse_dd
    return Design(
        weights=weights_n,
        objective=objective(inverse_dd, state.queries_md),
        gap=float("nan"),
        scores=state.pool.scores(directions(inverse_dd, state.queries_md)),
        inverse=inverse_dd,
        order=order,
        picks=order,
        history=history,
    )


class _Posterior:
    """The posterior covariance and its products with the rows, kept up to date by rank one."""

    def __init__(self, problem: Problem, precision_dd: np.ndarray) -> None:
        self.pool = problem.pool
        self.queries_md = problem.queries_md
        self.inverse_dd = np.linalg.inv(precision_dd)
        # Scores are means over columns, so that d of them are the rows' squared norms under P.
        root_dd = np.linalg.cholesky((self.inverse_dd + self.inverse_dd.T) / 2)
        self.leverages_n = self.pool.d * self.pool.scores(root_dd)
        self.products_nm = self.pool.products(directions(self.inverse_dd, self.queries_md))

    def gains(self) -> np.ndarray:
        """Give by how much each row would lower the variance, (n,)."""
        return np.square(self.products_nm).mean(axis=1) / (1 + self.leverages_n)

    def variance(self) -> float:
        """Give the queries' mean posterior variance."""
        return objective(self.inverse_dd, self.queries_md)

    def buy(self, row: int) -> None:
        """Take a row into the posterior (Sherman and Morrison)."""
        row_d = self.pool.rows([row])[0]
        column_d = self.inverse_dd @ row_d
        scale = 1 + float(row_d @ column_d)
        along_n = self.pool.products(column_d[:, None])[:, 0]
        self.inverse_dd = self.inverse_dd - np.outer(column_d, column_d) / scale
        self.leverages_n = np.maximum(self.leverages_n - np.square(along_n) / scale, 0.0)
        self.products_nm -= np.outer(along_n, self.queries_md @ column_d) / scale


class _Purse:
    """What is left of the budget, and which rows it still reaches."""

    def __init__(self, problem: Problem) -> None:
        n = problem.pool.n
        self.prices_n = np.ones(n) if problem.prices is None else problem.prices
        budget = np.inf if problem.budget is None else problem.budget
        self.left = budget * (1 + BUDGET_TOLERANCE)
        self.left_n = np.ones(n, dtype=bool)
        self.open_n = self.prices_n <= self.left

    def any(self) -> bool:
        """Whether a row that is not bought is affordable."""
        return bool(self.open_n.any())

    def buy(self, row: int) -> None:
        """Pay for a row."""
        self.left -= self.prices_n[row]
        self.left_n[row] = self.open_n[row] = False
        self.open_n &= self.prices_n <= self.left

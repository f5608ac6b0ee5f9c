"""Frank-Wolfe: in every step the row with the largest score gets weight.

Takes a problem (a pool of rows and a buyer's queries) and gives design weights with a certificate.
Each step is one pass over the pool and a rank-one update of a (d, d) matrix. Prices come in either
through rows that are scaled already, or through `Problem.costs`, the rule of the paper.

Shapes: n rows, d features, m queries.
"""

from collections.abc import Callable

import numpy as np

from modicum.daved.design import directions, objective, pseudo_inverse
from modicum.daved.solvers.base import Design, Problem, Step
from modicum.daved.steps import StepRule, line_search, step_rule

__all__ = ["FrankWolfe", "SparseWeights"]

_LEAST_FACTOR = 1e-150
"""Common factor of the weights at which it is multiplied out, far above underflow."""

_REFERENCE_ALPHA_MAX = 0.9
_REFERENCE_LEAST_STEP = 6e-6
"""What a bounded scalar search to six digits gives where 0 would be best."""


class SparseWeights:
    """Design weights that shrink by a common factor and grow in one place, in constant time.

    Parameters
    ----------
    count
        Number of rows; every weight starts at 1 / count.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.factor = 1.0
        self.added: dict[int, float] = {}
        self._start = 1.0 / count

    @property
    def floor(self) -> float:
        """Weight of a row that was never picked."""
        return self.factor * self._start

    def move(self, row: int, step_size: float) -> None:
        """Shrink all weights by 1 - α and add α to one."""
        self.factor *= 1 - step_size
        if self.factor < _LEAST_FACTOR:
            self.added = {other: self.factor * extra for other, extra in self.added.items()}
            self._start *= self.factor
            self.factor = 1.0
        self.added[row] = self.added.get(row, 0.0) + step_size / self.factor

    def dense(self) -> np.ndarray:
        """Give all weights, (n,), with sum 1."""
        weights_n = np.full(self.count, self.floor)
        rows = np.fromiter(self.added, dtype=np.int64, count=len(self.added))
        weights_n[rows] += self.factor * np.fromiter(self.added.values(), dtype=np.float64)
        return weights_n


class FrankWolfe:
    """Multi-step Frank-Wolfe from uniform weights.

    Use it when fewer rows are bought than there are features, or when n is large. Where the
    purchase has as many rows as features, or a tight certificate is wanted, `Multiplicative`
    converges faster.

    Parameters
    ----------
    step
        ``"line_search"`` (closed form), ``"open_loop"``, ``"herding"``, or a fixed size.
    max_iter
        Most steps. Twice the number of rows to be bought ranks them best while these are fewer than
        the features; more steps come nearer to the optimum of the weights, not of a small purchase.
    tol
        Stop when the certificate is below this share of the objective.
    refresh
        The inverse is computed anew after so many rank-one updates; 0 never does.
    repeat
        Whether a row may be picked again.
    regulariser
        R of an initial information matrix (1 - λ) M + λ R, (d, d), which decays with every step.
    reg_lambda
        λ, in [0, 1).
    compat
        ``"reference"`` runs as the published code does: the loss of the first step goes into every
        line search, so that after a few steps it hardly moves; steps are at most .9, the inverse
        is never refreshed, and nothing stops it before ``max_iter``.

    Notes
    -----
    Source: "DAVED: Data Acquisition via Experimental Design for Data Markets", Lu et al.,
    NeurIPS 2024, arXiv 2403.13893. Ties go to the smallest index.
    """

    def __init__(
        self,
        step: str | float = "line_search",
        max_iter: int = 100,
        tol: float = 1e-3,
        *,
        refresh: int = 100,
        repeat: bool = True,
        regulariser: np.ndarray | None = None,
        reg_lambda: float = 0.0,
        compat: str | None = None,
    ) -> None:
        self.reference = compat == "reference"
        self.rule = _reference_step if self.reference else step_rule(step)
        self.max_iter = max_iter
        self.tol = -np.inf if self.reference else tol
        self.refresh = 0 if self.reference else refresh
        self.repeat = repeat
        self.regulariser = regulariser
        self.reg_lambda = reg_lambda

    def solve(self, problem: Problem, on_step: Callable[[Step], None] | None = None) -> Design:
        """Find a design; ``on_step`` sees every iteration before it is made.

        Parameters
        ----------
        problem
            With `costs`, the picked row is the one with the largest score per cost; the certificate
            then still speaks of weights without prices.
        on_step
            Called with every `Step`.
        """
        return _Run(self, problem, on_step).design()


def _reference_step(loss: float, score: float, leverage: float, iteration: int) -> float:
    found = line_search(loss, score, leverage, alpha_max=_REFERENCE_ALPHA_MAX)
    return max(found, _REFERENCE_LEAST_STEP)


class _Run:
    """One run: the weights, the inverse and what was seen on the way."""

    def __init__(
        self, solver: FrankWolfe, problem: Problem, on_step: Callable[[Step], None] | None
    ) -> None:
        self.solver = solver
        self.problem = problem
        self.on_step = on_step
        self.weights = SparseWeights(problem.pool.n)
        gram_dd = problem.pool.gram() / problem.pool.n
        if solver.regulariser is not None:
            gram_dd = (1 - solver.reg_lambda) * gram_dd + solver.reg_lambda * solver.regulariser
        self.inverse_dd = pseudo_inverse(gram_dd).matrix
        self.since_refresh = 0
        self.open_n = np.ones(problem.pool.n, dtype=bool)
        self.picks: list[int] = []
        self.history: list[Step] = []
        self.converged = False

    def design(self) -> Design:
        scores_n, loss = self._look()
        first_loss = loss
        for iteration in range(self.solver.max_iter):
            if self._is_optimal(scores_n, loss):
                break
            row = self._best_row(scores_n)
            if row is None:
                break
            known_loss = first_loss if self.solver.reference else loss
            step_size = self._make_step(row, known_loss, float(scores_n[row]), iteration)
            gap = float(scores_n.max()) - loss
            self._note(Step(iteration, loss, gap, row, step_size))
            if step_size == 0:
                break
            scores_n, loss = self._look()
        else:
            self._is_optimal(scores_n, loss)
        return Design(
            weights=self.weights.dense(),
            objective=loss,
            gap=float(scores_n.max()) - loss,
            scores=scores_n,
            inverse=self.inverse_dd,
            picks=np.array(self.picks, dtype=np.int64),
            history=tuple(self.history),
            floor=self.weights.floor,
            converged=self.converged,
        )

    def _look(self) -> tuple[np.ndarray, float]:
        """Give all scores and the loss at the weights as they are."""
        queries_md = self.problem.queries_md
        scores_n = self.problem.pool.scores(directions(self.inverse_dd, queries_md))
        return scores_n, objective(self.inverse_dd, queries_md)

    def _is_optimal(self, scores_n: np.ndarray, loss: float) -> bool:
        self.converged = bool(scores_n.max() - loss <= self.solver.tol * loss)
        return self.converged

    def _best_row(self, scores_n: np.ndarray) -> int | None:
        if not self.open_n.any():
            return None
        value_n = scores_n if self.problem.costs is None else scores_n / self.problem.costs
        return int(np.argmax(np.where(self.open_n, value_n, -1.0)))

    def _make_step(self, row: int, loss: float, score: float, iteration: int) -> float:
        rule: StepRule = self.solver.rule
        row_d = self.problem.pool.rows([row])[0]
        column_d = self.inverse_dd @ row_d
        leverage = float(row_d @ column_d)
        step_size = rule(loss, score, leverage, iteration)
        if step_size == 0:
            return 0.0
        self.weights.move(row, step_size)
        self.picks.append(row)
        self.open_n[row] = self.solver.repeat
        self._update_inverse(column_d, leverage, step_size)
        return step_size

    def _update_inverse(self, column_d: np.ndarray, leverage: float, step_size: float) -> None:
        """Follow M to (1 - α) M + α x x' (Sherman and Morrison), or compute its inverse anew."""
        self.since_refresh += 1
        if self.since_refresh == self.solver.refresh and self.solver.regulariser is None:
            gram_dd = self.problem.pool.gram(self.weights.dense())
            self.inverse_dd = pseudo_inverse(gram_dd).matrix
            self.since_refresh = 0
            return
        left = 1 - step_size
        share = step_size / (left + step_size * leverage)
        self.inverse_dd = (self.inverse_dd - share * np.outer(column_d, column_d)) / left

    def _note(self, step: Step) -> None:
        self.history.append(step)
        if self.on_step is not None:
            self.on_step(step)

"""Frank-Wolfe: in every step the row with the largest score gets weight.

Takes a problem (a pool of rows and a buyer's queries) and gives design weights with a certificate.
Each step is one pass over the pool and a rank-one update of a (d, d) matrix. Prices come in either
through rows that are scaled already, or through `Problem.costs`, the rule of the paper.

Shapes: n rows, d features, m queries.
"""

from collections.abc import Callable

import numpy as np

from modicum.daved.design import InverseBesideConstant, WhitenedInverse, first_best
from modicum.daved.pool import Pool
from modicum.daved.solvers.base import Design, Problem, Step
from modicum.daved.steps import line_search, step_rule

__all__ = ["FrankWolfe", "Run", "SparseWeights", "start_information"]

_LEAST_FACTOR = 1e-150
"""Common factor of the weights at which it is multiplied out, far above underflow."""

_LEAST_START = 1e-10
"""Share of the start in the weights at which steps end: with less of it, directions in which no row
was picked would be lost to rounding."""

_DRIFT = 1e-9
"""Relative change of the inverse by a last refresh below which the last scores are kept."""

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
        rows_k, extra_k = self.picked()
        weights_n[rows_k] += extra_k
        return weights_n

    def picked(self) -> tuple[np.ndarray, np.ndarray]:
        """Give the rows that were picked, and the weight of each above the floor, (k,) both."""
        rows_k = np.fromiter(self.added, dtype=np.int64, count=len(self.added))
        return rows_k, self.factor * np.fromiter(self.added.values(), dtype=np.float64)


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
        The inverse is computed anew after so many rank-one updates and at the end; 0 never does.
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
    NeurIPS 2024, arXiv 2403.13893. Ties go to the smallest index. `Problem.owned` is not looked at.
    Steps also end once the uniform start has less than 1e-10 of the weight.

    With a `Problem.constant` the objective is that of the constant and the weighted rows together,
    and so are scores and certificate. A step then shrinks a part of the information only, so that
    the matrix is inverted anew each time, O(d³), and the line search is a numeric one, exact to
    rounding.
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
        run = Run(self, problem, on_step)
        while run.is_open:
            run.advance(problem.pool.scores(run.directions()))
        return run.design()


def start_information(solver: FrankWolfe, pool: Pool) -> np.ndarray:
    """Give the information matrix that a run starts from, (d, d): one pass over the pool."""
    gram_dd = pool.gram() / pool.n
    if solver.regulariser is None:
        return gram_dd
    mixed: np.ndarray = (1 - solver.reg_lambda) * gram_dd + solver.reg_lambda * solver.regulariser
    return mixed


def _reference_step(loss: float, score: float, leverage: float, iteration: int) -> float:
    found = line_search(loss, score, leverage, alpha_max=_REFERENCE_ALPHA_MAX)
    return max(found, _REFERENCE_LEAST_STEP)


class Run:
    """One run, step by step: it asks for scores in directions and moves its weights by them.

    Whoever holds several runs on one pool can look up the scores of all in one pass.

    Parameters
    ----------
    solver, problem, on_step
        As in `FrankWolfe.solve`.
    start_dd
        `start_information`, where it is known already.
    """

    def __init__(
        self,
        solver: FrankWolfe,
        problem: Problem,
        on_step: Callable[[Step], None] | None = None,
        start_dd: np.ndarray | None = None,
    ) -> None:
        self.solver = solver
        self.problem = problem
        self.on_step = on_step
        self.weights = SparseWeights(problem.pool.n)
        start_dd = start_information(solver, problem.pool) if start_dd is None else start_dd
        self.inverse = (
            WhitenedInverse(start_dd, problem.queries_md)
            if problem.constant is None
            else InverseBesideConstant(start_dd, problem.constant, problem.queries_md)
        )
        self.since_refresh = 0
        self.closed: set[int] = set()
        self.picks: list[int] = []
        self.history: list[Step] = []
        self.first_loss = self.inverse.loss()
        self.scores_n: np.ndarray | None = None
        self.is_open = True

    def directions(self) -> np.ndarray:
        """Give the columns in which it wants scores next, (d, m)."""
        return self.inverse.directions()

    def advance(self, scores_n: np.ndarray) -> None:
        """Take scores in `directions`, (n,), and make one step, or end with `is_open` False."""
        self.scores_n = scores_n
        if not self._step(scores_n):
            self.is_open = self._has_drifted()

    def _step(self, scores_n: np.ndarray) -> bool:
        iteration, loss = len(self.history), self.inverse.loss()
        gap = float(scores_n.max()) - self.inverse.mean_score()
        ended = iteration == self.solver.max_iter or gap <= self.solver.tol * loss
        if ended or len(self.closed) == len(scores_n):
            return False
        row = self._best_row(scores_n)
        row_d = self.problem.pool.rows([row])[0]
        wanted = self._wanted_step(row_d, loss, float(scores_n[row]))
        step_size = min(wanted, 1 - _LEAST_START / self._start_share())
        if step_size <= 0:
            return False
        self._note(Step(iteration, loss, gap, row, step_size))
        self._move(row, row_d, step_size)
        return True

    def _wanted_step(self, row_d: np.ndarray, loss: float, score: float) -> float:
        rule = self.solver.rule
        if isinstance(self.inverse, InverseBesideConstant) and rule is line_search:
            return self.inverse.best_step(row_d)
        known_loss = self.first_loss if self.solver.reference else loss
        return rule(known_loss, score, self.inverse.leverage(row_d), len(self.history))

    def _best_row(self, scores_n: np.ndarray) -> int:
        value_n = scores_n if self.problem.costs is None else scores_n / self.problem.costs
        if self.closed:
            value_n = value_n.copy()
            value_n[list(self.closed)] = -1.0
        return first_best(value_n)

    def _start_share(self) -> float:
        return self.weights.floor * self.weights.count

    def _move(self, row: int, row_d: np.ndarray, step_size: float) -> None:
        self.weights.move(row, step_size)
        self.picks.append(row)
        if not self.solver.repeat:
            self.closed.add(row)
        self.since_refresh += 1
        followed = self.inverse.follow(row_d, step_size)
        if not followed or self.since_refresh == self.solver.refresh:
            self._refresh()

    def _refresh(self) -> None:
        rows_k, extra_k = self.weights.picked()
        self.inverse.rebuild(self._start_share(), self.problem.pool.rows(rows_k), extra_k)
        self.since_refresh = 0

    def _has_drifted(self) -> bool:
        """Refresh for the last time; say whether scores must be looked up once more."""
        if not self.solver.refresh or not self.since_refresh:
            return False
        before_dm = self.directions()
        self._refresh()
        after_dm = self.directions()
        return bool(np.abs(after_dm - before_dm).max() > _DRIFT * np.abs(after_dm).max())

    def _note(self, step: Step) -> None:
        self.history.append(step)
        if self.on_step is not None:
            self.on_step(step)

    def design(self) -> Design:
        """Give what was found, once the run has ended."""
        assert self.scores_n is not None
        loss = self.inverse.loss()
        gap = float(self.scores_n.max()) - self.inverse.mean_score()
        return Design(
            weights=self.weights.dense(),
            objective=loss,
            gap=gap,
            scores=self.scores_n,
            inverse=self.inverse.matrix(),
            picks=np.array(self.picks, dtype=np.int64),
            history=tuple(self.history),
            floor=self.weights.floor,
            converged=bool(gap <= self.solver.tol * loss),
        )

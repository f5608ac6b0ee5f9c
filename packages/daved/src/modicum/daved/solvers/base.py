"""What a solver takes and what it gives.

Shapes: n rows, d features, m queries.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from modicum.daved.pool import Pool

__all__ = ["Design", "Problem", "Solver", "Step"]


@dataclass(frozen=True)
class Problem:
    """One buyer's question to one pool.

    Attributes
    ----------
    pool
        The sellers' rows. In a priced design under the exact rule each is divided by the root of
        its price already (see `costs`).
    queries_md
        The buyer's rows, (m, d) float64.
    costs
        Prices by which a solver divides scores, (n,): under the rule of the paper and in greedy
        purchases. None where the pool's rows carry the price, and where all prices are equal.
    budget
        What may be spent, in the currency of the prices; only greedy purchases look at it.
    prices
        What is paid for each row, (n,), whatever the rule; 1 each by default.
    owned
        Information that the buyer has already, (d, d): the Gram matrix of owned rows. Only greedy
        purchases, which count whole rows, look at it.
    constant
        Information that is there whatever the weights, (d, d), positive semidefinite, in the unit
        of weights of sum 1: C in M(w) = C + Σ w_j x_j x_j'. The Gram matrix of owned rows divided
        by the budget is one, a ridge that stays is another. `FrankWolfe` and `Multiplicative` take
        it.
    """

    pool: Pool
    queries_md: np.ndarray
    costs: np.ndarray | None = None
    budget: float | None = None
    prices: np.ndarray | None = None
    owned: np.ndarray | None = None
    constant: np.ndarray | None = None


@dataclass(frozen=True)
class Step:
    """One iteration, for a history.

    Attributes
    ----------
    iteration
        Its number, from 0.
    objective
        L(w) before the step.
    gap
        Certificate: objective minus optimum is at most this; nan where there is none.
    pick
        Row that was chosen; -1 where a step changes all of them.
    step_size
        Weight that the row got; nan where there is none.
    """

    iteration: int
    objective: float
    gap: float
    pick: int = -1
    step_size: float = float("nan")


@dataclass(frozen=True)
class Design:
    """What a solver found.

    Attributes
    ----------
    weights
        Design weights on the pool's rows, (n,) float64, nonnegative, sum 1.
    objective
        L(w) of these weights, in units of label variance per unit weight.
    gap
        Certificate for them, max g - Σ w g; nan where the solver has none.
    scores
        g_j(w) = -∂L/∂w_j at these weights, (n,).
    inverse
        M(w)⁻¹ on the rows' span, (d, d).
    order
        Rows in the order a solver bought them, where it buys; None where weights decide.
    picks
        Row of every iteration, in order, with repeats.
    history
        The iterations.
    floor
        Weight of the rows that were never picked; 0 where there is none.
    converged
        Whether the gap came below the tolerance.
    """

    weights: np.ndarray
    objective: float
    gap: float
    scores: np.ndarray
    inverse: np.ndarray
    order: np.ndarray | None = None
    picks: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    history: tuple[Step, ...] = ()
    floor: float = 0.0
    converged: bool = False


class Solver(Protocol):
    """A solver: settings in the constructor, one call."""

    def solve(self, problem: Problem, on_step: Callable[[Step], None] | None = None) -> Design:
        """Find a design; ``on_step`` sees every iteration."""

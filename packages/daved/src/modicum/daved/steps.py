"""How far a Frank-Wolfe step goes towards one row.

A step of size α turns the design w into (1-α) w plus α on one row x. Takes three numbers of that
row, the loss a = mean q'Pq, the score b = mean (q'Px)² and the leverage κ = x'Px, and gives α.
Knows nothing of rows, prices or iterations other than their number.
"""

import math
from collections.abc import Callable

__all__ = ["STEPS", "StepRule", "fixed", "herding", "line_search", "open_loop", "step_rule"]

StepRule = Callable[[float, float, float, int], float]
"""(loss, score, leverage, iteration from 0) -> step size in [0, 1)."""

ALPHA_MAX = 0.999
"""Largest step: a whole one would leave an information matrix of one row."""

_PARALLEL = 1e-14
"""Relative size of aκ - b below which a query and a row are taken to be parallel."""


def line_search(
    loss: float, score: float, leverage: float, iteration: int = 0, alpha_max: float = ALPHA_MAX
) -> float:
    """Give the step that minimises the loss along a row, in closed form.

    With s = α / (1 - α), the loss after the step is (1 + s) (a - s b / (1 + s κ)), which is convex;
    its minimum is at s = (sqrt(1 + κ (b - a) / (a κ - b)) - 1) / κ. The method of "DAVED: Data
    Acquisition via Experimental Design for Data Markets" (arXiv 2403.13893) searches for it
    numerically.

    Parameters
    ----------
    loss, score, leverage
        a, b and κ; by the Cauchy-Schwarz inequality b is at most a κ.
    iteration
        Not looked at.
    alpha_max
        Largest step.

    Returns
    -------
    float
        The step, 0 where no step helps (b at most a).
    """
    if score <= loss:
        return 0.0
    excess = loss * leverage - score
    if excess <= _PARALLEL * loss * leverage:
        return alpha_max if leverage > 1 else 0.0
    ratio = (math.sqrt(1 + leverage * (score - loss) / excess) - 1) / leverage
    return min(ratio / (1 + ratio), alpha_max)


def open_loop(loss: float, score: float, leverage: float, iteration: int) -> float:
    """Give 2 / (t + 2) in the t-th step from 1: slow at first, accurate after many steps."""
    return 2.0 / (iteration + 3)


def herding(loss: float, score: float, leverage: float, iteration: int) -> float:
    """Give 1 / (t + 1) in the t-th step from 1: weights are counts of picks, the start is one."""
    return 1.0 / (iteration + 2)


def fixed(alpha: float) -> StepRule:
    """Make the rule that always gives one size.

    Raises
    ------
    ValueError
        If the size is not in (0, 1).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"a fixed step is between 0 and 1, not {alpha!r}")
    return lambda loss, score, leverage, iteration: alpha


STEPS: dict[str, StepRule] = {
    "line_search": line_search,
    "open_loop": open_loop,
    "herding": herding,
}


def step_rule(step: str | float) -> StepRule:
    """Give a rule by its name, or the rule of one fixed size.

    Raises
    ------
    ValueError
        If there is no rule of that name, or the size is not in (0, 1).
    """
    if isinstance(step, str):
        if step not in STEPS:
            raise ValueError(f"no step rule {step!r}; there are {', '.join(STEPS)}, or a number")
        return STEPS[step]
    return fixed(float(step))

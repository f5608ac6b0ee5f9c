"""How far ahead is the leader: estimates of an answer law from the counts of recorded samples.

Takes counts per answer and gives the share of the leader among leader and runner-up, with an
interval that is either for a number of samples fixed beforehand (Clopper and Pearson) or valid at
every time at once (the set of shares that the mixture likelihood ratio of the stopping rules does
not reject).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["GapEstimate", "checked_counts", "estimate_gap", "share_interval"]


def checked_counts(counts: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return counts per answer as int64 ``[K]``; refuse what is none."""
    counts_K = np.asarray(counts)
    if counts_K.ndim != 1 or not counts_K.size:
        raise ValueError(f"counts must be a list of votes per answer, not {counts!r}")
    if counts_K.dtype.kind not in "iu":
        raise ValueError(f"counts must be integers, not {counts!r}")
    if (counts_K < 0).any() or counts_K.sum() == 0:
        raise ValueError(f"counts must be non-negative and not all zero, not {counts_K.tolist()}")
    return counts_K.astype(np.int64)


@dataclass(frozen=True)
class GapEstimate:
    """Leader and runner-up of recorded votes.

    Attributes
    ----------
    leader, runner_up
        Indices into the counts; ties go to the lower index. ``runner_up`` is -1 with one answer.
    gap
        Share of the leader minus share of the runner-up among all votes.
    q
        Share of the leader among the two.
    interval
        Interval of the true share q = p_leader / (p_leader + p_runner_up).
    confidence
        Its level.
    method
        "anytime" or "fixed".
    """

    leader: int
    runner_up: int
    gap: float
    q: float
    interval: tuple[float, float]
    confidence: float
    method: str


def share_interval(wins: int, losses: int, confidence: float) -> tuple[float, float]:
    """Return an interval for a win probability that is valid at every time at once.

    The set of q with ``B(wins+1, losses+1) / (q^wins (1-q)^losses) < 1 / (1 - confidence)``: the
    uniform mixture over all alternatives is a martingale under each q, so the true one ever leaves
    the interval with probability at most ``1 - confidence`` (Ville). B is the beta function.
    """
    from scipy.optimize import brentq
    from scipy.special import betaln, xlog1py, xlogy

    limit = -math.log1p(-confidence)
    log_mixture = float(betaln(wins + 1, losses + 1))
    peak = wins / (wins + losses) if wins + losses else 0.5

    def excess(q: float) -> float:
        return log_mixture - float(xlogy(wins, q) + xlog1py(losses, -q)) - limit

    if excess(peak) >= 0:
        raise AssertionError("the mixture is never above the likelihood at its peak")
    low = 0.0 if excess(0.0) < 0 else brentq(excess, 0.0 if wins == 0 else 1e-300, peak)
    high = 1.0 if excess(1.0) < 0 else brentq(excess, peak, 1.0 - 1e-16 if losses else 1.0)
    return float(low), float(high)


def estimate_gap(
    counts: npt.ArrayLike,
    confidence: float = 0.95,
    method: Literal["anytime", "fixed"] = "anytime",
    num_answers: int | None = None,
) -> GapEstimate:
    """Estimate how far the most frequent answer is ahead of the second.

    Parameters
    ----------
    counts
        Votes per answer, int, shape ``[K]``; samples without an answer left out.
    confidence
        Level of the interval, in (0, 1).
    method
        "anytime": valid whenever one looks, however often. "fixed": Clopper-Pearson, valid if the
        number of samples did not depend on them.
    num_answers
        The interval is for a pair of answers named beforehand. To allow for having picked the two
        most frequent of this many, the error is divided by the number of pairs.

    Raises
    ------
    ValueError
        For counts that are none, or a confidence outside of (0, 1).
    """
    counts_K = checked_counts(counts)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), not {confidence!r}")
    if method not in ("anytime", "fixed"):
        raise ValueError(f'method must be "anytime" or "fixed", not {method!r}')
    if num_answers is not None and num_answers < max(2, counts_K.size):
        raise ValueError(
            f"num_answers must be at least 2 and the {counts_K.size} answers counted, not "
            f"{num_answers!r}"
        )
    order = np.argsort(-counts_K, kind="stable")
    leader, runner_up = int(order[0]), int(order[1]) if counts_K.size > 1 else -1
    wins = int(counts_K[leader])
    losses = int(counts_K[runner_up]) if runner_up >= 0 else 0
    pairs = num_answers * (num_answers - 1) / 2 if num_answers else 1
    level = 1 - (1 - confidence) / pairs
    if method == "anytime":
        interval = share_interval(wins, losses, level)
    else:
        from modicum.core.stats import clopper_pearson

        interval = clopper_pearson(wins, wins + losses, level)
    total = int(counts_K.sum())
    return GapEstimate(
        leader,
        runner_up,
        (wins - losses) / total,
        wins / (wins + losses),
        (float(interval[0]), float(interval[1])),
        confidence,
        method,
    )

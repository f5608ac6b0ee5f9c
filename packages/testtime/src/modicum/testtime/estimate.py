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


def share_interval(wins: int, losses: int, error: float) -> tuple[float, float]:
    """Return an interval for a win probability that is valid at every time at once.

    The set of q with ``B(wins+1, losses+1) / (q^wins (1-q)^losses) < 1 / error``: the uniform
    mixture over all alternatives is a martingale under each q, so the true one ever leaves the
    interval with probability at most `error` (Ville). B is the beta function.

    Parameters
    ----------
    wins, losses
        Counts, at least 0.
    error
        In (0, 1); as such and not as a confidence, which would be 1 in floats below 1e-16.
    """
    # By symmetry: near 1 a root is found to a float's spacing there, near 0 to any depth.
    return _lower_end(wins, losses, error), 1.0 - _lower_end(losses, wins, error)


def _lower_end(wins: int, losses: int, error: float) -> float:
    from scipy.optimize import brentq
    from scipy.special import betaln, xlog1py, xlogy

    if wins == 0:
        return 0.0
    limit = float(betaln(wins + 1, losses + 1)) + math.log(error)
    peak = wins / (wins + losses)

    def excess(log_q: float) -> float:
        q = min(math.exp(log_q), peak)
        return limit - float(wins * log_q + xlog1py(losses, -q))

    # In log q: the likelihood is at most q^wins, so that q^wins = exp(limit) is below the end.
    log_peak = math.log(peak)
    if limit >= float(xlogy(wins, peak) + xlog1py(losses, -peak)):
        return peak  # rounding, where the error is close to 1
    return math.exp(brentq(excess, limit / wins - 1, log_peak, xtol=1e-15))


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
        For counts that are none, or a confidence outside of (0, 1); for "fixed" if the error per
        pair is below 1e-16.
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
    error = (1 - confidence) / pairs
    if method == "anytime":
        interval = share_interval(wins, losses, error)
    else:
        from modicum.core.stats import clopper_pearson

        if 1 - error == 1:
            raise ValueError(
                f"the error {error:.3g} for each of {pairs:.0f} pairs is too small for "
                "method='fixed'; 'anytime' has no such limit"
            )
        low, high = clopper_pearson(wins, wins + losses, 1 - error)
        interval = float(low), float(high)
    total = int(counts_K.sum())
    return GapEstimate(
        leader,
        runner_up,
        (wins - losses) / total,
        wins / (wins + losses),
        interval,
        confidence,
        method,
    )

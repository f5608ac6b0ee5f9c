"""Majority of N samples, without drawing those that cannot change it."""

from __future__ import annotations

import math
from collections.abc import Hashable

from modicum.testtime.samples import Guarantee
from modicum.testtime.stopping.base import (
    GO_ON,
    Decision,
    StoppingRule,
    VoteCounter,
    check_count,
)

__all__ = ["Curtailed"]

ROUNDING = 2.0**-52
"""Twice the largest relative error of a floating-point addition."""


class Curtailed(StoppingRule):
    """Stop once the rest of N samples cannot change who has the most votes.

    The answer is always that of the majority of all N samples, for any order, any law and any way
    of breaking ties: the lead is strict. Votes may have weights up to a bound.

    Parameters
    ----------
    n
        N, the samples of the majority vote that is curtailed, those without an answer included.
    weight_bound
        Largest weight that a vote can have.

    Raises
    ------
    ValueError
        If n is less than 1 or the bound is not positive and finite.

    Notes
    -----
    Stops when ``leader - runner_up > weight_bound · (N - n)``. Samples beyond N are ignored.
    """

    guarantee: Guarantee = "lossless"

    def __init__(self, n: int, weight_bound: float = 1.0) -> None:
        self.n = check_count("n", n)
        if not 0 < weight_bound < math.inf:
            raise ValueError(f"weight_bound must be positive and finite, not {weight_bound!r}")
        self.weight_bound = weight_bound
        self.reset()

    def __repr__(self) -> str:
        bound = "" if self.weight_bound == 1 else f", weight_bound={self.weight_bound:g}"
        return f"Curtailed({self.n}{bound})"

    def reset(self) -> None:
        """Forget every sample."""
        self.votes = VoteCounter()

    def update(
        self, key: Hashable | None, reward: float | None = None, weight: float = 1.0
    ) -> Decision:
        """Take one sample and say whether to stop.

        Raises
        ------
        ValueError
            If the weight is above the bound: what comes later could then change the majority.
        """
        if key is not None and weight > self.weight_bound:
            raise ValueError(
                f"the vote weighs {weight!r}, more than weight_bound={self.weight_bound!r}; give "
                "Curtailed the largest weight that a vote can have"
            )
        votes = self.votes
        if votes.total < self.n:
            votes.add(key, weight)
        leader, first, _, second = votes.top_two()
        left = self.n - votes.total
        if left == 0:
            reason = "no_parseable_answer" if leader is None else "max_samples"
            return Decision(True, leader, reason, guarantee="lossless")
        if not self._out_of_reach(first, second, left):
            return GO_ON
        return Decision(True, leader, "decided", guarantee="lossless")

    def _out_of_reach(self, first: float, second: float, left: int) -> bool:
        reach = self.weight_bound * left
        # Sums of weights that are no integers may each be off by this much.
        slack = ROUNDING * self.n * (first + reach)
        return first - second > reach + slack

    def min_to_stop(self) -> int:
        """Return how many further votes for the leader, each of the largest weight, end it."""
        _, first, _, second = self.votes.top_two()
        left = self.n - self.votes.total
        lead = (first - second) / self.weight_bound
        more = max(1, math.floor((left - lead) / 2))
        while more < left and not self._out_of_reach(
            first + more * self.weight_bound, second, left - more
        ):
            more += 1
        return max(1, min(more, left))

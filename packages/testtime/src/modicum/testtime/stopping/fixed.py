"""A fixed number of samples."""

from __future__ import annotations

from collections.abc import Hashable

from modicum.testtime.samples import Guarantee
from modicum.testtime.stopping.base import (
    GO_ON,
    Decision,
    StoppingRule,
    VoteCounter,
    check_count,
)

__all__ = ["FixedN"]


class FixedN(StoppingRule):
    """Stop after n samples; the answer is the one with the most votes, the earliest on ties.

    Use it with a number that was planned: the probability of success of n samples is known exactly
    (`modicum.testtime.plurality.plurality_success`). Within `All` it is a least number of samples.

    Parameters
    ----------
    n
        Samples to draw, those without an answer included.

    Raises
    ------
    ValueError
        If n is less than 1.
    """

    guarantee: Guarantee = "exact"

    def __init__(self, n: int) -> None:
        self.n = check_count("n", n)
        self.reset()

    def __repr__(self) -> str:
        return f"FixedN({self.n})"

    def reset(self) -> None:
        """Forget every sample."""
        self.votes = VoteCounter()

    def update(
        self, key: Hashable | None, reward: float | None = None, weight: float = 1.0
    ) -> Decision:
        """Take one sample and say whether to stop."""
        self.votes.add(key, weight)
        if self.votes.total < self.n:
            return GO_ON
        leader = self.votes.top_two()[0]
        reason = "no_parseable_answer" if leader is None else "max_samples"
        return Decision(True, leader, reason, guarantee="exact")

    def min_to_stop(self) -> int:
        """Return how many samples are missing."""
        return max(1, self.n - self.votes.total)

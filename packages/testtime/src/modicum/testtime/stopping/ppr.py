"""The likeliest of a known number of answers, with an error probability that holds at any time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable

import numpy as np

from modicum.testtime.samples import Guarantee
from modicum.testtime.stopping.base import (
    GO_ON,
    NEVER,
    Decision,
    StoppingRule,
    VoteCounter,
    check_count,
    check_delta,
    refuse_weight,
)
from modicum.testtime.stopping.evidence import log_e_pair
from modicum.testtime.stopping.tables import pair_boundary

__all__ = ["PPR"]


class PPR(StoppingRule):
    """Stop once the leader is shown to be the likeliest of K answers.

    Over the whole run, however long, the probability of ever declaring an answer that is not a
    most likely one is at most delta: the rule may look after every sample. Use it where the answers
    are known beforehand (multiple choice, yes or no), `ModeCertificate` where they are not.

    Parameters
    ----------
    delta
        Permitted error probability.
    num_answers
        K, all answers that can occur. If more turn up, the rule warns and never stops.
    two_sided
        The published form; it stops later.

    Raises
    ------
    ValueError
        If delta lies outside (0, 1) or K is less than 2.

    Notes
    -----
    Stops when ``log_e_pair(leader, runner_up) >= log((K - 1) / delta)``. A wrong declaration needs
    one of K - 1 answers to beat the likeliest one at that level, and the runner-up has at least as
    many votes as the likeliest answer whenever a wrong one leads. Presumes independent draws from
    one law. Source: "PAC Mode Estimation using PPR Martingale Confidence Sequences", Anand Jain et
    al., arXiv 2109.05047 (PPR-1v1), here with a one-sided alternative.

    Examples
    --------
    >>> PPR(delta=0.05, num_answers=2).table(6)
    array([ 7, 10, 12, 14, 16, 18])
    """

    guarantee: Guarantee = "anytime"
    needs_exchangeable = True
    takes_weights = False
    delta: float

    def __init__(self, delta: float, num_answers: int, two_sided: bool = False) -> None:
        self.delta = check_delta("delta", delta)
        self.num_answers = check_count("num_answers", num_answers, 2)
        self.two_sided = bool(two_sided)
        self._boundary = pair_boundary(math.log((num_answers - 1) / delta), self.two_sided)
        self.reset()

    def __repr__(self) -> str:
        sides = ", two_sided=True" if self.two_sided else ""
        return f"PPR(delta={self.delta:g}, num_answers={self.num_answers}{sides})"

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
            If the weight is not 1.
        """
        refuse_weight(self, weight)
        votes = self.votes
        seen = len(votes.order)
        if not votes.add(key, 1):
            return GO_ON
        if len(votes.order) > self.num_answers:
            if len(votes.order) > seen:
                warnings.warn(
                    f"{key!r} is answer number {len(votes.order)} although num_answers="
                    f"{self.num_answers}: nothing will be certified for this prompt; use "
                    "ModeCertificate where the answers are not known beforehand",
                    stacklevel=2,
                )
            return GO_ON
        leader, first, _, second = votes.top_two()
        if first < self._boundary[int(second)]:
            return GO_ON
        log_e = float(log_e_pair(first, second, self.two_sided))
        error = (self.num_answers - 1) * math.exp(-log_e)
        return Decision(True, leader, "certified", 1 - error, "anytime")

    def min_to_stop(self) -> int:
        """Return how many further votes for the leader stop the rule; no others are as quick."""
        if len(self.votes.order) > self.num_answers:
            return NEVER
        _, first, _, second = self.votes.top_two()
        return max(1, self._boundary[int(second)] - int(first))

    def table(self, size: int) -> np.ndarray:
        """Return the boundary ``n1_min[n2]``, int64, shape ``[size]``."""
        return self._boundary.table(size)

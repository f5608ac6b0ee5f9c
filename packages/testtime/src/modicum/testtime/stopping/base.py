"""What a stopping rule is: votes come in one by one, a decision comes out after each.

A rule holds its settings and the state of one prompt. `StoppingRule.fresh` gives the same rule
with an empty state, so that one configured rule serves any number of prompts. Rules know neither
texts nor backends: they see canonical answers (any hashable; None is a sample without an answer,
which costs but does not vote), rewards and weights.
"""

from __future__ import annotations

import abc
import copy
import math
from collections.abc import Hashable
from typing import ClassVar, NamedTuple, Self

import numpy as np

from modicum.testtime.samples import Guarantee

__all__ = ["GO_ON", "Decision", "StoppingRule", "VoteCounter"]


class Decision(NamedTuple):
    """What a rule says after a sample.

    Attributes
    ----------
    stop
        Whether to draw no more.
    answer
        The rule's answer; None while it goes on and where it has none.
    reason
        One word for why it stopped; "" while it goes on.
    confidence
        For "anytime" rules 1 - (the error level that the evidence supports), for others what their
        source calls confidence; NaN where there is none.
    guarantee
        "exact", "anytime", "lossless" or "heuristic".
    """

    stop: bool
    answer: Hashable | None = None
    reason: str = ""
    confidence: float = math.nan
    guarantee: Guarantee = "heuristic"


GO_ON = Decision(False)
"""The decision to draw another sample."""


class VoteCounter:
    """Votes per answer with the leader and the runner-up at hand, O(1) per vote.

    Ties go to the answer that was seen first, for the leader as for the runner-up.
    """

    __slots__ = ("counts", "null", "order", "total")

    def __init__(self) -> None:
        self.counts: dict[Hashable, float] = {}
        self.order: dict[Hashable, int] = {}
        self.total = 0
        self.null = 0

    def add(self, key: Hashable | None, weight: float = 1.0) -> None:
        """Count a sample; a None key is a sample without a vote."""
        self.total += 1
        if key is None:
            self.null += 1
            return
        if key not in self.order:
            self.order[key] = len(self.order)
        self.counts[key] = self.counts.get(key, 0) + weight

    def top_two(self) -> tuple[Hashable | None, float, Hashable | None, float]:
        """Return leader, its votes, runner-up, its votes; (None, 0) where there is none."""
        first: Hashable | None = None
        second: Hashable | None = None
        votes_first = votes_second = 0.0
        for key, votes in self.counts.items():
            if first is None or votes > votes_first:
                first, second, votes_first, votes_second = key, first, votes, votes_first
            elif second is None or votes > votes_second:
                second, votes_second = key, votes
        return first, votes_first, second, votes_second


class StoppingRule(abc.ABC):
    """When to stop drawing samples of one prompt.

    Class attributes
    ----------------
    guarantee
        Kind of the rule's promise.
    needs_exchangeable
        True if the promise presumes independent draws from one law in the order of submission; an
        engine that cannot give that refuses the rule.
    """

    guarantee: Guarantee = "heuristic"
    needs_exchangeable: ClassVar[bool] = False

    @abc.abstractmethod
    def reset(self) -> None:
        """Forget every sample."""

    @abc.abstractmethod
    def update(
        self, key: Hashable | None, reward: float | None = None, weight: float = 1.0
    ) -> Decision:
        """Take one sample and say whether to stop.

        Parameters
        ----------
        key
            Canonical answer; None does not vote.
        reward
            The verifier's reward, for rules that look at it.
        weight
            Weight of the vote, for weighted self-consistency.
        """

    def fresh(self) -> Self:
        """Return this rule with an empty state; the settings are shared."""
        rule = copy.copy(self)
        rule.reset()
        return rule

    def min_to_stop(self) -> int:
        """Return the least number of further samples after which this rule could stop, at least 1.

        Engines that work in waves draw so many at once without wasting any.
        """
        return 1

    def table(self, size: int) -> np.ndarray:
        """Return the boundary ``n1_min[n2]``, int64, shape ``[size]``.

        With the runner-up at n2 votes the rule stops as soon as the leader has ``n1_min[n2]``.

        Raises
        ------
        TypeError
            If the rule is not a function of the two largest counts.
        """
        raise TypeError(f"{type(self).__name__} has no boundary in the two largest counts")

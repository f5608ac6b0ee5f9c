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
import sys
from collections.abc import Hashable
from typing import NamedTuple, Self

import numpy as np

from modicum.testtime.samples import Guarantee

__all__ = [
    "GO_ON",
    "NEVER",
    "Decision",
    "StoppingRule",
    "VoteCounter",
    "check_count",
    "check_delta",
    "refuse_weight",
]

NEVER = sys.maxsize
"""What `StoppingRule.min_to_stop` returns when no further samples can stop the rule."""


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

    Ties go to the answer that was seen first, for the leader as for the runner-up. Weights are any
    nonnegative numbers; sums are taken in the order of the votes.

    Attributes
    ----------
    counts
        Votes of each answer, in the order in which the answers were first seen.
    order
        How many other answers were seen before an answer's first vote.
    total, null
        Samples, and those among them that did not vote.
    """

    __slots__ = ("_leader", "_runner_up", "counts", "null", "order", "total")

    def __init__(self) -> None:
        self.counts: dict[Hashable, float] = {}
        self.order: dict[Hashable, int] = {}
        self.total = 0
        self.null = 0
        self._leader: Hashable | None = None
        self._runner_up: Hashable | None = None

    def add(self, key: Hashable | None, weight: float = 1.0) -> bool:
        """Count a sample and say whether it voted.

        Parameters
        ----------
        key
            Answer; None, and a number that is NaN, is a sample without a vote.
        weight
            Weight of the vote.

        Raises
        ------
        ValueError
            If the weight is negative, infinite or NaN.
        """
        if key is None or key != key:
            self.total += 1
            self.null += 1
            return False
        if not 0 <= weight < math.inf:
            raise ValueError(f"the weight of a vote must be finite and >= 0, not {weight!r}")
        counts, order = self.counts, self.order
        votes = counts.get(key, 0) + weight
        counts[key] = votes
        place = order.setdefault(key, len(order))
        self.total += 1
        self._rank(key, votes, place)
        return True

    def _rank(self, key: Hashable, votes: float, place: int) -> None:
        """Put an answer whose votes have just grown in its place among the first two."""
        # Only one answer's votes grew, so whoever is overtaken falls back by exactly one place.
        leader = self._leader
        if leader is None:
            self._leader = key
            return
        if place == self.order[leader]:
            return
        if self._beats(votes, place, leader):
            self._leader, self._runner_up = key, leader
        elif self._runner_up is None or self._beats(votes, place, self._runner_up):
            self._runner_up = key

    def _beats(self, votes: float, place: int, other: Hashable) -> bool:
        rival = self.counts[other]
        return votes > rival or (votes == rival and place < self.order[other])

    def top_two(self) -> tuple[Hashable | None, float, Hashable | None, float]:
        """Return leader, its votes, runner-up, its votes; (None, 0) where there is none."""
        leader, runner_up = self._leader, self._runner_up
        return (
            leader,
            self.counts[leader] if leader is not None else 0,
            runner_up,
            self.counts[runner_up] if runner_up is not None else 0,
        )


class StoppingRule(abc.ABC):
    """When to stop drawing samples of one prompt.

    Attributes
    ----------
    guarantee
        Kind of the rule's promise.
    delta
        Error probability that an "anytime" rule promises not to exceed; None for the others.
    needs_exchangeable
        True if the promise presumes independent draws from one law in the order of submission; an
        engine that cannot give that refuses the rule.
    takes_weights
        False if the rule counts votes and refuses any weight but 1.
    """

    guarantee: Guarantee = "heuristic"
    delta: float | None = None
    needs_exchangeable: bool = False
    takes_weights: bool = True

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

        Engines that work in waves draw so many at once without wasting any. `NEVER` says that no
        further samples can stop the rule. Exact for votes of weight 1 unless a rule says otherwise,
        and never too large.
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


def check_count(name: str, value: int, at_least: int = 1) -> int:
    """Return a whole number that is large enough.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is smaller than `at_least`.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, not {value!r}")
    return int(value)


def check_delta(name: str, value: float) -> float:
    """Return a probability that is neither 0 nor 1.

    Raises
    ------
    ValueError
        If it lies outside (0, 1).
    """
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, not {value!r}")
    return float(value)


def refuse_weight(rule: StoppingRule, weight: float) -> None:
    """Refuse a weighted vote.

    Raises
    ------
    ValueError
        If the weight is not 1.
    """
    if weight != 1:
        raise ValueError(
            f"{type(rule).__name__} certifies counts of votes, so every vote must weigh 1, not "
            f"{weight!r}; with weights use Curtailed or a heuristic rule"
        )

"""Stop at samples that a verifier accepts."""

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

__all__ = ["AcceptCount", "FirstAccept"]


class AcceptCount(StoppingRule):
    """Stop at the m-th sample whose reward reaches a threshold.

    The answer is the most frequent one among the accepted samples, the earliest on ties. For a
    verifier that accepts right answers with probability s and wrong ones with f, success and
    expected samples are known exactly (`modicum.testtime.verifier_models`). A sample without an
    answer is never accepted.

    Parameters
    ----------
    m
        Accepted samples.
    threshold
        Least reward of an accepted sample.

    Raises
    ------
    ValueError
        If m is less than 1 or the threshold is not finite.
    """

    guarantee: Guarantee = "exact"

    def __init__(self, m: int, threshold: float = 0.5) -> None:
        self.m = check_count("m", m)
        if not math.isfinite(threshold):
            raise ValueError(f"threshold must be finite, not {threshold!r}")
        self.threshold = float(threshold)
        self.reset()

    def __repr__(self) -> str:
        return f"AcceptCount(m={self.m}, threshold={self.threshold:g})"

    def reset(self) -> None:
        """Forget every sample."""
        self.accepted = VoteCounter()

    def update(
        self, key: Hashable | None, reward: float | None = None, weight: float = 1.0
    ) -> Decision:
        """Take one sample and say whether to stop.

        Raises
        ------
        ValueError
            If a sample with an answer has no reward, or the reward is not a finite number.
        """
        if key is not None and check_reward(self, key, reward) >= self.threshold:
            self.accepted.add(key, weight)
        if self.accepted.total < self.m:
            return GO_ON
        return Decision(True, self.accepted.top_two()[0], "accepted", guarantee="exact")

    def min_to_stop(self) -> int:
        """Return how many accepted samples are missing."""
        return max(1, self.m - self.accepted.total)


class FirstAccept(AcceptCount):
    """Stop at the first sample whose reward reaches a threshold; its answer is the answer.

    Parameters
    ----------
    threshold
        Least reward of an accepted sample.

    Raises
    ------
    ValueError
        If the threshold is not finite.
    """

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__(1, threshold)

    def __repr__(self) -> str:
        return f"FirstAccept(threshold={self.threshold:g})"

    def update(
        self, key: Hashable | None, reward: float | None = None, weight: float = 1.0
    ) -> Decision:
        """Take one sample and say whether to stop.

        Raises
        ------
        ValueError
            If a sample with an answer has no reward, or the reward is not a finite number.
        """
        if self.accepted.total:
            return Decision(True, self.accepted.top_two()[0], "accepted", guarantee="exact")
        return super().update(key, reward, weight)


def check_reward(rule: StoppingRule, key: Hashable, reward: float | None) -> float:
    """Return the reward of a sample that has an answer.

    Raises
    ------
    ValueError
        If there is none, or it is not a finite number.
    """
    if reward is None:
        raise ValueError(f"{type(rule).__name__} needs the reward of every answer: give a verifier")
    if not math.isfinite(reward):
        raise ValueError(f"a reward must be a finite number, not {reward!r} (answer {key!r})")
    return float(reward)

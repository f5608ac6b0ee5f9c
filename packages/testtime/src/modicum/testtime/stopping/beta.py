"""The stopping rule of Adaptive-Consistency."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from modicum.testtime.stopping.base import (
    GO_ON,
    Decision,
    StoppingRule,
    VoteCounter,
    check_count,
)
from modicum.testtime.stopping.evidence import beta_confidence
from modicum.testtime.stopping.tables import beta_boundary

__all__ = ["BetaStop"]


class BetaStop(StoppingRule):
    """Stop once the posterior that the leader is likelier than the runner-up reaches a level.

    A heuristic: the level is met at one look, and the rule looks after every sample, so the share
    of wrong answers among close ones is many times ``1 - conf``. Use it where a few samples less
    matter more than a bound on the error; `ModeCertificate` has one.

    Parameters
    ----------
    conf
        Level in (1/2, 1).
    min_samples
        Votes before which it does not stop.

    Raises
    ------
    ValueError
        If conf lies outside (1/2, 1) or min_samples is less than 1.

    Notes
    -----
    Stops when ``P(Beta(leader + 1, runner_up + 1) > 1/2) >= conf``. "Let's Sample Step by Step:
    Adaptive-Consistency for Efficient Reasoning and Coding with LLMs", arXiv 2305.11860.

    Examples
    --------
    >>> BetaStop(conf=0.95).table(6)
    array([ 4,  6,  8,  9, 11, 12])
    """

    def __init__(self, conf: float = 0.95, min_samples: int = 2) -> None:
        if not 0.5 < conf < 1:
            raise ValueError(f"conf must lie strictly between 0.5 and 1, not {conf!r}")
        self.conf = float(conf)
        self.min_samples = check_count("min_samples", min_samples)
        self._boundary = beta_boundary(self.conf)
        self.reset()

    def __repr__(self) -> str:
        least = "" if self.min_samples == 2 else f", min_samples={self.min_samples}"
        return f"BetaStop(conf={self.conf:g}{least})"

    def reset(self) -> None:
        """Forget every sample."""
        self.votes = VoteCounter()
        self._weighted = False

    def update(
        self, key: Hashable | None, reward: float | None = None, weight: float = 1.0
    ) -> Decision:
        """Take one sample and say whether to stop."""
        votes = self.votes
        if not votes.add(key, weight):
            return GO_ON
        self._weighted |= weight != 1
        leader, first, _, second = votes.top_two()
        if votes.total - votes.null < self.min_samples or not self._reached(first, second):
            return GO_ON
        return Decision(True, leader, "confident", float(beta_confidence(first, second)))

    def _reached(self, first: float, second: float) -> bool:
        if self._weighted:
            return bool(beta_confidence(first, second) >= self.conf)
        return first >= self._boundary[int(second)]

    def min_to_stop(self) -> int:
        """Return how many further votes for the leader stop the rule; 1 once votes have weights."""
        if self._weighted:
            return 1
        _, first, _, second = self.votes.top_two()
        voted = self.votes.total - self.votes.null
        return max(1, self._boundary[int(second)] - int(first), self.min_samples - voted)

    def table(self, size: int) -> np.ndarray:
        """Return the boundary ``n1_min[n2]``, int64, shape ``[size]``.

        Raises
        ------
        TypeError
            If `min_samples` is so large that other votes than those of the first two matter.
        """
        least = self._boundary.table(max(size, 2))
        if self.min_samples > least[1] + 1:
            raise TypeError(
                f"BetaStop with min_samples={self.min_samples} has no boundary in the two largest "
                f"counts; at conf={self.conf:g} it has one up to min_samples={least[1] + 1}"
            )
        least[0] = max(least[0], self.min_samples)
        return least[:size]

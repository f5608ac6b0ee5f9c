"""A share of the votes, looked at as the number of samples doubles."""

from __future__ import annotations

import math
from collections.abc import Hashable

from modicum.testtime.stopping.base import (
    GO_ON,
    NEVER,
    Decision,
    StoppingRule,
    VoteCounter,
    check_count,
)

__all__ = ["Supermajority"]


class Supermajority(StoppingRule):
    """Stop once a share of the votes agrees, looking at 2, 4, 8, … samples.

    A heuristic: with the usual settings two samples that agree end it.

    Parameters
    ----------
    threshold
        Share in (1/2, 1] that the leader needs.
    start
        Samples before the first look.
    double
        Look at start, 2·start, 4·start, …; False looks after every sample from the first look on.

    Raises
    ------
    ValueError
        If threshold lies outside (1/2, 1] or start is less than 1.

    Notes
    -----
    With ``threshold=0.75`` the rule of its_hub's ``AdaptiveSelfConsistency``; with
    ``threshold=0.8, double=False`` the majority criterion of the AdaptiveConsistency library.
    Samples without an answer count towards the looks and not towards the share.
    """

    def __init__(self, threshold: float = 0.75, start: int = 2, double: bool = True) -> None:
        if not 0.5 < threshold <= 1:
            raise ValueError(f"threshold must lie in (0.5, 1], not {threshold!r}")
        self.threshold = float(threshold)
        self.start = check_count("start", start)
        self.double = bool(double)
        self.reset()

    def __repr__(self) -> str:
        each = "" if self.double else ", double=False"
        return f"Supermajority(threshold={self.threshold:g}, start={self.start}{each})"

    def reset(self) -> None:
        """Forget every sample."""
        self.votes = VoteCounter()
        self._cast = 0.0
        self._weighted = False

    def update(
        self, key: Hashable | None, reward: float | None = None, weight: float = 1.0
    ) -> Decision:
        """Take one sample and say whether to stop."""
        if self.votes.add(key, weight):
            self._cast += weight
            self._weighted |= weight != 1
        if not self._looks(self.votes.total) or self._cast == 0:
            return GO_ON
        leader, first, _, _ = self.votes.top_two()
        share = first / self._cast
        return Decision(True, leader, "agreed", share) if share >= self.threshold else GO_ON

    def _looks(self, total: int) -> bool:
        if total < self.start:
            return False
        if not self.double:
            return True
        times, rest = divmod(total, self.start)
        return rest == 0 and times & (times - 1) == 0

    def _next_look(self, total: int) -> int:
        if not self.double:
            return max(self.start, total + 1)
        look = self.start
        while look <= total:
            look *= 2
        return look

    def min_to_stop(self) -> int:
        """Return how many further votes for the leader stop the rule at a look.

        1 once votes have weights; `NEVER` if all must agree and two do not.
        """
        if self._weighted:
            return 1
        first = self.votes.top_two()[1]
        if self.threshold == 1 and first < self._cast:
            return NEVER
        total = self.votes.total
        # Where the share is reached but for rounding; looks before that need not be tried.
        missing = self.threshold * self._cast - first
        near = missing / (1 - self.threshold) - 1 if missing > 0 else 0
        look = total + max(0, math.floor(near))
        while True:
            look = self._next_look(look)
            more = look - total
            if (first + more) / (self._cast + more) >= self.threshold:
                return more

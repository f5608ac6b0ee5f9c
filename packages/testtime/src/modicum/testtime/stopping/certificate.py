"""The likeliest answer, certified at any time, when the answers are not known beforehand."""

from __future__ import annotations

import math
from collections.abc import Hashable

import numpy as np

from modicum.testtime.samples import Guarantee
from modicum.testtime.stopping.base import (
    GO_ON,
    Decision,
    StoppingRule,
    VoteCounter,
    check_count,
    check_delta,
    refuse_weight,
)
from modicum.testtime.stopping.evidence import log_e_pair
from modicum.testtime.stopping.tables import Boundary, least_pairs, pair_boundary

__all__ = ["ModeCertificate"]

KEPT = 64
"""Leaders whose rivals are counted along; a further one is counted again from the history."""


class ModeCertificate(StoppingRule):
    """Stop once the leader is shown to be a most likely answer, whatever and however many there be.

    Over the whole run, however long, the probability of ever declaring an answer that is not a most
    likely one is at most delta, with any number of possible answers, even an unbounded one. It says
    what the model answers most often, never that this is correct.

    Parameters
    ----------
    delta
        Permitted error probability.
    target
        An answer named before sampling (that of a cache, of a bigger model). Only this one can then
        be declared, at level delta without the price of having been found in the samples.

    Raises
    ------
    ValueError
        If delta lies outside (0, 1).

    Notes
    -----
    The i-th distinct answer seen has level ``delta / (i (i + 1))``, which sum to delta, and only
    samples after its first one count for it. The rule stops when for the leader, i-th answer with a
    later votes against at most b later votes of any other, ``log_e_pair(a, b) >= log(i (i + 1) /
    delta)``. Proof: given the samples up to its discovery, an answer that is not a most likely one
    meets a fixed most likely answer o in votes that go to it with probability at most 1/2, so that
    their E is a supermartingale from 1 and passes ``i (i + 1) / delta`` with probability at most
    ``delta / (i (i + 1))`` (Ville). Of o's later votes, none if it has not been seen, there are at
    most b, and E decreases in b; the union over i gives delta. Presumes independent draws from one
    law.

    Memory: an integer per vote, and votes per answer for the 64 latest leaders. Related:
    "CITE: Anytime-Valid Statistical Inference in LLM Self-Consistency", arXiv 2605.05873, for an
    answer named beforehand.

    Examples
    --------
    >>> rule = ModeCertificate(delta=0.05)
    >>> [rule.update(answer).stop for answer in "aaaaaaaaa"].index(True)
    8
    """

    guarantee: Guarantee = "anytime"
    needs_exchangeable = True
    takes_weights = False
    delta: float

    def __init__(self, delta: float = 0.05, target: Hashable | None = None) -> None:
        self.delta = check_delta("delta", delta)
        self.target = target
        self.reset()

    def __repr__(self) -> str:
        target = "" if self.target is None else f", target={self.target!r}"
        return f"ModeCertificate(delta={self.delta:g}{target})"

    def reset(self) -> None:
        """Forget every sample."""
        self.votes = VoteCounter()
        self._history: list[int] = []
        self._found_at: list[int] = []
        self._rivals: dict[int, _Rivals] = {}

    def boundary(self, size: int, discovery: int = 1) -> np.ndarray:
        """Return the least later votes against each number of later votes of the largest rival.

        Parameters
        ----------
        size
            Number of entries.
        discovery
            The answer is the i-th distinct one that was seen; ignored with a target.

        Returns
        -------
        ndarray, int64
            ``[size]``.
        """
        check_count("discovery", discovery)
        return self._boundary(discovery - 1).table(size)

    def _multiplicity(self, place: int) -> int:
        """Return i (i + 1) for an answer that `place` others were seen before; 1 for a target."""
        return 1 if self.target is not None else (place + 1) * (place + 2)

    def _log_threshold(self, place: int) -> float:
        return math.log(self._multiplicity(place) / self.delta)

    def _boundary(self, place: int) -> Boundary:
        return pair_boundary(self._log_threshold(place))

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
        if not self.votes.add(key, 1):
            return GO_ON
        leader, first, _, second = self.votes.top_two()
        if self.target is not None:
            # Against a rival with as many votes there is no evidence.
            return self._decide(leader, 0, first, second) if leader == self.target else GO_ON
        self._record(key)
        place = self.votes.order[leader]
        later = first - 1
        if later < self._boundary(place)[0]:
            return GO_ON
        # Whatever is not the first answer was found after it.
        rival = second if place == 0 else self._largest_rival(place)
        return self._decide(leader, place, later, rival)

    def _decide(self, answer: Hashable | None, place: int, later: float, rival: float) -> Decision:
        if later < self._boundary(place)[int(rival)]:
            return GO_ON
        error = self._multiplicity(place) * math.exp(-float(log_e_pair(later, rival)))
        return Decision(True, answer, "certified", 1 - error, "anytime")

    def _record(self, key: Hashable | None) -> None:
        place = self.votes.order[key]
        if place == len(self._found_at):
            self._found_at.append(len(self._history))
        self._history.append(place)

    def _largest_rival(self, place: int) -> int:
        """Return the most votes that any other answer got after the discovery of this one."""
        rivals = self._rivals.pop(place, None) or _Rivals(place, self._found_at[place] + 1)
        rivals.catch_up(self._history)
        # Latest last: the first of the dictionary is the one to drop.
        self._rivals[place] = rivals
        if len(self._rivals) > KEPT:
            del self._rivals[next(iter(self._rivals))]
        return rivals.largest

    def min_to_stop(self) -> int:
        """Return how many further votes for one answer stop the rule.

        The quickest need not be the leader: an answer found earlier has a larger level, and one not
        seen yet has no rivals behind it. Takes time in proportion to the votes so far.
        """
        leader, first, _, second = self.votes.top_two()
        if self.target is not None:
            rival = second if leader == self.target else first
            have = self.votes.counts.get(self.target, 0)
            return max(1, self._boundary(0)[int(rival)] - int(have))
        front = 0 if leader is None else self.votes.order[leader]
        # One that has not been seen yet comes last.
        candidates = [*self._standings(), (len(self._found_at), 0, 0)]
        place_J, votes_J, rival_J = np.array(candidates).T
        log_threshold_J = np.array([self._log_threshold(place) for place in place_J.tolist()])
        later_J = np.maximum(votes_J - 1, 0)
        needed_J = least_pairs(log_threshold_J, rival_J) - later_J + (votes_J == 0)
        # To be declared an answer must lead, the first seen on ties.
        to_lead_J = int(first) - votes_J + (place_J > front)
        return int(max(1, np.maximum(needed_J, to_lead_J).min()))

    def _standings(self) -> list[tuple[int, int, int]]:
        """Return place, votes and largest later rival of every answer seen."""
        votes = list(self.votes.counts.values())
        behind = [0] * len(votes)
        top = second = -1
        found = []
        # Backwards, votes after each discovery build up; the largest two of them are at hand.
        for at in range(len(self._history) - 1, -1, -1):
            place = self._history[at]
            if self._found_at[place] == at:
                largest = second if place == top else top
                found.append((place, int(votes[place]), behind[largest] if largest >= 0 else 0))
            behind[place] += 1
            if place != top and (top < 0 or behind[place] > behind[top]):
                top, second = place, top
            elif place != top and (second < 0 or behind[place] > behind[second]):
                second = place
        return found


class _Rivals:
    """Votes that the others got after one answer was found, and the largest number of them."""

    __slots__ = ("counts", "largest", "place", "read")

    def __init__(self, place: int, start: int) -> None:
        self.place = place
        self.read = start
        self.counts: dict[int, int] = {}
        self.largest = 0

    def catch_up(self, history: list[int]) -> None:
        """Count what has come in since the last time."""
        counts = self.counts
        for at in range(self.read, len(history)):
            place = history[at]
            if place != self.place:
                votes = counts[place] = counts.get(place, 0) + 1
                if votes > self.largest:
                    self.largest = votes
        self.read = len(history)

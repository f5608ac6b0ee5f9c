"""What is kept of the samples of one answer, and who wins among answers.

A `Candidates` takes samples in the order of delivery and holds, per key, its votes, how often it
was seen, its first sample and the sample that stands for it. Memory grows with the number of
distinct answers, not of samples. Knows no rule, no engine and no file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from modicum.testtime.samples import Sample

__all__ = ["Candidate", "Candidates"]


@dataclass(slots=True)
class Candidate:
    """An answer.

    Attributes
    ----------
    key
        The answer.
    votes
        Sum of the weights of its samples.
    count
        Its samples.
    first
        Smallest sample index among them.
    first_vote
        Smallest sample index among those that weigh anything.
    best
        The sample that stands for it: highest reward, then earliest.
    at_best
        How many of its samples have that reward.
    """

    key: Hashable
    votes: float
    count: int
    first: int
    best: Sample
    first_vote: float
    at_best: int = 1


class Candidates(dict[Hashable, Candidate]):
    """Answers by key, in the order in which they were delivered."""

    def add(self, sample: Sample, weight: float = 1.0) -> None:
        """Count a sample; one without an answer does not count."""
        key = sample.key
        if key is None:
            return
        known = self.get(key)
        index = sample.sample_index
        voted = index if weight > 0 else math.inf
        if known is None:
            self[key] = Candidate(key, weight, 1, index, sample, voted)
            return
        known.votes += weight
        known.count += 1
        known.first = min(known.first, index)
        known.first_vote = min(known.first_vote, voted)
        if sample.reward == known.best.reward:
            known.at_best += 1
        elif _reward(sample) > _reward(known.best):
            known.at_best = 1
        if _stands_before(sample, known.best):
            known.best = sample

    def votes(self) -> dict[Hashable, float]:
        """Return the votes of each answer."""
        return {key: candidate.votes for key, candidate in self.items()}

    def top(self) -> list[Candidate]:
        """Return the answers with the most votes, the earliest first."""
        most = max((candidate.votes for candidate in self.values()), default=0.0)
        tied = [candidate for candidate in self.values() if candidate.votes == most]
        return sorted(tied, key=lambda candidate: candidate.first)


def best_candidate(
    candidates: Iterable[Candidate], score: Callable[[Candidate], float]
) -> Candidate | None:
    """Return the candidate of the highest score; ties to the more frequent, then the earliest."""
    return max(
        candidates,
        key=lambda candidate: (score(candidate), candidate.count, -candidate.first),
        default=None,
    )


def best_rewarded(candidates: Iterable[Candidate]) -> Candidate | None:
    """Return the candidate of the highest reward.

    Ties go to the one that has it in more samples, then to the one that has it earliest. Samples
    with a lower reward have no say: of a verifier they are the rejected ones.
    """
    return max(
        candidates,
        key=lambda candidate: (
            reward_of(candidate),
            candidate.at_best,
            -candidate.best.sample_index,
        ),
        default=None,
    )


def most_accepted(candidates: Iterable[Candidate]) -> Candidate | None:
    """Return the candidate with the most votes, on ties the one that got its first vote earliest.

    None if nobody has a vote.
    """
    return max(
        (candidate for candidate in candidates if candidate.votes > 0),
        key=lambda candidate: (candidate.votes, -candidate.first_vote),
        default=None,
    )


def reward_of(candidate: Candidate) -> float:
    """Return the highest reward of an answer's samples, minus infinity if none has one."""
    return _reward(candidate.best)


def _reward(sample: Sample) -> float:
    return float("-inf") if sample.reward is None else sample.reward


def _stands_before(one: Sample, other: Sample) -> bool:
    if _reward(one) != _reward(other):
        return _reward(one) > _reward(other)
    return one.sample_index < other.sample_index

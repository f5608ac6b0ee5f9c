"""What a stopping rule does on a known law of answers: by simulation, and exactly for two answers.

Takes a rule and probabilities; gives samples used, declarations, errors and accuracy with
intervals. Rules with a boundary table and the mode certificate run vectorised over all runs; every
other rule is asked sample by sample. The streams of answers depend on law and seed only, so that
rules can be compared on the same ones.

Legend: ``R`` runs, ``T`` samples of a run, ``K`` answers, ``N`` votes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.stats import clopper_pearson
from modicum.testtime.stopping.base import GO_ON, Decision, StoppingRule, check_count
from modicum.testtime.stopping.beta import BetaStop
from modicum.testtime.stopping.certificate import ModeCertificate
from modicum.testtime.stopping.combine import All, Any
from modicum.testtime.stopping.ppr import PPR

__all__ = [
    "ExactStopping",
    "StoppingStudy",
    "answer_streams",
    "exact_two_answers",
    "simulate_stopping",
]

BLOCK_NUMBERS = 10_000_000
"""Numbers per array of one block of runs."""

NO_ANSWER = -1
TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class StoppingStudy:
    """Simulated runs of one rule on one law.

    Attributes
    ----------
    rule
        The rule in words.
    max_samples
        Cap of a run; what is undecided there is answered by the most votes, the earliest on ties.
    samples_R
        int64 ``[R]``; samples used.
    answers_R
        int64 ``[R]``; answer of the run as in `answer_streams`, -1 for none; an answer that never
        repeats may be given as K.
    declared_R
        bool ``[R]``; whether the rule stopped the run.
    wrong_R
        bool ``[R]``; whether it did so with an answer that is not a most likely one.
    correct_R
        bool ``[R]``; whether the run's answer is the target (by default: a most likely answer).
    """

    rule: str
    max_samples: int
    samples_R: np.ndarray
    answers_R: np.ndarray
    declared_R: np.ndarray
    wrong_R: np.ndarray
    correct_R: np.ndarray

    @property
    def runs(self) -> int:
        """Number of runs."""
        return len(self.samples_R)

    @property
    def mean_samples(self) -> float:
        """Mean number of samples."""
        return float(self.samples_R.mean())

    @property
    def error_rate(self) -> float:
        """Share of runs in which the rule declared an answer that is not a most likely one."""
        return float(self.wrong_R.mean())

    @property
    def decided_rate(self) -> float:
        """Share of runs that the rule stopped."""
        return float(self.declared_R.mean())

    @property
    def accuracy(self) -> float:
        """Share of runs whose answer is the target."""
        return float(self.correct_R.mean())

    def mean_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the normal interval of the mean number of samples."""
        from scipy.special import ndtri

        spread = float(self.samples_R.std(ddof=1)) if self.runs > 1 else np.inf
        half = float(ndtri((1 + level) / 2)) * spread / self.runs**0.5
        return self.mean_samples - half, self.mean_samples + half

    def error_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the Clopper-Pearson interval of the error rate."""
        return _share_interval(self.wrong_R, level)

    def decided_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the Clopper-Pearson interval of the decided rate."""
        return _share_interval(self.declared_R, level)

    def accuracy_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the Clopper-Pearson interval of the accuracy."""
        return _share_interval(self.correct_R, level)


def _share_interval(flags_R: np.ndarray, level: float) -> tuple[float, float]:
    low, high = clopper_pearson(int(flags_R.sum()), len(flags_R), level)
    return float(low), float(high)


@dataclass(frozen=True)
class ExactStopping:
    """What a rule does on two answers, without sampling error.

    Attributes
    ----------
    declares_first, declares_second
        Probability that the rule stops with the first and with the second answer.
    mean_samples
        Expected number of samples.
    accuracy
        Probability that the first answer is given, declared or by votes at the cap.
    """

    declares_first: float
    declares_second: float
    mean_samples: float
    accuracy: float


def exact_two_answers(rule: StoppingRule, p: float, max_samples: int) -> ExactStopping:
    """Return what a rule with a table does on two answers.

    Parameters
    ----------
    rule
        A rule with a `StoppingRule.table`.
    p
        Probability of the first answer; the second has the rest.
    max_samples
        Cap of a run; ties there are broken at random.

    Returns
    -------
    ExactStopping

    Raises
    ------
    TypeError
        If the rule has no table.
    ValueError
        If p lies outside [0, 1] or max_samples is less than 1.

    Notes
    -----
    Dynamic program over the counts, O(max_samples²).
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p must lie in [0, 1], not {p!r}")
    check_count("max_samples", max_samples)
    least_N = rule.table(max_samples // 2 + 1)
    alive_N = np.array([1.0])
    declares = [0.0, 0.0]
    mean = 0.0
    for total in range(1, max_samples + 1):
        mean += float(alive_N.sum())
        grown_N = np.zeros(total + 1)
        grown_N[1:] += p * alive_N
        grown_N[:-1] += (1 - p) * alive_N
        first_N = np.arange(total + 1)
        leads_N = 2 * first_N > total
        ahead_N = np.maximum(first_N, total - first_N)
        stops_N = ahead_N >= least_N[total - ahead_N]
        declares[0] += float(grown_N[stops_N & leads_N].sum())
        declares[1] += float(grown_N[stops_N & ~leads_N].sum())
        alive_N = np.where(stops_N, 0.0, grown_N)
    voted = alive_N[2 * first_N > max_samples].sum() + alive_N[2 * first_N == max_samples].sum() / 2
    return ExactStopping(declares[0], declares[1], mean, declares[0] + float(voted))


def answer_streams(
    p: Sequence[float],
    *,
    null: float = 0.0,
    tail: float = 0.0,
    max_samples: int,
    runs: int,
    seed: int = 0,
) -> np.ndarray:
    """Draw independent runs of independent answers.

    Parameters
    ----------
    p
        Probabilities of K answers.
    null
        Probability of a sample without an answer.
    tail
        Probability of an answer that never repeats.
    max_samples, runs
        T and R.
    seed
        Of the generator; a smaller number of runs gives the first of them.

    Returns
    -------
    ndarray, int64
        ``[R, T]``: answers 0 … K-1, ``K + t`` for an answer that only sample t gives, -1 for none.

    Raises
    ------
    ValueError
        If the probabilities are negative or do not sum to 1.
    """
    p_K = _law(p, null, tail)
    check_count("max_samples", max_samples)
    check_count("runs", runs)
    return np.concatenate(list(_stream_blocks(p_K, null, tail, max_samples, runs, seed)))


def _stream_blocks(
    p_K: np.ndarray, null: float, tail: float, max_samples: int, runs: int, seed: int
) -> Iterator[np.ndarray]:
    edges = np.cumsum(np.concatenate([p_K, [null, tail]]))
    rng = numpy_generator(seed, "answers")
    # Counts at the discovery of every answer are the largest thing that is kept of a run.
    block = max(1, BLOCK_NUMBERS // max(max_samples, len(p_K) ** 2))
    for start in range(0, runs, block):
        uniform_RT = rng.random((min(block, runs - start), max_samples))
        drawn_RT = np.searchsorted(edges / edges[-1], uniform_RT, side="right")
        is_tail_RT = drawn_RT == len(p_K) + 1
        drawn_RT[drawn_RT == len(p_K)] = NO_ANSWER
        yield np.where(is_tail_RT, len(p_K) + np.arange(max_samples), drawn_RT)


def _law(p: Sequence[float], null: float, tail: float) -> np.ndarray:
    p_K = np.asarray(p, dtype=np.float64)
    if p_K.ndim != 1 or not p_K.size:
        raise ValueError(f"p must hold at least one probability, got {p!r}")
    if not np.all(p_K >= 0) or not null >= 0 or not tail >= 0:
        raise ValueError(f"probabilities must be >= 0, got p={p!r}, null={null!r}, tail={tail!r}")
    total = float(p_K.sum()) + null + tail
    if abs(total - 1) > TOLERANCE:
        missing = f"; say where the missing {1 - total:.3g} goes with null= or tail=" * (total < 1)
        raise ValueError(f"p, null and tail must sum to 1, not {total!r}{missing}")
    return p_K


def simulate_stopping(
    rule: StoppingRule,
    p: Sequence[float],
    *,
    null: float = 0.0,
    tail: float = 0.0,
    target: int | None = None,
    max_samples: int,
    runs: int = 1000,
    seed: int = 0,
) -> StoppingStudy:
    """Run a rule on simulated answers.

    Parameters
    ----------
    rule
        Any rule that needs no rewards.
    p, null, tail
        The law, as in `answer_streams`.
    target
        Index in `p` of the answer that counts as correct; by default any most likely one.
    max_samples
        Cap of a run.
    runs
        Number of runs.
    seed
        Of the answers; rules with the same law and seed see the same ones.

    Returns
    -------
    StoppingStudy

    Raises
    ------
    ValueError
        If the law is none or the target is not an index of p.
    """
    p_K = _law(p, null, tail)
    modes = np.flatnonzero(p_K >= p_K.max() - TOLERANCE)
    if target is not None and not 0 <= target < len(p_K):
        raise ValueError(f"target must be an index of p, 0 … {len(p_K) - 1}, not {target!r}")
    check_count("max_samples", max_samples)
    check_count("runs", runs)
    blocks = _stream_blocks(p_K, null, tail, max_samples, runs, seed)
    parts = [_replay(rule, block_RT, len(p_K), tail > 0) for block_RT in blocks]
    samples_R, answers_R, declared_R = (np.concatenate(part) for part in zip(*parts, strict=True))
    right_R = np.isin(answers_R, modes)
    correct_R = right_R if target is None else answers_R == target
    return StoppingStudy(
        repr(rule), max_samples, samples_R, answers_R, declared_R, declared_R & ~right_R, correct_R
    )


class _Ends(NamedTuple):
    """How runs ended: samples, answer (-1: none), whether the rule stopped them; ``[R]`` each."""

    samples_R: np.ndarray
    answers_R: np.ndarray
    declared_R: np.ndarray


def _replay(rule: StoppingRule, streams_RT: np.ndarray, num_answers: int, tail: bool) -> _Ends:
    if isinstance(rule, ModeCertificate) and rule.target is None:
        return _CertifiedRace(streams_RT, num_answers, rule).run()
    # A tail holds more answers than any rule that was told a number of them allows.
    if _by_table(rule, math.inf if tail else num_answers):
        least_N = rule.table(streams_RT.shape[1] // 2 + 1)
        return _TableRace(streams_RT, num_answers, least_N).run()
    return _one_by_one(rule, streams_RT)


def _by_table(rule: StoppingRule, num_answers: float) -> bool:
    """Say whether the rule's table is all of the rule."""
    if isinstance(rule, PPR):
        return num_answers <= rule.num_answers
    if isinstance(rule, Any | All):
        return all(_by_table(member, num_answers) for member in rule.rules)
    if not isinstance(rule, BetaStop):
        return False
    try:
        rule.table(2)
    except TypeError:
        return False
    return True


def _one_by_one(rule: StoppingRule, streams_RT: np.ndarray) -> _Ends:
    runs, max_samples = streams_RT.shape
    ends = _Ends(np.full(runs, max_samples), np.full(runs, NO_ANSWER), np.zeros(runs, dtype=bool))
    for run, stream in enumerate(streams_RT.tolist()):
        keys = [None if drawn == NO_ANSWER else drawn for drawn in stream]
        ends.samples_R[run], decision = _first_stop(rule.fresh(), keys)
        ends.declared_R[run] = decision.stop
        # Counts keep the order of first sight, and the first of the largest is the earliest.
        votes = Counter(key for key in keys if key is not None)
        answer = (
            decision.answer if decision.stop else max(votes, key=votes.__getitem__, default=None)
        )
        if answer is not None:
            ends.answers_R[run] = answer
    return ends


def _first_stop(rule: StoppingRule, keys: list[int | None]) -> tuple[int, Decision]:
    for used, key in enumerate(keys, 1):
        decision = rule.update(key)
        if decision.stop:
            return used, decision
    return len(keys), GO_ON


class _TableRace:
    """Counts of all runs of a block, one sample at a time; a rule in the two largest counts.

    Answers of the tail share column K: each is seen once, and only whether one leads matters.
    """

    def __init__(self, streams_RT: np.ndarray, num_answers: int, least_N: np.ndarray) -> None:
        self.num_answers = num_answers
        self.streams_RT = streams_RT
        runs = len(streams_RT)
        self.counts_RK = np.zeros((runs, num_answers + 1), dtype=np.int64)
        self.seen_at_RK = np.full((runs, num_answers + 1), streams_RT.shape[1], dtype=np.int64)
        self.leader_R = np.full(runs, NO_ANSWER)
        self.first_R = np.zeros(runs, dtype=np.int64)
        self.second_R = np.zeros(runs, dtype=np.int64)
        self.least_N = least_N

    def run(self) -> _Ends:
        runs, max_samples = self.streams_RT.shape
        ends = _Ends(
            np.full(runs, max_samples), np.full(runs, NO_ANSWER), np.zeros(runs, dtype=bool)
        )
        alive_A = np.arange(runs)
        for t in range(max_samples):
            if not alive_A.size:
                break
            drawn_A = self.streams_RT[alive_A, t]
            voters_A = alive_A[drawn_A >= 0]
            self.vote(voters_A, np.minimum(drawn_A[drawn_A >= 0], self.num_answers), t)
            stopped_S = voters_A[self.stops(voters_A)]
            ends.samples_R[stopped_S] = t + 1
            ends.declared_R[stopped_S] = True
            if stopped_S.size:
                alive_A = np.setdiff1d(alive_A, stopped_S, assume_unique=True)
        ends.answers_R[:] = self.leader_R
        return ends

    def vote(self, rows_A: np.ndarray, answers_A: np.ndarray, t: int) -> None:
        """Count a vote in each of these runs."""
        is_tail_A = answers_A == self.num_answers
        self.counts_RK[rows_A, answers_A] += 1
        votes_A = np.where(is_tail_A, 1, self.counts_RK[rows_A, answers_A])
        self.seen_at_RK[rows_A, answers_A] = np.minimum(self.seen_at_RK[rows_A, answers_A], t)
        leader_A, first_A = self.leader_R[rows_A], self.first_R[rows_A]
        # An answer of the tail never displaces anybody: it comes later and has one vote.
        same_A = (answers_A == leader_A) & ~is_tail_A
        earlier_A = self.seen_at_RK[rows_A, answers_A] < self.seen_at_RK[rows_A, leader_A]
        ahead_A = (votes_A > first_A) | ((votes_A == first_A) & earlier_A & ~is_tail_A)
        new_A = ahead_A & ~same_A
        self.second_R[rows_A] = np.where(
            new_A, first_A, np.where(same_A, self.second_R[rows_A],
                                     np.maximum(self.second_R[rows_A], votes_A))
        )  # fmt: skip
        self.first_R[rows_A] = np.where(new_A | same_A, votes_A, first_A)
        self.leader_R[rows_A] = np.where(new_A, answers_A, leader_A)

    def stops(self, rows_A: np.ndarray) -> np.ndarray:
        """Say which of these runs the rule stops now."""
        return self.first_R[rows_A] >= self.least_N[self.second_R[rows_A]]


class _CertifiedRace(_TableRace):
    """The same under a mode certificate: counts at each discovery are kept as well."""

    def __init__(self, streams_RT: np.ndarray, num_answers: int, rule: ModeCertificate) -> None:
        runs, max_samples = streams_RT.shape
        super().__init__(streams_RT, num_answers, rule.boundary(1))
        self.rule = rule
        self.places_RK = np.zeros((runs, self.num_answers), dtype=np.int64)
        self.found_R = np.zeros(runs, dtype=np.int64)
        self.before_RKK = np.zeros(
            (runs, self.num_answers, self.num_answers), dtype=np.min_scalar_type(max_samples)
        )
        self.last_tail_R = np.full(runs, -1)

    def vote(self, rows_A: np.ndarray, answers_A: np.ndarray, t: int) -> None:
        """Count a vote in each of these runs, and what stood when an answer was found."""
        is_tail_A = answers_A == self.num_answers
        new_A = (self.counts_RK[rows_A, answers_A] == 0) & ~is_tail_A
        super().vote(rows_A, answers_A, t)
        self.found_R[rows_A] += new_A | is_tail_A
        self.last_tail_R[rows_A[is_tail_A]] = t
        rows_B, answers_B = rows_A[new_A], answers_A[new_A]
        self.places_RK[rows_B, answers_B] = self.found_R[rows_B]
        self.before_RKK[rows_B, answers_B] = self.counts_RK[rows_B, :-1]

    def stops(self, rows_A: np.ndarray) -> np.ndarray:
        """Say which of these runs are certified now."""
        stops_A = np.zeros(len(rows_A), dtype=bool)
        leader_A = self.leader_R[rows_A]
        place_A = np.where(
            leader_A < self.num_answers,
            self.places_RK[rows_A, np.minimum(leader_A, self.num_answers - 1)],
            0,
        )
        for place in np.unique(place_A[place_A > 0]):
            later_A = self.first_R[rows_A] - 1
            near_A = (place_A == place) & (later_A >= self.rule.boundary(1, int(place))[0])
            if near_A.any():
                rivals = self._largest_rivals(rows_A[near_A])
                least_N = self.rule.boundary(int(rivals.max()) + 1, int(place))
                stops_A[near_A] = later_A[near_A] >= least_N[rivals]
        return stops_A

    def _largest_rivals(self, rows_A: np.ndarray) -> np.ndarray:
        leader_A = self.leader_R[rows_A]
        later_AK = self.counts_RK[rows_A, :-1] - self.before_RKK[rows_A, leader_A]
        later_AK[np.arange(len(rows_A)), leader_A] = 0
        tail_A = self.last_tail_R[rows_A] > self.seen_at_RK[rows_A, leader_A]
        return np.maximum(later_AK.max(axis=1), tail_A)

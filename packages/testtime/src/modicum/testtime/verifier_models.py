"""Best-of-n, first accept and verified majority with a verifier that errs, as exact probabilities.

A verifier is described by how its scores are distributed over correct and over wrong answers:
`VerifierModel` (accepts or rejects), `DiscreteVerifier` (any finite set of score levels, for
instance those of recorded scores) and `GaussianVerifier` (two normal laws, ``d_prime`` apart).
Given the scores, the labels of the samples are independent; so whatever sample with the highest
score is taken, it is correct with the posterior probability of that score, and

    success(n) = sum over levels x of [G(x)^n - G(x-)^n] * P(correct given score x),

with G the distribution of one sample's score. The published analysis of best-of-n takes a perfect
verifier (arXiv 2506.05295); this is what it becomes without that. Samples are i.i.d. throughout.
Nothing is simulated and nothing is drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from modicum.testtime.plurality import Tie, check_answer_law, check_index, plurality_success

__all__ = [
    "DiscreteVerifier",
    "FirstAcceptResult",
    "GaussianVerifier",
    "Verifier",
    "VerifierModel",
    "best_of_n_success",
    "crossover",
    "first_accept",
    "plateau",
    "verified_majority_success",
]

Floats = npt.NDArray[np.float64]

_GRID_STEP = 0.01
_GRID_REACH = 12.0
"""Trapezoidal rule for an analytic integrand that has died out at the ends: 1e-13 at n = 10^6."""

_SCAN = 64
"""`first_n` looks at every n up to here, then at a geometric grid and between its points."""


def _probability(value: float, name: str) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], not {value!r}")
    return float(value)


def _samples(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n must be an integer of at least 1, not {n!r}")
    return int(n)


def check_binary(verifier: object, what: str) -> VerifierModel:
    """Return a verifier that accepts or rejects.

    Raises
    ------
    TypeError
        If it is of another kind.
    """
    if not isinstance(verifier, VerifierModel):
        raise TypeError(f"{what} needs a VerifierModel(s, f), which accepts or rejects, not "
                        f"{verifier!r}")  # fmt: skip
    return verifier


def first_n(holds: Callable[[int], bool], max_n: int) -> int | None:
    """Return the first n up to `max_n` for which something holds, among those looked at.

    That is every n up to 64 and a geometric grid, whose first hit is refined by bisection; None if
    there is no hit.
    """
    for n in range(1, min(_SCAN, max_n) + 1):
        if holds(n):
            return n
    low = high = _SCAN
    while high < max_n:
        low, high = high, min(max_n, math.ceil(1.25 * high))
        if holds(high):
            break
    else:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class DiscreteVerifier:
    """A verifier with finitely many score levels.

    Parameters
    ----------
    correct, wrong
        Probability of each level for a correct and for a wrong answer, lowest score first; each
        shape ``[L]``, sums 1.

    Raises
    ------
    ValueError
        If the two are not probability vectors of one length.
    """

    correct: tuple[float, ...]
    wrong: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check both laws."""
        for name in ("correct", "wrong"):
            law_L = np.asarray(getattr(self, name), dtype=np.float64)
            if law_L.ndim != 1 or not law_L.size or not np.all(law_L >= 0):
                raise ValueError(f"{name} must be probabilities of score levels, not {law_L!r}")
            if abs(law_L.sum() - 1) > 1e-9:
                raise ValueError(f"{name} must sum to 1, not {law_L.sum()!r}")
            object.__setattr__(self, name, tuple(law_L.tolist()))
        if len(self.correct) != len(self.wrong):
            raise ValueError(
                f"correct has {len(self.correct)} score levels and wrong has {len(self.wrong)}"
            )

    @classmethod
    def from_scores(cls, scores: npt.ArrayLike, correct: npt.ArrayLike) -> DiscreteVerifier:
        """Return the empirical verifier of recorded scores and labels, both shape ``[N]``."""
        scores_N = np.asarray(scores, dtype=np.float64)
        correct_N = np.asarray(correct, dtype=bool)
        if scores_N.ndim != 1 or scores_N.shape != correct_N.shape:
            raise ValueError(
                f"scores and correct must be two lists of one length, not of shapes "
                f"{scores_N.shape} and {correct_N.shape}"
            )
        if not np.isfinite(scores_N).all():
            raise ValueError("scores must be finite")
        if correct_N.all() or not correct_N.any():
            raise ValueError("correct must hold right and wrong answers, else one law is unknown")
        levels, level_N = np.unique(scores_N, return_inverse=True)
        laws = [
            np.bincount(level_N[mask_N], minlength=levels.size) / mask_N.sum()
            for mask_N in (correct_N, ~correct_N)
        ]
        return DiscreteVerifier(tuple(laws[0].tolist()), tuple(laws[1].tolist()))

    def best_of_n(self, p_correct: float, n: int) -> float:
        """Return the probability that the best-scored of n samples is correct."""
        joint_L = p_correct * np.asarray(self.correct)
        total_L = joint_L + (1 - p_correct) * np.asarray(self.wrong)
        cdf_L = np.minimum(np.cumsum(total_L), 1.0)
        cdf_L[-1] = 1.0
        below_L = np.concatenate([[0.0], cdf_L[:-1]])
        posterior_L = np.divide(joint_L, total_L, out=np.zeros_like(total_L), where=total_L > 0)
        return float(np.sum((cdf_L**n - below_L**n) * posterior_L))

    def plateau(self, p_correct: float) -> float:
        """Return the limit of `best_of_n` for ever more samples."""
        for right, wrong in zip(reversed(self.correct), reversed(self.wrong), strict=True):
            total = p_correct * right + (1 - p_correct) * wrong
            if total > 0:
                return p_correct * right / total
        raise AssertionError("a probability vector has a positive entry")


@dataclass(frozen=True, init=False)
class VerifierModel(DiscreteVerifier):
    """A verifier that accepts or rejects.

    Parameters
    ----------
    s
        Sensitivity: probability that it accepts a correct answer.
    f
        False-accept rate: probability that it accepts a wrong one.
    """

    s: float
    f: float

    def __init__(self, s: float, f: float) -> None:
        object.__setattr__(self, "s", _probability(s, "sensitivity s"))
        object.__setattr__(self, "f", _probability(f, "false-accept rate f"))
        object.__setattr__(self, "correct", (1 - self.s, self.s))
        object.__setattr__(self, "wrong", (1 - self.f, self.f))

    def accept_rate(self, p_correct: float) -> float:
        """Return the probability that a sample is accepted, ``p s + (1 - p) f``."""
        p_correct = _probability(p_correct, "p_correct")
        return p_correct * self.s + (1 - p_correct) * self.f

    def precision(self, p_correct: float) -> float:
        """Return the probability that an accepted sample is correct; NaN if none is accepted."""
        rate = self.accept_rate(p_correct)
        return p_correct * self.s / rate if rate > 0 else math.nan

    def best_of_n(self, p_correct: float, n: int) -> float:
        """Return the probability that the best-scored of n samples is correct."""
        rate = self.accept_rate(p_correct)
        if rate in (0.0, 1.0):
            return p_correct
        # As logarithms, so that a rate far below a float's spacing at 1 counts.
        log_none = n * math.log1p(-rate)
        some = -math.expm1(log_none) * p_correct * self.s / rate
        return some + math.exp(log_none) * p_correct * (1 - self.s) / (1 - rate)


PERFECT = VerifierModel(1.0, 0.0)


@dataclass(frozen=True)
class GaussianVerifier:
    """A verifier whose scores are N(0, 1) for wrong and N(d_prime, 1) for correct answers.

    ``d_prime`` is the sensitivity index of signal detection: the area under its ROC curve is
    Phi(d_prime / sqrt(2)).
    """

    d_prime: float

    def __post_init__(self) -> None:
        """Refuse what is no distance."""
        if not math.isfinite(self.d_prime):
            raise ValueError(f"d_prime must be finite, not {self.d_prime!r}")

    @classmethod
    def from_auc(cls, auc: float) -> Self:
        """Return the verifier with this area under the ROC curve, in (0, 1)."""
        from scipy.special import ndtri

        if not 0 < auc < 1:
            raise ValueError(f"auc must be in (0, 1), not {auc!r}")
        return cls(math.sqrt(2) * float(ndtri(auc)))

    def best_of_n(self, p_correct: float, n: int) -> float:
        """Return the probability that the best-scored of n samples is correct."""
        from scipy.special import log_ndtr

        low = min(0.0, self.d_prime) - _GRID_REACH
        x_G = np.arange(low, max(0.0, self.d_prime) + _GRID_REACH, _GRID_STEP)
        with np.errstate(divide="ignore"):
            log_right, log_wrong = np.log(p_correct), np.log1p(-p_correct)
        log_cdf_G = np.logaddexp(
            log_right + log_ndtr(x_G - self.d_prime), log_wrong + log_ndtr(x_G)
        )
        log_density_G = -0.5 * (x_G - self.d_prime) ** 2 - 0.5 * math.log(2 * math.pi)
        terms_G = math.log(n) + log_right + log_density_G + (n - 1) * log_cdf_G
        return float(min(1.0, np.exp(terms_G).sum() * _GRID_STEP))

    def plateau(self, p_correct: float) -> float:
        """Return the limit for ever more samples: 1 if ``d_prime > 0`` and ``p_correct > 0``."""
        if p_correct in (0.0, 1.0) or self.d_prime == 0:
            return p_correct
        return 1.0 if self.d_prime > 0 else 0.0


Verifier = DiscreteVerifier | GaussianVerifier


def best_of_n_success(p_correct: float, n: int, verifier: Verifier | None = None) -> float:
    """Return the probability that best-of-n picks a correct answer.

    Equal scores are resolved without looking at the answers (uniformly, or the earliest). With
    `VerifierModel` this is also the success of drawing until the first accepted sample, the n-th at
    the latest.

    Parameters
    ----------
    p_correct
        Probability that one sample is correct, in [0, 1].
    n
        Samples, at least 1.
    verifier
        None is a perfect one: ``1 - (1 - p_correct)**n``.

    Raises
    ------
    ValueError
        For a probability outside of [0, 1] or n < 1.

    Notes
    -----
    For ``VerifierModel(s, f)`` with a = p s + (1-p) f:
    ``(1-(1-a)^n) p s / a + (1-a)^n p (1-s) / (1-a)``.
    """
    p_correct = _probability(p_correct, "p_correct")
    n = _samples(n)
    if verifier is None:
        return -math.expm1(n * math.log1p(-p_correct)) if p_correct < 1 else 1.0
    return verifier.best_of_n(p_correct, n)


def plateau(p_correct: float, verifier: Verifier | None = None) -> float:
    """Return what best-of-n approaches however many samples are drawn.

    For a verifier that accepts or rejects it is its precision: more samples never help beyond it.
    """
    p_correct = _probability(p_correct, "p_correct")
    return (verifier or PERFECT).plateau(p_correct)


class FirstAcceptResult(NamedTuple):
    """Drawing until the first accepted sample.

    Attributes
    ----------
    success
        Probability that the answer returned is correct (with nothing accepted: any sample).
    accepted
        Probability that a sample was accepted within the cap.
    expected_n
        Mean number of samples drawn.
    """

    success: float
    accepted: float
    expected_n: float


def first_accept(
    p_correct: float, n: int, verifier: VerifierModel | None = None
) -> FirstAcceptResult:
    """Return success and cost of drawing until the first accepted sample, at most n.

    Parameters
    ----------
    p_correct
        Probability that one sample is correct.
    n
        Cap, at least 1.
    verifier
        None is a perfect one.

    Raises
    ------
    ValueError
        For a probability outside of [0, 1] or n < 1.
    TypeError
        For a verifier that does not accept or reject.
    """
    rate = check_binary(verifier or PERFECT, "first_accept").accept_rate(p_correct)
    success = best_of_n_success(p_correct, n, verifier)
    accepted = -math.expm1(n * math.log1p(-rate)) if rate < 1 else 1.0
    return FirstAcceptResult(success, accepted, accepted / rate if rate > 0 else float(n))


def verified_majority_success(
    p: npt.ArrayLike,
    n: int,
    verifier: VerifierModel,
    target: int = 0,
    *,
    tie: Tie = "random",
    null: float = 0.0,
    tail: float = 0.0,
    fallback: Literal["abstain", "majority"] = "abstain",
) -> float:
    """Return the probability that the vote among accepted samples elects the correct answer.

    Parameters
    ----------
    p
        Probabilities of the distinct answers, shape ``[K]``; with `null` and `tail` they sum to 1.
    n
        Samples drawn.
    verifier
        Accepts the target with probability s, every other answer with probability f.
    target
        Index of the correct answer.
    tie, null, tail
        As in `plurality_success`; samples without an answer are not accepted.
    fallback
        What happens if nothing is accepted: "abstain" is a failure, "majority" a vote over all.

    Raises
    ------
    ValueError
        If `p`, `null` and `tail` are no answer law, or another argument is out of its range.
    TypeError
        For a verifier that does not accept or reject.

    Notes
    -----
    A rejected sample is a sample without a vote, so this is `plurality_success` of the accepted
    masses. For ever more samples it tends to 1 exactly if ``p[target] * s > p[j] * f`` for every
    rival j, also where the target is not the most frequent answer.
    """
    if fallback not in ("abstain", "majority"):
        raise ValueError(f'fallback must be "abstain" or "majority", not {fallback!r}')
    n = _samples(n)
    verifier = check_binary(verifier, "verified_majority_success")
    p_K, null, tail = check_answer_law(p, null, tail)
    target = check_index(target, "target", 0, len(p_K) - 1)
    accept_K = np.full(p_K.shape, verifier.f)
    accept_K[target] = verifier.s
    options: dict[str, Any] = {"target": target, "tie": tie}
    votes = _vote(p_K * accept_K, n, tail * verifier.f, options)
    if fallback == "abstain":
        return votes
    # All n rejected: they are then i.i.d. from the law of a rejected sample.
    reject_K = p_K * (1 - accept_K)
    tail_rejected = tail * (1 - verifier.f)
    rejected = float(reject_K.sum() + tail_rejected + null)
    if rejected <= 0:
        return votes
    return votes + rejected**n * _vote(reject_K / rejected, n, tail_rejected / rejected, options)


def _vote(p_K: Floats, n: int, tail: float, options: dict[str, Any]) -> float:
    """Plurality of masses that need not sum to 1: the rest does not vote."""
    if p_K[options["target"]] <= 0:
        return 0.0
    null = max(0.0, 1.0 - float(p_K.sum()) - tail)
    return plurality_success(p_K, n, null=null, tail=tail, **options)


def crossover(
    p: Sequence[float],
    s: float,
    f: float,
    *,
    target: int = 0,
    null: float = 0.0,
    tail: float = 0.0,
    max_n: int = 4096,
) -> int | None:
    """Return the least n at which self-consistency beats best-of-n with a noisy verifier.

    Parameters
    ----------
    p, target, null, tail
        The instance, as in `plurality_success`.
    s, f
        Sensitivity and false-accept rate of the verifier.
    max_n
        Where the search ends.

    Returns
    -------
    int or None
        None if the vote is not better for any n looked at: every n up to 64, then a geometric grid
        up to ``max_n`` whose first hit is refined by bisection.
    """
    verifier = VerifierModel(s, f)
    p_K = np.asarray(p, dtype=np.float64)
    max_n = _samples(max_n)

    def vote_wins(n: int) -> bool:
        vote = plurality_success(p_K, n, target, null=null, tail=tail)
        return vote > best_of_n_success(float(p_K[target]), n, verifier) + 1e-12

    return first_n(vote_wins, max_n)

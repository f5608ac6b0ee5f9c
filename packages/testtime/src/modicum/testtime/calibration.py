"""How good a verifier is, from scores of responses whose correctness is known.

Takes scores and labels; gives sensitivity and false-accept rate at a threshold with exact
intervals, the ROC curve, the area under it and ``d_prime``: what `modicum.testtime.verifier_models`
and `modicum.testtime.planner` ask for. It neither runs a verifier nor looks at texts.

Legend: ``N`` responses, ``T`` different scores, and so thresholds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from modicum.core.stats import clopper_pearson
from modicum.testtime.verifier_models import GaussianVerifier, VerifierModel

__all__ = ["VerifierCalibration", "calibrate_verifier"]

Floats = npt.NDArray[np.float64]
Criterion = Literal["youden", "accuracy"]


@dataclass(frozen=True, eq=False)
class VerifierCalibration:
    """What scores of known responses say about a verifier.

    Attributes
    ----------
    s, f
        Sensitivity and false-accept rate at ``threshold``: shares of correct and of wrong responses
        whose score reaches it.
    s_interval, f_interval
        Clopper–Pearson intervals of level ``confidence`` each. They hold for a threshold that was
        given. One chosen from the same scores looks better than it is: choose it on one half of the
        responses and give it with the other half.
    threshold
        Scores of at least this are accepted; ``inf`` accepts nothing.
    best_threshold
        The threshold that the criterion chooses.
    criterion
        What "best" means, in words.
    thresholds, true_accepts, false_accepts
        The ROC curve, float64 ``[T + 1]``: thresholds from ``inf`` down through all different
        scores, and both rates at each, from (0, 0) to (1, 1).
    auc
        Area under it: the probability that a correct response has a higher score than a wrong one,
        ties counted half.
    d_prime
        ``sqrt(2) * Phi^-1(auc)``, the distance of two normal laws of unit variance with this area.
        It does not change when scores are transformed monotonically; ±``inf`` if the scores
        separate the two.
    num_correct, num_wrong
        Numbers of responses.
    confidence
        Level of the intervals.
    """

    s: float
    f: float
    s_interval: tuple[float, float]
    f_interval: tuple[float, float]
    threshold: float
    best_threshold: float
    criterion: str
    thresholds: Floats
    true_accepts: Floats
    false_accepts: Floats
    auc: float
    d_prime: float
    num_correct: int
    num_wrong: int
    confidence: float

    @property
    def base_rate(self) -> float:
        """Share of correct responses."""
        return self.num_correct / (self.num_correct + self.num_wrong)

    def model(self, *, cautious: bool = False) -> VerifierModel:
        """Return the verifier that accepts from ``threshold`` on, for planning.

        Parameters
        ----------
        cautious
            Take the low end of the interval of s and the high end of that of f: with probability
            at least ``2 * confidence - 1`` the verifier is at least as good.
        """
        if cautious:
            return VerifierModel(self.s_interval[0], self.f_interval[1])
        return VerifierModel(self.s, self.f)

    def gaussian(self) -> GaussianVerifier:
        """Return the verifier with two normal laws ``d_prime`` apart, for best-of-n by score.

        Raises
        ------
        ValueError
            If ``d_prime`` is infinite.
        """
        return GaussianVerifier(self.d_prime)


def _checked(scores: npt.ArrayLike, correct: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
    scores_N = np.asarray(scores, dtype=np.float64)
    labels_N = np.asarray(correct)
    if scores_N.ndim != 1 or scores_N.shape != labels_N.shape:
        raise ValueError(
            f"scores and correct must be two lists of one length, not of shapes {scores_N.shape} "
            f"and {labels_N.shape}"
        )
    if not np.isfinite(scores_N).all():
        index = int(np.argmin(np.isfinite(scores_N)))
        raise ValueError(f"scores must be finite, scores[{index}] is {scores_N[index]}")
    if not np.isin(labels_N, (0, 1)).all():
        raise ValueError("correct must hold booleans, or 0 and 1")
    correct_N = labels_N.astype(bool)
    if correct_N.all() or not correct_N.any():
        raise ValueError(
            f"at least one correct and one wrong response are needed, of {correct_N.size} "
            f"{int(correct_N.sum())} are correct"
        )
    return scores_N, correct_N


def _best(accepted_T: Floats, wrongly_T: Floats, base_rate: float, criterion: Criterion) -> int:
    """Return the index of the best threshold, the highest of several."""
    if criterion == "youden":
        return int(np.argmax(np.round(accepted_T - wrongly_T, 12)))
    right_T = base_rate * accepted_T + (1 - base_rate) * (1 - wrongly_T)
    return int(np.argmax(np.round(right_T, 12)))


def calibrate_verifier(
    scores: npt.ArrayLike,
    correct: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    threshold: float | None = None,
    criterion: Criterion = "youden",
    max_false_accept: float | None = None,
) -> VerifierCalibration:
    """Measure a verifier on responses whose correctness is known.

    Parameters
    ----------
    scores
        Its rewards, higher for better, shape ``[N]``; 0 and 1 for one that accepts or rejects.
    correct
        Whether each response is correct, shape ``[N]``.
    confidence
        Level of the intervals of s and of f, each.
    threshold
        Least score that is accepted. None takes the best one by ``criterion``.
    criterion
        "youden": largest ``s - f``, whatever the share of correct responses. "accuracy": most
        verdicts right among these responses. Of equally good thresholds the highest is taken.
    max_false_accept
        In place of a criterion: the largest s among thresholds with f at most this.

    Raises
    ------
    ValueError
        If the lists differ in length, a score is not finite, one of the two kinds is missing, or a
        parameter is out of range.

    Notes
    -----
    The intervals presume independent responses. Several responses to one prompt are not quite
    that; intervals are then too short.

    Examples
    --------
    >>> found = calibrate_verifier([0.9, 0.8, 0.3, 0.7, 0.2, 0.1], [1, 1, 1, 0, 0, 0])
    >>> found.best_threshold, round(found.s, 3), found.f, round(found.auc, 3)
    (0.8, 0.667, 0.0, 0.889)
    """
    scores_N, correct_N = _checked(scores, correct)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), not {confidence!r}")
    if threshold is not None and math.isnan(threshold):
        raise ValueError("threshold must be a number, not NaN")
    if criterion not in ("youden", "accuracy"):
        raise ValueError(f'criterion must be "youden" or "accuracy", not {criterion!r}')
    if max_false_accept is not None and not 0 <= max_false_accept <= 1:
        raise ValueError(f"max_false_accept must be in [0, 1], not {max_false_accept!r}")
    num_correct = int(correct_N.sum())
    num_wrong = correct_N.size - num_correct
    levels, index_N = np.unique(-scores_N, return_inverse=True)
    hits_T = np.cumsum(np.bincount(index_N[correct_N], minlength=levels.size))
    false_T = np.cumsum(np.bincount(index_N[~correct_N], minlength=levels.size))
    accepted_T = np.concatenate([[0.0], hits_T / num_correct])
    wrongly_T = np.concatenate([[0.0], false_T / num_wrong])
    thresholds = np.concatenate([[math.inf], -levels])
    if max_false_accept is None:
        best = _best(accepted_T, wrongly_T, num_correct / correct_N.size, criterion)
        words: str = criterion
    else:
        # Both rates grow along the curve; of equal sensitivities the highest threshold.
        allowed = accepted_T[wrongly_T <= max_false_accept]
        best = int(np.argmax(allowed))
        words = f"f <= {max_false_accept:g}"
    chosen = float(thresholds[best]) if threshold is None else float(threshold)
    accepts_N = scores_N >= chosen
    counts = int(accepts_N[correct_N].sum()), int(accepts_N[~correct_N].sum())
    auc = float(np.sum(np.diff(wrongly_T) * (accepted_T[1:] + accepted_T[:-1])) / 2)
    return VerifierCalibration(
        s=counts[0] / num_correct,
        f=counts[1] / num_wrong,
        s_interval=_interval(counts[0], num_correct, confidence),
        f_interval=_interval(counts[1], num_wrong, confidence),
        threshold=chosen,
        best_threshold=float(thresholds[best]),
        criterion=words,
        thresholds=thresholds,
        true_accepts=accepted_T,
        false_accepts=wrongly_T,
        auc=auc,
        d_prime=_d_prime(auc),
        num_correct=num_correct,
        num_wrong=num_wrong,
        confidence=confidence,
    )


def _interval(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    low, high = clopper_pearson(successes, trials, confidence)
    return float(low), float(high)


def _d_prime(auc: float) -> float:
    from scipy.special import ndtri

    return math.sqrt(2) * float(ndtri(auc))

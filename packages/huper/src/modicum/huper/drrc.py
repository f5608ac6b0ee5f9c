"""Doubly robust risk of labels that are missing for most utterances.

An utterance has a proxy label; some also have the true one. The risk of a recognizer on true labels
is estimated from both: proxy losses everywhere, corrected where the truth is known by what the two
losses differ, divided by how likely it was that the truth is known. The estimate is unbiased if
either the propensity is right or the proxy loss has the right mean. Takes losses and indicators;
what a loss is of is not its concern.

Augmented inverse propensity weighting: Robins, Rotnitzky and Zhao, "Estimation of Regression
Coefficients When Some Regressors Are Not Always Observed" (1994); for phone labels in "HuPER: A
Human-Inspired Framework for Phonetic Perception" (arXiv 2602.01634).

Shape suffixes: N utterances, D covariates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator

__all__ = [
    "CLIP",
    "Logistic",
    "Risk",
    "bias",
    "cross_fit",
    "doubly_robust_risk",
    "effective_sample_size",
    "folds_of",
    "propensities",
    "weights",
]

CLIP = 0.01
"""Least propensity: a true label counts for at most a hundred utterances."""

_NEWTON_STEPS = 100
_SETTLED = 1e-10

Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]
"""Takes covariates (N, D) and indicators (N,), gives what maps covariates to probabilities (N,)."""


@dataclass(frozen=True)
class Risk:
    """An estimated risk.

    Attributes
    ----------
    value
        The estimate, in the unit of the losses.
    standard_error
        Of the estimate, if the utterances are independent.
    effective_sample_size
        (Σw)² / Σw² of the weights w = 1/g of the utterances with true labels.
    clipped
        Utterances with true labels whose propensity was raised to the least one.
    """

    value: float
    standard_error: float
    effective_sample_size: float
    clipped: int


class Logistic:
    """Logistic regression with a ridge, by Newton's method.

    Covariates are standardised, and the intercept has no penalty.

    Parameters
    ----------
    ridge
        Penalty on the squared coefficients, > 0: it keeps them finite where a covariate separates
        the classes.

    Attributes
    ----------
    coefficients_
        (D + 1,) of the standardised covariates, the intercept first.
    """

    def __init__(self, ridge: float = 1.0) -> None:
        if not ridge > 0:
            raise ValueError(f"ridge must be positive, not {ridge!r}")
        self.ridge = float(ridge)

    def fit(self, covariates: np.ndarray, labelled: np.ndarray) -> Logistic:
        """Fit.

        Parameters
        ----------
        covariates
            (N, D) or (N,).
        labelled
            (N,) of 0 and 1.

        Returns
        -------
        Logistic
            Itself.

        Raises
        ------
        ValueError
            If the numbers of rows differ or something is not finite.
        """
        known_N = _indicator(labelled)
        rows_ND = _rows(covariates, len(known_N))
        self.centre_D = rows_ND.mean(0)
        spread_D = rows_ND.std(0)
        self.scale_D = np.where(spread_D > 0, spread_D, 1.0)
        design_ND = self._design(rows_ND)
        penalty_D = np.full(design_ND.shape[1], self.ridge)
        penalty_D[0] = 0.0
        # A class that is missing would send the intercept to infinity.
        share = (known_N.sum() + 0.5) / (len(known_N) + 1.0)
        value_D = np.zeros(design_ND.shape[1])
        value_D[0] = np.log(share / (1 - share))
        if 0 < known_N.sum() < len(known_N):
            for _ in range(_NEWTON_STEPS):
                at_N = _sigmoid(design_ND @ value_D)
                slope_D = design_ND.T @ (at_N - known_N) + penalty_D * value_D
                curve_N = np.maximum(at_N * (1 - at_N), 1e-12)
                curve_DD = design_ND.T @ (curve_N[:, None] * design_ND) + np.diag(penalty_D)
                step_D = np.linalg.solve(curve_DD, slope_D)
                # A full step may overshoot far from the optimum; the loss is convex.
                size = 1.0
                before = self._loss(design_ND, known_N, penalty_D, value_D)
                while (
                    size > 1e-6
                    and self._loss(design_ND, known_N, penalty_D, value_D - size * step_D) > before
                ):
                    size /= 2
                value_D = value_D - size * step_D
                if np.abs(step_D).max() < _SETTLED:
                    break
        self.coefficients_ = value_D
        return self

    def predict(self, covariates: np.ndarray) -> np.ndarray:
        """Return the (N,) probabilities of rows (N, D)."""
        rows_ND = np.asarray(covariates, float)
        rows_ND = rows_ND.reshape(len(rows_ND), -1)
        return _sigmoid(self._design(rows_ND) @ self.coefficients_)

    def _design(self, rows_ND: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(len(rows_ND)), (rows_ND - self.centre_D) / self.scale_D])

    @staticmethod
    def _loss(
        design_ND: np.ndarray, known_N: np.ndarray, penalty_D: np.ndarray, value_D: np.ndarray
    ) -> float:
        score_N = design_ND @ value_D
        fit = np.logaddexp(0.0, score_N).sum() - score_N @ known_N
        return float(fit + 0.5 * penalty_D @ value_D**2)


def logistic(covariates_ND: np.ndarray, labelled_N: np.ndarray) -> Callable[..., np.ndarray]:
    """Fit a `Logistic` and return its `predict`."""
    return Logistic().fit(covariates_ND, labelled_N).predict


def folds_of(count: int, folds: int, seed: int = 0) -> np.ndarray:
    """Deal utterances out to folds of equal size, at random.

    Returns
    -------
    np.ndarray
        (N,) int64 number of the fold of each.

    Raises
    ------
    ValueError
        If there are fewer than two folds or fewer utterances than folds.
    """
    if not 2 <= folds <= count:
        raise ValueError(f"folds must be in 2 … {count}, the number of utterances, not {folds}")
    fold_N = np.empty(count, np.int64)
    fold_N[numpy_generator(seed, "folds").permutation(count)] = np.arange(count) % folds
    return fold_N


def cross_fit(
    covariates: np.ndarray, targets: np.ndarray, fit: Fit, *, folds: int = 5, seed: int = 0
) -> np.ndarray:
    """Predict every utterance by a model that was fitted without its fold.

    Parameters
    ----------
    covariates
        (N, D) or (N,).
    targets
        (N,).
    fit
        Takes covariates and targets, gives what predicts.
    folds, seed
        As for `folds_of`.

    Returns
    -------
    np.ndarray
        (N,) predictions.
    """
    target_N = np.asarray(targets, float).reshape(-1)
    rows_ND = _rows(covariates, len(target_N))
    fold_N = folds_of(len(target_N), folds, seed)
    found_N = np.empty(len(target_N))
    for fold in range(folds):
        out_N = fold_N == fold
        predict = fit(rows_ND[~out_N], target_N[~out_N])
        found_N[out_N] = np.asarray(predict(rows_ND[out_N]), float).reshape(-1)
    return found_N


def propensities(
    labelled: np.ndarray,
    covariates: np.ndarray | None = None,
    *,
    fit: Fit = logistic,
    folds: int = 5,
    clip: float = CLIP,
    seed: int = 0,
) -> np.ndarray:
    """Estimate how likely each utterance was to get a true label.

    Parameters
    ----------
    labelled
        (N,) whether it has one.
    covariates
        (N, D) what the choice may have depended on; None if it was made at random, which makes the
        propensity the share of labelled utterances for all.
    fit
        Takes covariates and indicators, gives what predicts; a logistic regression by default.
    folds, seed
        An utterance is predicted by a model of the other folds.
    clip
        Least propensity.

    Returns
    -------
    np.ndarray
        (N,) in [clip, 1].

    Raises
    ------
    ValueError
        If no utterance is labelled, rows differ in number, or a prediction is no probability.
    """
    known_N = _indicator(labelled)
    _check_clip(clip)
    if not known_N.any():
        raise ValueError("no utterance has a true label: there is nothing to correct proxies by")
    if covariates is None:
        found_N = np.full(len(known_N), known_N.mean())
    else:
        found_N = cross_fit(covariates, known_N, fit, folds=folds, seed=seed)
        if not ((found_N >= 0) & (found_N <= 1)).all():
            raise ValueError("fit must give what predicts probabilities, in [0, 1]")
    return np.clip(found_N, clip, 1.0)


def weights(labelled: np.ndarray, propensity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors of the losses on true and on proxy labels.

    They are A / g and 1 − A / g, with A whether there is a true label and g the propensity: the
    second is negative where there is one. The mean over utterances of both weighted losses is the
    doubly robust risk. Clip the gradient when training on them, not the loss.

    Returns
    -------
    true_N, proxy_N
        (N,) each.

    Raises
    ------
    ValueError
        If a propensity is not in (0, 1].
    """
    known_N = _indicator(labelled)
    true_N = known_N / _propensity(propensity, len(known_N))
    return true_N, 1.0 - true_N


def doubly_robust_risk(
    true_losses: np.ndarray,
    proxy_losses: np.ndarray,
    labelled: np.ndarray,
    propensity: np.ndarray | float,
    *,
    clip: float = CLIP,
) -> Risk:
    """Estimate the mean loss on true labels.

    The estimate is the mean of ``proxy + A / g · (true − proxy)``.

    Parameters
    ----------
    true_losses
        (N,) losses on true labels; not looked at where there is none (NaN is fine there).
    proxy_losses
        (N,) losses on proxy labels.
    labelled
        (N,) whether there is a true label.
    propensity
        (N,) or one number: how likely that was, see `propensities`.
    clip
        Least propensity.

    Raises
    ------
    ValueError
        If shapes differ, a loss that counts is not finite, or a propensity is not in (0, 1].
    """
    known_N = _indicator(labelled)
    _check_clip(clip)
    given_N = _propensity(propensity, len(known_N))
    clipped_N = np.maximum(given_N, clip)
    proxy_N = _losses(proxy_losses, np.ones_like(known_N), "proxy_losses")
    true_N = _losses(true_losses, known_N, "true_losses")
    weight_N = known_N / clipped_N
    terms_N = proxy_N + weight_N * np.where(known_N > 0, true_N - proxy_N, 0.0)
    error = terms_N.std(ddof=1) / np.sqrt(len(terms_N)) if len(terms_N) > 1 else np.nan
    clipped = int(((given_N < clip) & (known_N > 0)).sum())
    return Risk(float(terms_N.mean()), float(error), effective_sample_size(weight_N), clipped)


def bias(truth: np.ndarray, used: np.ndarray, proxy: np.ndarray, expected: np.ndarray) -> float:
    """Return the bias of the doubly robust risk, where everything is known.

    It is the mean of ``(1 − π / g) · (m − E[ℓ | V])``, which is at most the product of the two
    errors' norms.

    Parameters
    ----------
    truth, used
        (N,) the true propensity π and the one that was used, g.
    proxy, expected
        (N,) the proxy loss m, and the mean of the true loss given what is observed.
    """
    pi_N, g_N = np.asarray(truth, float), np.asarray(used, float)
    return float(((1 - pi_N / g_N) * (np.asarray(proxy) - np.asarray(expected))).mean())


def effective_sample_size(given: np.ndarray) -> float:
    """Return (Σw)² / Σw²: as many equal weights would give the same variance; 0 for none."""
    weight_N = np.asarray(given, float).reshape(-1)
    squares = float((weight_N**2).sum())
    return float(weight_N.sum()) ** 2 / squares if squares else 0.0


# Checks -----------------------------------------------------------------------------------------


def _sigmoid(score_N: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(-np.logaddexp(0.0, -score_N)))


def _indicator(labelled: Any) -> np.ndarray:
    known_N = np.asarray(labelled, float).reshape(-1)
    if not len(known_N) or not np.isin(known_N, (0.0, 1.0)).all():
        raise ValueError("labelled must say 0 or 1 of each of at least one utterance")
    return known_N


def _rows(covariates: Any, count: int) -> np.ndarray:
    rows = np.asarray(covariates, float)
    if rows.ndim not in (1, 2) or len(rows) != count:
        raise ValueError(f"covariates have the shape (N, D) with N = {count}, not {rows.shape}")
    if not np.isfinite(rows).all():
        raise ValueError("covariates must be finite")
    return rows.reshape(count, -1)


def _propensity(given: Any, count: int) -> np.ndarray:
    found = np.asarray(given, float)
    if found.shape not in ((), (count,)):
        raise ValueError(f"propensity is a number or has the shape ({count},), not {found.shape}")
    if not ((found > 0) & (found <= 1)).all():
        raise ValueError("a propensity must be in (0, 1]")
    return np.broadcast_to(found, (count,)).astype(float)


def _losses(given: Any, counts_N: np.ndarray, name: str) -> np.ndarray:
    found = np.asarray(given, float)
    if found.shape != counts_N.shape:
        raise ValueError(f"{name} has the shape {counts_N.shape}, got {found.shape}")
    if not np.isfinite(found[counts_N > 0]).all():
        raise ValueError(f"{name} must be finite where they count")
    return np.where(counts_N > 0, found, 0.0)


def _check_clip(clip: float) -> None:
    if not 0 < clip <= 1:
        raise ValueError(f"clip must be in (0, 1], not {clip!r}")

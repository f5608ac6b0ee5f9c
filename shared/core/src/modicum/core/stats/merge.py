"""Merging e-values over keys, documents and tests, and turning p-values into e-values.

Takes and returns natural logarithms of e-values wherever an e-value can be large. It trusts its
inputs to be e-values (or p-values); it computes no evidence of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "POWER_GRID",
    "EBHResult",
    "calibrator_grid",
    "e_benjamini_hochberg",
    "e_to_p",
    "mean_e_value",
    "mixture_calibrator",
    "power_calibrator",
    "product_e_value",
    "spending_levels",
]

POWER_GRID: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Exponents kappa of :func:`calibrator_grid`: small ones suit rare tiny p-values, large ones many
moderately small ones."""


def _log_e_array(log_e: npt.ArrayLike) -> np.ndarray:
    values = np.asarray(log_e, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError("log_e holds NaN; every entry must be the log of an e-value")
    return values


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie strictly between 0 and 1, got {alpha!r}")


def _check_p_values(p: npt.ArrayLike) -> np.ndarray:
    values = np.asarray(p, dtype=np.float64)
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError("p-values must lie in [0, 1]")
    return values


def mean_e_value(
    log_e: npt.ArrayLike, weights: npt.ArrayLike | None = None, axis: int = -1
) -> np.ndarray:
    """Log of the (weighted) mean of e-values: an e-value again, under any dependence.

    Parameters
    ----------
    log_e : array_like, float
        Natural logarithms; ``-inf`` and ``+inf`` are e-values 0 and infinity.
    weights : array_like, shape ``[K]``, optional
        Non-negative weights along ``axis``, normalised to sum to one. Default: equal.
    axis : int
        The axis of length K that is averaged away.

    Returns
    -------
    ndarray or float, float64
        Natural logarithm of the mean.

    Raises
    ------
    ValueError
        For NaN, an empty axis, or weights of another length, negative, not finite or all zero.

    Notes
    -----
    The arithmetic mean essentially dominates every symmetric merging of arbitrarily dependent
    e-values: Vovk and Wang, "E-values: Calibration, combination and applications",
    arXiv 1912.06116.
    """
    values = np.moveaxis(_log_e_array(log_e), axis, -1)
    count = values.shape[-1]
    if count == 0:
        raise ValueError("log_e is empty along the merged axis; a mean needs at least one e-value")
    if weights is None:
        log_weights_K = np.full(count, -math.log(count))
    else:
        weights_K = np.asarray(weights, dtype=np.float64)
        if weights_K.shape != (count,):
            raise ValueError(f"weights must have shape ({count},), got {weights_K.shape}")
        if not np.all(np.isfinite(weights_K)) or np.any(weights_K < 0) or weights_K.sum() <= 0:
            raise ValueError("weights must be finite, non-negative and not all zero")
        # A zero-weight e-value takes no part, whatever its size (0 times infinity included).
        values, weights_K = values[..., weights_K > 0], weights_K[weights_K > 0]
        log_weights_K = np.log(weights_K / weights_K.sum())
    terms = values + log_weights_K
    peak = terms.max(axis=-1, keepdims=True)
    shift = np.where(np.isfinite(peak), peak, 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        return np.log(np.exp(terms - shift).sum(axis=-1)) + shift[..., 0]


def product_e_value(log_e: npt.ArrayLike, axis: int = -1) -> np.ndarray:
    """Log of the product of e-values: an e-value when they are independent or sequential.

    Parameters
    ----------
    log_e : array_like, float
        Natural logarithms. An e-value of zero (``-inf``) makes the product zero, also beside an
        infinite one.
    axis : int
        The axis that is multiplied away; an empty one gives log 1 = 0.

    Returns
    -------
    ndarray or float, float64
        Natural logarithm of the product.

    Raises
    ------
    ValueError
        For NaN.
    """
    values = _log_e_array(log_e)
    with np.errstate(invalid="ignore"):
        total = values.sum(axis=axis)
    return np.where(np.isneginf(values).any(axis=axis), -np.inf, total)[()]


def e_to_p(log_e: npt.ArrayLike) -> np.ndarray:
    """P-value min(1, 1/e) of an e-value (Markov's inequality).

    Parameters
    ----------
    log_e : array_like, float
        Natural logarithms of e-values; for an e-process pass its running maximum.

    Returns
    -------
    ndarray or float, float64
        P-values in [0, 1].

    Raises
    ------
    ValueError
        For NaN.
    """
    return np.exp(np.minimum(0.0, -_log_e_array(log_e)))


@dataclass(frozen=True)
class EBHResult:
    """Outcome of :func:`e_benjamini_hochberg`.

    Attributes
    ----------
    rejected : ndarray, bool, shape ``[N]``
        The hypotheses that are rejected.
    threshold : float
        Smallest (weighted) e-value that is rejected, N / (alpha k); ``inf`` when k = 0.
    num_rejected : int
        k, the number of rejections.
    """

    rejected: np.ndarray
    threshold: float
    num_rejected: int


def e_benjamini_hochberg(
    log_e: npt.ArrayLike, alpha: float, weights: npt.ArrayLike | None = None
) -> EBHResult:
    """Reject hypotheses by their e-values with false discovery rate at most alpha (e-BH).

    Sorts e_(1) >= e_(2) >= ..., takes the largest k with e_(k) >= N / (alpha k) and rejects those
    k. Valid under any dependence between the e-values.

    Parameters
    ----------
    log_e : array_like, float, shape ``[N]``
        Natural logarithms of one e-value per hypothesis.
    alpha : float in (0, 1)
        Bound on the false discovery rate.
    weights : array_like, shape ``[N]``, optional
        Non-negative prior weights, scaled to mean one; each e-value is multiplied by its weight.

    Returns
    -------
    EBHResult
        Mask of rejections, threshold and their number.

    Raises
    ------
    ValueError
        For NaN, a shape other than ``[N]``, ``alpha`` outside (0, 1) or invalid weights.

    Notes
    -----
    Wang and Ramdas, "False discovery rate control with e-values", arXiv 2009.02824.
    """
    _check_alpha(alpha)
    log_e_N = _log_e_array(log_e)
    if log_e_N.ndim != 1:
        raise ValueError(f"log_e must have shape [N], got {log_e_N.shape}")
    total = log_e_N.size
    if weights is not None:
        weights_N = np.asarray(weights, dtype=np.float64)
        if weights_N.shape != (total,):
            raise ValueError(f"weights must have shape ({total},), got {weights_N.shape}")
        if not np.all(np.isfinite(weights_N)) or np.any(weights_N < 0) or weights_N.sum() <= 0:
            raise ValueError("weights must be finite, non-negative and not all zero")
        with np.errstate(divide="ignore", invalid="ignore"):
            weighted_N = log_e_N + np.log(weights_N / weights_N.mean())
        # Weight zero means "never reject", also for an infinite e-value.
        log_e_N = np.where(weights_N > 0, weighted_N, -np.inf)
    ranks_N = np.arange(1, total + 1)
    # The quotient first: an e-value of exactly N / (alpha k) then meets its threshold.
    log_threshold_N = np.log(total / (alpha * ranks_N))
    passed = np.flatnonzero(np.sort(log_e_N)[::-1] >= log_threshold_N)
    if passed.size == 0:
        return EBHResult(np.zeros(total, dtype=bool), math.inf, 0)
    num_rejected = int(passed[-1]) + 1
    rejected_N = log_e_N >= log_threshold_N[num_rejected - 1]
    return EBHResult(rejected_N, total / (alpha * num_rejected), num_rejected)


def power_calibrator(p: npt.ArrayLike, kappa: npt.ArrayLike) -> np.ndarray:
    """Log of the e-value kappa * p^(kappa - 1) of a p-value.

    Parameters
    ----------
    p : array_like, float in [0, 1]
        P-values; p = 0 gives an infinite e-value (``+inf``).
    kappa : array_like, float in (0, 1)
        Exponent, chosen before p is seen; broadcasts with ``p``.

    Returns
    -------
    ndarray or float, float64
        Natural logarithm of the e-value; its mean is exactly one for a uniform p-value.

    Raises
    ------
    ValueError
        For a p-value outside [0, 1] or kappa outside (0, 1).
    """
    values, exponent = _check_p_values(p), np.asarray(kappa, dtype=np.float64)
    if not np.all((exponent > 0) & (exponent < 1)):
        raise ValueError(f"kappa must lie strictly between 0 and 1, got {kappa!r}")
    with np.errstate(divide="ignore"):
        return np.log(exponent) + (exponent - 1) * np.log(values)


def calibrator_grid(p: npt.ArrayLike, kappas: Sequence[float] = POWER_GRID) -> np.ndarray:
    """Log e-values of every p-value under each exponent of a grid.

    The last axis is the component axis of an e-process: ``EProcess(num_components=len(kappas))``
    then needs no exponent to be tuned.

    Parameters
    ----------
    p : array_like, float in [0, 1], shape ``[...]``
        P-values.
    kappas : sequence of float in (0, 1), length J
        Exponents of the power calibrators.

    Returns
    -------
    ndarray, float64, shape ``[..., J]``
        Natural logarithms of the e-values.

    Raises
    ------
    ValueError
        As :func:`power_calibrator`.
    """
    return power_calibrator(np.asarray(p, dtype=np.float64)[..., None], np.asarray(kappas))


def mixture_calibrator(p: npt.ArrayLike) -> np.ndarray:
    """Log of the e-value that averages all power calibrators over kappa uniform in (0, 1).

    The integral is (1 - p + p log p) / (p log(p)^2).

    Parameters
    ----------
    p : array_like, float in [0, 1]
        P-values; p = 1 gives 1/2, p = 0 an infinite e-value.

    Returns
    -------
    ndarray or float, float64
        Natural logarithm of the e-value, accurate to rounding over all of [0, 1].

    Raises
    ------
    ValueError
        For a p-value outside [0, 1].

    Notes
    -----
    Vovk and Wang, "E-values: Calibration, combination and applications", arXiv 1912.06116.
    """
    values = _check_p_values(p)
    with np.errstate(divide="ignore"):
        x = np.abs(np.log(values))
    # With x = -log p the integral is (e^x - 1 - x) / x^2 = sum_k x^k / (k + 2)!. The closed form
    # cancels for small x, where the series needs few terms.
    near_one = np.minimum(x, 1.0)
    series = np.zeros_like(near_one)
    for k in range(17, -1, -1):
        series = series * near_one + 1.0 / math.factorial(k + 2)
    far = np.clip(x, 1.0, np.finfo(np.float64).max)
    closed = far + np.log1p(-(1 + far) * np.exp(-far)) - 2 * np.log(far)
    return np.where(x <= 1.0, np.log(series), np.where(np.isinf(x), np.inf, closed))[()]


def spending_levels(alpha: float, k: npt.ArrayLike) -> np.ndarray:
    """Level alpha / (k (k + 1)) of the k-th look; the levels of all looks sum to alpha.

    The union bound that makes a fixed-horizon p-value valid at every look: stop at look k when
    p_k falls below its level.

    Parameters
    ----------
    alpha : float in (0, 1)
        Overall level.
    k : array_like, int >= 1
        Number of the look.

    Returns
    -------
    ndarray or float, float64
        Level of each look.

    Raises
    ------
    ValueError
        For ``alpha`` outside (0, 1) or a look below 1.
    """
    _check_alpha(alpha)
    looks = np.asarray(k, dtype=np.float64)
    if not np.all(looks >= 1):
        raise ValueError("looks are counted from 1; k must be at least 1 everywhere")
    return alpha / (looks * (looks + 1))

"""Confidence intervals for rates, medians, ratios, slopes and paired differences.

Takes plain arrays of measurements and returns numbers. Intervals for medians accept ``+inf``, so a
time that was never reached within the budget counts as "later than everything". All intervals here
are for a sample size fixed in advance; for looking after every observation see
:mod:`modicum.core.stats.sequential`.

Shape suffixes: N observations, B bootstrap resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "DifferenceResult",
    "SlopeResult",
    "bootstrap_interval",
    "clopper_pearson",
    "log_log_slope",
    "median_interval",
    "paired_difference",
    "ratio_of_medians_interval",
]

Interval = tuple[float, float]

# Resamples are drawn in blocks of about this many numbers (16 MB), whatever the sample size.
_BLOCK_NUMBERS = 2_000_000


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1 (0.95, say), got {level!r}")


def _sample(x: npt.ArrayLike, name: str, at_least: int) -> np.ndarray:
    """One-dimensional float64 sample without NaN."""
    values_N = np.asarray(x, dtype=np.float64)
    if values_N.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {values_N.shape}")
    if values_N.size < at_least:
        raise ValueError(f"{name} needs at least {at_least} values, got {values_N.size}")
    if np.isnan(values_N).any():
        raise ValueError(f"{name} holds NaN")
    return values_N


def clopper_pearson(
    k: npt.ArrayLike, n: npt.ArrayLike, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Exact (conservative) confidence interval for a binomial success probability.

    Parameters
    ----------
    k : array_like, int
        Successes; broadcasts with ``n``.
    n : array_like, int >= 1
        Trials.
    level : float in (0, 1)
        Confidence level; each tail has (1 - level) / 2.

    Returns
    -------
    low, high : ndarray or float, float64
        Bounds in [0, 1].

    Raises
    ------
    ValueError
        Unless 0 <= k <= n, n >= 1 and level in (0, 1).

    Notes
    -----
    Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the
    binomial", Biometrika 26 (1934).
    """
    from scipy.special import betaincinv

    _check_level(level)
    successes, trials = np.broadcast_arrays(np.asarray(k), np.asarray(n))
    if not np.all((trials >= 1) & (successes >= 0) & (successes <= trials)):
        raise ValueError("counts must satisfy 0 <= k <= n and n >= 1 everywhere")
    tail = (1 - level) / 2
    failures = trials - successes
    # Beta parameters of 0 only occur where the bound is 0 or 1 by definition.
    low = betaincinv(np.maximum(successes, 1), failures + 1, tail)
    high = betaincinv(successes + 1, np.maximum(failures, 1), 1 - tail)
    return np.where(successes == 0, 0.0, low)[()], np.where(failures == 0, 1.0, high)[()]


def _order_quantile(values_B: np.ndarray, q: float, side: Literal["lower", "higher"]) -> float:
    """Order statistic at quantile q, rounded outwards; never interpolates, so inf is harmless."""
    position = (values_B.size - 1) * q
    rank = math.floor(position) if side == "lower" else math.ceil(position)
    return float(np.sort(values_B)[min(max(rank, 0), values_B.size - 1)])


def _index_blocks(size: int, n_resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Draw the indices of the resamples, a block of rows [b, N] at a time."""
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}")
    block = max(1, _BLOCK_NUMBERS // size)
    for first in range(0, n_resamples, block):
        yield rng.integers(0, size, size=(min(block, n_resamples - first), size))


def _mean(values_BN: np.ndarray) -> np.ndarray:
    return values_BN.mean(axis=-1)


def bootstrap_interval(
    x: npt.ArrayLike,
    statistic: Callable[[np.ndarray], np.ndarray] = _mean,
    level: float = 0.95,
    rng: np.random.Generator | int = 0,
    n_resamples: int = 9999,
    method: Literal["percentile", "BCa"] = "percentile",
) -> Interval:
    """Bootstrap confidence interval for a statistic of one sample.

    Approximate: coverage tends to ``level`` as the sample grows. Quantiles of the resamples are
    order statistics rounded outwards, so statistics that are infinite in some resamples are fine
    with ``method="percentile"``.

    Parameters
    ----------
    x : array_like, float, shape ``[N]``
        Independent observations, N >= 2.
    statistic : callable, ``[B, N] -> [B]``
        Reduces the last axis. Default: the mean.
    level : float in (0, 1)
        Confidence level.
    rng : numpy.random.Generator or int
        Source of the resamples; an int is a seed.
    n_resamples : int
        Number of resamples.
    method : {"percentile", "BCa"}
        ``"BCa"`` corrects bias and skewness by a jackknife (N further evaluations).

    Returns
    -------
    low, high : float
        Bounds in the units of the statistic.

    Raises
    ------
    ValueError
        For an unusable sample, level or method, a statistic that does not reduce the last axis or
        returns NaN, and for ``"BCa"`` where the statistic is not finite on every jackknife sample.

    Notes
    -----
    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 13 and 14.
    """
    _check_level(level)
    if method not in ("percentile", "BCa"):
        raise ValueError(f"method must be 'percentile' or 'BCa', got {method!r}")
    values_N = _sample(x, "x", at_least=2)
    blocks = _index_blocks(values_N.size, n_resamples, np.random.default_rng(rng))
    values_B = np.concatenate([np.asarray(statistic(values_N[index_BN])) for index_BN in blocks])
    if values_B.shape != (n_resamples,):
        raise ValueError(
            "statistic must reduce the last axis: it maps [B, N] to [B], as np.mean(..., axis=-1)"
        )
    if np.isnan(values_B).any():
        raise ValueError("statistic returned NaN on a resample")
    tails = ((1 - level) / 2, (1 + level) / 2)
    if method == "BCa":
        tails = _bca_levels(values_N, values_B, statistic, tails)
    low, high = tails
    return _order_quantile(values_B, low, "lower"), _order_quantile(values_B, high, "higher")


def _bca_levels(
    values_N: np.ndarray,
    values_B: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    tails: tuple[float, float],
) -> tuple[float, float]:
    """Quantile levels of the bias-corrected and accelerated bootstrap."""
    from scipy.special import ndtr, ndtri

    size = values_N.size
    column_N = np.arange(size - 1)
    keep_NN = column_N + (column_N >= np.arange(size)[:, None])
    jackknife_N = np.asarray(statistic(values_N[keep_NN]), dtype=np.float64)
    observed = float(np.asarray(statistic(values_N[None]))[0])
    if not (np.isfinite(jackknife_N).all() and math.isfinite(observed)):
        raise ValueError(
            "BCa needs a statistic that is finite when any one value is left out; "
            "use method='percentile'"
        )
    # Ties count half, so that a discrete statistic is not taken for a biased one.
    below = (np.mean(values_B < observed) + np.mean(values_B <= observed)) / 2
    if not 0 < below < 1:
        return tails
    bias = float(ndtri(below))
    deviation_N = jackknife_N.mean() - jackknife_N
    spread = float(np.sum(deviation_N**2)) ** 1.5
    acceleration = 0.0 if spread == 0 else float(np.sum(deviation_N**3)) / (6 * spread)
    shifted = bias + ndtri(np.array(tails))
    low, high = ndtr(bias + shifted / (1 - acceleration * shifted))
    return float(low), float(high)


def median_interval(x: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Distribution-free confidence interval for a median, from order statistics.

    The l-th smallest and l-th largest value, l as large as a Binomial(N, 1/2) tail of
    (1 - level) / 2 allows: coverage is at least ``level`` for every distribution, discrete ones
    included, and infinite values ("not reached") take part.

    Parameters
    ----------
    x : array_like, float, shape ``[N]``
        Independent observations; ``+inf`` and ``-inf`` allowed.
    level : float in (0, 1)
        Confidence level.

    Returns
    -------
    low, high : float
        Bounds; ``(-inf, inf)`` when N is too small for any order statistic to reach ``level``.

    Raises
    ------
    ValueError
        For an empty sample, NaN or a level outside (0, 1).
    """
    from scipy.special import bdtr

    _check_level(level)
    ordered_N = np.sort(_sample(x, "x", at_least=1))
    size = ordered_N.size
    # Number of order statistics that may be cut off on each side: P(Bin(N, 1/2) < cut) <= tail.
    cuts = np.arange(1, size // 2 + 1)
    cut = int(np.count_nonzero(bdtr(cuts - 1, size, 0.5) <= (1 - level) / 2))
    if cut == 0:
        return -math.inf, math.inf
    return float(ordered_N[cut - 1]), float(ordered_N[size - cut])


def _median_ratio(
    numerator_B: np.ndarray, denominator_B: np.ndarray, undefined: float
) -> np.ndarray:
    """Entry-wise ratio, with a value of its own where both are infinite."""
    both_B = np.isinf(numerator_B) & np.isinf(denominator_B)
    with np.errstate(invalid="ignore"):
        return np.where(both_B, undefined, numerator_B / denominator_B)


def ratio_of_medians_interval(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    level: float = 0.95,
    rng: np.random.Generator | int = 0,
    n_resamples: int = 9999,
    paired: bool = False,
) -> tuple[float, Interval]:
    """Ratio median(x) / median(y) of positive measurements with a percentile-bootstrap interval.

    Meant for times to an event of which some were not reached (``inf``). A resample in which both
    medians are infinite says nothing about the ratio: it counts as 0 for the lower and as infinity
    for the upper bound, so censoring only widens the interval.

    Parameters
    ----------
    x, y : array_like, float, shapes ``[N]`` and ``[M]``
        Positive measurements; ``+inf`` allowed.
    level : float in (0, 1)
        Confidence level (approximate, as every bootstrap).
    rng : numpy.random.Generator or int
        Source of the resamples; an int is a seed.
    n_resamples : int
        Number of resamples.
    paired : bool
        Resample x and y together (same length, entry i of both from the same case).

    Returns
    -------
    ratio : float
        Ratio of the sample medians; NaN when both are infinite.
    interval : tuple of float
        Lower and upper bound in [0, inf].

    Raises
    ------
    ValueError
        For values that are not positive, paired samples of different length or a bad level.
    """
    _check_level(level)
    x_N, y_N = _sample(x, "x", at_least=2), _sample(y, "y", at_least=2)
    for name, values in (("x", x_N), ("y", y_N)):
        if not np.all(values > 0):
            raise ValueError(f"{name} must be positive, its smallest value is {values.min()}")
    if paired and x_N.size != y_N.size:
        raise ValueError(f"paired samples differ in length: {x_N.size} and {y_N.size}")
    generator = np.random.default_rng(rng)
    x_medians, y_medians = [], []
    if paired:
        for index_BN in _index_blocks(x_N.size, n_resamples, generator):
            x_medians.append(np.median(x_N[index_BN], axis=-1))
            y_medians.append(np.median(y_N[index_BN], axis=-1))
    else:
        for index_BN in _index_blocks(x_N.size, n_resamples, generator):
            x_medians.append(np.median(x_N[index_BN], axis=-1))
        for index_BN in _index_blocks(y_N.size, n_resamples, generator):
            y_medians.append(np.median(y_N[index_BN], axis=-1))
    x_B, y_B = np.concatenate(x_medians), np.concatenate(y_medians)
    low = _order_quantile(_median_ratio(x_B, y_B, 0.0), (1 - level) / 2, "lower")
    high = _order_quantile(_median_ratio(x_B, y_B, math.inf), (1 + level) / 2, "higher")
    ratio = _median_ratio(np.median(x_N), np.median(y_N), math.nan)
    return float(ratio), (low, high)


@dataclass(frozen=True)
class SlopeResult:
    """Straight line through log-log points.

    Attributes
    ----------
    slope, intercept : float
        log y = intercept + slope * log x, natural logarithms.
    interval : tuple of float
        Confidence interval of the slope.
    stderr : float
        Standard error of the slope; ``inf`` for two points, which leave no residual.
    """

    slope: float
    intercept: float
    interval: Interval
    stderr: float


def log_log_slope(x: npt.ArrayLike, y: npt.ArrayLike, level: float = 0.95) -> SlopeResult:
    """Exponent of a power law y ~ x^slope, by least squares on the logarithms.

    The interval is Student's t with N - 2 degrees of freedom: exact when the errors of log y are
    independent normal with one variance.

    Parameters
    ----------
    x, y : array_like, float, shape ``[N]``
        Positive and finite; at least two different x.
    level : float in (0, 1)
        Confidence level of the interval.

    Returns
    -------
    SlopeResult
        Slope, intercept, interval and standard error; with N = 2 the interval is infinite.

    Raises
    ------
    ValueError
        For values that are not positive and finite, different lengths or a single x.
    """
    from scipy.special import stdtrit

    _check_level(level)
    x_N, y_N = _sample(x, "x", at_least=2), _sample(y, "y", at_least=2)
    if x_N.size != y_N.size:
        raise ValueError(f"x and y differ in length: {x_N.size} and {y_N.size}")
    for name, values in (("x", x_N), ("y", y_N)):
        if not np.all((values > 0) & np.isfinite(values)):
            raise ValueError(f"{name} must be positive and finite to take logarithms")
    log_x_N, log_y_N = np.log(x_N), np.log(y_N)
    centred_N = log_x_N - log_x_N.mean()
    spread = float(np.sum(centred_N**2))
    if np.unique(log_x_N).size < 2:
        raise ValueError("x holds one value only; a slope needs two different ones")
    slope = float(np.sum(centred_N * (log_y_N - log_y_N.mean()))) / spread
    intercept = float(log_y_N.mean() - slope * log_x_N.mean())
    freedom = x_N.size - 2
    if freedom == 0:
        return SlopeResult(slope, intercept, (-math.inf, math.inf), math.inf)
    residual_N = log_y_N - intercept - slope * log_x_N
    stderr = math.sqrt(float(np.sum(residual_N**2)) / freedom / spread)
    reach = float(stdtrit(freedom, (1 + level) / 2)) * stderr
    return SlopeResult(slope, intercept, (slope - reach, slope + reach), stderr)


@dataclass(frozen=True)
class DifferenceResult:
    """Mean of paired differences.

    Attributes
    ----------
    mean : float
        Mean of x - y.
    interval : tuple of float
        Confidence interval of the mean.
    stderr : float
        Standard error of the mean.
    """

    mean: float
    interval: Interval
    stderr: float


def paired_difference(x: npt.ArrayLike, y: npt.ArrayLike, level: float = 0.95) -> DifferenceResult:
    """Mean of x - y over paired measurements with Student's t interval.

    Exact for normal differences, approximate for large N otherwise.

    Parameters
    ----------
    x, y : array_like, float, shape ``[N]``
        Measurements of the same N >= 2 cases, finite.
    level : float in (0, 1)
        Confidence level.

    Returns
    -------
    DifferenceResult
        Mean, interval and standard error.

    Raises
    ------
    ValueError
        For different lengths, fewer than two pairs or values that are not finite.
    """
    from scipy.special import stdtrit

    _check_level(level)
    x_N, y_N = _sample(x, "x", at_least=2), _sample(y, "y", at_least=2)
    if x_N.size != y_N.size:
        raise ValueError(f"x and y differ in length: {x_N.size} and {y_N.size}")
    if not (np.isfinite(x_N).all() and np.isfinite(y_N).all()):
        raise ValueError("x and y must be finite")
    difference_N = x_N - y_N
    mean = float(difference_N.mean())
    stderr = float(difference_N.std(ddof=1)) / math.sqrt(x_N.size)
    reach = float(stdtrit(x_N.size - 1, (1 + level) / 2)) * stderr
    return DifferenceResult(mean, (mean - reach, mean + reach), stderr)

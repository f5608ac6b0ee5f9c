"""What experiments on regrets of many seeds share: means, exponents, ratios, intervals, verdicts.

All intervals are of 95 % and resample the seeds. Runs no method.

Legend: ``S`` seeds, ``B`` resamples.
"""

from collections.abc import Sequence

import numpy as np

from modicum.core.stats import SlopeResult

RESAMPLES = 4000


def resampled_means(values_S: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give the means ``(B,)`` of resampled values."""
    return values_S[rng.integers(len(values_S), size=(RESAMPLES, len(values_S)))].mean(1)


def ends(values_B: np.ndarray) -> tuple[float, float]:
    """Give the ends of the interval that holds 95 % of the values."""
    low, high = np.quantile(values_B, [0.025, 0.975])
    return float(low), float(high)


def mean_interval(values_S: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Give the interval of a mean."""
    return ends(resampled_means(values_S, rng))


def ratio_interval(
    above_S: np.ndarray, below_S: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    """Give the interval of the ratio of two means over the same seeds."""
    pick_BS = rng.integers(len(above_S), size=(RESAMPLES, len(above_S)))
    return ends(above_S[pick_BS].mean(1) / below_S[pick_BS].mean(1))


def verdict(
    value: float, interval: tuple[float, float], low: float, high: float, *, quick: bool
) -> bool | None:
    """Say whether a value is within limits.

    A quick run has few seeds: it decides only where its whole interval is inside or outside, and
    gives None otherwise.
    """
    if not quick:
        return bool(low <= value <= high)
    if low <= interval[0] and interval[1] <= high:
        return True
    return False if interval[1] < low or interval[0] > high else None


def subject(quick: bool) -> str:
    """Name what `verdict` looks at, for the note of a claim."""
    return "its whole interval is" if quick else "it is"


def exponent(
    x: Sequence[float], values: Sequence[np.ndarray], rng: np.random.Generator
) -> SlopeResult:
    """Fit the exponent of mean regrets ``(S,)`` at several abscissae."""
    log_x = np.log(np.asarray(x, dtype=float))
    centred = log_x - log_x.mean()
    weights = centred / (centred @ centred)
    means = np.log([value.mean() for value in values])
    slopes_B = weights @ np.log([resampled_means(value, rng) for value in values])
    fitted = float(weights @ means)
    intercept = float(means.mean() - fitted * log_x.mean())
    return SlopeResult(fitted, intercept, ends(slopes_B), float(slopes_B.std()))

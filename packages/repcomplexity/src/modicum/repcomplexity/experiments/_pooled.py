"""Several experts of one environment as one: means over experts, whose intervals resample experts.

Of each expert there is a figure, and resamples of it by network seeds and held-out episodes. A
resample of the whole draws experts with replacement, and for each drawn one a resample of its own.
Figures that were resampled together stay paired.

Legend: ``E`` experts, ``R`` resamples, ``S`` network seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modicum.core.device import numpy_generator
from modicum.repcomplexity.measurement import Measurement

__all__ = ["LEVEL", "Figures", "Pooled", "mean_of", "ratio_of"]

LEVEL = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True, eq=False)
class Figures:
    """A figure of every expert; NaN where it is not defined.

    Attributes
    ----------
    points
        ``(E,)``.
    samples
        Its resamples, ``(E, R)``: column r of two figures comes from the same draws.
    """

    points: np.ndarray
    samples: np.ndarray

    @classmethod
    def measured(
        cls, measurements: Sequence[Measurement], target: str, width: int, metric: str
    ) -> Figures:
        """Return a metric of every expert's measurement."""
        points = [one.estimate(target, width, metric).value for one in measurements]
        samples = [one.resampled(target, width, metric) for one in measurements]
        return cls(np.array(points), np.stack(samples))

    @classmethod
    def of_seeds(cls, errors: Sequence[np.ndarray], seed: int) -> Figures:
        """Return the mean over network seeds, of errors ``(S,)`` of every expert."""
        samples = []
        for number, errors_S in enumerate(errors):
            # One draw of seeds for all targets of an expert, so that targets are compared in pairs.
            rng = numpy_generator(seed, "seeds of an expert", number)
            index_RS = rng.integers(0, len(errors_S), (RESAMPLES, len(errors_S)))
            samples.append(errors_S[index_RS].mean(1))
        return cls(np.array([errors_S.mean() for errors_S in errors]), np.stack(samples))


@dataclass(frozen=True)
class Pooled:
    """A figure of all experts together.

    Attributes
    ----------
    value, low, high
        The figure and its interval; NaN where it is defined for no expert.
    each
        The figure of each expert.
    """

    value: float
    low: float
    high: float
    each: tuple[float, ...]

    @property
    def above_one(self) -> bool | None:
        """Whether the whole interval is above 1 (True) or below (False); None where neither is."""
        return True if self.low > 1 else False if self.high < 1 else None


def mean_of(figures: Figures, seed: int) -> Pooled:
    """Return the mean over the experts for which a figure is defined."""
    return _pooled(figures.points, figures.samples, seed)


def ratio_of(over: Figures, under: Figures, seed: int) -> Pooled:
    """Return the geometric mean over experts of the ratio of two figures.

    A ratio in each expert first: one expert's large values weigh no more than another's.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        points_E = np.log(over.points / under.points)
        samples_ER = np.log(over.samples / under.samples)
    found = _pooled(points_E, samples_ER, seed)
    value, low, high = (float(np.exp(end)) for end in (found.value, found.low, found.high))
    return Pooled(value, low, high, tuple(float(np.exp(one)) for one in found.each))


def _pooled(points_E: np.ndarray, samples_ER: np.ndarray, seed: int) -> Pooled:
    count, resamples = samples_ER.shape
    rng = numpy_generator(seed, "experts", count, resamples)
    drawn_RE = rng.integers(0, count, (resamples, count))
    # Every column is a permutation: an expert that is drawn twice gives two resamples of its own,
    # and one expert alone gives each of its resamples once.
    own_RE = np.stack([rng.permutation(resamples) for _ in range(count)], axis=1)
    values_R = _mean(samples_ER[drawn_RE, own_RE])
    known = values_R[~np.isnan(values_R)]
    low = high = float("nan")
    if len(known):
        tail = (1 - LEVEL) / 2
        low = float(np.quantile(known, tail, method="lower"))
        high = float(np.quantile(known, 1 - tail, method="higher"))
    return Pooled(float(_mean(points_E)), low, high, tuple(map(float, points_E)))


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is defined; NaN where nothing is."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(-1)
    counts = known.sum(-1)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)

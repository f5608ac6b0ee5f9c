"""Laws of sums of independent, identically distributed scores: FFT on a lattice, with bounds.

Takes the law of one token's score (surprisal, log-likelihood ratio, distance …) and gives tail
probabilities and expectations of the sum over n tokens. Scores are rounded *down* to a lattice; the
sum of what is cut off is known up to a small slack (Bernstein's inequality, with the exact variance
of the rounding error), so every figure comes with a bracket that holds whatever the rounding did.
Knows nothing of watermarks.

Legend: ``A`` atoms of a token's law, ``K`` lattice points of a token, ``W`` of a sum.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FFT_RESOLUTION = 1e-11
"""Absolute error of a probability from the FFT; error probabilities below it are not resolved."""

SLACK_PROBABILITY = 1e-9
"""Probability, added to every bracket, that the rounding errors exceed their slack."""

ALIAS = 1e-12
"""Mass of the sum that may lie outside the lattice of the FFT."""

# Standard deviations on either side of the mean that a lattice covers at first.
FIRST_WIDTH, WIDEN = 12.0, 1.4
# Where a continuous score has its mass, the moment-generating function is read off this many cells.
MGF_CELLS = 4096
LOG_LARGEST = 600.0


class Bracket(NamedTuple):
    """A probability with certain limits."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, low: float, high: float) -> "Bracket":
        """Clip to ``[0, 1]`` and order."""
        value, low, high = (min(max(float(x), 0.0), 1.0) for x in (value, low, high))
        return cls(value, min(low, value), max(high, value))


@dataclass(frozen=True, eq=False)
class Lattice:
    """Law of a score rounded down to multiples of a step.

    Attributes
    ----------
    mass_K, first, step
        Probability of ``(first + k) * step``.
    mean_error, error_variance
        Moments of the amount cut off, which lies in ``[0, step]``.
    """

    mass_K: Floats
    first: int
    step: float
    mean_error: float
    error_variance: float


class TokenLaw(Protocol):
    """Law of the score of one token."""

    @property
    def mean(self) -> float:
        """Expectation."""
        ...

    @property
    def variance(self) -> float:
        """Variance."""
        ...

    @property
    def lower(self) -> float:
        """Least value."""
        ...

    @property
    def upper(self) -> float:
        """Largest value."""
        ...

    @property
    def unit(self) -> float | None:
        """A step of which every value is a multiple, where there is one."""
        ...

    @property
    def coarse(self) -> Lattice:
        """A lattice of `MGF_CELLS` cells."""
        ...

    def lattice(self, step: float) -> Lattice:
        """Round down to multiples of a step."""
        ...


@dataclass(frozen=True, eq=False)
class AtomLaw:
    """Finitely many values.

    Attributes
    ----------
    values_A, weights_A
        Values and their probabilities.
    unit
        A step of which every value is a multiple, or None.
    """

    values_A: Floats
    weights_A: Floats
    unit: float | None = None

    @cached_property
    def mean(self) -> float:
        """Expectation."""
        return float(self.weights_A @ self.values_A)

    @cached_property
    def variance(self) -> float:
        """Variance."""
        return float(self.weights_A @ (self.values_A - self.mean) ** 2)

    @cached_property
    def lower(self) -> float:
        """Least value."""
        return float(self.values_A.min())

    @cached_property
    def upper(self) -> float:
        """Largest value."""
        return float(self.values_A.max())

    @cached_property
    def coarse(self) -> Lattice:
        """A lattice of `MGF_CELLS` cells."""
        return self.lattice((self.upper - self.lower) / MGF_CELLS)

    def lattice(self, step: float) -> Lattice:
        """Round down to multiples of a step."""
        if self.unit is not None and math.isclose(step, self.unit):
            index_A = np.rint(self.values_A / step).astype(np.int64)
            error_A = np.zeros_like(self.values_A)
        else:
            index_A = np.floor(self.values_A / step).astype(np.int64)
            error_A = self.values_A - index_A * step
        first = int(index_A.min())
        mean_error = float(self.weights_A @ error_A)
        return Lattice(
            np.bincount(index_A - first, weights=self.weights_A).astype(np.float64),
            first,
            step,
            mean_error,
            float(self.weights_A @ (error_A - mean_error) ** 2),
        )


@dataclass(frozen=True, eq=False)
class CdfLaw:
    """A continuous law given by its distribution function and first two moments.

    Attributes
    ----------
    cdf
        ``P(score <= x)``, vectorised.
    mean, variance
        Moments.
    lower, upper
        Support; mass above ``upper`` must be negligible.
    """

    cdf: Callable[[Floats], Floats]
    mean: float
    variance: float
    lower: float
    upper: float
    unit: float | None = None

    @cached_property
    def coarse(self) -> Lattice:
        """A lattice of `MGF_CELLS` cells."""
        return self.lattice((self.upper - self.lower) / MGF_CELLS)

    def lattice(self, step: float) -> Lattice:
        """Round down to multiples of a step."""
        first, last = math.floor(self.lower / step), math.ceil(self.upper / step)
        edges = np.arange(first, last + 1, dtype=np.float64) * step
        below = np.array(self.cdf(edges), dtype=np.float64)
        below[0], below[-1] = 0.0, 1.0
        mass_K = np.maximum(np.diff(below), 0.0)
        rounded_mean = float(mass_K @ edges[:-1])
        mean_error = min(max(self.mean - rounded_mean, 0.0), step)
        # What is cut off lies in an interval of length step: its variance is at most step^2 / 4.
        return Lattice(mass_K, first, step, mean_error, step**2 / 4)


@dataclass(frozen=True, eq=False)
class SumLaw:
    """Law of a sum of n scores.

    Attributes
    ----------
    mass_W, first, step
        Law of the sum of the rounded scores: probability of ``(first + w) * step``.
    shift
        Mean of what the rounding cut off.
    slack
        How far it may be from that mean, but for a probability of `SLACK_PROBABILITY` on each side.
    unresolved
        Probability to add on either side for slack and round-off.
    """

    mass_W: Floats
    first: int
    step: float
    shift: float
    slack: float
    unresolved: float

    @cached_property
    def _below_W(self) -> Floats:
        return np.concatenate([[0.0], np.cumsum(self.mass_W)])

    @cached_property
    def _from_W(self) -> Floats:
        return np.concatenate([np.cumsum(self.mass_W[::-1])[::-1], [0.0]])

    @property
    def values_W(self) -> Floats:
        """Lattice values of the rounded sum with the mean of the rounding error added."""
        index_W = self.first + np.arange(len(self.mass_W), dtype=np.float64)
        return index_W * self.step + self.shift

    def _position(self, x: float) -> float:
        return (x - self.shift) / self.step - self.first

    def _count_below(self, x: float) -> int:
        # Lattice points below x; an x meant to be a lattice point is not below itself.
        return int(np.clip(math.ceil(self._position(x) - 1e-6), 0, len(self.mass_W)))

    def _smooth(self, table_W: Floats, x: float) -> float:
        if self.slack == 0:
            return float(table_W[self._count_below(x)])
        # What was cut off spreads each lattice point over about one step around it.
        return float(np.interp(self._position(x) + 0.5, np.arange(len(table_W)), table_W))

    def below(self, x: float) -> Bracket:
        """Return ``P(sum < x)``."""
        return Bracket.of(
            self._smooth(self._below_W, x),
            self._below_W[self._count_below(x - self.slack)] - self.unresolved,
            self._below_W[self._count_below(x + self.slack)] + self.unresolved,
        )

    def below_many(self, x: Floats) -> Floats:
        """Return estimates of ``P(sum < x)`` for many x of any shape."""
        at = (x - self.shift) / self.step - self.first
        if self.slack == 0:
            count = np.clip(np.ceil(at - 1e-6), 0, len(self.mass_W)).astype(np.int64)
            return self._below_W[count]
        return np.interp(at + 0.5, np.arange(len(self._below_W)), self._below_W)

    def at_least(self, x: float) -> Bracket:
        """Return ``P(sum >= x)``."""
        return Bracket.of(
            self._smooth(self._from_W, x),
            self._from_W[self._count_below(x + self.slack)] - self.unresolved,
            self._from_W[self._count_below(x - self.slack)] + self.unresolved,
        )

    def threshold(self, alpha: float) -> tuple[float, float, float]:
        """Return the least x with ``P(sum >= x) <= alpha``: an estimate and certain limits.

        The test that rejects from the upper limit on has level alpha for certain.
        """

        def least(level: float) -> float:
            # First lattice point whose upper tail is at most the level.
            at = int(np.searchsorted(-self._from_W, -level, side="left"))
            return (self.first + at) * self.step + self.shift

        high = least(alpha - self.unresolved) + self.slack
        low = least(alpha + self.unresolved) - self.slack
        if self.slack == 0:
            return least(alpha), low, high
        falling = self._from_W[::-1]
        at = np.interp(alpha, falling, np.arange(len(falling))[::-1].astype(np.float64))
        value = (self.first + float(at) - 0.5) * self.step + self.shift
        return min(max(value, low), high), low, high

    def expect_falling(self, function: Callable[[Floats], Floats]) -> Bracket:
        """Return the expectation of a falling function with values in ``[0, 1]``."""
        x_W = self.values_W
        return Bracket.of(
            float(self.mass_W @ function(x_W)),
            float(self.mass_W @ function(x_W + self.slack)) - self.unresolved,
            float(self.mass_W @ function(x_W - self.slack)) + self.unresolved,
        )


def _outside(law: TokenLaw, n: int, low: float, high: float) -> float:
    # Chernoff's bound of the mass of the sum below low and above high.
    coarse = law.coarse
    keep = coarse.mass_K > 0
    log_mass = np.log(coarse.mass_K[keep])
    values = (coarse.first + np.flatnonzero(keep)) * coarse.step + coarse.mean_error
    scale = 1 / math.sqrt(n * law.variance)
    total = 0.0
    for sign, limit, end in ((1, high, law.upper), (-1, low, law.lower)):
        if sign * limit >= sign * n * end:
            continue
        # The best tilt of a normal sum is its distance in standard deviations over their size.
        best = 0.0
        for tilt in sign * scale * np.geomspace(0.3, 300.0, 28):
            exponent = log_mass + tilt * values
            top = exponent.max()
            log_mgf = top + math.log(np.exp(exponent - top).sum())
            best = min(best, n * log_mgf - tilt * limit)
        total += math.exp(best)
    return total


def _points(n: int) -> int:
    # Finer lattices for longer sums: the slack grows with the square root of n.
    return 1 << (18 if n < 5000 else 20)


def sum_law(law: TokenLaw, n: int, points: int | None = None) -> SumLaw:
    """Return the law of the sum of n independent scores.

    Parameters
    ----------
    law
        Law of one score.
    n
        Number of scores, at least 1.
    points
        Lattice points; more of them narrow the bracket. By default 2^18, or 2^20 for long sums.

    Returns
    -------
    SumLaw
    """
    points = _points(n) if points is None else points
    lower, upper = n * law.lower, n * law.upper
    if upper <= lower:
        return SumLaw(np.ones(1), 0, 1.0, lower, 0.0, 0.0)
    deviation = math.sqrt(n * law.variance)
    width = FIRST_WIDTH
    while True:
        low = max(lower, n * law.mean - width * deviation)
        high = min(upper, n * law.mean + width * deviation)
        if (low == lower and high == upper) or _outside(law, n, low, high) < ALIAS:
            break
        width *= WIDEN
    step = (high - low) / points
    if law.unit is not None and (high - low) / law.unit < 4 * points:
        step = law.unit
    token = law.lattice(step)
    exact = token.error_variance == 0
    log_slack = -math.log(SLACK_PROBABILITY)
    cubic = step * log_slack / 3
    slack = cubic + math.sqrt(cubic**2 + 2 * n * token.error_variance * log_slack)
    slack = 0.0 if exact else min(slack, n * step)
    # The rounded sum follows the sum by the mean of what is cut off, within the slack.
    shift = n * token.mean_error
    first, last = n * token.first, n * (token.first + len(token.mass_K) - 1)
    if low > lower:
        first = max(first, math.floor((low - shift - slack) / step))
    if high < upper:
        last = min(last, math.ceil((high - shift + slack) / step))
    length = 1 << math.ceil(math.log2(last - first + 1))
    folded = np.zeros(length)
    np.add.at(folded, np.arange(len(token.mass_K)) % length, token.mass_K)
    transform = np.fft.rfft(folded) ** n
    mass = np.fft.irfft(transform, length)
    # Entry i holds the sum whose lattice index is n * token.first + i, modulo the length.
    mass_W = np.maximum(np.roll(mass, -((first - n * token.first) % length)), 0.0)
    unresolved = FFT_RESOLUTION + (0.0 if exact else SLACK_PROBABILITY)
    return SumLaw(mass_W[: last - first + 1], first, step, shift, slack, unresolved)

"""Estimates of probabilities from draws, for functions that can be called but not tabulated.

Holds the interval that goes with an estimate and the uniform inputs. It knows nothing of what is
estimated.

Shapes: B inputs of a block, m input bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from modicum.core.stats import clopper_pearson

__all__ = ["INTERVALS", "BlackBox", "Estimate", "evaluate", "proportion", "uniform_bits"]

BlackBox = Callable[[np.ndarray], Any]
"""Maps boolean bits ``(B, m)``, input 0 first, to values ``(B,)``, booleans or 0 and 1."""

INTERVALS = ("hoeffding", "clopper-pearson", "wilson")
"""Kinds of interval; the first two cover with at least their level, Wilson's approximately."""

# Bits of a block of draws (16 MB as booleans).
_BLOCK_BITS = 1 << 24


@dataclass(frozen=True)
class Estimate:
    """A number estimated from independent draws, with its interval.

    Attributes
    ----------
    value
        The estimate.
    low, high
        Ends of the interval, within the range that the quantity can have.
    level
        Confidence level of the interval.
    n_samples
        Number of draws.
    interval
        One of `INTERVALS`.
    """

    value: float
    low: float
    high: float
    level: float
    n_samples: int
    interval: str

    def rescaled(self, factor: float, shift: float = 0.0) -> Estimate:
        """Return the estimate of ``factor * quantity + shift``."""
        ends = sorted((factor * self.low + shift, factor * self.high + shift))
        value = factor * self.value + shift
        return Estimate(value, ends[0], ends[1], self.level, self.n_samples, self.interval)


def proportion(
    successes: int, n_samples: int, *, level: float = 0.95, interval: str = "hoeffding"
) -> Estimate:
    """Estimate a probability.

    Parameters
    ----------
    successes, n_samples
        How many of so many independent draws succeeded.
    level
        Confidence level, strictly between 0 and 1.
    interval
        ``"hoeffding"``: half-width ``sqrt(ln(2 / (1 - level)) / (2 n))``, which holds for every n.
        ``"clopper-pearson"``: exact, and never longer than it has to be. ``"wilson"``: the score
        interval, close to its level and shorter.

    Raises
    ------
    ValueError
        If the counts, the level or the interval make no sense.

    Notes
    -----
    Hoeffding, JASA 58 (1963), theorem 2; Wilson, JASA 22 (1927).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, not {level!r}")
    if n_samples < 1 or not 0 <= successes <= n_samples:
        raise ValueError(f"{successes} of {n_samples} draws is no proportion")
    value = successes / n_samples
    if interval == "hoeffding":
        half = math.sqrt(math.log(2 / (1 - level)) / (2 * n_samples))
        low, high = value - half, value + half
    elif interval == "clopper-pearson":
        low, high = (float(end) for end in clopper_pearson(successes, n_samples, level))
    elif interval == "wilson":
        low, high = _wilson(value, n_samples, level)
    else:
        raise ValueError(f"interval must be one of {', '.join(INTERVALS)}, not {interval!r}")
    # At 0 and 1 rounding could put an end on the wrong side of the estimate.
    low, high = min(value, max(0.0, low)), max(value, min(1.0, high))
    return Estimate(value, low, high, level, n_samples, interval)


def uniform_bits(n_inputs: int, n_samples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Draw uniform inputs, blocks of bool ``(B, m)`` that add up to `n_samples` rows.

    Raises
    ------
    ValueError
        If there are no inputs or no samples.
    """
    if n_inputs < 1 or n_samples < 1:
        raise ValueError(
            f"n_inputs and n_samples must be at least 1, not {n_inputs} and {n_samples}"
        )
    block = max(1, _BLOCK_BITS // n_inputs)
    for start in range(0, n_samples, block):
        rows = min(block, n_samples - start)
        yield rng.integers(0, 2, size=(rows, n_inputs), dtype=np.uint8).view(np.bool_)


def evaluate(function: BlackBox, bits: np.ndarray) -> np.ndarray:
    """Call a black box on bits ``(B, m)`` and return its values, bool ``(B,)``.

    Raises
    ------
    ValueError
        If it returns another shape, or values other than 0 and 1.
    """
    values = function(bits)
    values = np.asarray(values.cpu() if hasattr(values, "detach") else values)
    if values.shape != bits.shape[:1]:
        raise ValueError(
            f"function must return one value per row, shape {bits.shape[:1]}, not {values.shape}"
        )
    if values.dtype != np.bool_ and not ((values == 0) | (values == 1)).all():
        raise ValueError("function must return 0 and 1 only")
    return values.astype(np.bool_, copy=False)


def _wilson(value: float, n_samples: int, level: float) -> tuple[float, float]:
    from scipy.special import ndtri

    z = float(ndtri((1 + level) / 2))
    centre = (value + z * z / (2 * n_samples)) / (1 + z * z / n_samples)
    spread = math.sqrt(value * (1 - value) / n_samples + (z / (2 * n_samples)) ** 2)
    half = z * spread / (1 + z * z / n_samples)
    return centre - half, centre + half

"""The diagonal of a Hessian, learned from pairs of losses along random directions.

For a normal direction z, ``(z^T H z / 2 - c) (z_i² - 1)`` has the mean ``H_ii`` whatever the
constant c; the mean of the first factor makes the variance least. The buffers with the running
means of that, one number for each parameter, are the optimizer's; here are the few numbers beside
them that say how far they can be trusted.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass

CURVATURE_RATE = 0.01
"""Weight of a step in the running means."""


@dataclass
class RunningCurvature:
    """Running means of what pairs say about curvature.

    Attributes
    ----------
    middle
        Mean of ``z^T H z / 2``, half the Hessian's trace; ``None`` before the first step.
    count
        Steps that the mean has seen: it is their plain mean as long as they are few.
    share, noise
        Weight of all measurements in the diagonal's buffers, and the variance that chance alone
        gives their entries.
    """

    middle: float | None = None
    count: int = 0
    share: float = 0.0
    noise: float = 0.0

    def excess(
        self, curvatures: Sequence[float], dimension: int, spread: float
    ) -> tuple[tuple[float, ...], tuple[float, float]]:
        """Return each curvature less the mean so far, and (mean, weight) of the diagonal.

        In the first step there is no mean, and nothing to learn.

        Parameters
        ----------
        curvatures
            ``z^T H z / 2`` of each direction of the step.
        dimension
            Number of coordinates.
        spread
            Variance of the buffers' entries over coordinates.
        """
        finite = [value for value in curvatures if math.isfinite(value)]
        middle = self.middle
        if finite:
            self.count += 1
            rate = max(CURVATURE_RATE, 1 / self.count)
            self.middle = (1 - rate) * (middle or 0.0) + rate * sum(finite) / len(finite)
        weight = max(0.0, 1.0 - self.noise / spread) if spread > 0 else 0.0
        diagonal = (_single(2.0 * (middle or 0.0) / dimension), _single(weight))
        if middle is None:
            return (), diagonal
        # The mean is that of other directions, so taking it off adds no bias and much precision.
        excesses = (_single(value - middle) for value in curvatures)
        return tuple(value if math.isfinite(value) else 0.0 for value in excesses), diagonal

    def learned(self, excesses: Sequence[float]) -> None:
        """Account for a step whose excesses went into the buffers."""
        kept = 1.0 - CURVATURE_RATE
        mean_square = sum(excess**2 for excess in excesses) / len(excesses)
        self.share = kept * self.share + CURVATURE_RATE
        # A squared normal has variance 2.
        self.noise = kept**2 * self.noise + CURVATURE_RATE**2 * 2 * mean_square / len(excesses)


def _single(value: float) -> float:
    return ctypes.c_float(value).value

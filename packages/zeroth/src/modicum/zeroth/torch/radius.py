"""How far to go: the radius at which bias and noise of the estimate balance, measured.

Takes losses at points along a few directions, at several distances and for two states of the
loss's own randomness; gives the distance. For a loss with noise of standard deviation ``σ`` in
one evaluation, ``ρ`` and the effective dimension ``d`` that its curvature and its change of
curvature have, the radius is ``(d³ σ²/(n ρ²))^(1/6)`` for n averaged pairs, and the standard
deviation of a coordinate's perturbation is ``epsilon = radius/√d``. All three are measured:

* a pair's difference is ``2 ε a + ε³ c/3 + ε⁵ f/60`` with slope a, third derivative c and fifth f
  along the direction; what a fit of these three to five distances leaves over is noise, and only
  that part of it which does not shrink with the distance. Where both sides of a pair share batch
  and dropout, that is next to nothing but rounding;
* ``E c² >= 9 ρ² d`` for normal directions (with equality where the change of curvature is a
  gradient), estimated without bias by products over the two states;
* the pair's mean is ``L + ε² q/2 + ε⁴ h/24``; for normal directions ``2 (E q)²/Var q`` is
  ``tr(H)²/‖H‖²_F``, the number of directions that the Hessian's trace is spread over.

Knows nothing of parameters; `ZOOptimizer` evaluates.

Legend: ``D`` directions, ``S`` states of the randomness (two), ``R`` distances.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modicum.zeroth.theory import radius as theory_radius

LADDER = (0.25, 0.5, 1.0, 1.5, 2.0)
"""Distances of a measurement, in units of its epsilon."""

STATES = 2
GROWTH = 4.0
"""How much farther the next measurement goes when this one saw no third derivative."""

DETECTED = 4.0
"""Standard errors by which a squared third derivative must exceed zero to count as seen."""


@dataclass(frozen=True)
class AutoRadius:
    """How to measure the radius.

    Parameters
    ----------
    start
        First epsilon: standard deviation of a coordinate's perturbation.
    directions
        How many directions are measured along; each takes 20 evaluations per round.
    averaged
        Number n of pairs that a step of the whole run effectively averages: with a constant rate,
        steps average each other. The radius changes by its power -1/6 only.
    rounds
        Most measurements at growing distances until a third derivative is seen.
    every
        Measure again after so many steps; ``None`` for once, before the first.
    effective_dimension
        Number of directions that curvature is spread over; ``None`` to measure it.

    Raises
    ------
    ValueError
        If a number is not positive.
    """

    start: float = 1e-3
    directions: int = 8
    averaged: int = 1000
    rounds: int = 6
    every: int | None = None
    effective_dimension: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("start", "directions", "averaged", "rounds", "every", "effective_dimension"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and np.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite, got {value}")


@dataclass(frozen=True)
class LadderSums:
    """What one measurement found, as means that machines can average.

    Attributes
    ----------
    noise_squared
        ``σ²`` of one evaluation.
    third_squared
        ``E c²``.
    third_error
        Standard error that noise alone gives `third_squared`.
    curvature, curvature_variance
        Mean and variance of q over directions.
    level
        Mean loss.
    """

    noise_squared: float
    third_squared: float
    third_error: float
    curvature: float
    curvature_variance: float
    level: float

    @property
    def finite(self) -> bool:
        """Whether all losses were."""
        return bool(np.isfinite(self.noise_squared) and np.isfinite(self.level))

    @property
    def seen(self) -> bool:
        """Whether there is a third derivative beyond the noise."""
        return self.third_squared > DETECTED * self.third_error


def ladder_sums(plus_DSR: np.ndarray, minus_DSR: np.ndarray, epsilon: float) -> LadderSums:
    """Fit odd and even parts of losses along directions.

    Parameters
    ----------
    plus_DSR, minus_DSR
        Losses at ``+ε z`` and ``-ε z``, float64 ``(directions, 2, len(LADDER))``; the two states
        have independent noise.
    epsilon
        What the ladder is in units of.
    """
    ladder_R = epsilon * np.array(LADDER)
    odd_R3 = np.stack([2 * ladder_R, ladder_R**3 / 3, ladder_R**5 / 60], 1)
    even_R3 = np.stack([np.ones_like(ladder_R), ladder_R**2 / 2, ladder_R**4 / 24], 1)
    odd_3R, even_3R = np.linalg.pinv(odd_R3), np.linalg.pinv(even_R3)
    finite = np.isfinite(plus_DSR).all() and np.isfinite(minus_DSR).all()
    # A loss that is not finite makes all sums NaN, and nothing else a warning.
    plus_DSR = plus_DSR if finite else np.full_like(plus_DSR, np.nan)
    difference_DSR, mean_DSR = plus_DSR - minus_DSR, (plus_DSR + minus_DSR) / 2
    odd_DS3 = difference_DSR @ odd_3R.T
    residual_DSR = difference_DSR - odd_DS3 @ odd_R3.T
    freedom = len(LADDER) - odd_R3.shape[1]
    noise_squared = float((residual_DSR**2).sum(-1).mean() / freedom / 2)
    third_variance = 2 * noise_squared * float((odd_3R[1] ** 2).sum())
    curvature_DS = mean_DSR @ even_3R[1]
    centred_DS = curvature_DS - curvature_DS.mean(0)
    directions = len(plus_DSR)
    return LadderSums(
        noise_squared=noise_squared,
        third_squared=float(odd_DS3[..., 1].prod(-1).mean()),
        third_error=third_variance / np.sqrt(directions),
        curvature=float(curvature_DS.mean()),
        curvature_variance=float(centred_DS.prod(-1).sum() / max(1, directions - 1)),
        level=float(mean_DSR.mean()),
    )


def balanced_epsilon(
    sums: LadderSums, settings: AutoRadius, dimension: int, resolution: float
) -> float:
    """Return the epsilon at which bias and noise balance.

    Parameters
    ----------
    sums
        What was measured.
    settings
        As given.
    dimension
        Number of parameters, the most that the effective dimension can be.
    resolution
        Relative precision of a loss: noise is at least that much of it.
    """
    effective = settings.effective_dimension
    if effective is None:
        spread = max(sums.curvature_variance, 2 * sums.curvature**2 / dimension)
        effective = 2 * sums.curvature**2 / spread if spread > 0 else 1.0
    effective = min(max(effective, 1.0), float(dimension))
    noise = max(np.sqrt(sums.noise_squared), resolution * max(abs(sums.level), 1e-300))
    third = max(sums.third_squared, DETECTED * sums.third_error, 1e-300)
    lipschitz = np.sqrt(third / (9 * effective))
    balanced = theory_radius(
        "gradient",
        dimension=effective,
        noise=noise,
        pairs=settings.averaged,
        hessian_lipschitz=lipschitz,
    )
    return float(balanced / np.sqrt(effective))

"""A bowl with ripples: many local minima, for methods that look at one place only a losing case."""

from dataclasses import dataclass
from math import pi
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from modicum.zeroth.problems.problem import Array, Separable, check_dimension, place, positive


@dataclass(frozen=True, kw_only=True, eq=False)
class Rastrigin(Separable):
    """The problem that `rastrigin` makes.

    Parameters
    ----------
    curvature
        Of the bowl.
    amplitude, period
        Of the ripples.
    """

    curvature: float
    amplitude: float
    period: float

    def _profile(self, z: Array, order: int) -> Array:
        xp = array_namespace(z)
        wave = 2 * pi / self.period
        if order == 2:
            return self.curvature + self.amplitude * wave**2 * xp.cos(wave * z)
        if order == 1:
            return self.curvature * z + self.amplitude * wave * xp.sin(wave * z)
        # 1 - cos, without cancellation near the minimum.
        return self.curvature * z * z / 2 + 2 * self.amplitude * xp.sin(wave * z / 2) ** 2


def rastrigin(
    dimension: int,
    *,
    curvature: float = 2.0,
    amplitude: float = 10.0,
    period: float = 1.0,
    shift: Any = 1.0,
    rotation: Any = None,
    rng: Any = 0,
) -> Rastrigin:
    """Make ``sum_j curvature z_j²/2 + amplitude (1 - cos(2 pi z_j / period))``.

    With ``z = rotation @ (x - shift)``; the defaults make the function named after Rastrigin. Where
    `strong_convexity` is negative the function is not convex. Minimum value 0; start at the origin.

    Parameters
    ----------
    dimension
        Number of variables.
    curvature
        Of the bowl.
    amplitude, period
        Of the ripples. ``curvature - amplitude (2 pi / period)²`` is the least curvature, the
        attribute `strong_convexity`.
    shift, rotation, rng
        As in `skew`.

    Raises
    ------
    ValueError
        For constants that are not positive and arrays of the wrong shape.
    """
    dimension = check_dimension(dimension)
    positive(curvature=curvature, amplitude=amplitude, period=period)
    optimum, matrix = place(dimension, shift, rotation, rng)
    wave = 2 * pi / period
    return Rastrigin(
        name="rastrigin",
        optimum=optimum,
        minimum=0.0,
        strong_convexity=curvature - amplitude * wave**2,
        hessian_lipschitz=amplitude * wave**3,
        start=np.zeros(dimension),
        rotation=matrix,
        curvature=float(curvature),
        amplitude=float(amplitude),
        period=float(period),
    )

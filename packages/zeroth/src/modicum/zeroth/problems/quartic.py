"""A function of fourth degree: curvature without bound that changes at a rate without bound."""

from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from modicum.zeroth.problems.problem import Array, Separable, check_dimension, place, positive


@dataclass(frozen=True, kw_only=True, eq=False)
class Quartic(Separable):
    """The problem that `quartic` makes.

    Parameters
    ----------
    growth
        Half the third derivative at distance 1 along a coordinate.
    """

    growth: float

    def lipschitz_within(self, radius: float) -> float:
        """Give the Frobenius-Lipschitz constant of the Hessian on a ball around the optimum."""
        return 2 * self.growth * radius

    def _profile(self, z: Array, order: int) -> Array:
        if order == 2:
            return self.strong_convexity + self.growth * z * z
        if order == 1:
            return self.strong_convexity * z + self.growth * z * z * z / 3
        return self.strong_convexity * z * z / 2 + self.growth * (z * z) ** 2 / 12


def quartic(
    dimension: int,
    *,
    strong_convexity: float = 1.0,
    growth: float = 1.0,
    shift: Any = 1.0,
    rotation: Any = None,
    rng: Any = 0,
) -> Quartic:
    """Make ``sum_j strong_convexity z_j²/2 + growth z_j⁴/12`` with ``z = rotation @ (x - shift)``.

    Its Hessian is not Lipschitz on the whole space, so `hessian_lipschitz` is infinite;
    `Quartic.lipschitz_within` gives the constant of a ball. Minimum value 0; start at the origin.

    Parameters
    ----------
    dimension
        Number of variables.
    strong_convexity
        Curvature at the minimum, the least there is.
    growth
        Factor of the part of fourth degree.
    shift, rotation, rng
        As in `skew`.

    Raises
    ------
    ValueError
        For constants that are not positive and arrays of the wrong shape.
    """
    dimension = check_dimension(dimension)
    positive(strong_convexity=strong_convexity, growth=growth)
    optimum, matrix = place(dimension, shift, rotation, rng)
    return Quartic(
        name="quartic",
        optimum=optimum,
        minimum=0.0,
        strong_convexity=float(strong_convexity),
        hessian_lipschitz=inf,
        start=np.zeros(dimension),
        rotation=matrix,
        growth=float(growth),
    )

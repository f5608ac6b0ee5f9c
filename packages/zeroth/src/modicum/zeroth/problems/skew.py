"""A smooth function whose Hessian changes fastest exactly at the minimum.

There the bias of every difference estimator is as large as the class of functions allows; all
constants are exact.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from modicum.zeroth.problems.problem import Array, Separable, check_dimension, like, place, positive


@dataclass(frozen=True, kw_only=True, eq=False)
class Skew(Separable):
    """The problem that `skew` makes.

    Parameters
    ----------
    base_d
        Curvature far on the left of each coordinate, ``(d,)``; it rises by `rise`.
    rise
        By how much the curvature rises from left to right.
    slant
        Inverse of the length over which it rises.
    """

    base_d: np.ndarray
    rise: float
    slant: float

    def _profile(self, z: Array, order: int) -> Array:
        xp = array_namespace(z)
        base = like(self.base_d, z) + self.rise / 2
        bent = self.slant * z
        root = xp.sqrt(1 + bent * bent)
        if order == 2:
            return base + self.rise / 2 * bent / root
        if order == 1:
            # root - 1, without cancellation near the minimum.
            return base * z + self.rise / (2 * self.slant) * (bent * bent / (1 + root))
        odd = z * root + xp.asinh(bent) / self.slant - 2 * z
        return base * z * z / 2 + self.rise / (4 * self.slant) * odd


def skew(
    dimension: int,
    *,
    strong_convexity: float = 1.0,
    rise: float = 2.0,
    hessian_lipschitz: float = 1.0,
    shift: Any = 1.0,
    rotation: Any = None,
    scales: Any = None,
    rng: Any = 0,
) -> Skew:
    """Make a function with curvature between two bounds that changes fastest at the minimum.

    In coordinates ``z = rotation @ (x - shift)`` it is ``sum_j phi_j(z_j)`` with
    ``phi_j''`` rising from ``scales_j * strong_convexity`` to the same plus `rise`; it is half-way
    at 0, where ``phi_j''' = hessian_lipschitz`` is the largest there is. Minimum value 0; start at
    the origin.

    Parameters
    ----------
    dimension
        Number of variables.
    strong_convexity
        Curvature at minus infinity of a coordinate of scale 1.
    rise
        Difference of curvature between both ends of a coordinate.
    hessian_lipschitz
        Frobenius-Lipschitz constant of the Hessian, exact.
    shift
        The minimiser ``(d,)``, or its distance from the origin in a random direction.
    rotation
        Orthogonal ``(d, d)``, True for a random one, None for none.
    scales
        Positive factors ``(d,)`` of `strong_convexity`; None for 1.
    rng
        Seed or generator for what is random.

    Raises
    ------
    ValueError
        For constants that are not positive and arrays of the wrong shape.
    """
    dimension = check_dimension(dimension)
    positive(strong_convexity=strong_convexity, rise=rise, hessian_lipschitz=hessian_lipschitz)
    scales = np.ones(dimension) if scales is None else np.array(scales, dtype=np.float64)
    if scales.shape != (dimension,) or not (scales > 0).all():
        raise ValueError(f"scales must be ({dimension},) and positive, not {scales!r}")
    optimum, matrix = place(dimension, shift, rotation, rng)
    return Skew(
        name="skew",
        optimum=optimum,
        minimum=0.0,
        strong_convexity=float(strong_convexity * scales.min()),
        hessian_lipschitz=float(hessian_lipschitz),
        start=np.zeros(dimension),
        rotation=matrix,
        base_d=strong_convexity * scales,
        rise=float(rise),
        slant=2 * hessian_lipschitz / rise,
    )

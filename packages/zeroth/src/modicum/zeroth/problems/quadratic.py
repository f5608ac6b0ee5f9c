"""A quadratic: no bias at any radius, the case in which a large one costs nothing."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from modicum.zeroth.problems.problem import (
    Array,
    Separable,
    check_dimension,
    like,
    place,
    positive,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Quadratic(Separable):
    """The problem that `quadratic` makes.

    Parameters
    ----------
    eigenvalues
        Of the Hessian, ``(d,)``.
    """

    eigenvalues: np.ndarray

    def _profile(self, z: Array, order: int) -> Array:
        curvature = like(self.eigenvalues, z)
        if order == 2:
            return curvature + 0 * z
        return curvature * z if order == 1 else curvature * z * z / 2


def quadratic(
    dimension: int,
    *,
    strong_convexity: float = 1.0,
    condition: float = 1.0,
    eigenvalues: Any = None,
    shift: Any = 1.0,
    rotation: Any = None,
    rng: Any = 0,
) -> Quadratic:
    """Make ``z @ diag(eigenvalues) @ z / 2`` with ``z = rotation @ (x - shift)``.

    Minimum value 0; start at the origin.

    Parameters
    ----------
    dimension
        Number of variables.
    strong_convexity, condition
        Least eigenvalue, and the ratio of the largest to it; the others lie between them in equal
        ratios.
    eigenvalues
        All of them ``(d,)``, positive, in place of the two.
    shift, rotation, rng
        As in `skew`.

    Raises
    ------
    ValueError
        For constants that are not positive, a condition below 1 and arrays of the wrong shape.
    """
    dimension = check_dimension(dimension)
    if eigenvalues is None:
        positive(strong_convexity=strong_convexity, condition=condition)
        if condition < 1:
            raise ValueError(f"condition must be at least 1, not {condition!r}")
        eigenvalues = strong_convexity * np.geomspace(1, condition, dimension)
    eigenvalues = np.array(eigenvalues, dtype=np.float64)
    if eigenvalues.shape != (dimension,) or not (eigenvalues > 0).all():
        raise ValueError(f"eigenvalues must be ({dimension},) and positive, not {eigenvalues!r}")
    optimum, matrix = place(dimension, shift, rotation, rng)
    return Quadratic(
        name="quadratic",
        optimum=optimum,
        minimum=0.0,
        strong_convexity=float(eigenvalues.min()),
        hessian_lipschitz=0.0,
        start=np.zeros(dimension),
        rotation=matrix,
        eigenvalues=eigenvalues,
    )

"""Cubics: functions on which the bias of a difference estimator is known exactly.

They have no minimum, only a local one, and are convex only near it; they are for estimators, not
for methods. `separable_cubic` and `worst_cubic` both have, at their local minimum, the largest bias
that a Frobenius-Lipschitz Hessian allows a sphere of directions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from modicum.zeroth.problems.problem import (
    Array,
    Problem,
    Separable,
    check_dimension,
    like,
    place,
    positive,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SeparableCubic(Separable):
    """The problem that `separable_cubic` makes; `strong_convexity` is that at the optimum."""

    def _profile(self, z: Array, order: int) -> Array:
        if order == 2:
            return self.strong_convexity + self.hessian_lipschitz * z
        if order == 1:
            return self.strong_convexity * z + self.hessian_lipschitz * z * z / 2
        return self.strong_convexity * z * z / 2 + self.hessian_lipschitz * z * z * z / 6


def separable_cubic(
    dimension: int,
    *,
    curvature: float = 2.0,
    hessian_lipschitz: float = 1.0,
    shift: Any = 0.0,
    rotation: Any = None,
    rng: Any = 0,
) -> SeparableCubic:
    """Make ``sum_j curvature z_j²/2 + hessian_lipschitz z_j³/6``, ``z = rotation @ (x - shift)``.

    Start at the local minimum.

    Parameters
    ----------
    dimension
        Number of variables.
    curvature
        At the local minimum, in every direction; the attribute `strong_convexity`.
    hessian_lipschitz
        Frobenius-Lipschitz constant of the Hessian, exact.
    shift, rotation, rng
        As in `skew`.

    Raises
    ------
    ValueError
        For constants that are not positive and arrays of the wrong shape.
    """
    dimension = check_dimension(dimension)
    positive(curvature=curvature, hessian_lipschitz=hessian_lipschitz)
    optimum, matrix = place(dimension, shift, rotation, rng)
    return SeparableCubic(
        name="separable cubic",
        optimum=optimum,
        minimum=0.0,
        strong_convexity=float(curvature),
        hessian_lipschitz=float(hessian_lipschitz),
        start=optimum.copy(),
        rotation=matrix,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class WorstCubic(Problem):
    """The problem that `worst_cubic` makes; `strong_convexity` is that at the optimum.

    Parameters
    ----------
    direction
        Unit vector ``(d,)`` in which the bias points.
    """

    direction: np.ndarray

    @property
    def _factor(self) -> float:
        return self.hessian_lipschitz / self.dimension**0.5

    def _parts(self, x: Array) -> tuple[Array, Array, Array, Array]:
        z = x - like(self.optimum, x)
        direction = like(self.direction, x)
        along = (z * direction).sum(-1)
        return z, direction, along, (z * z).sum(-1)

    def _fun(self, x: Array) -> Array:
        _, _, along, square = self._parts(x)
        return self.strong_convexity * square / 2 + self._factor * (
            along * square / 2 - along**3 / 3
        )

    def _gradient(self, x: Array) -> Array:
        z, direction, along, square = self._parts(x)
        slope = (square / 2 - along**2)[..., None] * direction + along[..., None] * z
        return self.strong_convexity * z + self._factor * slope

    def _hessian(self, x: Array) -> Array:
        z, direction, along, _ = self._parts(x)
        mixed = direction[:, None] * z[..., None, :]
        mixed = mixed + z[..., :, None] * direction
        line = direction[:, None] * direction
        eye = like(np.eye(self.dimension), x)
        along = along[..., None, None]
        return self.strong_convexity * eye + self._factor * (mixed + along * (eye - 2 * line))


def worst_cubic(
    dimension: int,
    *,
    curvature: float = 0.0,
    hessian_lipschitz: float = 1.0,
    direction: Any = None,
    shift: Any = 0.0,
    rng: Any = 0,
) -> WorstCubic:
    """Make a cubic whose third derivatives all push the gradient estimate in one direction.

    With ``z = x - shift`` and the unit vector ``e`` it is ``curvature |z|²/2 +
    hessian_lipschitz/sqrt(d) ((e @ z) |z|²/2 - (e @ z)³/3)``.  Start at the stationary point.

    Parameters
    ----------
    dimension
        Number of variables.
    curvature
        At the stationary point, in every direction, at least 0; the attribute `strong_convexity`.
    hessian_lipschitz
        Frobenius-Lipschitz constant of the Hessian, exact.
    direction
        ``e``, any length; None for the first axis.
    shift, rng
        As in `skew`.

    Raises
    ------
    ValueError
        For a negative curvature, a Lipschitz constant that is not positive, arrays of the wrong
        shape and a direction of length 0.
    """
    dimension = check_dimension(dimension)
    positive(hessian_lipschitz=hessian_lipschitz)
    if not (np.isfinite(curvature) and curvature >= 0):
        raise ValueError(f"curvature must be at least 0 and finite, not {curvature!r}")
    vector = np.eye(dimension)[0] if direction is None else np.array(direction, dtype=np.float64)
    if vector.shape != (dimension,) or not np.linalg.norm(vector) > 0:
        raise ValueError(f"direction must be ({dimension},) and not zero, not {direction!r}")
    optimum, _ = place(dimension, shift, None, rng)
    return WorstCubic(
        name="worst cubic",
        optimum=optimum,
        minimum=0.0,
        strong_convexity=float(curvature),
        hessian_lipschitz=float(hessian_lipschitz),
        start=optimum.copy(),
        direction=vector / np.linalg.norm(vector),
    )

"""The pair of functions that no method tells apart within the budget they are made for.

Each coordinate has its minimum a little to the left or to the right of 0, and the two functions
differ by so little, and only near there, that so many noisy values say nothing about the side.

Source: "Stochastic Zeroth-Order Optimization under Strong Convexity and Lipschitz Hessian: Minimax
Sample Complexity", Yu et al., arXiv 2406.19617, proof of the lower bound.
"""

from dataclasses import dataclass
from math import cos, pi, sin
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from modicum.zeroth.problems.problem import Array, Separable, check_dimension, like, positive


def _well(u: Array, order: int) -> Array:
    """Give the well (0 at -pi, 2 pi outside of ±3 pi) or its derivative of order 1 or 2."""
    xp = array_namespace(u)
    left = (u > -3 * pi) & (u <= -pi)
    right = (u > -pi) & (u < 3 * pi)
    if order == 2:
        parts = xp.sin(u), xp.cos(u / 2) / 4, xp.zeros_like(u)
    elif order == 1:
        parts = -xp.cos(u) - 1, (xp.sin(u / 2) + 1) / 2, xp.zeros_like(u)
    else:
        rising = -xp.cos(u / 2) + u / 2 + pi / 2
        parts = -xp.sin(u) - u - pi, rising, xp.full_like(u, 2 * pi)
    return xp.where(left, parts[0], xp.where(right, parts[1], parts[2]))


@dataclass(frozen=True, kw_only=True, eq=False)
class LowerBoundInstance(Separable):
    """The problem that `lower_bound_instance` makes.

    Parameters
    ----------
    budget
        Number of evaluations it is hard for.
    signs
        +1 where the minimum lies left of 0, -1 where it lies right of it, ``(d,)``.
    depth, width
        Value and length by which the wells are scaled.
    """

    budget: int
    signs: np.ndarray
    depth: float
    width: float

    def _profile(self, z: Array, order: int) -> Array:
        x = z + like(self.optimum, z)
        signs = like(self.signs, z)
        bend = self.depth * _well(signs * x / self.width, order)
        if order == 2:
            return 2 * self.strong_convexity + bend / self.width**2
        if order == 1:
            return 2 * self.strong_convexity * x + signs * bend / self.width
        return self.strong_convexity * x * x + bend - self.minimum / self.dimension


def lower_bound_instance(
    dimension: int,
    *,
    budget: int,
    strong_convexity: float = 1.0,
    hessian_lipschitz: float = 1.0,
    noise: float = 1.0,
    signs: Any = None,
    rng: Any = 0,
) -> LowerBoundInstance:
    """Make the instance that is hardest for a budget.

    It is ``sum_j strong_convexity x_j² + depth well(signs_j x_j / width)`` with
    ``depth = noise / (pi sqrt(budget))`` and ``width = (depth / hessian_lipschitz)^(1/3)``. All
    coordinates have the same minimum value. Start at the origin, half-way between the signs.

    Parameters
    ----------
    dimension
        Number of variables.
    budget
        Evaluations it is hard for; below `noise² hessian_lipschitz⁴ / (pi² strong_convexity⁶)` it
        would not be strongly convex enough.
    strong_convexity
        A lower bound of the curvature; the least there is lies between it and twice that.
    hessian_lipschitz
        Frobenius-Lipschitz constant of the Hessian, exact.
    noise
        Standard deviation of one evaluation.
    signs
        ``(d,)`` of ±1; None for random ones.
    rng
        Seed or generator for the signs.

    Raises
    ------
    ValueError
        For constants that are not positive, a budget too small for them, and other signs.
    """
    dimension = check_dimension(dimension)
    positive(
        budget=budget,
        strong_convexity=strong_convexity,
        hessian_lipschitz=hessian_lipschitz,
        noise=noise,
    )
    least = (noise * hessian_lipschitz**2 / (pi * strong_convexity**3)) ** 2
    if budget < least:
        raise ValueError(
            f"budget must be at least {least:.6g} for a strong convexity of {strong_convexity},"
            f" not {budget!r}"
        )
    if signs is None:
        signs = np.random.default_rng(rng).choice([-1.0, 1.0], dimension)
    signs = np.array(signs, dtype=np.float64)
    if signs.shape != (dimension,) or not (np.abs(signs) == 1).all():
        raise ValueError(f"signs must be ({dimension},) of +1 and -1, not {signs!r}")
    depth = noise / (pi * budget**0.5)
    width = (depth / hessian_lipschitz) ** (1 / 3)
    place = _stationary(2 * strong_convexity * width**2 / depth)
    lowest = strong_convexity * (place * width) ** 2
    lowest += depth * (-cos(place / 2) + place / 2 + pi / 2)
    return LowerBoundInstance(
        name="lower-bound instance",
        optimum=signs * place * width,
        minimum=dimension * lowest,
        strong_convexity=float(strong_convexity),
        hessian_lipschitz=float(hessian_lipschitz),
        start=np.zeros(dimension),
        budget=int(budget),
        signs=signs,
        depth=depth,
        width=width,
    )


def _stationary(slope: float) -> float:
    """Solve ``slope u + (sin(u/2) + 1)/2 = 0`` on (-pi, 0), where the left side rises."""
    low, high = -pi, 0.0
    while low < (middle := (low + high) / 2) < high:
        if slope * middle + (sin(middle / 2) + 1) / 2 < 0:
            low = middle
        else:
            high = middle
    return low

"""A function whose curvature has no upper bound, though it changes at a bounded rate.

Methods whose step sizes need the largest curvature must know it for the place they start from;
here it grows with the distance.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from modicum.zeroth.problems.problem import Array, positive
from modicum.zeroth.problems.skew import Skew, skew


@dataclass(frozen=True, kw_only=True, eq=False)
class Hypot(Skew):
    """The problem that `hypot` makes.

    Parameters
    ----------
    growth
        Slope of the curvature far away.
    """

    growth: float

    def _profile(self, z: Array, order: int) -> Array:
        xp = array_namespace(z)
        root = xp.sqrt(1 + z * z)
        inner = Skew._profile(self, z, order)
        if order == 2:
            return inner + self.growth * root
        if order == 1:
            return inner + self.growth / 2 * (z * root + xp.asinh(z))
        # (1+z²)^(3/2)/6 - sqrt(1+z²)/2 + 1/3, without cancellation near the minimum.
        excess = z * z / (1 + root)
        return inner + self.growth * (z * xp.asinh(z) + excess * excess * (1 + excess / 3)) / 2


def hypot(
    dimension: int,
    *,
    strong_convexity: float = 1.0,
    rise: float = 2.0,
    hessian_lipschitz: float = 1.0,
    growth: float | None = None,
    shift: Any = 1.0,
    rotation: Any = None,
    scales: Any = None,
    rng: Any = 0,
) -> Hypot:
    """Make a function whose curvature grows without bound.

    It is `skew` plus a function of each coordinate with curvature ``growth * sqrt(1 + z²)``.
    Minimum value 0; start at the origin.

    Parameters
    ----------
    dimension, strong_convexity, rise, shift, rotation, scales, rng
        As in `skew`; the strong convexity of the whole is larger, and the attribute
        `strong_convexity` a bound that counts `growth`, the least curvature of its part.
    hessian_lipschitz
        Of the part that is `skew`. The attribute `hessian_lipschitz` is that of the whole: the
        largest third derivative, found numerically to 1e-9.
    growth
        Slope of the curvature far away; None for `hessian_lipschitz`.

    Raises
    ------
    ValueError
        For constants that are not positive and arrays of the wrong shape.
    """
    growth = hessian_lipschitz if growth is None else growth
    positive(growth=growth)
    inner = skew(
        dimension,
        strong_convexity=strong_convexity,
        rise=rise,
        hessian_lipschitz=hessian_lipschitz,
        shift=shift,
        rotation=rotation,
        scales=scales,
        rng=rng,
    )
    values = {field.name: getattr(inner, field.name) for field in fields(inner)}
    values |= {
        "name": "hypot",
        "strong_convexity": inner.strong_convexity + growth,
        "hessian_lipschitz": _largest_third_derivative(hessian_lipschitz, inner.slant, growth),
    }
    return Hypot(**values, growth=float(growth))


def _largest_third_derivative(skewness: float, slant: float, growth: float) -> float:
    from scipy.optimize import minimize_scalar

    # With z = tan(angle) the whole line is an interval; both parts fall on the negative side.
    def third(angle: float) -> float:
        z = np.tan(angle)
        return float(skewness / (1 + (slant * z) ** 2) ** 1.5 + growth * np.sin(angle))

    angles = np.linspace(0, np.pi / 2, 1001)
    best = int(np.argmax([third(angle) for angle in angles[:-1]] + [growth]))
    low, high = angles[max(best - 1, 0)], angles[min(best + 1, len(angles) - 1)]
    found = minimize_scalar(
        lambda angle: -third(angle), bounds=(low, high), method="bounded", options={"xatol": 1e-10}
    )
    return max(-float(found.fun), skewness, growth)

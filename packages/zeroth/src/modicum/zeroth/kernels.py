"""Weights that cancel the bias of two-point differences at random distances.

A pair ``x ± h ζ u`` with ``ζ`` uniform on ``[-1, 1]`` gives the gradient estimate
``(d / (2 h)) (y₊ - y₋) K(ζ) u``; a kernel ``K`` of order ``k`` removes the terms of ``f`` along
``u`` up to degree ``k``. Works on floats, NumPy arrays and torch tensors; draws nothing.

Sources: Bach and Perchet, "Highly-Smooth Zero-th Order Online Optimization" (arXiv 1605.08165), and
Akhavan, Pontil and Tsybakov, "Exploiting Higher Order Smoothness in Derivative-free Optimization
and Continuous Bandits" (arXiv 2006.07862), for the construction from Legendre polynomials.
"""

import operator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

Array = Any
"""A float, a NumPy array or a torch tensor."""


@dataclass(frozen=True)
class Kernel:
    """An odd polynomial weight ``K`` on ``[-1, 1]``.

    With ``ζ`` uniform there, ``E[ζ K(ζ)] = 1`` and ``E[ζ^j K(ζ)] = 0`` for the other
    ``j <= order``.

    Attributes
    ----------
    order
        Highest power that is cancelled (or, for 1, kept).
    legendre
        Coefficients of the Legendre polynomials ``P_0, P_1, …``; even ones are zero.
    second_moment
        ``E[K(ζ)²]``, the factor by which the kernel multiplies the noise of a plain difference.
    """

    order: int
    legendre: tuple[float, ...]
    second_moment: float

    def __call__(self, zeta: Array) -> Array:
        """Evaluate at values in ``[-1, 1]``; shape, dtype and library stay."""
        # Clenshaw's recurrence: sums of powers cancel badly for high orders.
        last, before = 0 * zeta, 0 * zeta
        for degree in range(len(self.legendre) - 1, 0, -1):
            here = self.legendre[degree] + (2 * degree + 1) / (degree + 1) * zeta * last
            last, before = here - (degree + 1) / (degree + 2) * before, last
        return self.legendre[0] + zeta * last - before / 2


def bach_perchet(order: int) -> Kernel:
    """Give the kernel of an order: ``3ζ`` for 1 and 2, ``(15ζ/4)(5 - 7ζ²)`` for 3 and 4.

    Parameters
    ----------
    order
        Highest degree to cancel, at least 1. Higher orders need smoother functions and cost more
        noise (`Kernel.second_moment`: 3, 18.75, 57.4 for orders 1, 3, 5).

    Returns
    -------
    Kernel
        ``Σ_m (2m + 1) P_m'(0) P_m`` over ``m <= order``, with Legendre polynomials ``P_m``.

    Raises
    ------
    ValueError
        If the order is below 1.
    TypeError
        If it is no whole number.
    """
    order = operator.index(order)
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
    legendre = [(2 * m + 1) * _slope_at_zero(m) for m in range(order + 1)]
    # P_m has mean square 1 / (2m + 1) under the uniform law.
    second_moment = sum(c**2 / (2 * m + 1) for m, c in enumerate(legendre))
    return Kernel(order, tuple(map(float, legendre)), float(second_moment))


def _slope_at_zero(degree: int) -> Fraction:
    # P_m'(0) = m P_{m-1}(0), and P_{2j}(0) = -(2j - 1)/(2j) P_{2j-2}(0).
    if degree % 2 == 0:
        return Fraction(0)
    value = Fraction(1)
    for even in range(2, degree, 2):
        value *= Fraction(1 - even, even)
    return degree * value

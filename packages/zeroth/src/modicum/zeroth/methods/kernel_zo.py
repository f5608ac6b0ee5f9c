"""Stochastic gradient descent on pairs at random distances, whose weights cancel bias.

Sources: Bach and Perchet, "Highly-Smooth Zero-th Order Online Optimization" (arXiv 1605.08165);
Akhavan, Pontil and Tsybakov, "Exploiting Higher Order Smoothness in Derivative-free Optimization
and Continuous Bandits" (arXiv 2006.07862).
"""

import math
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.zeroth.arguments import integer
from modicum.zeroth.kernels import bach_perchet
from modicum.zeroth.methods.zosgd import ZOSGD

__all__ = ["KernelZO"]

LIPSCHITZ_HESSIAN = 3
_DRAWN = 1024


class KernelZO(ZOSGD):
    """Averaged stochastic gradient descent with a smoothing kernel.

    With ``ζ`` uniform on ``[-1, 1]`` and ``u`` on the sphere a pair at ``x ± h_t ζ u`` estimates
    the gradient by ``d/(2 h_t) (y₊ - y₋) K(ζ) u``. The kernel ``K`` removes what derivatives up to
    `order` add to it, at the price of more noise. Steps are those of `ZOSGD` but for

    * ``h_t = h_1 n_t^(-1/(2 order))``, with ``h_1 = √d (σ √E[K²]/ρ)^(1/3)`` for order 3 if the
      constants are known, and ``√d scale`` otherwise;
    * ``η_1 = 1/(L (1 + (d E[ζ²K²] - 1)/pairs))``.

    Parameters
    ----------
    x0, budget, **settings
        As for `ZOSGD`.
    order
        How smooth the function is: 2 for a Lipschitz gradient, 3 for a Lipschitz Hessian, and so
        on. The kernel is ``3ζ`` for 1 and 2, ``(15ζ/4)(5 - 7ζ²)`` for 3 and 4.
    """

    name = "kernel"

    def __init__(self, x0: Any, budget: int, *, order: int = 3, **settings: Any) -> None:
        self.order = integer("order", order)
        self._kernel = bach_perchet(self.order)
        # Exact for the polynomial ζ²K².
        zeta, weight = np.polynomial.legendre.leggauss(self.order + 2)
        self._second = float(weight @ (zeta * self._kernel(zeta)) ** 2 / 2)
        self._drawn: tuple[tuple[str, int], np.ndarray] | None = None
        super().__init__(x0, budget, **settings)

    def _first_radius(self) -> float:
        unit = self.space.length
        constants = self.noise is not None and self.hessian_lipschitz is not None
        if constants and self.order == LIPSCHITZ_HESSIAN:
            assert self.noise is not None and self.hessian_lipschitz is not None
            noise = self.noise * math.sqrt(self._kernel.second_moment)
            unit = math.cbrt(noise / self.hessian_lipschitz)
        return math.sqrt(self.dimension) * unit

    def _radius_decay(self) -> float:
        return 1 / (2 * self.order)

    def _inflation(self) -> float:
        return self._second

    def _distances(self, stream: str, first: int, count: int) -> np.ndarray:
        blocks = range(first // _DRAWN, (first + count - 1) // _DRAWN + 1)
        drawn = [self._block(stream, block) for block in blocks]
        begin = first - blocks[0] * _DRAWN
        return (drawn[0] if len(drawn) == 1 else np.concatenate(drawn))[begin : begin + count]

    def _block(self, stream: str, block: int) -> np.ndarray:
        if self._drawn is None or self._drawn[0] != (stream, block):
            rng = numpy_generator(self.seed, "distances", stream, block)
            self._drawn = ((stream, block), rng.uniform(-1, 1, _DRAWN))
        return self._drawn[1]

    def _pair_weights(self, distance_N: np.ndarray) -> np.ndarray:
        return np.asarray(self._kernel(distance_N))

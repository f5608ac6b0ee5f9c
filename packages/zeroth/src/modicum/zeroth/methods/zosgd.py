"""Stochastic gradient descent on random pairs, with radii that follow the noise.

Source of the radius: "Stochastic Zeroth-Order Optimization under Strong Convexity and Lipschitz
Hessian: Minimax Sample Complexity" (arXiv 2406.19617), algorithm 4; of the step sizes: the usual
ones of strongly convex stochastic gradient descent, with the average of the last half of the
iterates (Rakhlin, Shamir, Sridharan, "Making gradient descent optimal for strongly convex
stochastic optimization", 2012).
"""

import math
from typing import Any

from modicum.zeroth.arguments import positive
from modicum.zeroth.methods.streaming import DELAY_SHARE, Streaming

__all__ = ["ZOSGD"]

STEP_DECAY = 2 / 3
"""Decay of steps where the curvature is not known: above 1/2, below 1, as averaging wants it."""


class ZOSGD(Streaming):
    """Averaged two-point stochastic gradient descent.

    ``x ← P(x - η_t ĝ)`` with the mean ``ĝ`` of ``d/(2 h_t) (y₊ - y₋) u`` over `pairs` pairs at
    ``x ± h_t u``, and ``P`` the projection onto the bounds. With ``n_t`` pairs up to step ``t``

    * ``h_t = h_1 n_t^(-1/6)``, at most `max_radius`, with ``h_1 = √d (σ/ρ)^(1/3)``: the radius at
      which bias and noise of all pairs so far balance;
    * ``η_t = min(2/(M t), η_1)`` with ``η_1 = 1/(L (1 + (d - 1)/pairs))``.

    Without ``σ`` and ``ρ``, ``h_1 = √d scale``. Without ``L``, ``η_1`` makes a first step of
    `first_step`. Without ``M``, ``η_t = η_1 ((1 + A)/(t + A))^(2/3)`` with ``A`` a hundredth of the
    number of steps.

    Parameters
    ----------
    x0, budget, **settings
        As for `Optimizer`, and `pairs`, `average` (``"tail"``), `first_step`, `probes` and
        `final_share` as for `Streaming`. Constants of the function are in internal coordinates.
    smoothness
        ``L``, the largest curvature; None if unknown. Too small a value makes the run diverge.
    radius
        ``h_1``; None for the above.
    max_radius
        Largest radius; None for ``√d scale``.
    step_size
        ``η_1``; None for the above.
    """

    name = "zosgd"

    def __init__(
        self,
        x0: Any,
        budget: int,
        *,
        smoothness: float | None = None,
        radius: float | None = None,
        max_radius: float | None = None,
        step_size: float | None = None,
        **settings: Any,
    ) -> None:
        self.smoothness = None if smoothness is None else positive("smoothness", smoothness)
        self.radius = None if radius is None else positive("radius", radius)
        self.max_radius = None if max_radius is None else positive("max_radius", max_radius)
        self.step_size = None if step_size is None else positive("step_size", step_size)
        super().__init__(x0, budget, **settings)

    # What depends on how pairs are weighted -------------------------------------------------------

    def _first_radius(self) -> float:
        """Give ``h_1`` where the user does not."""
        unit = self.space.length
        if self.noise is not None and self.hessian_lipschitz is not None:
            unit = math.cbrt(self.noise / self.hessian_lipschitz)
        return math.sqrt(self.dimension) * unit

    def _radius_decay(self) -> float:
        """Give the exponent with which radii fall."""
        return 1 / 6

    def _inflation(self) -> float:
        """Give ``E‖g‖²/‖∇f‖²`` of one pair without noise on a linear function, over ``d``."""
        return 1.0

    # Radii and steps ------------------------------------------------------------------------------

    def _probing(self) -> bool:
        return self.step_size is None and self.smoothness is None

    def _radius(self, step: int) -> float:
        first = self._first_radius() if self.radius is None else self.radius
        largest = self.max_radius
        if largest is None:
            largest = math.sqrt(self.dimension) * self.space.length
        return min(largest, first * ((step + 1) * self.pairs) ** -self._radius_decay())

    def _step_size(self, step: int) -> float:
        first = self.step_size
        if first is None and self.smoothness is not None:
            spread = (self.dimension * self._inflation() - 1) / self.pairs
            first = 1 / (self.smoothness * (1 + spread))
        if first is None:
            first = self._probed_step_size
        if self.strong_convexity is not None:
            return min(2 / (self.strong_convexity * (step + 1)), first)
        delay = DELAY_SHARE * self.steps
        return float(first * ((1 + delay) / (step + 1 + delay)) ** STEP_DECAY)

"""Simultaneous perturbation stochastic approximation, with Spall's gains.

Sources: Spall, "Multivariate stochastic approximation using a simultaneous perturbation gradient
approximation" (1992); "Implementation of the simultaneous perturbation algorithm for stochastic
optimization" (1998) for the choice of gains.
"""

import math
from typing import Any, NamedTuple

from modicum.zeroth.arguments import one_of, positive
from modicum.zeroth.methods.streaming import (
    DELAY_SHARE,
    FINAL_SHARE,
    FIRST_STEP,
    PROBES,
    Streaming,
)

__all__ = ["GAINS", "SPSA"]


class Gains(NamedTuple):
    """Exponents of the step size and of the perturbation."""

    step: float
    perturbation: float


GAINS = {
    "practical": Gains(0.602, 0.101),
    "asymptotic": Gains(1.0, 1 / 6),
    "tuned": Gains(1.0, 1 / 6),
}
"""Exponents by name: Spall's recommendation, the ones with the best limit, and the same with
factors from the constants of the function."""


class SPSA(Streaming):
    """Two-point gradient descent along random signs.

    With signs ``Δ`` in ``{-1, 1}^d`` a pair at ``x ± c_k Δ`` estimates entry ``i`` of the gradient
    by ``(y₊ - y₋)/(2 c_k Δ_i)``; the mean over `pairs` of them is ``ĝ`` and
    ``x ← P(x - a_k ĝ)``, with ``a_k = a/(A + k + 1)^α``, ``c_k = c/(k + 1)^γ`` and the projection
    ``P`` onto the bounds.

    Parameters
    ----------
    x0, budget, scale, noise, strong_convexity, hessian_lipschitz, bounds, paired, rng, device
        As for `Optimizer`.
    close_fraction
        As for `Optimizer`.
    pairs, average, first_step, probes, final_share
        As for `Streaming`. `average` is ``"none"``, as published.
    gains
        ``"practical"``: ``α = 0.602``, ``γ = 0.101``. ``"asymptotic"``: ``α = 1``, ``γ = 1/6``.
        ``"tuned"``: the same with ``a = 2/M``, ``A = max(0, 2 d L/M - 1)`` and ``c = (σ/ρ)^(1/3)``,
        for which `strong_convexity`, `smoothness`, `noise` and `hessian_lipschitz` are needed.
    step_size
        ``a``; None for the value that makes the first step `first_step` long in each coordinate.
    perturbation
        ``c``; None for `scale`.
    stability
        ``A``; None for a hundredth of the number of steps.
    smoothness
        ``L``, the largest curvature, for ``"tuned"``.

    Raises
    ------
    ValueError
        If `gains` is none of these, or lacks a constant.

    Notes
    -----
    Source: Spall 1992 and 1998. The probing pairs at the start are his "average magnitude of the
    gradient elements".
    """

    name = "spsa"

    def __init__(
        self,
        x0: Any,
        budget: int,
        *,
        gains: str = "practical",
        step_size: float | None = None,
        perturbation: float | None = None,
        stability: float | None = None,
        smoothness: float | None = None,
        pairs: int = 1,
        average: str = "none",
        first_step: float = FIRST_STEP,
        probes: int = PROBES,
        final_share: float = FINAL_SHARE,
        scale: Any = 1.0,
        noise: float | None = None,
        strong_convexity: float | None = None,
        hessian_lipschitz: float | None = None,
        bounds: Any = None,
        paired: bool = False,
        rng: Any = None,
        device: Any = None,
        close_fraction: float = 1.0,
    ) -> None:
        self.gains = one_of("gains", gains, GAINS)
        self.step_size = None if step_size is None else positive("step_size", step_size)
        self.perturbation = None if perturbation is None else positive("perturbation", perturbation)
        self.stability = stability
        if stability is not None and not 0 <= stability < math.inf:
            raise ValueError(f"stability must be zero or positive and finite, not {stability!r}")
        self.smoothness = None if smoothness is None else positive("smoothness", smoothness)
        needed = {
            "strong_convexity": strong_convexity,
            "smoothness": smoothness,
            "noise": noise,
            "hessian_lipschitz": hessian_lipschitz,
        }
        missing = [name for name, value in needed.items() if value is None]
        if gains == "tuned" and missing:
            raise ValueError(f"gains='tuned' needs {', '.join(missing)}")
        super().__init__(
            x0,
            budget,
            pairs=pairs,
            average=average,
            first_step=first_step,
            probes=probes,
            final_share=final_share,
            scale=scale,
            noise=noise,
            strong_convexity=strong_convexity,
            hessian_lipschitz=hessian_lipschitz,
            bounds=bounds,
            paired=paired,
            directions="rademacher",
            rng=rng,
            device=device,
            close_fraction=close_fraction,
        )

    def _probing(self) -> bool:
        return self.step_size is None and self.gains != "tuned"

    def _radius(self, step: int) -> float:
        first = self.perturbation
        if first is None:
            first = self.space.length
            if self.gains == "tuned" and self.noise is not None and self.hessian_lipschitz:
                first = math.cbrt(self.noise / self.hessian_lipschitz)
        # The signs are directions of length √d.
        return math.sqrt(self.dimension) * first / (step + 1) ** GAINS[self.gains].perturbation

    def _step_size(self, step: int) -> float:
        decay = GAINS[self.gains].step
        delay = self.stability
        first = self.step_size
        if self.gains == "tuned" and self.strong_convexity and self.smoothness:
            first = 2 / self.strong_convexity if first is None else first
            if delay is None:
                delay = max(0.0, 2 * self.dimension * self.smoothness / self.strong_convexity - 1)
        if delay is None:
            delay = DELAY_SHARE * self.steps
        if first is None:
            first = self._probed_step_size * (delay + 1) ** decay
        return first / (delay + step + 1) ** decay

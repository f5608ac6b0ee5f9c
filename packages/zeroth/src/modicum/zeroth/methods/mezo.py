"""Two-point gradient descent along Gaussian directions, as it fine-tunes language models.

Source: Malladi et al., "Fine-Tuning Language Models with Just Forward Passes" (arXiv 2305.17333).
This is the method for a vector in memory; `modicum.zeroth.torch` has the one for modules.
"""

import math
from typing import Any

from modicum.zeroth.arguments import one_of, positive
from modicum.zeroth.methods.streaming import FINAL_SHARE, FIRST_STEP, PROBES, Streaming

__all__ = ["SCHEDULES", "MeZO"]

SCHEDULES = ("constant", "linear")
"""Learning rates: the same for all steps, or falling to 0 along a line."""

PAIRED_PERTURBATION = 1e-3
"""``ε`` in units of the scale where both sides of a pair share their noise, as published."""


class MeZO(Streaming):
    """Stochastic gradient descent along standard normal directions.

    A pair at ``x ± ε z`` with ``z ~ N(0, I)`` estimates the gradient by ``(y₊ - y₋)/(2 ε) z``, and
    ``x ← P(x - η ĝ)`` with the mean ``ĝ`` over `pairs` pairs and the projection ``P`` onto the
    bounds. Directions are not stored: they are drawn again from the seed and the number of the
    step.

    Parameters
    ----------
    x0, budget, scale, noise, strong_convexity, hessian_lipschitz, bounds, paired, rng, device
        As for `Optimizer`.
    close_fraction
        As for `Optimizer`.
    pairs, average, first_step, probes, final_share
        As for `Streaming`. `average` is ``"none"``, as published.
    perturbation
        ``ε``. None: a thousandth of `scale` with `paired`, as published. With independent noise
        that would drown everything: then it is ``(σ²/(n ρ²))^(1/6)``, at which bias and noise of
        all ``n`` pairs balance, or ``scale n^(-1/6)`` if a constant is not known; at most
        ``scale/√d``.
    learning_rate
        ``η``; None for the value that makes the first step `first_step` long in each coordinate,
        divided by the dimension so that it stays stable at a constant rate.
    schedule
        ``"constant"``, as published, or ``"linear"``.
    """

    name = "mezo"

    def __init__(
        self,
        x0: Any,
        budget: int,
        *,
        perturbation: float | None = None,
        learning_rate: float | None = None,
        schedule: str = "constant",
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
        self.perturbation = None if perturbation is None else positive("perturbation", perturbation)
        self.learning_rate = (
            None if learning_rate is None else positive("learning_rate", learning_rate)
        )
        self.schedule = one_of("schedule", schedule, SCHEDULES)
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
            directions="gaussian",
            rng=rng,
            device=device,
            close_fraction=close_fraction,
        )

    def _probing(self) -> bool:
        return self.learning_rate is None

    def _radius(self, step: int) -> float:
        # Directions are drawn with a length of about 1 instead of √d.
        return math.sqrt(self.dimension) * self._perturbation()

    def _perturbation(self) -> float:
        if self.perturbation is not None:
            return self.perturbation
        length = self.space.length
        if self.paired:
            return PAIRED_PERTURBATION * length
        unit = length
        if self.noise is not None and self.hessian_lipschitz is not None:
            unit = math.cbrt(self.noise / self.hessian_lipschitz)
        return min(length / math.sqrt(self.dimension), unit * (self.budget // 2) ** (-1 / 6))

    def _step_size(self, step: int) -> float:
        rate = self.learning_rate
        if rate is None:
            rate = self._probed_step_size / self.dimension
        return rate * (1 - step / self.steps) if self.schedule == "linear" else rate

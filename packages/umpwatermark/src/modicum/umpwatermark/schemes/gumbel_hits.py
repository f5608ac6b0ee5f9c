"""Gumbel-max tokens with a count of large pivots."""

import math

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes._hits import HitScheme, Rate, check_gamma


class GumbelHitsScheme(HitScheme):
    """Counts ``Y > 1 - gamma``, Binomial(n, gamma) under the null.

    Parameters
    ----------
    gamma
        Level of the region, in ``(0, 1)``.
    """

    name = "gumbel_hits"

    def __init__(self, gamma: float = 0.1) -> None:
        self.gamma = check_gamma(gamma)
        self.label = f"Gumbel-max, count of Y > {1 - gamma:g}"

    def __repr__(self) -> str:
        return f"GumbelHitsScheme(gamma={self.gamma})"

    def _hit_rate(self, profile: EntropyProfile) -> Rate:
        weights_C, prob_C = profile.pooled
        return Rate(-float(weights_C @ np.expm1(math.log1p(-self.gamma) / prob_C)))

    def _draw_hits(
        self, profile: EntropyProfile, num_texts: int, num_tokens: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        hits_R = np.zeros(num_texts, dtype=np.int64)
        for _ in range(num_tokens):
            prob_R = profile.prob_A[profile.draw_tokens(rng, num_texts)]
            hits_R += np.exp(-prob_R * rng.standard_exponential(num_texts)) > 1 - self.gamma
        return hits_R

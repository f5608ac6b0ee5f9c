"""Distortion-free green lists: token-level regions of independent tokens, coupled to hit often."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark.agnostic import (
    AgnosticCoupling,
    greedy_hit_rate,
    greedy_law,
    optimal_hit_rate,
)
from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes._hits import HitScheme, Rate, check_gamma, known_laws

Coupling = Literal["optimal", "greedy"]

ROWS = 512
"""Laws whose hit rates are computed at once."""


class GreenListScheme(HitScheme):
    """Every token is in the region with probability gamma; the output's law given it averages to q.

    Parameters
    ----------
    gamma
        Level of the region, in ``(0, 1)``.
    coupling
        ``"optimal"`` (most hits of any coupling) or ``"greedy"`` (one pass, nearly as many on laws
        of language models).

    Notes
    -----
    Model-agnostic setting of "Towards Optimal Statistical Watermarking" (arXiv 2312.07930), applied
    to each token.
    """

    name = "greenlist"
    needs_laws = True

    def __init__(self, gamma: float = 0.5, coupling: Coupling = "optimal") -> None:
        self.gamma = check_gamma(gamma)
        if coupling not in get_args(Coupling):
            raise ValueError(f"coupling must be one of {get_args(Coupling)}, got {coupling!r}")
        self.coupling = coupling
        self.label = f"green list γ={gamma:g}, {coupling} coupling"

    def __repr__(self) -> str:
        return f"GreenListScheme(gamma={self.gamma}, coupling={self.coupling!r})"

    def _hit_rate(self, profile: EntropyProfile) -> Rate:
        laws_BV, weights_B = known_laws(profile)
        rate = optimal_hit_rate if self.coupling == "optimal" else greedy_hit_rate
        parts = [
            np.atleast_1d(rate(laws_BV[at : at + ROWS], self.gamma))
            for at in range(0, len(laws_BV), ROWS)
        ]
        return Rate(float(weights_B @ np.concatenate(parts)))

    def _draw_hits(
        self, profile: EntropyProfile, num_texts: int, num_tokens: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        laws_BV, _ = known_laws(profile)
        contexts_S = profile.draw_contexts(rng, num_texts * num_tokens)
        hits_S = np.zeros(len(contexts_S), dtype=np.int64)
        for context in np.unique(contexts_S):
            (at,) = np.nonzero(contexts_S == context)
            if self.coupling == "optimal":
                token, region = AgnosticCoupling(laws_BV[context], self.gamma).sample(rng, len(at))
                hits_S[at] = region[np.arange(len(at)), token]
            else:
                region = rng.random((len(at), laws_BV.shape[1])) < self.gamma
                law = greedy_law(
                    np.broadcast_to(laws_BV[context], region.shape), region, self.gamma
                )
                hits_S[at] = rng.random(len(at)) < (law * region).sum(axis=1)
        return hits_S.reshape(num_texts, num_tokens).sum(axis=1)

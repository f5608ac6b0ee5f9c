"""The best watermark of whole texts whose region law is fixed before the model is known."""

import math

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark.iid import agnostic_acceptance, agnostic_error
from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes.base import CannotPlanError, PlannedScheme, Type2
from modicum.umpwatermark.schemes.ump import text_surprisals


class AgnosticScheme(PlannedScheme):
    """Every text enters the region with probability alpha; the output is coupled optimally.

    The detector needs no model. A yardstick: coupling whole texts is out of reach.

    Notes
    -----
    Setting of "Towards Optimal Statistical Watermarking" (arXiv 2312.07930); value our derivation.
    """

    name = "agnostic"
    label = "model-agnostic optimum (bound without model)"

    def _type2(self, profile: EntropyProfile, num_tokens: int, alpha: float) -> Type2:
        return Type2.of(agnostic_error(profile, num_tokens, alpha))

    def _simulate(
        self,
        profile: EntropyProfile,
        num_texts: int,
        num_tokens: int,
        alpha: float,
        rng: np.random.Generator,
        null: bool,
    ) -> NDArray[np.bool_]:
        if null:
            return rng.random(num_texts) < alpha
        if profile.spike_mass is None:
            raise CannotPlanError("the optimal coupling is simulated for two-token laws only")
        surprisal_R = text_surprisals(profile, num_texts, num_tokens, rng)
        rare = profile.spike_mass
        if rare == 0.5:
            k_R = np.zeros(num_texts, dtype=np.int64)
        else:
            least = -num_tokens * math.log1p(-rare)
            k_R = np.rint((surprisal_R - least) / (math.log1p(-rare) - math.log(rare)))
        accept_K = agnostic_acceptance(rare, num_tokens, alpha)
        return rng.random(num_texts) < accept_K[k_R.astype(np.int64)]

"""The uniformly most powerful watermark of whole texts: no watermark of its level does better."""

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark.iid import ump_error
from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes.base import PlannedScheme, Type2


class UMPScheme(PlannedScheme):
    """Region ``{x}`` with probability ``min(rho(x), alpha)``: the bound for every scheme.

    The detector must know the model's law of the text.

    Notes
    -----
    "Towards Optimal Statistical Watermarking" (arXiv 2312.07930).
    """

    name = "ump"
    label = "UMP optimum (bound for any scheme)"
    uses_model = True

    def _type2(self, profile: EntropyProfile, num_tokens: int, alpha: float) -> Type2:
        return Type2.of(ump_error(profile, num_tokens, alpha))

    def _simulate(
        self,
        profile: EntropyProfile,
        num_texts: int,
        num_tokens: int,
        alpha: float,
        rng: np.random.Generator,
        null: bool,
    ) -> NDArray[np.bool_]:
        surprisal_R = text_surprisals(profile, num_texts, num_tokens, rng)
        # R = {x} with probability min(rho, alpha)/rho given that x is the output of the coupling,
        # and min(rho, alpha) for a text that is independent of R.
        if null:
            accept_R = np.minimum(np.exp(-surprisal_R), alpha)
        else:
            accept_R = np.exp(np.minimum(surprisal_R + np.log(alpha), 0.0))
        return rng.random(num_texts) < accept_R


def text_surprisals(
    profile: EntropyProfile, num_texts: int, num_tokens: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return ``-ln rho(X)`` of simulated texts, nats, float64 ``[R]``."""
    total_R = np.zeros(num_texts)
    for _ in range(num_tokens):
        total_R += profile.surprisal_A[profile.draw_tokens(rng, num_texts)]
    return total_R

"""The most powerful coupling applied to each token with a surrogate's law (DAWA)."""

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes._hits import HitScheme, Rate, check_gamma


class DawaScheme(HitScheme):
    """Region ``{x}`` with probability ``min(surrogate(x), alpha_token)``; counts hits.

    A token that is independent of the key hits with probability at most alpha_token, whatever the
    surrogate, so the binomial test at alpha_token has its level for any text.

    Parameters
    ----------
    alpha_token
        Level of every token.

    Notes
    -----
    DAWA (arXiv 2410.02890), with a maximal coupling of token and region where the surrogate is not
    the model.
    """

    name = "dawa"
    uses_model = True

    def __init__(self, alpha_token: float = 0.2) -> None:
        self.gamma = check_gamma(alpha_token)
        self.label = f"DAWA α_token={alpha_token:g} (UMP per token)"

    def __repr__(self) -> str:
        return f"DawaScheme({self.gamma})"

    def _hit_rate(self, profile: EntropyProfile) -> Rate:
        # sum_x min(q, surrogate, alpha) = E min(1, surrogate/q, alpha/q).
        return Rate(float(profile.weights_A @ self._accept(profile)))

    def _accept(self, profile: EntropyProfile) -> NDArray[np.float64]:
        region_A = np.minimum(profile.surrogate_A, self.gamma)
        return np.minimum(1.0, region_A / profile.prob_A)

    def _draw_hits(
        self, profile: EntropyProfile, num_texts: int, num_tokens: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        accept_A = self._accept(profile)
        hits_R = np.zeros(num_texts, dtype=np.int64)
        for _ in range(num_tokens):
            token_R = profile.draw_tokens(rng, num_texts)
            hits_R += rng.random(num_texts) < accept_A[token_R]
        return hits_R

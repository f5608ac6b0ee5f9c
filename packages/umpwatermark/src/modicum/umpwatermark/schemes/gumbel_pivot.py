"""Gumbel-max tokens with the most powerful test of the pivot alone."""

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes._scores import FINE_EDGES, PivotScheme
from modicum.umpwatermark.schemes.gumbel_sum import pivot_cdf

Floats = NDArray[np.float64]


class GumbelPivotScheme(PivotScheme):
    """Adds up the log-likelihood ratio of the pivot's pooled law: the best that Y alone allows.

    Parameters
    ----------
    edges
        Bin edges in ``[0, 1]``; by default so fine that finer ones change no figure.
        `modicum.umpwatermark.schemes.learned_edges` gives those that a learned score uses.
    """

    name = "gumbel_pivot"

    def __init__(self, edges: Floats = FINE_EDGES) -> None:
        self.edges_E = edges
        self.label = "Gumbel-max, best test of the pivot"

    def _pivot_cdf(self, profile: EntropyProfile, u_E: Floats) -> Floats:
        return pivot_cdf(profile, u_E)

    def _draw_pivots(
        self, profile: EntropyProfile, shape: tuple[int, int], rng: np.random.Generator
    ) -> Floats:
        prob = profile.prob_A[profile.draw_tokens(rng, shape)]
        return np.exp(-prob * rng.standard_exponential(shape))

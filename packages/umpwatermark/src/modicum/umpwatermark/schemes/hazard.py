"""Hazard sampling: the first token, likeliest first, whose uniform passes its hazard."""

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes._hits import known_laws
from modicum.umpwatermark.schemes._scores import FINE_EDGES, PivotScheme

Floats = NDArray[np.float64]

FEW_KNOTS = 64
"""Profiles with at most this many distinct hazards have them as bin edges."""


def token_hazards(laws_BV: Floats) -> tuple[Floats, Floats]:
    """Return sorted laws and hazards ``q_i / (1 - Q_{i-1})``, both ``[B, V]``; 0 past the law."""
    sorted_BV = -np.sort(-laws_BV, axis=1)
    left_BV = np.cumsum(sorted_BV[:, ::-1], axis=1)[:, ::-1]
    with np.errstate(invalid="ignore"):
        return sorted_BV, np.where(sorted_BV > 0, sorted_BV / left_BV, 0.0)


class HazardScheme(PivotScheme):
    """Given its token, the pivot is uniform above 1 minus the token's hazard (our derivation).

    Strong where *all* text has little entropy: a pivot of a likely token is never near 0.

    Parameters
    ----------
    edges
        Bin edges, as in `GumbelPivotScheme`.
    """

    name = "hazard"
    needs_laws = True
    # Under a few laws the sum has a few large atoms.
    look_back = 16

    def __init__(self, edges: Floats = FINE_EDGES) -> None:
        self.edges_E = edges
        self.label = "hazard sampler, best test of the pivot"

    def _tokens(self, profile: EntropyProfile) -> tuple[Floats, Floats]:
        # Probabilities of emitting each kind of token, and its hazard.
        def make() -> tuple[Floats, Floats]:
            laws_BV, weights_B = known_laws(profile)
            sorted_BV, hazard_BV = token_hazards(laws_BV)
            emitted = sorted_BV > 0
            return (weights_B[:, None] * sorted_BV)[emitted], hazard_BV[emitted]

        return profile.remember("hazards", make)

    def _edges(self, profile: EntropyProfile) -> Floats:
        knots = np.unique(1 - self._tokens(profile)[1])
        if self.edges_E is not FINE_EDGES or len(knots) > FEW_KNOTS:
            return self.edges_E
        return np.union1d(self.edges_E, knots)

    def _pivot_cdf(self, profile: EntropyProfile, u_E: Floats) -> Floats:
        mass_A, hazard_A = self._tokens(profile)
        # The density is a stair: token i adds mass/hazard from 1 - hazard on.
        order = np.argsort(1 - hazard_A)
        start_A = (1 - hazard_A)[order]
        rise_A = (mass_A / hazard_A)[order]
        rise = np.concatenate([[0.0], np.cumsum(rise_A)])
        moment = np.concatenate([[0.0], np.cumsum(rise_A * start_A)])
        count_E = np.searchsorted(start_A, u_E, side="left")
        return rise[count_E] * u_E - moment[count_E]

    def _draw_pivots(
        self, profile: EntropyProfile, shape: tuple[int, int], rng: np.random.Generator
    ) -> Floats:
        mass_A, hazard_A = self._tokens(profile)
        drawn = np.searchsorted(np.cumsum(mass_A), rng.random(shape), side="right")
        hazard = hazard_A[np.minimum(drawn, len(hazard_A) - 1)]
        return 1 - hazard * rng.random(shape)

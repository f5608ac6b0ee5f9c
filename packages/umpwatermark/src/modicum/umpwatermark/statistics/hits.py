"""Hit counts of keyed regions: a binomial or Poisson-binomial test.

Legend: ``S`` scored tokens.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from modicum.core.stats import poisson_binomial_sf
from modicum.umpwatermark.evidence import Evidence
from modicum.umpwatermark.nulls import Tail, clamp_p
from modicum.umpwatermark.statistics.base import BETS, Needs, Statistic, log_bets
from modicum.umpwatermark.statistics.binomial import binomial_sf


class HitsStatistic(Statistic):
    """Number of tokens in their regions; hits are independent with known probabilities.

    These are gamma for a green list, whose regions do not know the law, and
    ``min(q_hat(x), alpha)`` for the coupling that draws one token of a surrogate's law as region.
    """

    name: ClassVar[str] = "hits"
    needs: ClassVar[Needs] = "hits"

    def scores(self, evidence: Evidence) -> NDArray[np.float64]:
        """Return 1 for a hit and 0 otherwise."""
        evidence.require("hit_S", "hit_prob_S")
        if evidence.hit_S is None:
            return np.zeros(0)
        return evidence.hit_S.astype(np.float64)

    def tail(self, evidence: Evidence, rng: np.random.Generator | None = None) -> Tail:
        """Return the exact tail; ``rng`` is not used."""
        hits = int(self.scores(evidence).sum())
        if not len(evidence):
            return Tail(1.0, "exact")
        probs_S = evidence.hit_prob_S
        assert probs_S is not None
        if np.all(probs_S == probs_S[0]) and 0 < probs_S[0] < 1:
            return Tail(binomial_sf(hits, len(evidence), float(probs_S[0])), "exact")
        return Tail(clamp_p(float(poisson_binomial_sf(hits, probs_S))), "exact")

    def log_e_steps(self, evidence: Evidence) -> NDArray[np.float64]:
        """Return log e-values of bets on hits; see `log_bets`."""
        evidence.require("hit_S", "hit_prob_S")
        if evidence.hit_S is None or evidence.hit_prob_S is None:
            return np.zeros((0, len(BETS)))
        return log_bets(evidence.hit_S, evidence.hit_prob_S)

    @property
    def num_components(self) -> int:
        """Number of bets."""
        return len(BETS)

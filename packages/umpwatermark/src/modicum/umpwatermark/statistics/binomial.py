"""The binomial test: how many pivots lie in the top share gamma. No model.

Legend: ``S`` scored tokens.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark.evidence import Evidence
from modicum.umpwatermark.nulls import Tail, clamp_p
from modicum.umpwatermark.statistics.base import BETS, Needs, Statistic, log_bets


def binomial_sf(hits: int, trials: int, gamma: float) -> float:
    """``P(Bin(trials, gamma) >= hits)``, in ``[SMALLEST_P, 1]``."""
    from scipy.special import bdtrc

    return 1.0 if hits <= 0 else clamp_p(float(bdtrc(hits - 1, trials, gamma)))


class BinomialStatistic(Statistic):
    """``#{t: Y_t > 1 - gamma}``, which is Bin(S, gamma) under the null.

    Use it where a count must be explained to somebody, and for the hazard sampler without a
    calibration set. It is coarser than the sum test on Gumbel-max text.

    Parameters
    ----------
    gamma
        Share of the unit interval that counts as a hit, in (0, 1).
    """

    name: ClassVar[str] = "binomial"
    needs: ClassVar[Needs] = "pivot"

    def __init__(self, gamma: float = 0.5) -> None:
        if not 0 < gamma < 1:
            raise ValueError(f"gamma must lie in (0, 1), got {gamma!r}")
        self.gamma = float(gamma)

    def scores(self, evidence: Evidence) -> NDArray[np.float64]:
        """Return 1 for a hit and 0 otherwise."""
        return (evidence.y_S > 1 - self.gamma).astype(np.float64)

    def tail(self, evidence: Evidence, rng: np.random.Generator | None = None) -> Tail:
        """Return the binomial tail; ``rng`` is not used."""
        hits = int(self.scores(evidence).sum())
        return Tail(binomial_sf(hits, len(evidence), self.gamma), "exact")

    def log_e_steps(self, evidence: Evidence) -> NDArray[np.float64]:
        """Return log e-values of bets on hits; see `log_bets`."""
        hit_S = self.scores(evidence) > 0
        return log_bets(hit_S, np.full(len(evidence), self.gamma))

    @property
    def num_components(self) -> int:
        """Number of bets."""
        return len(BETS)

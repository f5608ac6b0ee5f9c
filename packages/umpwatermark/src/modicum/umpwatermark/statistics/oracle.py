"""The uniformly most powerful test itself, for a detector that has the generator.

Legend: ``S`` scored tokens.
"""

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark.evidence import Evidence
from modicum.umpwatermark.nulls import Tail, clamp_p
from modicum.umpwatermark.statistics.base import Needs, Statistic


class OracleStatistic(Statistic):
    """``prod_t 1/h_t`` if every token matches, and 0 otherwise.

    Under the null all tokens match with probability ``prod_t h_t``, the text's own probability:
    that is the p-value if they do, and 1 if one does not. No test can print less for a text of that
    probability. One edited token, or one that the surrogate rounds differently, loses everything:
    a yardstick, not a detector.

    Notes
    -----
    "Towards Optimal Statistical Watermarking" (arXiv 2312.07930): the region of the optimal
    coupling is the single element that the key picks.
    """

    name: ClassVar[str] = "oracle"
    needs: ClassVar[Needs] = "law"

    def scores(self, evidence: Evidence) -> NDArray[np.float64]:
        """Return ``-ln h`` of matches, nats, and ``-inf`` otherwise."""
        evidence.require("prob_S", "match_S")
        if evidence.prob_S is None or evidence.match_S is None:
            return np.zeros(0)
        return np.where(evidence.match_S, -np.log(evidence.prob_S), -np.inf)

    def tail(self, evidence: Evidence, rng: np.random.Generator | None = None) -> Tail:
        """Return the text's probability if every token matches, else 1; ``rng`` is not used."""
        return Tail(clamp_p(math.exp(min(0.0, -self.total(evidence)))), "exact")

    def log_e_steps(self, evidence: Evidence) -> NDArray[np.float64]:
        """Return the scores, which are log e-values."""
        return self.scores(evidence)[:, None]

    @property
    def num_components(self) -> int:
        """One."""
        return 1

"""Hits weighted by what a surrogate expects of each token.

Legend: ``S`` scored tokens.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark.evidence import Evidence
from modicum.umpwatermark.nulls import FiniteLaw, Tail, check_method, tail
from modicum.umpwatermark.statistics.base import Needs, Statistic, default_rng

SHARE = 0.9


class WeightedHitsStatistic(Statistic):
    """``sum_t ln(1 - a + a L_t)``, L the likelihood ratio of a hit or miss under the surrogate.

    ``L = H/g`` on a hit and ``(1 - H)/(1 - g)`` otherwise; g is the null probability of a hit and H
    the probability of a hit given the token if the surrogate's law generated the text. A token
    that the coupling cannot place in its region, such as the rest of a nearly certain law, then
    weighs nothing. Given the text hits are independent with probabilities g whatever H is: any
    surrogate is valid, and each e-value has mean one.

    Parameters
    ----------
    share
        a in (0, 1); the remainder bounds the loss where the surrogate was sure of a hit.
    method, num_null_draws
        As in `modicum.umpwatermark.nulls.tail`.
    """

    name: ClassVar[str] = "weighted-hits"
    needs: ClassVar[Needs] = "law"

    def __init__(
        self, share: float = SHARE, *, method: str = "auto", num_null_draws: int = 9999
    ) -> None:
        if not 0 < share < 1:
            raise ValueError(f"the weight of weighted-hits must lie in (0, 1), got {share!r}")
        self.share = float(share)
        self.method = check_method(method)
        self.num_null_draws = int(num_null_draws)

    def law(self, evidence: Evidence) -> FiniteLaw:
        """Return the null law of the scores; the second value of each token is that of a hit."""
        evidence.require("hit_S", "hit_prob_S", "hit_rate_S")
        g_S, H_S = evidence.hit_prob_S, evidence.hit_rate_S
        if g_S is None or H_S is None:
            return FiniteLaw(np.zeros((0, 2)), np.zeros((0, 2)))
        # Where a hit is impossible or certain it tells nothing.
        free_S = (g_S > 0) & (g_S < 1)
        safe_S = np.where(free_S, g_S, 0.5)
        rate_S = np.where(free_S, H_S, 0.5)
        ratio_S2 = np.stack([(1 - rate_S) / (1 - safe_S), rate_S / safe_S], axis=1)
        values_S2 = np.log((1 - self.share) + self.share * ratio_S2)
        return FiniteLaw(values_S2, np.stack([1 - g_S, g_S], axis=1))

    def scores(self, evidence: Evidence) -> NDArray[np.float64]:
        """Return the log e-value of each token, nats."""
        law = self.law(evidence)
        if evidence.hit_S is None:
            return np.zeros(0)
        return np.where(evidence.hit_S, law.values_SJ[:, 1], law.values_SJ[:, 0])

    def tail(self, evidence: Evidence, rng: np.random.Generator | None = None) -> Tail:
        """Return the p-value; see `modicum.umpwatermark.nulls.tail`."""
        return tail(
            self.law(evidence),
            self.total(evidence),
            method=self.method,
            num_draws=self.num_null_draws,
            rng=default_rng(rng),
        )

    def log_e_steps(self, evidence: Evidence) -> NDArray[np.float64]:
        """Return the scores, which are log e-values."""
        return self.scores(evidence)[:, None]

    @property
    def num_components(self) -> int:
        """One."""
        return 1

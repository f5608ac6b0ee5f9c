"""The sum test of Gumbel-max watermarks: large uniforms, no model.

Source: S. Aaronson, "Watermarking of large language models" (2022), also the detector of vLLM,
SGLang and TensorRT-LLM.

Legend: ``S`` scored tokens.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark.evidence import Evidence
from modicum.umpwatermark.nulls import Tail, clamp_p
from modicum.umpwatermark.statistics.base import Needs, Statistic


class SumStatistic(Statistic):
    """``sum_t -ln(1 - Y_t)``, which is Gamma(S, 1) under the null.

    Use it without any surrogate. Not when log-probabilities are at hand: `CombinedStatistic` needs
    a fraction of the tokens.
    """

    name: ClassVar[str] = "sum"
    needs: ClassVar[Needs] = "pivot"

    def scores(self, evidence: Evidence) -> NDArray[np.float64]:
        """Return ``-ln(1 - Y)``, nats."""
        return -np.log1p(-evidence.y_S)

    def tail(self, evidence: Evidence, rng: np.random.Generator | None = None) -> Tail:
        """Return the upper tail of the Gamma law; ``rng`` is not used."""
        if not len(evidence):
            return Tail(1.0, "exact")
        from scipy.special import gammaincc

        return Tail(clamp_p(float(gammaincc(len(evidence), self.total(evidence)))), "exact")
